"""Routes and replies; errors as problem details (RFC 9457). Nothing of Cloudflare: tests need no Worker."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from . import VERSION
from .admission import WAIT_S, request_bytes
from .errors import DamagedError, InputError, LimitError, NotFoundError, StoreError, VantageError
from .format import pack_answers, unpack_vectors
from .index import Answer, Index, Query
from .plan import CLASS_B_USD, LANES, Limits, Plan, recall_estimate, wave_ms
from .prepare import prepare
from .rank import Match
from .request import (
    BINARY,
    BODY_BYTES_MAX,
    INCLUDE_DEFAULT,
    INTEGER,
    JSON,
    VECTORS_MAX,
    MediaError,
    accepted,
    decoded,
    fields_of,
    ids_of,
    is_binary,
    options_of,
    parameters_of,
    queries_of,
)
from .service import Late, Service
from .stats import Receipt
from .store import Until, read_small

PART_BYTES = 64 << 10  # of a reply, as it is written
MATCHES_MAX = 1 << 15  # of all vectors of a request
VALUES_MAX = 1 << 19  # numbers of the vectors that come back
SAFE_INTEGER = (1 << 53) - 1  # past it JavaScript reads an integer as another one
KNOWN_S = 1.0  # how long an answer that is late waits to know whether there is such an index
PREFLIGHT_S = 7200
# Methods by resource. HEAD is GET without the body; OPTIONS is everywhere.
METHODS = {"health": "GET", "indexes": "GET", "index": "GET", "query": "POST", "vectors": "GET", "vector": "GET"}


class AccessError(VantageError):
    """No token, or a wrong one."""

    code = "unauthorized"
    status = 401


class HostError(VantageError):
    """The request is for a host name that this service does not answer to."""

    code = "wrong_host"
    status = 421


@dataclass(frozen=True)
class Access:
    """Who may ask. token None and not public: nobody, but for health. public: everybody, whatever token is sent.

    origins: those whose pages a browser lets read answers, "*" for all. hosts: the only host names that requests may
    be for, none for any; a page that points its own name at this machine sends that name.
    """

    token: str | None = None
    public: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass
class Reply:
    """An HTTP answer, and what to do after it (waitUntil). parts: its bytes, written by `handle`; none for HEAD."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    after: list[Awaitable[Any]] = field(default_factory=list)
    out_of_memory: bool = False
    parts: list[bytes] = field(default_factory=list)

    @property
    def sent(self) -> bytes:
        """All of its bytes."""
        return b"".join(self.parts)

    def text(self) -> str:
        """The body as JSON."""
        return "".join(_pieces(self.body))

    def write(self) -> None:
        """Fills `parts`, none of them long, so that memory needs no long hole. Raises DamagedError for a number that
        JSON does not have: it came from the index."""
        if self.body is None or isinstance(self.body, bytes):
            self.parts = [self.body] if self.body else []
            return
        try:
            part = bytearray()
            for piece in _pieces(self.body):
                part += piece.encode(errors="backslashreplace")  # half a surrogate pair, as JSON spells it
                if len(part) >= PART_BYTES:
                    self.parts.append(bytes(part))
                    part.clear()
            self.parts.append(bytes(part))
        except ValueError:
            raise DamagedError(
                "the index holds a number that is not finite", hint="build it again, or ask for less with include"
            ) from None


def _json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_numbers)


def _numbers(match: Match) -> list[float] | None:
    """The vector of a match: numbers are made of it as it is written, for they take many times its bytes."""
    return match.vector


def _pieces(body: Any) -> Iterator[str]:
    """A body as JSON, a match at a time, so that no large one is held twice; what can be called is made as it comes."""
    body = body() if callable(body) else body
    name = next((n for n in ("results", "matches") if isinstance(body, dict) and isinstance(body.get(n), list)), None)
    if name is None:
        yield _json(body)
        return
    yield f'{{"{name}":['
    for i, one in enumerate(body[name]):
        if i:
            yield ","
        yield from _pieces(one)
    rest = _json({k: v for k, v in body.items() if k != name})[1:]
    yield f"],{rest}" if len(rest) > 1 else "]}"


