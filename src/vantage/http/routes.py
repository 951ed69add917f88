"""HTTP: which handler answers what, and for whom; errors as problem details (RFC 9457)."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from traceback import extract_tb
from typing import Any
from urllib.parse import unquote

from ..admission import WAIT_S, BusyError, request_bytes
from ..arrival import Arriving
from ..errors import NotFoundError, StoreError, VantageError
from ..indexes import Service
from ..read.deadline import Deadline
from . import create, facets, handlers, writes
from .access import Access, authorize, authorize_write, check_host, cors_headers, has_token
from .handlers import NO_ID, Call
from .problem import MethodError, problem
from .reply import Reply
from .request import BODY_BYTES_MAX

PREFLIGHT_S = 7200
LOGGED_FRAMES = 4  # of a bug, the innermost ones
HEADERS = "Authorization, Content-Type, Content-Encoding, Idempotency-Key, X-Request-Id"  # that a browser may send
ANYBODY, READERS, WRITERS = "anybody", "readers", "writers"  # scopes: who may call

ReadBody = Callable[[Arriving], Awaitable[bytes | list[bytes]]]  # whole or in pieces, of each of which it tells


@dataclass(frozen=True)
class Route:
    """A pattern is the parts of a path; {name} stands for any one. GET has HEAD beside it; all have OPTIONS."""

    method: str
    pattern: str
    scope: str
    handler: Callable[[Call], Awaitable[Reply]]

    def parts(self, path: list[str]) -> dict[str, str] | None:
        """What the names of the pattern stand for in the parts of a path; None where it does not fit."""
        pattern = self.pattern.split("/")
        if len(pattern) != len(path):
            return None
        pairs = list(zip(pattern, path, strict=True))
        if any(not part if own.startswith("{") else own != unquote(part) for own, part in pairs):
            return None
        return {own[1:-1]: part for own, part in pairs if own.startswith("{")}

    def methods(self) -> list[str]:
        return [self.method, *(["HEAD"] if self.method == "GET" else []), "OPTIONS"]


ROUTES = (
    Route("GET", "/v1/health", ANYBODY, handlers.health),
    Route("GET", "/v1/indexes", READERS, handlers.list_indexes),
    Route("GET", "/v1/indexes/{index}", READERS, handlers.describe_index),
    Route("PUT", "/v1/indexes/{index}", WRITERS, create.create_index),
    Route("DELETE", "/v1/indexes/{index}", WRITERS, writes.remove_index),
    Route("POST", "/v1/indexes/{index}/query", READERS, handlers.query),
    Route("POST", "/v1/indexes/{index}/facets", READERS, facets.facets),
    Route("POST", "/v1/indexes/{index}/rows", READERS, handlers.list_rows),
    Route("POST", "/v1/indexes/{index}/write", WRITERS, writes.write),
    Route("GET", "/v1/indexes/{index}/vectors", READERS, handlers.row_by_parameter),
    Route("POST", "/v1/indexes/{index}/vectors", READERS, handlers.rows),
    Route("GET", "/v1/indexes/{index}/vectors/{id}", READERS, handlers.row),
)


async def handle(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: ReadBody,
    service: Service,
    access: Access,
    runtime: Mapping[str, Any],
    deadline: Deadline | None = None,
) -> Reply:
    """Answers one request. path: as sent, percent-encoded, with the query string; headers have lower-case names.

    runtime is what health adds (version of the host, heap). The body is read only when the request may be answered;
    `body` raises TooLargeError past BODY_BYTES_MAX. Never raises: every failure is a problem document with the id of
    the request, and nothing of a secret. deadline: ended by the caller when nobody waits for the answer any more; the
    milliseconds of the budget are put into it.
    """
    request_id = headers.get("cf-ray") or headers.get("x-request-id") or uuid.uuid4().hex
    try:
        reply = await _answer(method, path, headers, body, service, access, runtime, deadline or Deadline())
    except VantageError as error:
        reply = problem(error, request_id)
    except MemoryError:
        service.shed()
        reply = problem(StoreError("out of memory", hint=_smaller(path)), request_id)
    except Exception as error:  # a bug: say its type, not its data
        frames = extract_tb(error.__traceback__)[-LOGGED_FRAMES:]
        where = " <- ".join(
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames)
        )
        print(f"internal error {request_id}: {error!r} at {where}", file=sys.stderr)
        error_type = type(error).__name__
        reply = problem(
            VantageError(f"internal error ({error_type})", hint="report it with the request id"), request_id
        )
    reply.headers |= cors_headers(headers.get("origin"), access)
    if method == "HEAD":
        reply.headers["content-length"], reply.parts = str(sum(map(len, reply.parts))), []
    name = unquote((_parts(path) + [""] * 4)[3])
    if reply.status not in (401, 403, 421) and service.is_stale(
        name
    ):  # after an error too: a newer one may not have it
        reply.after.append(service.revalidate(name))
    if service.warm_client is not None and service.warm_client.full:
        reply.after.append(service.warm_client.send())
    return reply


async def _answer(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: ReadBody,
    service: Service,
    access: Access,
    runtime: Mapping[str, Any],
    deadline: Deadline,
) -> Reply:
    """Checks who asks for what, then has it handled within the memory that there is."""
    check_host(headers.get("host", ""), access)
    routes, parts = _find(path)
    methods = list(dict.fromkeys(name for route in routes for name in route.methods()))
    if method == "OPTIONS" and routes:
        return _options(methods, headers, access)
    route = next((route for route in routes if method in route.methods()), routes[0] if routes else None)
    if route is None or route.scope == READERS:
        authorize(headers, access)
    elif route.scope == WRITERS:
        authorize_write(headers, access)
    if route is None:
        raise NotFoundError(f"there is nothing at {path.partition('?')[0][:100]!r}", hint=_hint(path), param="path")
    if method not in methods:
        raise MethodError(method, methods)
    clock = asyncio.get_running_loop().time
    door_deadline = clock() + WAIT_S
    async with AsyncExitStack() as reading, AsyncExitStack() as work:

        async def whole_body() -> bytes:
            nonlocal door_deadline
            async with service.bodies.enter() as arriving:  # at no door: nobody stands behind one that stalls
                came = await body(arriving)
                pieces = [came] if isinstance(came, bytes) else came
                nbytes = sum(map(len, pieces))
                if arriving.kept_s >= WAIT_S:
                    raise BusyError("others took too long for this request", hint="ask again in a second")
                arriving.whole, door_deadline = True, clock() + WAIT_S - arriving.kept_s
                await reading.enter_async_context(
                    service.body_room(request_bytes(_body_bytes(nbytes, headers)), door_deadline)
                )
                return b"".join(pieces)  # behind the door, where there is a hole for it

        async def make_room(nbytes: int, in_flight: int, share: float) -> None:
            await work.aclose()  # of a generation that was asked before
            if nbytes or in_flight or share:
                await work.enter_async_context(service.room(nbytes, in_flight, door_deadline, share))

        if route.scope == READERS and route.method == "GET":  # others have a body to wait for; health waits for nobody
            await reading.enter_async_context(service.body_room(request_bytes(0), door_deadline))
        trusted = access.public or has_token(headers, access)
        options = path.partition("?")[2]
        call = Call(parts, options, headers, whole_body, service, trusted, deadline, make_room, runtime)
        reply = await route.handler(call)
        reply.write()  # what is written is held too
        return reply


def _smaller(path: str) -> str:
    """What takes less memory."""
    if path.partition("?")[0].endswith("/write"):
        return "send fewer rows, or try again; `vantage compact` makes room where the log is long"
    return "ask for less at once, or try again; `vantage compact` makes room where a log is long"


def _body_bytes(nbytes: int, headers: Mapping[str, str]) -> int:
    """Bytes of a body as it is read, of so many that came; the most there may be where it is packed."""
    return nbytes if headers.get("content-encoding", "identity").lower() == "identity" else BODY_BYTES_MAX


def _parts(path: str) -> list[str]:
    """What stands between the slashes of a path, percent-encoded; the first is empty, as a path begins with one."""
    return path.partition("?")[0].split("/")


def _find(path: str) -> tuple[list[Route], dict[str, str]]:
    """The routes of a path, all of one pattern, and what the names of that stand for there.

    No name is empty: `vectors/..` reaches us as the index with a slash behind it, as URLs are normalised, and must not
    pass for it, nor `vectors/20/` for row 20.
    """
    for route in ROUTES:
        parts = route.parts(_parts(path))
        if parts is not None:
            return [one for one in ROUTES if one.pattern == route.pattern], parts
    return [], {}


def _hint(path: str) -> str:
    return NO_ID if path.partition("?")[0].endswith("/") else "docs/http.md lists the paths"


def _options(methods: list[str], headers: Mapping[str, str], access: Access) -> Reply:
    """What may be asked of a resource; for a browser that asks before it sends, whether it may."""
    listed = ", ".join(methods)
    allowed: dict[str, str] = {}
    if "access-control-allow-origin" in cors_headers(headers.get("origin"), access):
        allowed = {
            "access-control-allow-methods": listed,
            "access-control-allow-headers": HEADERS,
            "access-control-max-age": str(PREFLIGHT_S),
        }
    return Reply(204, None, {"allow": listed, **allowed})
