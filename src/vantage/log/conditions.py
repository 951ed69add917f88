"""Whether writes may be done, decided against the state that they would be written behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ChangedError, ConditionError, LimitError, LogFullError, VantageError
from ..format.current import Current
from ..format.layout import ATTRIBUTE_ROW_BYTES_MAX, ATTRIBUTE_ROW_PARTS_MAX
from ..format.log import NO_KEY, Id, Request, RowShape
from .state import OPERATIONS_MAX, SEGMENTS_MAX, LogState
from .tail import DELETE, PATCH, UPSERT, Fresh, effects, members_of, packed_members, patched

# What an isolate has room for twice, as a reader and as the sequencer; a row takes so much beside its bytes.
HELD_BYTES_MAX, ROW_BYTES = 16 << 20, 320


class BaseRow(NamedTuple):
    """A row of a generation. seq: of the segment that it is from, 0 as it was built."""

    seq: int
    attributes: Mapping[str, Any]


# Rows of the generation that a CURRENT names, None for an id that none has.
Lookup = Callable[[Current, Sequence[Id]], Awaitable[Mapping[Id, BaseRow | None]]]


class Patched(NamedTuple):
    """A row of a generation that is patched. nbytes: of its attributes as JSON with their names, at most; attributes:
    themselves, where they are so long that it matters what of them a patch replaces.
    """

    nbytes: int
    attributes: Mapping[str, Any] | None = None


class Condition(NamedTuple):
    """What a row must be: `absent`; last written at `seq`; such that `takes` its attributes. param: of the request."""

    id: Id
    absent: bool = False
    seq: int | None = None
    takes: Callable[[Mapping[str, Any]], bool] | None = None
    param: str = ""


@dataclass(frozen=True)
class Write:
    """A request with its conditions. at: the seq of the index that it must be written behind, None for any. log: the id
    of the one whose rows are like these, "" for any. patched: of the rows of `generation` that it patches, "" for any.
    """

    request: Request
    conditions: Sequence[Condition] = ()
    at: int | None = None
    log: str = ""
    generation: str = ""
    patched: Mapping[Id, Patched] = field(default_factory=dict)


Rows = dict[Id, Fresh]
Base = Mapping[Id, BaseRow | None]


def wanted(state: LogState, writes: Sequence[Write]) -> list[Id]:
    """Ids that conditions ask for and the tail alone does not know, each once."""
    rows = state.tail.rows
    ids = (condition.id for write in writes for condition in write.conditions)
    return list(dict.fromkeys(i for i in ids if i not in rows or rows[i].kind == PATCH))


def decide(
    state: LogState, base: Base, writes: Sequence[Write], sizes: Sequence[int], shape: RowShape
) -> list[int | VantageError | None]:
    """Of each write, in order, behind those before it: None where it may be written; the seq at which it already is, or
    will be with one before it that has its key; or why not.

    base: of the ids that are `wanted`; sizes: bytes of each as packed.
    """
    if not state.tail.holds:
        raise ValueError("conditions are decided by the rows of the log")
    seq, new, keys = state.tail.next, Rows(), dict[bytes, int]()
    segments, operations, nbytes = state.tail.held(state.current.log.start)
    out: list[int | VantageError | None] = []
    last = state.seq
    for write, size in zip(writes, sizes, strict=True):
        request = write.request
        key, size = request.key if request.key != NO_KEY else None, size + request.patched_bytes
        if key in keys or key in state.tail.keys:
            assert key is not None
            out.append(keys[key] if key in keys else state.tail.keys[key][0])
            continue
        fault: VantageError | None = None
        if write.log not in ("", state.current.log.id):
            fault = ChangedError("the index goes on in another log", hint="look at it again")
        elif write.generation not in ("", state.current.generation):
            fault = ChangedError("the index has another generation now", hint="look at it again")
        elif write.at is not None and write.at != last:
            fault = ConditionError(f"the index is at seq {last}, not at {write.at}", None, last, param="if_seq",
                                   hint="look at it again, and decide anew")  # fmt: skip
        fault = fault or _failing(state, base, write.conditions, new)
        beside = ROW_BYTES * (operations + request.operations)
        if fault is None and (
            segments >= SEGMENTS_MAX
            or operations + request.operations > OPERATIONS_MAX
            or nbytes + size + beside > HELD_BYTES_MAX
        ):
            held = f"{HELD_BYTES_MAX >> 20} MiB with {ROW_BYTES} bytes more a row"
            limits = f"{SEGMENTS_MAX:,} segments, {OPERATIONS_MAX:,} rows, {held}"
            fault = LogFullError(f"the log is full ({limits})", hint="`vantage compact` makes room: then try again")
        changed = Rows()
        for identifier, effect in effects(request, seq, shape) if fault is None else ():
            if isinstance(effect, bytes):
                effect = patched(new.get(identifier) or state.tail.rows.get(identifier), seq, effect, "the request")
                fault = fault or _too_long(identifier, effect, write.patched.get(identifier, Patched(0)))
            changed[identifier] = effect
        out.append(fault)
        if fault is None:
            last, operations, nbytes = seq, operations + request.operations, nbytes + size
            new |= changed
            if key is not None:
                keys[key] = seq
    return out


def _too_long(identifier: Id, fresh: Fresh, base: Patched) -> LimitError | None:
    """Why a row with its patches is longer than a reader takes a row's attributes."""
    attributes, nbytes, parts = fresh.attributes, 0, 0
    if fresh.kind == PATCH and base.attributes is not None:
        attributes = packed_members({**base.attributes, **members_of(attributes, "the request")})
    elif fresh.kind == PATCH:
        nbytes = parts = base.nbytes  # each part takes a byte
    nbytes, parts = nbytes + len(attributes), parts + sum(map(attributes.count, (b"[", b"{", b'"')))
    if nbytes <= ATTRIBUTE_ROW_PARTS_MAX or (nbytes <= ATTRIBUTE_ROW_BYTES_MAX and parts <= ATTRIBUTE_ROW_PARTS_MAX):
        return None
    limit = f"{ATTRIBUTE_ROW_BYTES_MAX} bytes, {ATTRIBUTE_ROW_PARTS_MAX} brackets and quotes"
    what = f"what patches make of the attributes of row {_shown(identifier)!r}"
    return LimitError(what, f"{nbytes} bytes, {parts}", limit, hint="write less of it", param="patch")


