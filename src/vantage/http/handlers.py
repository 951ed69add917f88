"""What each route does, once a request may be answered: from a call to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from .. import VERSION
from ..cost import Budget, Limits
from ..errors import InputError, LimitError, NotFoundError
from ..format import unpack_vectors
from ..index import Index, Wanted
from ..indexes import Late, Service
from ..read.deadline import Deadline
from ..read.reader import read_small
from ..receipt import Receipt
from ..search.listing import prepare_listing
from ..search.memory import answers_bytes, in_flight_bytes, listing_bytes, row_bytes, rows_bytes
from ..search.query import Answer, Query
from ..search.walk import WALK_BYTES_MAX
from .bodies import answer_body, describe, json_id, packed_reply, row_body
from .reply import Reply
from .request import (
    BINARY,
    FRESHNESS,
    INCLUDE_DEFAULT,
    INTEGER,
    JSON,
    LISTING_FIELDS,
    ROW_FIELDS,
    VECTORS_MAX,
    cursor_of,
    decode,
    is_binary,
    negotiate,
    parse_body,
    parse_ids,
    parse_listing,
    parse_options,
    parse_parameters,
    parse_queries,
    parse_row_listing,
    parse_rows,
    parse_wish,
    parse_wish_parameters,
)

MATCHES_MAX = 1 << 15  # of all vectors of a request
VALUES_MAX = 1 << 19  # numbers of the vectors that come back
KNOWN_S = 1.0  # how long an answer that is late waits to know whether there is such an index


@dataclass(frozen=True)
class Call:
    """A request that may be answered.

    parts: what the pattern's names stand for, percent-encoded. options: the query string. body: reads it. make_room:
    waits until there is room for so many bytes in the heap, and of reads under way, and for a share of what is computed
    at once, instead of what it had; zeros give that back. trusted: may see what this isolate holds. deadline: when all
    of it ends. runtime: see routes.handle.
    """

    parts: Mapping[str, str]
    options: str
    headers: Mapping[str, str]
    body: Callable[[], Awaitable[bytes]]
    service: Service
    trusted: bool
    deadline: Deadline
    make_room: Callable[[int, int, float], Awaitable[None]]
    runtime: Mapping[str, Any]

    @property
    def index(self) -> str:
        """The name of the index."""
        return unquote(self.parts["index"])


async def health(call: Call) -> Reply:
    """For a monitor, which may add parameters against caches; what the isolate holds is for those who may read."""
    state: dict[str, Any] = {"status": "ok", "version": VERSION}
    if call.trusted:
        generations = {name: index.current.generation for name, index in call.service.open.items()}
        state |= {"generations": generations, "cache_bytes": call.service.cache.held, **call.runtime}
    return Reply(200, state)


async def list_indexes(call: Call) -> Reply:
    """Names of indexes, a page of them."""
    negotiate(call.headers.get("accept", ""), [JSON])
    names, end = await call.service.names(*parse_listing(call.options))
    return Reply(200, {"indexes": names, "cursor": None if end is None else cursor_of(end)})


async def describe_index(call: Call) -> Reply:
    """What an index is and promises."""
    negotiate(call.headers.get("accept", ""), [JSON])
    wish = parse_wish_parameters(parse_parameters(call.options, FRESHNESS))
    return Reply(200, describe(await call.service.current(call.index, Receipt(), wish)))


async def row(call: Call) -> Reply:
    """A row by its id, the last part of the path."""
    negotiate(call.headers.get("accept", ""), [JSON])
    return await _row(call, unquote_to_bytes(call.parts["id"]), parse_parameters(call.options, ("ids", *FRESHNESS)))


async def row_by_parameter(call: Call) -> Reply:
    """A row by its id, as a parameter: for ids that a path cannot hold."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parameters = parse_parameters(call.options, ("id", "ids", *FRESHNESS))
    if "id" not in parameters:
        raise NotFoundError("there is no id", hint=NO_ID, param="id")
    return await _row(call, parameters["id"].encode("latin-1"), parameters)


NO_ID = "no slash at the end; a row whose id is empty, '.' or '..' is at vectors?id="


async def _row(call: Call, sent: bytes, parameters: Mapping[str, str]) -> Reply:
    receipt, ids, wish = Receipt(), parse_ids(parameters.get("ids")), parse_wish_parameters(parameters)

    async def read(index: Index) -> dict[str, Any]:
        identifier = identifier_of(index, sent)
        _check_ids(index, ids)
        await call.make_room(row_bytes(index.segment), 0, 0.0)
        vector, attributes = await index.row(identifier, receipt)
        return {"id": json_id(identifier, ids), "vector": vector, "attributes": attributes}

    body = await call.service.live(call.index, receipt, read, wish=wish)
    return Reply(200, body | {"receipt": receipt.as_dict()})


