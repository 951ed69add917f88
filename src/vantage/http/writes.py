"""POST /v1/indexes/{index}/write: its body, its conditions and its answer; and DELETE of an index."""

from __future__ import annotations

import re
import secrets
import struct
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..admission import BusyError
from ..errors import ChangedError, ConditionError, InputError, LimitError
from ..filter.parse import parse_filter
from ..format.log import NONCE_BYTES, OPERATIONS_MAX, SEQ_MAX, Id, Request, RowShape, least_operations
from ..index import Index
from ..indexes import Wish
from ..log.base import base_rows, patched_rows
from ..log.commit import check_id
from ..log.conditions import Patched
from ..log.rows import check_scale, check_vectors, stored_attributes, stored_vector
from ..log.state import BYTES_MAX
from ..log.submission import Asked, Field, Submission, own_key, request_key
from ..read.deadline import Deadline
from ..read.reader import IN_FLIGHT_BYTES_MAX
from ..receipt import Receipt
from ..search.facets import FacetQuery
from ..search.listing import Listing, prepare_listing
from ..search.memory import facets_bytes, listing_bytes
from ..search.rows import ATTRIBUTES_BYTES_MAX
from ..search.walk import WALK_BYTES_MAX
from .access import WriteAccessError
from .handlers import Call, identifier_of
from .reply import Reply
from .request import (
    JSON,
    check_known,
    decode,
    identifier,
    integer,
    is_binary,
    negotiate,
    parse_body,
    parse_parameters,
)

FRAME = struct.Struct(
    "<4sIIII"
)  # magic, version, bytes of JSON, vectors, dimension; JSON; then f32 (vectors, dimension)
FRAME_MAGIC, FRAME_VERSION = b"VANW", 1
FIELDS = ("upsert", "patch", "delete", "delete_where", "if_seq")
CONDITIONS = ("if_seq", "if")
ROW_FIELDS = {
    "upsert": ("id", "vector", "attributes", "if_absent", *CONDITIONS),
    "patch": ("id", "attributes", *CONDITIONS),
    "delete": ("id", *CONDITIONS),
}
PARTS_MAX = 1 << 17  # lists, objects and texts of a body: a row of ten attributes has thirty
COPIES = 3  # of a body, as rows, as a request and as what is sent on
KEY = re.compile(r"[\x21-\x7e]{1,255}")
PAGES_MAX = 48  # of rows that delete_where looks for, each of which reads something
TRIES = 4  # of what was checked against a generation that another replaced meanwhile
EXAMPLE = 'send {"upsert": [{"id": "a", "vector": [...]}]}'

Vectors = Sequence[Sequence[float]]