def _shown(identifier: Id) -> int | str:
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")


def _failing(state: LogState, base: Base, conditions: Sequence[Condition], new: Rows) -> ConditionError | None:
    for condition in conditions:
        fresh = new.get(condition.id) or state.tail.rows.get(condition.id)
        row = _stored(fresh, base.get(condition.id), condition.id)
        seq = row.seq if row else fresh.seq if fresh and fresh.kind == DELETE else None
        name = _shown(condition.id)
        what = None
        if condition.absent and row is not None:
            what = "is there"
        elif condition.seq is not None and (row is None or row.seq != condition.seq):
            what = f"was written at seq {row.seq}, not at {condition.seq}" if row else "is not there"
        elif condition.takes is not None and (row is None or not condition.takes(row.attributes)):
            what = "is not one that the filter takes" if row else "is not there"
        if what:
            hint = "read the row, and decide anew"
            return ConditionError(f"row {name!r} {what}", condition.id, seq, hint=hint, param=condition.param)
    return None


def _stored(fresh: Fresh | None, base: BaseRow | None, identifier: Id) -> BaseRow | None:
    """The row of an id as it is now."""
    if fresh is None:
        return base
    label = f"row {identifier!r} in the log"
    if fresh.kind == UPSERT:
        return BaseRow(fresh.seq, members_of(fresh.attributes, label))
    if fresh.kind == DELETE or base is None:
        return None
    return BaseRow(fresh.seq, {**base.attributes, **members_of(fresh.attributes, label)})
