"""Routes and replies; errors as problem details (RFC 9457). Nothing of Cloudflare: tests need no Worker."""

from __future__ import annotations

import hmac
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from . import VERSION
from .errors import InputError, LimitError, NotFoundError, StoreError, VantageError
from .format import pack_answers, unpack_vectors
from .index import Answer, Index, Query
from .plan import CLASS_B_USD, LANES, Plan, recall_estimate, wave_ms
from .prepare import prepare
from .request import BINARY, INCLUDE_DEFAULT, INTEGER, VECTORS_MAX, fields_of, options_of, queries_of
from .service import Late, Service
from .stats import Receipt
from .store import Until

MATCHES_MAX = 1 << 15  # of all vectors of a request
VALUES_MAX = 1 << 20  # numbers of the vectors that come back


class AccessError(VantageError):
    """No token, or a wrong one."""

    code = "unauthorized"
    status = 401


@dataclass(frozen=True)
class Access:
    """Who may ask. token None and not public: nobody, but for health."""

    token: str | None = None
    public: bool = False


@dataclass
class Reply:
    """An HTTP answer, and what to do after it (waitUntil)."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    after: list[Awaitable[Any]] = field(default_factory=list)

    def text(self) -> str:
        """The body as JSON."""
        return _json(self.body)


def _json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


ReadBody = Callable[[], Awaitable[bytes]]


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
    except VantageError as error:
        reply = problem(error, request_id)
    except MemoryError:
        reply = problem(StoreError("out of memory", hint="send fewer vectors, or try again"), request_id)
    except Exception as error:  # a bug: say its type, not its data
        print(f"internal error {request_id}: {type(error).__name__}: {error}", file=sys.stderr)
        error_type = type(error).__name__
        reply = problem(
            VantageError(f"internal error ({error_type})", hint="report it with the request id"), request_id
        )
    name = (_parts(path) + [""] * 3)[2]
    if reply.status != 401 and service.is_stale(name):  # after an error too: a newer generation may not have it
        reply.after.append(service.revalidate(name))
    if service.asker is not None and service.asker.full:
        reply.after.append(service.asker.send())
    return reply


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
    if error.status == 503:
        headers["retry-after"] = "1"
    return Reply(error.status, body, headers)


def _authorize(headers: Mapping[str, str], access: Access) -> None:
    if access.token:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), access.token.encode()):
            return
        what = "the bearer token is wrong" if sent else "there is no bearer token"
        raise AccessError(what, hint="send Authorization: Bearer with the token of this service")
    if not access.public:
        raise AccessError(
            "this service has no token yet, so it answers nothing but health",
            hint='set the secret VANTAGE_TOKEN, or PUBLIC_READ = "1" to let everybody read',
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
    parts = _parts(path)
    if parts == ["v1", "health"]:
        _method(method, "GET")
        generations = {name: index.current.generation for name, index in service.open.items()}
        return Reply(
            200,
            {
                "status": "ok",
                "version": VERSION,
                "generations": generations,
                "cache_bytes": service.cache.held,
                **runtime,
            },
        )
    _authorize(headers, access)
    if parts == ["v1", "indexes"]:
        _method(method, "GET")
        return Reply(200, {"indexes": await service.names()})
    if len(parts) == 3 and parts[:2] == ["v1", "indexes"]:
        _method(method, "GET")
        index = await service.index(parts[2], Receipt())
        return Reply(200, describe(index))
    if len(parts) == 4 and parts[:2] == ["v1", "indexes"] and parts[3] == "query":
        _method(method, "POST")
        return await _query(parts[2], path.partition("?")[2], await body(), headers, service, until)
    if len(parts) == 5 and parts[:2] == ["v1", "indexes"] and parts[3] == "vectors":
        _method(method, "GET")
        return await _row(parts[2], path.partition("?")[0].strip("/").rpartition("/")[2], service)
    raise NotFoundError(f"there is nothing at {path[:100]!r}", hint="docs/http.md lists the paths", param="path")


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]


class MethodError(InputError):
    """The path is right, the method is not; `allow` is the one that is."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{method} is not possible here", hint=f"use {allow}", param="method")
        self.allow = allow


def _method(method: str, wanted: str) -> None:
    if method != wanted:
        raise MethodError(method, wanted)


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


async def _row(name: str, part: str, service: Service) -> Reply:
    """A row by its id, as it stands in the path: percent-encoded."""
    receipt = Receipt()

    async def read(index: Index) -> dict[str, Any]:
        identifier: int | bytes = unquote_to_bytes(part)
        if index.root.index.id_kind == "i64":
            if not INTEGER.fullmatch(part):
                raise InputError(f"ids of {name!r} are integers", hint="send an id of that kind", param="id")
            identifier = int(part)
        vector, attributes = await index.row(identifier, receipt)
        return {"id": _id(identifier), "vector": vector, "attributes": attributes}

    body = await service.live(name, receipt, read)
    return Reply(200, body | {"receipt": receipt.as_dict()})


async def _query(
    name: str, options: str, body: bytes, headers: Mapping[str, str], service: Service, until: Until
) -> Reply:
    binary = headers.get("content-type", "").partition(";")[0].strip().lower() == BINARY
    fields = options_of(options) | {"vectors": unpack_vectors(body, VECTORS_MAX)} if binary else fields_of(body)
    queries, many = queries_of(fields)
    include, receipt = fields.get("include", INCLUDE_DEFAULT), Receipt()
    packed = BINARY in headers.get("accept", "").lower()
    if packed and (fields.get("explain") or set(include) - {"receipt"}):
        raise InputError(f"{BINARY} holds ids, scores and receipts", hint="accept application/json", param="include")

    async def asked(index: Index) -> Any:
        _check_size(queries, index)
        _check_model(index, fields.get("model"))
        if not fields.get("explain"):
            return (
                await index.answer(queries, receipt, until) if many else [await index.query(queries[0], receipt, until)]
            )
        for query in queries:
            if query.id is None:  # all or none
                prepare(query.vector, index.root.index, query.param)
        return [explain(index, await _vector_of(query, index)) for query in queries]

    until.at = Until.after(queries[0].budget.ms).at  # one for all: it is the request that somebody waits for
    after: list[Awaitable[Any]] = []
    try:
        answers = await service.live(name, receipt, asked, None if fields.get("explain") else until)
    except Late as late:  # the opening goes on behind an empty answer
        answers, after = [Answer([], False, False, None, Receipt() if many else receipt) for _ in queries], [late.rest]
    if packed:
        return _packed(answers, receipt, many, after)
    results = answers if fields.get("explain") else [answer_body(a, include) for a in answers]
    if not many:
        return Reply(200, results[0], after=after)
    counted = {"receipt": receipt.as_dict()} if "receipt" in include and not fields.get("explain") else {}
    return Reply(200, {"results": results, **counted}, after=after)


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
    if len(queries) > 1 and values > VALUES_MAX:
        raise LimitError(
            "vectors x top_k x dimension", values, VALUES_MAX, hint="leave vector out of include", param="include"
        )


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


def _id(identifier: int | bytes) -> int | str:
    """An id as JSON has it."""
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")


def answer_body(answer: Answer, include: list[str]) -> dict[str, Any]:
    """The JSON of an answer."""
    matches = []
    for m in answer.matches:
        match: dict[str, Any] = {
            "id": _id(m.id),
            "score": m.score,
        }
        if "attributes" in include:
            match["attributes"] = m.attributes
        if "vector" in include:
            match["vector"] = m.vector
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