ReadBody = Callable[[], Awaitable[bytes]]
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
    reply.headers |= _cors(headers.get("origin"), access)
    if method == "HEAD":
        reply.headers["content-length"], reply.parts = str(sum(map(len, reply.parts))), []
    name = (_parts(path) + [""] * 3)[2]
    if reply.status not in (401, 421) and service.is_stale(name):  # after an error too: a newer one may not have it
        reply.after.append(service.revalidate(name))
    if service.asker is not None and service.asker.full:
        reply.after.append(service.asker.send())
    return reply


def _length(method: str, headers: Mapping[str, str]) -> int:
    """Bytes of the body as announced; the most there may be where it does not say, or is packed."""
    if method != "POST":
        return 0
    said = headers.get("content-length", "")
    told = re.fullmatch("[0-9]{1,9}", said) and headers.get("content-encoding", "identity").lower() == "identity"
    return min(int(said), BODY_BYTES_MAX) if told else BODY_BYTES_MAX


def _cors(origin: str | None, access: Access) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer, an error too."""
    if not access.origins:
        return {}
    every = "*" in access.origins
    headers = {} if every else {"vary": "Origin"}
    if origin and (every or origin in access.origins):
        headers["access-control-allow-origin"] = "*" if every else origin
        headers["access-control-expose-headers"] = "Allow, Retry-After, WWW-Authenticate"
    return headers


def problem(error: VantageError, request_id: str) -> Reply:
    """type, title, status, detail, code, param, hint, request_id; a limit error adds value and limit."""
    body: dict[str, Any] = {
        "type": f"https://vantage.invalid/problems/{error.code}",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "param": error.param or None,
        "hint": error.hint or None,
        "request_id": request_id[:64],
    }
    if isinstance(error, LimitError):
        body |= {"value": error.value, "limit": error.limit}
    headers = {"content-type": "application/problem+json"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodError):
        headers["allow"] = error.allow
    if isinstance(error, MediaError):
        headers["accept-encoding"] = "gzip"
    if error.status == 503:
        headers["retry-after"] = "1"
    reply = Reply(error.status, body, headers)
    reply.write()
    return reply


def _knows(headers: Mapping[str, str], access: Access) -> bool:
    """Whether the token of the service was sent."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    wanted = (access.token or "").encode()
    return bool(wanted) and scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), wanted)


def _authorize(headers: Mapping[str, str], access: Access) -> None:
    if access.public or _knows(headers, access):
        return
    if not access.token:
        raise AccessError(
            "this service has no token yet, so it answers nothing but health",
            hint='set the secret VANTAGE_TOKEN, or PUBLIC_READ = "1" to let everybody read',
        )
    sent = headers.get("authorization", "").partition(" ")[2]
    what = "the bearer token is wrong" if sent else "there is no bearer token"
    raise AccessError(what, hint="send Authorization: Bearer with the token of this service")


def _check_host(host: str, access: Access) -> None:
    name = host.strip().lower()
    name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
    if access.hosts and name not in access.hosts:
        raise HostError(
            f"this service does not answer to the name {name[:80]!r}", hint=f"use {', '.join(access.hosts)}"
        )


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
    _check_host(headers.get("host", ""), access)
    parts = _parts(path)
    name = (parts + [""] * 3)[2]
    resource = _resource(parts, path)
    if method == "OPTIONS" and resource:
        return _options(METHODS[resource], headers, access)
    if resource != "health":
        _authorize(headers, access)
    if not resource:
        raise NotFoundError(f"there is nothing at {path[:100]!r}", hint=_hint(parts), param="path")
    if method not in (METHODS[resource], "HEAD" if METHODS[resource] == "GET" else ""):
        raise MethodError(method, METHODS[resource])
    if resource == "health":  # of a monitor, which may add parameters against caches
        known = access.public or _knows(headers, access)
        return Reply(200, {"status": "ok", "version": VERSION, **(_health(service, runtime) if known else {})})
    deadline = asyncio.get_running_loop().time() + WAIT_S
    async with service.reading.enter(request_bytes(_length(method, headers)), deadline), AsyncExitStack() as work:

        async def make_room(nbytes: int, in_flight: int) -> None:
            await work.aclose()  # of a generation that was asked before
            await work.enter_async_context(service.room(nbytes, in_flight, deadline))

        reply = await _answer(resource, name, path, headers, body, service, until, make_room)
        reply.write()  # what is written is held too
        return reply