async def write(call: Call) -> Reply:
    """Upserts, patches and deletes of rows, all of them or none."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parse_parameters(call.options, ())
    client, key = call.service.write_client, _key(call.headers)
    if client is None:
        raise no_writes()
    packed = is_binary(call.headers.get("content-type", ""))
    data = decode(await call.body(), call.headers.get("content-encoding", ""))
    text, vectors = unpack_frame(data) if packed else (data, None)
    rows = parse_rows(parse_body(text, FIELDS, PARTS_MAX, EXAMPLE, compact), vectors)

    async def to_the_bucket() -> None:
        await call.make_room(BYTES_MAX, BYTES_MAX, 1.0)  # all of the log may have to be read

    async def waiting() -> None:
        await call.make_room(0, 0, 0.0)

    for last in (*[False] * (TRIES - 1), True):
        await call.make_room(0, 0, 0.0)  # who waits for a log to be read has no room that its readers wait for
        if rows.where is None:
            index = await call.service.index(call.index, Receipt())
        else:
            index = await call.service.current(call.index, Receipt(), Wish(stale_s=0.0), call.deadline)
        with_base = bool(rows.of["patch"]) or any("if" in row for _, row in rows.all())
        await call.make_room(COPIES * len(data) + with_base * 2 * ATTRIBUTES_BYTES_MAX, 0, 0.0)
        now, deleted, refusal = rows, {}, None
        if rows.where is not None:
            try:
                now = await _with_matching(call, index, rows)
            except LimitError as error:
                if least_operations(key):
                    raise
                refusal, now = error, Rows({name: [] for name in ROW_FIELDS}, SEQ_MAX)  # known, or it fails
            deleted = {"deleted": len(now.of["delete"]) - len(rows.of["delete"])}
            if not now.count and least_operations(key):
                return Reply(200, {"seq": index.seq, "retried": False, **deleted})
        submission = await submission_of(index, now, key, call.deadline)
        try:
            done = await client.submit(call.index, submission, to_the_bucket, waiting)
        except ChangedError:
            if last:
                raise
            await call.service.revalidate(call.index)
        except ConditionError as error:
            if refusal is not None:
                raise refusal from None
            if rows.where is None or rows.at is not None or error.param != "if_seq":
                raise
            if last:
                hint = "send it again when fewer write, or delete the rows by their ids"
                raise BusyError("others always wrote between the count and the delete", hint=hint) from None
        else:
            told = {} if done.retried else deleted  # it was done at another time
            return Reply(200, {"seq": done.seq, "retried": done.retried, **told})
    raise AssertionError("the last try returns or raises")


async def remove_index(call: Call) -> Reply:
    """Deletes an index whose name is said twice."""
    negotiate(call.headers.get("accept", ""), [JSON])
    parameters, client = parse_parameters(call.options, ("name",)), call.service.write_client
    if client is None:
        raise no_writes()
    if parameters.get("name") != call.index:
        hint = f"DELETE /v1/indexes/{call.index[:80]}?name={call.index[:80]}"
        raise InputError("name is not that of the index, which deleting it asks for again", hint=hint, param="name")
    generation = (await call.service.index(call.index, Receipt())).current.generation
    await call.make_room(0, BYTES_MAX, 1.0)
    seq = await client.remove(call.index, time.time())
    await call.service.revalidate(call.index)
    return Reply(200, {"deleted": call.index, "generation": generation, "seq": seq})


def no_writes() -> WriteAccessError:
    return WriteAccessError("this service takes no writes", hint="write to another one, or to the bucket")


async def _with_matching(call: Call, index: Index, rows: Rows) -> Rows:
    """The same with the rows that `delete_where` takes in an index as it is at one seq, which must be the last then.

    Raises LimitError with their number where they are too many, or finding them takes too many reads.
    """
    receipt, known, cursor = Receipt(), {row["id"] for _, row in rows.all()}, None
    found = list[Id]()
    for _ in range(PAGES_MAX):
        listing = Listing(rows.where, OPERATIONS_MAX, cursor, attributes=False)
        try:
            prepared = prepare_listing(index.segment, listing)
            await call.make_room(listing_bytes(index.segment, prepared), WALK_BYTES_MAX, 0.0)
            page = await index.list_rows(prepared, receipt, call.deadline)
        except InputError as error:
            error.param = error.param.replace("filter", "delete_where", 1)
            error.message = error.message.replace("filter", "delete_where", 1)
            raise
        found += [row.id for row in page.rows if row.id not in known]
        cursor = page.cursor
        if cursor is None and rows.count + len(found) <= OPERATIONS_MAX:
            deletes = [*rows.of["delete"], *({"id": i} for i in found)]
            return Rows(rows.of | {"delete": deletes}, index.seq if rows.at is None else rows.at)
        if rows.count + len(found) > OPERATIONS_MAX:
            break
    field = next(iter(index.root.filters))
    asked = FacetQuery({index.root.names[field.attribute]: {"top": 1}}, rows.where)
    plan = index.plan_facets(asked)
    await call.make_room(facets_bytes(index.segment, plan.facets), min(plan.nbytes, IN_FLIGHT_BYTES_MAX), 0.0)
    matched = (await index.facets(plan, Receipt(), call.deadline)).matched
    what = "the number of rows that delete_where takes" + ("" if matched.exact else ", about,")
    hint = "narrow the filter, and send several requests"
    raise LimitError(what, matched.rows, OPERATIONS_MAX, hint=hint, param="delete_where")


def _key(headers: Mapping[str, str]) -> bytes:
    """Of the request: that of its Idempotency-Key, or one that nobody else has."""
    sent = headers.get("idempotency-key")
    if sent is None:
        return own_key(secrets.token_bytes(NONCE_BYTES))
    if not KEY.fullmatch(sent):
        hint = "send 1 to 255 visible ASCII characters: a UUID"
        raise InputError("Idempotency-Key cannot be one", hint=hint, param="Idempotency-Key")
    return request_key(sent)


def unpack_frame(body: bytes) -> tuple[memoryview, Vectors]:
    """(JSON, vectors f32 (n, d)) of a binary body. Raises InputError for a wrong header or length."""
    hint = 'send "VANW", then version 1, bytes of JSON, vectors and dimension as u32, the JSON, then float32, all'
    hint += " little-endian"
    if len(body) < FRAME.size or body[:4] != FRAME_MAGIC:
        raise InputError("the body does not begin with the header of a write", hint=hint, param="body")
    _, version, length, count, dimension = FRAME.unpack_from(body)
    if version != FRAME_VERSION:
        raise InputError(f"the body is of version {version}", hint=hint, param="body")
    whole = FRAME.size + length + 4 * count * dimension
    if len(body) != whole or count > OPERATIONS_MAX:
        raise InputError(f"the body has {len(body)} bytes, its header says {whole}", hint=hint, param="body")
    view, begin = memoryview(body), FRAME.size + length
    numbers = array("f", body[begin:])
    return view[FRAME.size : begin], [numbers[i * dimension : (i + 1) * dimension] for i in range(count)]


def compact(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is read, its vector in eight bytes a number: as objects of Wasm they take 36, more than all else."""
    vector = row.get("vector")
    if "id" in row and isinstance(vector, list) and {float}.issuperset(map(type, vector)):
        row["vector"] = array("d", vector)
    return row


