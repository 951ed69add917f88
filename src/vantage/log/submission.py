"""A write on its way to the sequencer of an index: as bytes, with what it was checked against; and what comes of it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

from ..admission import BusyError
from ..errors import (
    ChangedError,
    ConditionError,
    DamagedError,
    InputError,
    LimitError,
    LogFullError,
    NotFoundError,
    StoreError,
    VantageError,
)
from ..filter.parse import parse_filter
from ..filter.row import takes
from ..format import FilterField
from ..format.log import CLIENTS_KEY, Id, Request, RowShape, pack_request, unpack_request
from .conditions import BaseRow, Condition, Patched, Write

_HEAD = struct.Struct("<I")  # bytes of JSON, which follow; then the request


class Asked(NamedTuple):
    """A condition on the row that stands at this place among all ids of the request. See `conditions.Condition`."""

    place: int
    absent: bool = False
    seq: int | None = None
    filter: Any = None
    param: str = ""


class Field(NamedTuple):
    """What a filter must know of an attribute."""

    name: str
    kind: str
    many: bool
    hashed: bool


@dataclass(frozen=True)
class Submission:
    """A request and its conditions, as they were checked against the index with this log and generation.

    base: rows of that generation that conditions ask for, by place, None for an id that it does not have. at: the seq
    that the index must have, None for any. fields: of the filters of conditions. patched: by place, those of that
    generation that it patches.
    """

    request: Request
    shape: RowShape
    log: str
    generation: str
    asked: Sequence[Asked] = ()
    base: dict[int, BaseRow | None] | None = None
    fields: Sequence[Field] = ()
    at: int | None = None
    patched: Mapping[int, Patched] = field(default_factory=dict)

    @property
    def ids(self) -> list[Id]:
        return [*self.request.upserts, *self.request.patches, *self.request.deletes]

    def write(self) -> Write:
        """As `commit` takes it. Raises InputError for a filter that is none."""
        ids, names = self.ids, [field.name for field in self.fields]
        fields = [
            FilterField(i, field.kind, field.many, False, 0, 0, 0, 0, hashed=field.hashed)
            for i, field in enumerate(self.fields)
        ]
        conditions = []
        for asked in self.asked:
            check = None
            if asked.filter is not None:
                node = parse_filter(asked.filter, fields, names, f"{asked.param}.if")

                def check(row: Any, node: Any = node) -> bool:
                    return takes(node, fields, names, row)

            conditions.append(Condition(ids[asked.place], asked.absent, asked.seq, check, asked.param))
        patched = {ids[place]: row for place, row in self.patched.items()}
        generation = self.generation if self.asked or self.request.patches else ""
        return Write(self.request, conditions, self.at, self.log, generation, patched)


class Done(NamedTuple):
    """A write that is durable: the seq of its segment, and whether an earlier request with its key had done it."""

    seq: int
    retried: bool


def request_key(text: str) -> bytes:
    """The 16 bytes that stand for an Idempotency-Key."""
    digest = sha256(text.encode()).digest()
    return bytes([digest[0] | CLIENTS_KEY]) + digest[1:16]


def own_key(draw: bytes) -> bytes:
    """The key of a request for which its client has chosen none, from 16 random bytes."""
    return bytes([draw[0] & ~CLIENTS_KEY]) + draw[1:]


def pack_submission(one: Submission) -> bytes:
    head = {
        "shape": one.shape, "log": one.log, "generation": one.generation, "asked": one.asked, "at": one.at,
        "base": [[place, row] for place, row in (one.base or {}).items()], "fields": one.fields,
        "patched": [[place, row] for place, row in one.patched.items()],
    }  # fmt: skip
    text = json.dumps(head, separators=(",", ":")).encode()
    return _HEAD.pack(len(text)) + text + pack_request(one.request, one.shape)


def unpack_submission(data: bytes) -> Submission:
    """What `pack_submission` has packed."""
    (length,) = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    head = json.loads(data[_HEAD.size : end])
    shape = RowShape(*head["shape"])
    base = {place: None if row is None else BaseRow(*row) for place, row in head["base"]}
    return Submission(
        unpack_request(data[end:], shape, "a write"), shape, head["log"], head["generation"],
        [Asked(*one) for one in head["asked"]], base, [Field(*one) for one in head["fields"]], head["at"],
        {place: Patched(*row) for place, row in head["patched"]},
    )  # fmt: skip


_ERRORS: dict[str, type[VantageError]] = {
    kind.code: kind
    for kind in (BusyError, ChangedError, DamagedError, InputError, LogFullError, NotFoundError, StoreError)
}


def pack_outcome(outcome: Done | VantageError) -> str:
    """As JSON: errors do not pass from object to object as they are."""
    if isinstance(outcome, Done):
        return json.dumps({"seq": outcome.seq, "retried": outcome.retried})
    told: dict[str, Any] = {
        "code": outcome.code,
        "message": outcome.message,
        "hint": outcome.hint,
        "param": outcome.param,
    }
    if isinstance(outcome, ConditionError):
        identifier = outcome.id.decode("latin-1") if isinstance(outcome.id, bytes) else outcome.id
        told |= {"id": identifier, "seq": outcome.seq}
    if isinstance(outcome, LimitError):
        told |= {"value": outcome.value, "limit": outcome.limit}
    return json.dumps(told)


def unpack_outcome(text: str) -> Done:
    """What came of a write. Raises the error that it was."""
    told = json.loads(text)
    if "code" not in told:
        return Done(told["seq"], told["retried"])
    words = {"hint": told["hint"], "param": told["param"]}
    if told["code"] == ConditionError.code:
        identifier = told["id"].encode("latin-1") if isinstance(told["id"], str) else told["id"]
        raise ConditionError(told["message"], identifier, told["seq"], **words)
    if told["code"] == LimitError.code:
        error = LimitError("", told["value"], told["limit"], **words)
        error.args, error.message = (told["message"],), told["message"]
        raise error
    raise _ERRORS.get(told["code"], StoreError)(told["message"], **words)
