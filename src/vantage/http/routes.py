"""Routes and replies; errors as problem details (RFC 9457). Nothing of Cloudflare: tests need no Worker."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from .. import VERSION
from ..admission import WAIT_S, request_bytes
from ..arrival import Arriving
from ..cost import Limits
from ..errors import InputError, LimitError, NotFoundError, StoreError, VantageError
from ..format import unpack_vectors
from ..index import Index
from ..indexes import Late, Service
from ..read.deadline import Until
from ..read.reader import read_small
from ..receipt import Receipt
from ..search.memory import answers_bytes, in_flight_bytes, row_bytes
from ..search.query import Answer, Query
from .access import Access, authorize, check_host, cors, knows
from .bodies import answer_body, describe, json_id, packed_reply
from .problem import MethodError, problem
from .reply import Reply
from .request import (
    BINARY,
    BODY_BYTES_MAX,
    INCLUDE_DEFAULT,
    INTEGER,
    JSON,
    VECTORS_MAX,
    accepted,
    decoded,
    fields_of,
    ids_of,
    is_binary,
    options_of,
    parameters_of,
    queries_of,
)

MATCHES_MAX = 1 << 15  # of all vectors of a request
VALUES_MAX = 1 << 19  # numbers of the vectors that come back
KNOWN_S = 1.0  # how long an answer that is late waits to know whether there is such an index
PREFLIGHT_S = 7200
# Methods by resource. HEAD is GET without the body; OPTIONS is everywhere.
METHODS = {"health": "GET", "indexes": "GET", "index": "GET", "query": "POST", "vectors": "GET", "vector": "GET"}

ReadBody = Callable[[Arriving], Awaitable[bytes]]  # which it tells of each piece
WholeBody = Callable[[], Awaitable[bytes]]
MakeRoom = Callable[[int, int], Awaitable[None]]  # for bytes in the heap, and of reads under way


async def handle(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: ReadBody,
    service: Service,
    access: Access,
    runtime: Mapping[str, Any],
    until: Until | None = None,
) -> Reply:
    """Answers one request. path: as sent, percent-encoded, with the query string; headers have lower-case names.

    runtime is what health adds (version of the host, heap). The body is read only when the request may be answered;
    `body` raises TooLargeError past BODY_BYTES_MAX. Never raises: every failure is a problem document with the id of
    the request, and nothing of a secret. until: ended by the caller when nobody waits for the answer any more; the
    milliseconds of the budget are put into it.
    """
    request_id = headers.get("cf-ray") or headers.get("x-request-id") or uuid.uuid4().hex
    try:
        reply = await _route(method, path, headers, body, service, access, runtime, until or Until())
        if not reply.parts:
            reply.write()
    except VantageError as error:
        reply = problem(error, request_id)
    except MemoryError:
        service.shed()
        reply = problem(StoreError("out of memory", hint="send fewer vectors, or try again"), request_id)
        reply.out_of_memory = True
    except Exception as error:  # a bug: say its type, not its data
        print(f"internal error {request_id}: {error!r}", file=sys.stderr)
        error_type = type(error).__name__
        reply = problem(
            VantageError(f"internal error ({error_type})", hint="report it with the request id"), request_id
        )
    reply.headers |= cors(headers.get("origin"), access)
    if method == "HEAD":
        reply.headers["content-length"], reply.parts = str(sum(map(len, reply.parts))), []
    name = (_parts(path) + [""] * 3)[2]
    if reply.status not in (401, 421) and service.is_stale(name):  # after an error too: a newer one may not have it
        reply.after.append(service.revalidate(name))
    if service.asker is not None and service.asker.full:
        reply.after.append(service.asker.send())
    return reply


def _body_bytes(body: bytes, headers: Mapping[str, str]) -> int:
    """Bytes of a body as it is read; the most there may be where it is packed."""
    return len(body) if headers.get("content-encoding", "identity").lower() == "identity" else BODY_BYTES_MAX


async def _route(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: ReadBody,
    service: Service,
    access: Access,
    runtime: Mapping[str, Any],
    until: Until,
) -> Reply:
    check_host(headers.get("host", ""), access)
    parts = _parts(path)
    name = (parts + [""] * 3)[2]
    resource = _resource(parts, path)
    if method == "OPTIONS" and resource:
        return _options(METHODS[resource], headers, access)
    if resource != "health":
        authorize(headers, access)
    if not resource:
        raise NotFoundError(f"there is nothing at {path[:100]!r}", hint=_hint(parts), param="path")
    if method not in (METHODS[resource], "HEAD" if METHODS[resource] == "GET" else ""):
        raise MethodError(method, METHODS[resource])
    if resource == "health":  # of a monitor, which may add parameters against caches
        known = access.public or knows(headers, access)
        return Reply(200, {"status": "ok", "version": VERSION, **(_health(service, runtime) if known else {})})
    clock = asyncio.get_running_loop().time
    deadline = clock() + WAIT_S
    async with AsyncExitStack() as reading, AsyncExitStack() as work:

        async def whole_body() -> bytes:
            nonlocal deadline
            async with service.bodies.enter() as arriving:  # at no door: nobody stands behind one that stalls
                data = await body(arriving)
                arriving.whole, deadline = True, clock() + WAIT_S
                await reading.enter_async_context(
                    service.reading.enter(request_bytes(_body_bytes(data, headers)), deadline)
                )
                return data

        async def make_room(nbytes: int, in_flight: int) -> None:
            await work.aclose()  # of a generation that was asked before
            await work.enter_async_context(service.room(nbytes, in_flight, deadline))

        if resource != "query":
            await reading.enter_async_context(service.reading.enter(request_bytes(0), deadline))
        reply = await _answer(resource, name, path, headers, whole_body, service, until, make_room)
        reply.write()  # what is written is held too
        return reply


async def _answer(
    resource: str, name: str, path: str, headers: Mapping[str, str], body: WholeBody, service: Service, until: Until,
    make_room: MakeRoom,
) -> Reply:  # fmt: skip
    """What takes work: everything but health."""
    options = path.partition("?")[2]
    if resource == "query":
        return await _query(name, options, body, headers, service, until, make_room)
    accepted(headers.get("accept", ""), [JSON])
    if resource in ("vector", "vectors"):
        asked = parameters_of(options, ("ids",) if resource == "vector" else ("id", "ids"))
        if resource == "vectors" and "id" not in asked:
            raise NotFoundError("there is no id", hint=_hint(_parts(path)), param="id")
        last = path.partition("?")[0].strip("/").rpartition("/")[2]
        identifier = unquote_to_bytes(last) if resource == "vector" else asked["id"].encode("latin-1")
        return await _row(name, identifier, ids_of(asked.get("ids")), service, make_room)
    parameters_of(options, ())
    if resource == "indexes":
        return Reply(200, {"indexes": await service.names()})
    return Reply(200, describe(await service.index(name, Receipt())))


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]


def _resource(parts: list[str], path: str) -> str:
    """What a path names, a key of METHODS; "" for nothing.

    `vectors/..` reaches us as the index with a slash behind it, as URLs are normalised, and must not pass for it.
    """
    if parts == ["v1", "health"]:
        return "health"
    if parts[:2] != ["v1", "indexes"] or (len(parts) == 3 and path.partition("?")[0].endswith("/")):
        return ""
    known = {2: "indexes", 3: "index", 4: parts[-1] if parts[-1] in ("query", "vectors") else ""}
    return known.get(len(parts), "vector" if len(parts) == 5 and parts[3] == "vectors" else "")


def _hint(parts: list[str]) -> str:
    if len(parts) in (3, 4) and parts[:2] == ["v1", "indexes"]:
        return "no slash at the end; a row whose id is empty, '.' or '..' is at vectors?id="
    return "docs/http.md lists the paths"


def _options(main: str, headers: Mapping[str, str], access: Access) -> Reply:
    """What may be asked of a resource; for a browser that asks before it sends, whether it may."""
    methods = "GET, HEAD, OPTIONS" if main == "GET" else f"{main}, OPTIONS"
    allowed: dict[str, str] = {}
    if "access-control-allow-origin" in cors(headers.get("origin"), access):
        allowed = {
            "access-control-allow-methods": methods,
            "access-control-allow-headers": "Authorization, Content-Type, Content-Encoding, X-Request-Id",
            "access-control-max-age": str(PREFLIGHT_S),
        }
    return Reply(204, None, {"allow": methods, **allowed})


def _health(service: Service, runtime: Mapping[str, Any]) -> dict[str, Any]:
    """What only those who may read are told."""
    generations = {name: index.current.generation for name, index in service.open.items()}
    return {"generations": generations, "cache_bytes": service.cache.held, **runtime}


async def _row(name: str, sent: bytes, ids: str | None, service: Service, make_room: MakeRoom) -> Reply:
    """A row by its id."""
    receipt = Receipt()

    async def read(index: Index) -> dict[str, Any]:
        identifier = _identifier(index, sent)
        _check_ids(index, ids)
        await make_room(row_bytes(index.segment), 0)
        vector, attributes = await index.row(identifier, receipt)
        return {"id": json_id(identifier, ids), "vector": vector, "attributes": attributes}

    body = await service.live(name, receipt, read)
    return Reply(200, body | {"receipt": receipt.as_dict()})


def _identifier(index: Index, sent: int | bytes) -> int | bytes:
    """An id as the index has them: digits are an integer too, as numbers past 2^53 do not pass every client."""
    if index.root.index.id_kind != "i64" or isinstance(sent, int):
        return sent
    text = sent.decode(errors="replace")
    if not INTEGER.fullmatch(text):
        raise InputError(f"ids of {index.name!r} are integers (i64)", hint="send an id of that kind", param="id")
    return int(text)


def _check_ids(index: Index, ids: str | None) -> None:
    if ids == "number" and index.root.index.id_kind != "i64":
        raise InputError(f"ids of {index.name!r} are no numbers", hint="leave ids out", param="ids")


async def _query(
    name: str, options: str, body: WholeBody, headers: Mapping[str, str], service: Service, until: Until,
    make_room: MakeRoom,
) -> Reply:  # fmt: skip
    packed = accepted(headers.get("accept", ""), [JSON, BINARY]) == BINARY
    if is_binary(headers.get("content-type", "")):
        fields = options_of(options)
        vectors = unpack_vectors(decoded(await body(), headers.get("content-encoding", "")), VECTORS_MAX)
        fields = fields | {"vectors": vectors}
    else:
        parameters_of(options, ())
        fields = fields_of(decoded(await body(), headers.get("content-encoding", "")))
    queries, many = queries_of(fields)
    include, receipt = fields.get("include", INCLUDE_DEFAULT), Receipt()
    ids = fields.get("ids")
    if packed and ids:
        raise InputError(f"{BINARY} holds ids as i64", hint="leave ids out, or accept application/json", param="ids")
    if packed and (fields.get("explain") or set(include) - {"receipt"}):
        raise InputError(f"{BINARY} holds ids, scores and receipts", hint="accept application/json", param="include")

    async def asked(index: Index) -> Any:
        _check_size(queries, index)
        _check_model(index, fields.get("model"))
        _check_ids(index, ids)
        ready = [q if q.id is None else replace(q, id=_identifier(index, q.id)) for q in queries]
        index.check(ready)
        _check_limits(ready, index.limits)
        await make_room(answers_bytes(index.segment, ready), in_flight_bytes(index.segment, ready))
        if fields.get("explain"):
            return await index.explain(ready)
        return await index.answer(ready, receipt, until) if many else [await index.query(ready[0], receipt, until)]

    until.at = Until.after(queries[0].budget.ms).at  # one for all: it is the request that somebody waits for
    after: list[Awaitable[Any]] = []
    try:
        answers = await service.live(name, receipt, asked, None if fields.get("explain") else until)
    except Late as late:  # the opening goes on behind an empty answer, of an index that there is
        await _check_known(name, service, late.rest)
        answers, after = [Answer([], False, False, None, Receipt() if many else receipt) for _ in queries], [late.rest]
    if packed:
        return packed_reply(answers, receipt, many, after)
    results = answers if fields.get("explain") else [partial(answer_body, a, include, ids) for a in answers]
    if not many:
        return Reply(200, results[0] if fields.get("explain") else results[0](), after=after)
    counted = {"receipt": receipt.as_dict()} if "receipt" in include and not fields.get("explain") else {}
    return Reply(200, {"results": results, **counted}, after=after)


async def _check_known(name: str, service: Service, opening: Awaitable[Any]) -> None:
    """Raises what the opening does where there is no such index, as far as that is known soon."""
    if name not in service.open:
        with suppress(TimeoutError):
            if await asyncio.wait_for(read_small(service.bucket, f"{name}/CURRENT", Receipt()), KNOWN_S) is None:
                await asyncio.wait_for(asyncio.shield(opening), KNOWN_S)


def _check_size(queries: list[Query], index: Index) -> None:
    """What would come back must fit into memory."""
    matches = sum(q.top_k for q in queries)
    values = matches * index.root.index.dimension * queries[0].vectors
    if len(queries) > 1 and matches > MATCHES_MAX:
        raise LimitError("vectors x top_k", matches, MATCHES_MAX, hint="send several requests", param="top_k")
    if values > VALUES_MAX:
        raise LimitError(
            "vectors x top_k x dimension", values, VALUES_MAX, hint="leave vector out of include", param="include"
        )


def _check_limits(queries: list[Query], limits: Limits) -> None:
    """Raises LimitError for what this service does not allow, though an index might answer it."""
    query, hint = queries[0], "who runs this service has set this limit"
    if query.exact and not limits.exact:
        raise InputError("this service answers no exact queries", hint="leave exact out", param="exact")
    for name, value, most in (
        ("vectors", len(queries), limits.vectors), ("top_k", query.top_k, limits.top_k),
        ("rerank", query.rerank, limits.rerank),
    ):  # fmt: skip
        if value > most:
            raise LimitError(name, value, most, hint=hint, param=name)


def _check_model(index: Index, asked: Any) -> None:
    """Refuses vectors of another model than the index was stamped with; without a stamp there is nothing to compare."""
    if asked is None:
        return
    if not isinstance(asked, str):
        raise InputError("model is not text", hint="name the model of the vectors, or leave it out", param="model")
    stamped = index.root.schema.get("model")
    if stamped is not None and asked != stamped:
        raise InputError(
            f"the query is of model {asked[:200]!r}, the index {index.name!r} of {stamped!r}",
            hint="embed the query with the model of the index",
            param="model",
        )
