"""Commits writes: a group of them is one segment, the next of the log, or nothing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from ..errors import InputError, LimitError, StoreError, VantageError
from ..format.layout import ATTRIBUTE_ROW_BYTES_MAX, ID_BYTES_MAX
from ..format.log import (
    NONCE_BYTES,
    OPERATIONS_MAX,
    REQUESTS_BYTES_MAX,
    Id,
    Request,
    RowShape,
    least_operations,
    pack_request,
    pack_segment,
    segment_key,
    unpack_segment,
)
from .conditions import Base, Lookup, Write, decide, wanted
from .move import name_log, unsealed
from .segment import Draw, put, unknown
from .state import FRESH_S, Clock, LogState, look_again, read_log, whole_state
from .store import LogStore

CONFLICTS_MAX = 64  # other writers that come first


def check_request(request: Request, shape: RowShape) -> None:
    """Raises InputError or LimitError for a request that is no write of such rows."""
    ids = [*request.upserts, *request.patches, *request.deletes]
    if not least_operations(request.key) <= len(ids) <= OPERATIONS_MAX:
        limit = f"1 to {OPERATIONS_MAX}"
        raise LimitError("the number of rows of a write", len(ids), limit, hint="send several requests", param="rows")
    for at, i in enumerate(ids):
        check_id(i, shape, "id", new=at < len(request.upserts))
    if len(set(ids)) != len(ids):
        raise InputError("an id stands twice in a request", hint="send each row once", param="id")
    texts = [*request.attributes, *request.changes]
    if len(request.vectors) != len(request.upserts) * shape.vector_bytes or len(texts) != len(ids) - len(
        request.deletes
    ):
        raise InputError(
            f"{len(request.vectors)} bytes of vectors and {len(texts)} texts of attributes for {len(request.upserts)} "
            f"upserts and {len(request.patches)} patches",
            hint=f"a vector has {shape.dimension} numbers", param="vector",
        )  # fmt: skip
    if (longest := max(map(len, texts), default=0)) > ATTRIBUTE_ROW_BYTES_MAX:
        raise LimitError(
            "the length of a row's attributes, in bytes,", longest, ATTRIBUTE_ROW_BYTES_MAX, hint="send less",
            param="attributes",
        )  # fmt: skip


def check_id(identifier: Id, shape: RowShape, param: str, *, new: bool = False) -> None:
    """Raises InputError or LimitError for what is no id of such rows. new: a row is to have it, so it may not be empty,
    as no build takes that.
    """
    kind = int if shape.id_kind == "i64" else bytes
    if type(identifier) is not kind or (isinstance(identifier, int) and not -(1 << 63) <= identifier < 1 << 63):
        raise InputError(f"ids of this index are {shape.id_kind}", hint="send ids of that kind", param=param)
    if new and identifier == b"":
        raise InputError(f"{param} is empty", hint="send another", param=param)
    if isinstance(identifier, bytes) and len(identifier) > ID_BYTES_MAX:
        what = "the length of an id, in bytes,"
        raise LimitError(what, len(identifier), ID_BYTES_MAX, hint="send another", param=param)


async def commit(
    store: LogStore,
    state: LogState,
    writes: Sequence[Write],
    shape: RowShape,
    lookup: Lookup,
    clock: Clock,
    draw: Draw = secrets.token_bytes,
) -> tuple[LogState, list[int | VantageError]]:
    """Writes what may be written, in one segment at the log's end.

    The state with it, and of each write the seq at which it is durable, or why it is not done. Conditions hold at that
    very seq: where another writer comes first, all is decided anew behind its segment. A write whose key is known is
    not done again. Requests have passed `check_request`; packed they take at most REQUESTS_BYTES_MAX together, else
    LimitError.

    Raises StoreError where the bucket fails: then nobody knows whether it was done, and a retry with the same key finds
    out. DamagedError, NotFoundError as `read_log`.
    """
    packed = [pack_request(write.request, shape) for write in writes]
    if sum(map(len, packed)) > REQUESTS_BYTES_MAX:
        hint = "send several requests"
        raise LimitError("the length of writes, in bytes,", sum(map(len, packed)), REQUESTS_BYTES_MAX, hint=hint)
    base: Base = {}
    generation, asked = "", {write.generation for write in writes} - {""}
    if not state.has_ledger:
        state = await whole_state(store, state, clock)
    for _ in range(CONFLICTS_MAX):
        if state.seal is not None:
            state = await unsealed(store, state, clock, draw)
        if state.current.named_log is None:  # who publishes or rolls back sees by CURRENT alone that there are writes
            await name_log(store, state, draw)
            state = await read_log(store, clock)
            continue
        if asked - {state.current.generation}:  # what they were checked against may be newer than what is known here
            asked = set()
            if not await look_again(store, state, clock):
                state = await whole_state(store, state, clock)
                continue
        ids = wanted(state, writes)
        if generation != state.current.generation or not all(i in base for i in ids):
            base, generation = await lookup(state.current, ids) if ids else {}, state.current.generation
        outcomes = decide(state, base, writes, [len(p) for p in packed], shape)
        mine = [data for data, outcome in zip(packed, outcomes, strict=True) if outcome is None]
        log, seq = state.current.log.id, state.tail.next
        if not mine:  # what is refused, is so at the log's end
            state = await whole_state(store, state, clock)
            if (state.current.log.id, state.tail.next, state.seal) == (log, seq, None):
                return state, [outcome for outcome in outcomes if outcome is not None]
            continue
        nonce = draw(NONCE_BYTES)
        data = pack_segment(nonce, shape, mine)
        done = [seq if outcome is None else outcome for outcome in outcomes]
        won = await put(store, segment_key(log, seq), data, nonce)
        if won and (clock() - state.read_at <= FRESH_S or await look_again(store, state, clock)):
            state.tail.apply(unpack_segment(data, "the request"), len(data), "the request")
            return state, done
        # Another's, or behind the log's start. A lost answer may have been of a segment that a generation has by now.
        state = await whole_state(store, state, clock)
        owner = dict(state.tail.nonces).get(seq)
        if owner == nonce:
            return state, done
        if owner is None and (state.seal is None or state.tail.next != seq):
            raise unknown()
    raise StoreError("other writers always came first", hint="try again")