class Rows:
    """Rows of a write: of each kind of change a list of objects with known fields and an id. at: see `if_seq`. where: a
    filter whose rows are deleted too.
    """

    def __init__(self, of: dict[str, list[dict[str, Any]]], at: int | None, where: Any = None) -> None:
        self.of, self.at, self.where = of, at, where

    @property
    def count(self) -> int:
        """Of all rows."""
        return sum(map(len, self.of.values()))

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(the place of a row, as errors name it; the row), in the order of ids in a request."""
        return ((f"{name}[{i}]", row) for name in ROW_FIELDS for i, row in enumerate(self.of[name]))


def parse_rows(fields: dict[str, Any], vectors: Vectors | None) -> Rows:
    """Raises InputError or LimitError, which name the field. vectors: of the upserts, where they came beside them."""
    of: dict[str, list[Any]] = {}
    for name in ROW_FIELDS:
        of[name] = fields.get(name, [])
        if not isinstance(of[name], list):
            raise InputError(f"{name} is not a list", hint=EXAMPLE, param=name)
    count = sum(map(len, of.values()))
    where = fields.get("delete_where")
    if "delete_where" in fields and (not isinstance(where, dict) or not where):  # {} would take all rows
        what, example = "delete_where is not a filter with conditions", '{"lang": "de"}'
        raise InputError(what, hint=example, param="delete_where")
    if not (where is None) <= count <= OPERATIONS_MAX:
        hint = "send several requests" if count else EXAMPLE
        param = next(iter(fields), "upsert")
        raise LimitError("the number of rows", count, f"1 to {OPERATIONS_MAX}", hint=hint, param=param)
    of["delete"] = [row if isinstance(row, dict) else {"id": row} for row in of["delete"]]
    if vectors is not None:
        if len(vectors) != len(of["upsert"]):
            what = f"{len(vectors)} vectors for {len(of['upsert'])} rows"
            raise InputError(what, hint="send a vector for each row of upsert, in order", param="upsert")
        for i, (row, vector) in enumerate(zip(of["upsert"], vectors, strict=True)):
            if isinstance(row, dict) and "vector" in row:
                where = f"upsert[{i}].vector"
                raise InputError(f"{where} stands in the JSON too", hint="send it once", param=where)
            of["upsert"][i] = row | {"vector": vector} if isinstance(row, dict) else row
    for name, known in ROW_FIELDS.items():
        for i, row in enumerate(of[name]):
            of[name][i] = _checked(row, known, f"{name}[{i}]")
    return Rows(of, _seq(fields, "if_seq", "if_seq"), where)


def _checked(row: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """A row with its id as one of an index of bytes."""
    if not isinstance(row, dict):
        raise InputError(f"{where} is not an object", hint=EXAMPLE, param=where)
    for name in row:
        check_known(name, known, f"{where}.{name}")
    for name in ("id", "vector") if "vector" in known else ("id",):
        if name not in row:
            raise InputError(f"{where} has no {name}", hint=EXAMPLE, param=f"{where}.{name}")
    if "vector" in known and not isinstance(row["vector"], list | array):
        raise InputError(f"{where}.vector is not a list", hint="send a list of numbers", param=f"{where}.vector")
    _seq(row, "if_seq", f"{where}.if_seq")
    if "if_absent" in row:
        if row["if_absent"] is not True:
            raise InputError(f"{where}.if_absent is not true", hint="or leave it out", param=f"{where}.if_absent")
        for name in CONDITIONS:
            if name in row:
                what = f"{where} has if_absent and {name}, which no row can be"
                raise InputError(what, hint="leave one of them out", param=f"{where}.{name}")
    own = row["id"] if isinstance(row["id"], bytes) else identifier(row["id"], f"{where}.id")
    return row | {"id": own}


def _seq(fields: dict[str, Any], name: str, where: str) -> int | None:
    if name not in fields:
        return None
    value = integer(fields[name], where)
    if not 0 <= value <= SEQ_MAX:
        hint = "send the seq of an answer"
        raise LimitError(where, value, f"0 to {SEQ_MAX}", hint=hint, param=where)
    return value


async def submission_of(index: Index, rows: Rows, key: bytes, deadline: Deadline) -> Submission:
    """The rows as a request to this index, checked against its schema, with what its generation has of those that have
    conditions. Raises InputError or LimitError.
    """
    root, names = index.root, index.root.names
    shape = RowShape(root.index.dimension, root.index.id_kind, root.index.vector_kind)
    types = {one["name"]: one["type"] for one in root.schema["attributes"]}
    filtered = {names[field.attribute]: field for field in root.filters}
    ids: dict[Id, str] = {}
    for where, row in rows.all():
        own = identifier_of(index, row["id"], f"{where}.id")
        check_id(own, shape, f"{where}.id", new=where.startswith("upsert"))
        if own in ids:
            what = f"{where} has the id of {ids[own]}"
            raise InputError(what, hint="send each row once in a request", param=f"{where}.id")
        ids[own] = where
    vectors = b"".join(
        stored_vector(row["vector"], shape, f"upsert[{i}].vector") for i, row in enumerate(rows.of["upsert"])
    )
    check_vectors(vectors, shape, root.index.metric, "upsert")
    check_scale(vectors, root.index, "upsert")
    texts = {
        name: [
            stored_attributes(row.get("attributes"), types, filtered, f"{name}[{i}].attributes")
            for i, row in enumerate(some)
        ]
        for name, some in rows.of.items()
        if name != "delete"
    }
    order, n, m = list(ids), len(rows.of["upsert"]), len(rows.of["upsert"]) + len(rows.of["patch"])
    request = Request(
        key, round(time.time() * 1000), order[:n], vectors, texts["upsert"], order[n:m],
        [text or b"{}" for text in texts["patch"]], order[m:],
    )  # fmt: skip
    asked, by_filter = list[Asked](), False
    for place, (where, row) in enumerate(rows.all()):
        if "if" in row:
            parse_filter(row["if"], root.filters, names, f"{where}.if")
            by_filter = True
        if row.keys() & {"if_absent", *CONDITIONS}:
            asked.append(Asked(place, "if_absent" in row, row.get("if_seq"), row.get("if"), where))
    fields = [Field(names[f.attribute], f.kind, f.many, f.hashed) for f in root.filters] if by_filter else []
    found = await base_rows(index, [order[one.place] for one in asked], by_filter, deadline) if asked else []
    base = dict(zip((one.place for one in asked), found, strict=True))
    log, generation = index.current.log.id, index.current.generation
    patched = dict[int, Patched]()
    if request.patches:
        changes = dict(zip(request.patches, request.changes, strict=True))
        known, nbytes = await patched_rows(index, changes, deadline)
        patched = {n + place: known[i] for place, i in enumerate(request.patches) if i in known}
        request = replace(request, patched_bytes=nbytes)
    return Submission(request, shape, log, generation, asked, base, fields, rows.at, patched)