async def rows(call: Call) -> Reply:
    """Rows by their ids, sent in the body: for many at once."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parse_parameters(call.options, ())
    fields = parse_body(decode(await call.body(), call.headers.get("content-encoding", "")), ROW_FIELDS)
    ids, include = parse_rows(fields)
    written, receipt = fields.get("numbers"), Receipt()
    wanted = Wanted("attributes" in include, "vector" in include, Budget())

    async def read(index: Index) -> dict[str, Any]:
        _check_ids(index, written)
        values = len(ids) * index.root.index.dimension * wanted.vectors
        if values > VALUES_MAX:
            hint = "leave vector out of include, or send several requests"
            raise LimitError("ids x dimension", values, VALUES_MAX, hint=hint, param="ids")
        known = [identifier_of(index, one) for one in ids]
        await call.make_room(rows_bytes(index.segment, len(ids), wanted.vectors), 0, 0.0)
        answer = await index.rows(known, wanted, receipt, call.deadline)
        found = [row_body(row, include, written) for row in answer.rows]
        missing = [json_id(one, written) for one in answer.missing]
        return {"rows": found, "missing": missing, "complete": answer.complete}

    body = await call.service.live(call.index, receipt, read, wish=parse_wish(fields))
    return Reply(200, body | ({"receipt": receipt.as_dict()} if "receipt" in include else {}))


async def list_rows(call: Call) -> Reply:
    """Rows by a filter, a page of them."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parse_parameters(call.options, ())
    fields = parse_body(decode(await call.body(), call.headers.get("content-encoding", "")), LISTING_FIELDS)
    listing, include = parse_row_listing(fields)
    written, receipt = fields.get("numbers"), Receipt()
    call.deadline.at = Deadline.after(listing.budget.ms).at

    async def read(index: Index) -> dict[str, Any]:
        _check_ids(index, written)
        values = listing.limit * index.root.index.dimension * listing.vectors
        if values > VALUES_MAX:
            hint = "leave vector out of include, or ask for fewer"
            raise LimitError("limit x dimension", values, VALUES_MAX, hint=hint, param="limit")
        prepared = prepare_listing(index.segment, listing)
        nbytes = listing_bytes(index.segment, prepared)
        await call.make_room(nbytes, min(WALK_BYTES_MAX, listing.budget.bytes), 0.0)
        page = await index.list_rows(prepared, receipt, call.deadline)
        found = [row_body(row, include, written) for row in page.rows]
        return {"rows": found, "cursor": page.cursor, "complete": page.complete}

    body = await call.service.live(call.index, receipt, read, wish=parse_wish(fields))
    return Reply(200, body | ({"receipt": receipt.as_dict()} if "receipt" in include else {}))


async def query(call: Call) -> Reply:
    """Answers of one vector, of many, or of a row by its id; or their plans."""
    headers = call.headers
    packed = negotiate(headers.get("accept", ""), [JSON, BINARY]) == BINARY
    if is_binary(headers.get("content-type", "")):
        fields = parse_options(call.options)
        vectors = unpack_vectors(decode(await call.body(), headers.get("content-encoding", "")), VECTORS_MAX)
        fields = fields | {"vectors": vectors}
    else:
        parse_parameters(call.options, ())
        fields = parse_body(decode(await call.body(), headers.get("content-encoding", "")))
    queries, many = parse_queries(fields)
    include, ids, plans = fields.get("include", INCLUDE_DEFAULT), fields.get("ids"), bool(fields.get("explain"))
    if packed and ids:
        raise InputError(f"{BINARY} holds ids as i64", hint="leave ids out, or accept application/json", param="ids")
    if packed and (plans or set(include) - {"receipt"}):
        raise InputError(f"{BINARY} holds ids, scores and receipts", hint="accept application/json", param="include")
    receipt, deadline, wish = Receipt(), call.deadline, parse_wish(fields)

    async def work(index: Index) -> Any:
        _check_size(queries, index)
        _check_model(index, fields.get("model"))
        _check_ids(index, ids)
        ready = [q if q.id is None else replace(q, id=identifier_of(index, q.id)) for q in queries]
        index.check(ready)
        check_limits(ready, index.limits)
        nbytes, in_flight = answers_bytes(index.segment, ready), in_flight_bytes(index.segment, ready)
        await call.make_room(nbytes, in_flight, len(ready) / VECTORS_MAX)
        if plans:
            return await index.explain(ready)
        return (
            await index.answer(ready, receipt, deadline) if many else [await index.query(ready[0], receipt, deadline)]
        )

    deadline.at = Deadline.after(queries[0].budget.ms).at  # one for all: it is the request that somebody waits for
    after: list[Awaitable[Any]] = []
    try:
        results = await call.service.live(call.index, receipt, work, None if plans else deadline, wish)
    except Late as late:  # the opening goes on behind an empty answer, where the index exists
        await _check_known(call.index, call.service, late.rest)
        results, after = [Answer([], False, False, None, Receipt() if many else receipt) for _ in queries], [late.rest]
    if packed:
        return packed_reply(results, receipt, many, after)
    if plans:
        return Reply(200, {"results": results} if many else results[0], after=after)
    bodies = [partial(answer_body, answer, include, ids) for answer in results]
    if not many:
        return Reply(200, bodies[0](), after=after)
    counted = {"receipt": receipt.as_dict()} if "receipt" in include else {}
    return Reply(200, {"results": bodies, **counted}, after=after)


def identifier_of(index: Index, sent: int | bytes, param: str = "id") -> int | bytes:
    """An id as the index has them: digits are an integer too, as numbers past 2^53 do not pass every client."""
    if index.root.index.id_kind != "i64" or isinstance(sent, int):
        return sent
    text = sent.decode(errors="replace")
    if not INTEGER.fullmatch(text):
        raise InputError(f"ids of {index.name!r} are integers (i64)", hint="send an id of that kind", param=param)
    return int(text)


def _check_ids(index: Index, ids: str | None) -> None:
    if ids == "number" and index.root.index.id_kind != "i64":
        raise InputError(f"ids of {index.name!r} are no numbers", hint="leave ids out", param="ids")


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


def check_limits(queries: list[Query], limits: Limits) -> None:
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


def _check_model(index: Index, model: Any) -> None:
    """Refuses vectors of another model than the index was stamped with; without a stamp there is nothing to compare."""
    if model is None:
        return
    if not isinstance(model, str):
        raise InputError("model is not text", hint="name the model of the vectors, or leave it out", param="model")
    stamped = index.root.schema.get("model")
    if stamped is not None and model != stamped:
        raise InputError(
            f"the query is of model {model[:200]!r}, the index {index.name!r} of {stamped!r}",
            hint="embed the query with the model of the index",
            param="model",
        )