async def _answer(
    resource: str, name: str, path: str, headers: Mapping[str, str], body: ReadBody, service: Service, until: Until,
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
    if "access-control-allow-origin" in _cors(headers.get("origin"), access):
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


class MethodError(InputError):
    """The path is right, the method is not; `allow` names those that are."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, main: str) -> None:
        super().__init__(f"{method[:80]} is not possible here", hint=f"use {main}", param="method")
        self.allow = "GET, HEAD, OPTIONS" if main == "GET" else f"{main}, OPTIONS"


def describe(index: Index) -> dict[str, Any]:
    """Schema, contract and generation of an index."""
    root = index.root
    contract = root.contract
    return {
        "name": index.name,
        "generation": index.current.generation,
        "rows": root.index.rows,
        "dimension": root.index.dimension,
        "metric": root.index.metric,
        "id": root.index.id_kind,
        "attributes": root.schema["attributes"],
        "model": root.schema.get("model"),
        "codec": root.index.codec,
        "router": root.index.router,
        "blocks": root.index.blocks,
        "exact": root.bounds is not None,
        "contract": {
            "k": contract.k,
            "recall": contract.target,
            "gets": contract.gets,
            "points": [{"k": p.k, "recall": p.recall, "bytes": p.nbytes, "gets": p.gets} for p in contract.points],
            "promises": [
                {
                    "recall": p.recall,
                    "bytes": p.nbytes,
                    "gets": p.gets,
                    "waves": p.waves,
                    "rerank": p.rerank,
                    "second_below": p.threshold or None,
                    "modelled_ms": p.ms,
                }
                for p in (root.stop.promises if root.stop else ())
            ],  # fmt: skip
        },
    }


async def _row(name: str, sent: bytes, ids: str | None, service: Service, make_room: MakeRoom) -> Reply:
    """A row by its id."""
    receipt = Receipt()

    async def read(index: Index) -> dict[str, Any]:
        identifier = _identifier(index, sent)
        _check_ids(index, ids)
        await make_room(index.row_price(), 0)
        vector, attributes = await index.row(identifier, receipt)
        return {"id": _id(identifier, ids), "vector": vector, "attributes": attributes}

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
    name: str, options: str, body: ReadBody, headers: Mapping[str, str], service: Service, until: Until,
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
        price = index.price(ready)  # which says what is wrong with them
        _check_limits(ready, index.limits)
        await make_room(price, index.in_flight(ready))
        if not fields.get("explain"):
            return await index.answer(ready, receipt, until) if many else [await index.query(ready[0], receipt, until)]
        for query in ready:
            if query.id is None:  # all or none
                prepare(query.vector, index.root.index, query.param)
        return [explain(index, await _vector_of(query, index)) for query in ready]

    until.at = Until.after(queries[0].budget.ms).at  # one for all: it is the request that somebody waits for
    after: list[Awaitable[Any]] = []
    try:
        answers = await service.live(name, receipt, asked, None if fields.get("explain") else until)
    except Late as late:  # the opening goes on behind an empty answer, of an index that there is
        await _check_known(name, service, late.rest)
        answers, after = [Answer([], False, False, None, Receipt() if many else receipt) for _ in queries], [late.rest]
    if packed:
        return _packed(answers, receipt, many, after)
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


async def _vector_of(query: Query, index: Index) -> Query:
    """A query by id as one by its vector: two reads."""
    if query.id is None:
        return query
    row, vector = await index.find(query.id, Receipt())
    return replace(query, vector=vector, without=row)


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


def _packed(answers: list[Answer], receipt: Receipt, many: bool, after: list[Awaitable[Any]]) -> Reply:
    """Answers as bytes, their words as JSON behind them."""
    matches = [m for a in answers for m in a.matches]
    results = [{k: v for k, v in answer_body(a, ["receipt"]).items() if k != "matches"} for a in answers]
    tail = _json({"results": results} | ({"receipt": receipt.as_dict()} if many else {})).encode()
    body = pack_answers([len(a.matches) for a in answers], [m.score for m in matches], [m.id for m in matches], tail)
    return Reply(200, body, {"content-type": BINARY}, after)


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


def _id(identifier: int | bytes, ids: str | None) -> int | str:
    """An id as JSON has it; ids None: an integer that JavaScript would round is a string of digits, others are not."""
    if isinstance(identifier, bytes):
        return identifier.decode(errors="replace")
    if ids == "string" or (ids is None and abs(identifier) > SAFE_INTEGER):
        return str(identifier)
    return identifier


def answer_body(answer: Answer, include: list[str], ids: str | None = None) -> dict[str, Any]:
    """The JSON of an answer; ids: "string", "number" or None for what every client reads right."""
    matches = []
    for m in answer.matches:
        match: dict[str, Any] = {
            "id": _id(m.id, ids),
            "score": m.score,
        }
        if "attributes" in include:
            match["attributes"] = m.attributes
        if "vector" in include:
            match["vector"] = m  # see _numbers
        matches.append(match)
    body: dict[str, Any] = {
        "matches": matches,
        "scores": "exact" if answer.exact else "estimated",
        "complete": answer.complete,
        "recall_estimate": None if answer.recall_estimate is None else round(answer.recall_estimate, 4),
    }
    if "receipt" in include:
        body["receipt"] = answer.receipt.as_dict()
    return body


def explain(index: Index, query: Query) -> dict[str, Any]:
    """The first wave of a query: its ranges and their price, reading nothing.

    routing: the page that a two-level router would read first, None where none is needed; ranges are known after it.
    second_below: a query whose estimate comes out below it reads a second wave; rerank: rows that get exact scores.
    """
    prepared = prepare(query.vector, index.root.index, query.param)
    routed, wanted = index.without_reading(prepared)
    plan: Plan = index.plan(query, prepared, routed)
    promise, contract = index.promise(query), index.root.contract
    promised = index.root.stop is not None and query.top_k == contract.k
    estimate = promise.recall if promised else recall_estimate(contract, plan.price, query.top_k)
    sizes, before, page = [r.size for r in plan.ranges], [], None
    if wanted is not None:
        section: Any = index.root.router
        before = [section.size[wanted]]
        page = {"page": wanted, "offset": section.offset[wanted], "bytes": before[0]}
    return {
        "generation": index.current.generation,
        "routing": page,
        "ranges": [
            {"shard": r.shard, "blocks": [r.first, r.last - 1], "offset": r.offset, "bytes": r.size}
            for r in plan.ranges
        ],
        "blocks_cached": len(plan.cached),
        "gets": len(sizes) + len(before),
        "bytes": plan.bytes + sum(before),
        "waves": (1 if sizes else 0) + len(before),
        "rounds": -(-len(sizes) // LANES) + len(before),
        "modelled_ms": round(wave_ms(before) + wave_ms(sizes), 2),
        "usd_per_million": round(1e6 * CLASS_B_USD * (len(sizes) + len(before)), 4),
        "complete": plan.complete,
        "recall_estimate": estimate if plan.complete and page is None else None,
        "second_below": promise.threshold or None,
        "rerank": query.rerank or (promise.rerank if query.top_k <= promise.rerank else 0),
    }
