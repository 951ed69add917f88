"""The log as read: CURRENT, then its segments up to the end, and from there on what comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import DamagedError, NotFoundError, StoreError
from ..format.current import Current
from ..format.layout import damaged
from ..format.log import (
    LEDGER_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    Segment,
    segment_key,
    unpack_ledger,
    unpack_segment,
)
from ..read.reader import CURRENT_BYTES_MAX
from .store import LogReader
from .tail import ROWS, Tail

FRESH_S = 10.0  # what CURRENT says is counted on for so long after it was asked for; gc waits much longer
TRIES = 8
WIDTH_MAX = 4  # segments that are asked for side by side
# Of the log from its start on, for all of its readers and writers: what a reader holds, and the GETs that it takes.
SEGMENTS_MAX = 4096
OPERATIONS_MAX = 1 << 17
BYTES_MAX = 32 << 20

Clock = Callable[[], float]  # seconds, never back


class LogState:
    """What a reader or writer knows of the log.

    current: with the etag that it had, and its JSON members; read_at: of the clock, before it was asked for. tail: the
    segments from current's start on, or from an earlier one until `settle`. seal: that the log ends with, if it does.
    """

    def __init__(self, data: bytes, etag: str, read_at: float, holds: int = ROWS) -> None:
        self.renew(data, etag, read_at)
        self.tail = Tail(self.current.log.start, holds)
        self.seal: Segment | None = None
        self.has_ledger = self.current.log.ledger is None

    def renew(self, data: bytes, etag: str, read_at: float) -> None:
        """Takes a CURRENT that names the same log."""
        self.current, self.etag, self.read_at = Current.unpack(data, "CURRENT"), etag, read_at
        self.members: dict[str, Any] = json.loads(data)

    @property
    def seq(self) -> int:
        """Of the last segment read, or of what the generation has."""
        return self.tail.next - 1

    def settle(self) -> None:
        """Forgets the rows that the generation of `current` has; for whoever reads that one from now on."""
        self.tail.drop(self.current.log.start)

    def over(self) -> bool:
        """Whether the log from its start on is longer than one may be."""
        segments, operations, nbytes = self.tail.held(self.current.log.start)
        return segments > SEGMENTS_MAX or operations > OPERATIONS_MAX or nbytes > BYTES_MAX


async def read_current(store: LogReader, clock: Clock) -> tuple[bytes, str, float]:
    """CURRENT, its etag, and when it was asked for. Raises NotFoundError without one, or of a deleted index."""
    at = clock()
    found = await store.get("CURRENT", CURRENT_BYTES_MAX)
    if found is None:
        raise NotFoundError("there is no index here: no CURRENT", hint="check the address")
    if Current.unpack(found[0], "CURRENT").deleted:
        raise NotFoundError("the index was deleted", hint="write to another one")
    return *found, at


async def read_log(store: LogReader, clock: Clock, holds: int = ROWS) -> LogState:
    """CURRENT and all segments behind it: every write that was acknowledged before this began. holds: of rows.

    A GET, one for each segment, WIDTH_MAX side by side, at most WIDTH_MAX that find nothing, and one each FRESH_S.
    Raises NotFoundError, DamagedError, StoreError.
    """
    for _ in range(TRIES):
        state = LogState(*await read_current(store, clock), holds)
        if await read_on(store, state, clock):
            return state
    raise StoreError("the log went on faster than it was read", hint="try again")


async def follow(store: LogReader, state: LogState, clock: Clock) -> LogState:
    """The same state, read on to the log's end; another one, read anew, where the log went away behind it."""
    return state if await read_on(store, state, clock) else await read_log(store, clock, state.tail.holds)


async def read_on(store: LogReader, state: LogState, clock: Clock) -> bool:
    """Reads to the end, or a seal; False where the log went away: then all is read anew.

    Where no segment is, the log ends, or a gc took it; and where one is, a writer that came too late may have put it
    there again. CURRENT tells: while it does not start later, both are what they seem. It is asked again, before what
    came is used, unless no gc can have got so far.
    """
    width = 1
    while state.seal is None:
        log, first = state.current.log.id, state.tail.next
        keys = [segment_key(log, first + i) for i in range(width)]
        arrived = await store.get_several(keys, SEGMENT_BYTES_MAX)
        if clock() - state.read_at > FRESH_S and not await look_again(store, state, clock):
            return False
        for key, found in zip(keys, arrived, strict=True):
            if found is None:
                return True
            segment = unpack_segment(found[0], key)
            if segment.sealed:
                state.seal = segment
                break
            state.tail.apply(segment, len(found[0]), key)
        if state.over():
            if not await look_again(store, state, clock):
                return False
            if state.over():
                raise damaged(keys[0], "the log is longer than one may be")
        width = min(2 * width, WIDTH_MAX)
    return await look_again(store, state, clock)  # behind a seal another log may have writes by now


async def look_again(store: LogReader, state: LogState, clock: Clock) -> bool:
    """Reads CURRENT again; False where its log is another one, or starts behind the state's next segment."""
    data, etag, at = await read_current(store, clock)
    log = Current.unpack(data, "CURRENT").log
    if log.id != state.current.log.id or log.start > state.tail.next:
        return False
    state.renew(data, etag, at)
    return True


async def load_ledger(store: LogReader, state: LogState) -> bool:
    """Adds the nonces and request keys from before the tail; False where the ledger is gone, as CURRENT moved on."""
    name = state.current.log.ledger
    if state.has_ledger or name is None:
        return True
    found = await store.get(name, LEDGER_BYTES_MAX)
    if found is None:
        return False
    ledger, tail = unpack_ledger(found[0], name), state.tail
    known = {seq for seq, _ in tail.nonces}
    later = list(tail.nonces)
    tail.nonces.clear()
    tail.nonces.extend((seq, nonce) for seq, nonce in ledger.segments if seq not in known)
    tail.nonces.extend(later)
    tail.keys = ledger.keys | tail.keys
    state.has_ledger = True
    return True


async def whole_state(store: LogReader, state: LogState, clock: Clock) -> LogState:
    """A state as `follow` gives it that knows the ledger too, as writers and compactors need it."""
    for _ in range(TRIES):
        state = await follow(store, state, clock)
        if await load_ledger(store, state):
            return state
        before = state.current.log.ledger
        data, etag, at = await read_current(store, clock)
        if Current.unpack(data, "CURRENT").log.ledger == before:
            raise DamagedError(f"{before}: is missing", hint="the ledger that CURRENT names was deleted by others")
        state = LogState(data, etag, at, state.tail.holds)
    raise StoreError("the log went on faster than it was read", hint="try again")
