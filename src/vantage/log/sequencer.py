"""The sequencer of an index: groups writes into segments, and holds the log's end for its readers.

It is only a cache. Any number of them may write one log, beside writers that have none: what is written, and in which
order, the bucket alone decides.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..admission import BusyError
from ..errors import LimitError, StoreError, VantageError
from ..format.current import Current
from ..format.log import REQUESTS_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_KEY, Id, pack_request
from .commit import check_request, commit
from .conditions import ROW_BYTES, BaseRow, Write
from .segment import Draw, unknown
from .state import BYTES_MAX, Clock, LogState, follow, read_log
from .store import LogStore
from .submission import Done, Submission, pack_outcome, unpack_submission
from .tail import ATTRIBUTES, NOTHING

WAITING_BYTES_MAX = 2 * REQUESTS_BYTES_MAX  # of writes that wait for the segment before theirs
WAITING_MAX = 1024
KEPT_BYTES = SEGMENT_BYTES_MAX  # of segments, the last ones, for readers that lack few
KEY_BYTES = 160  # of a request in a ledger, as objects of Wasm; ROW_BYTES has those of the log
LOOK_S = 0.5  # the bucket is looked at again so long after it was, while somebody asks
SEEN_S = 1.0  # for so long what was seen there is good enough


class News(NamedTuple):
    """What a reader does not know yet. current: CURRENT, None where the reader has it; etag: that of it. log: the id of
    the log that it names. seq: of the last segment there. segments: those behind the reader's, from number `first` on,
    as they lie in the bucket, a seal too; some of them, where all are too many.
    """

    current: bytes | None
    etag: str
    log: str
    seq: int
    first: int
    segments: list[bytes]


@dataclass
class _Waiting:
    """A write in the queue. nbytes: as packed."""

    submission: Submission
    write: Write
    nbytes: int
    outcome: asyncio.Future[Done]


class _Kept:
    """A store that keeps CURRENT and the segments of a log which pass through it, by number."""

    def __init__(self, store: LogStore) -> None:
        self.store = store
        self.current: tuple[bytes, str] | None = None
        self.log, self.segments = "", dict[int, bytes]()

    def _keep(self, key: str, data: bytes | None) -> None:
        match = SEGMENT_KEY.fullmatch(key)
        if match and match[1] == self.log and data is not None:
            self.segments[int(match[2])] = data

    def begin(self, log: str, start: int) -> None:
        """Forgets other logs than this one, what is before its start, and the first ones of what is more than may be
        kept.
        """
        kept = self.segments if log == self.log else {}
        left, segments = KEPT_BYTES, list[tuple[int, bytes]]()
        for seq in sorted(kept, reverse=True):
            left -= len(kept[seq])
            if seq < start or (left < 0 and segments):
                break
            segments.append((seq, kept[seq]))
        self.log, self.segments = log, dict(reversed(segments))

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        found = await self.store.get(key, most)
        if key == "CURRENT" and found is not None:
            self.current = found
            log = Current.unpack(found[0], key).log
            if log.id != self.log:
                self.begin(log.id, log.start)
        self._keep(key, found[0] if found else None)
        return found

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        arrived = await self.store.get_several(keys, most)
        for key, found in zip(keys, arrived, strict=True):
            self._keep(key, found[0] if found else None)
        return arrived

    async def create(self, key: str, data: bytes) -> bool:
        done = await self.store.create(key, data)
        self._keep(key, data if done else None)
        return done

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        return await self.store.swap(key, data, etag)


async def answered(sequencer: Sequencer, data: bytes) -> str:
    """What comes of a packed submission, packed. Where memory ends, the log is let go of, and nobody knows."""
    try:
        return pack_outcome(await sequencer.submit(unpack_submission(data)))
    except VantageError as error:
        return pack_outcome(error)
    except MemoryError:
        sequencer.forget()
        return pack_outcome(unknown())


class Sequencer:
    """Of one index. Writes that arrive while a segment is being put go into the next one together.

    The log's rows are held from the first write on: who is only asked by readers needs none. nbytes: about what is held
    of the log.
    """

    def __init__(self, store: LogStore, clock: Clock, draw: Draw = secrets.token_bytes) -> None:
        self.clock, self.draw = clock, draw
        self._kept, self.nbytes = _Kept(store), 0
        self._state: LogState | None = None
        self._seen_at = -math.inf  # all that was acknowledged before is in the state
        self._lock = asyncio.Lock()  # of the state, while it is read on
        self._queue = deque[_Waiting]()
        self._running: asyncio.Future[None] | None = None
        self._looking: asyncio.Future[None] | None = None

    def _held_bytes(self) -> int:
        nbytes, state = sum(map(len, self._kept.segments.values())), self._state
        if state is not None and state.tail.shape is not None and state.tail.holds:
            _, operations, logged = state.tail.held(state.current.log.start)
            nbytes += ROW_BYTES * operations + max(0, logged - operations * state.tail.shape.vector_bytes)
            nbytes += KEY_BYTES * max(0, len(state.tail.keys) - operations)
        return nbytes

    def forget(self) -> None:
        """Lets go of all that is held: the next that asks reads the log."""
        self._state, self._seen_at = None, -math.inf
        self._kept, self.nbytes = _Kept(self._kept.store), 0

    def shrink(self) -> None:
        """Lets go of rows and segments: the next write reads the log, and readers the bucket."""
        if self._state is None or self._lock.locked():  # a write is decided by what it began with
            self.forget()
            return
        self._state.tail.hold(NOTHING)
        self._kept.segments.clear()
        self.nbytes = self._held_bytes()

    async def submit(self, submission: Submission) -> Done:
        """Writes, or says why not: where it is durable, once it is.

        Raises InputError for what is no write, ConditionError, LogFullError, BusyError where too many wait, and
        ChangedError where it was checked against a generation or log that is gone: then it is to be checked anew.
        StoreError where the bucket fails: then a retry with the same key finds out whether it was done. In the other
        cases nothing was.
        """
        check_request(submission.request, submission.shape)
        write, nbytes = submission.write(), len(pack_request(submission.request, submission.shape))
        if nbytes > REQUESTS_BYTES_MAX:
            hint = "send several requests"
            raise LimitError("the length of a write, in bytes,", nbytes, REQUESTS_BYTES_MAX, hint=hint, param="body")
        held = sum(one.nbytes for one in self._queue)
        if len(self._queue) >= WAITING_MAX or held + nbytes > WAITING_BYTES_MAX:
            raise BusyError("too many writes of this index wait already", hint="send it again in a second")
        outcome: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(submission, write, nbytes, outcome))
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())
        return await outcome

    async def _run(self) -> None:
        """Commits until nobody waits."""
        try:
            while self._queue:
                group = self._group()
                async with self._lock:
                    outcomes = await self._commit(group)
                for one, outcome in zip(group, outcomes, strict=True):
                    if one.outcome.done():  # whoever sent it is gone
                        continue
                    if isinstance(outcome, Done):
                        one.outcome.set_result(outcome)
                    else:
                        one.outcome.set_exception(outcome)
        finally:
            self._running = None

    def _group(self) -> list[_Waiting]:
        """The first that wait, as many as a segment takes, of rows that are alike."""
        group, nbytes = [self._queue.popleft()], 0
        first = group[0].submission
        nbytes = group[0].nbytes
        while self._queue:
            one = self._queue[0]
            alike = (one.submission.log, one.submission.shape) == (first.log, first.shape)
            nbytes += one.nbytes
            if not alike or nbytes > REQUESTS_BYTES_MAX:
                break
            group.append(self._queue.popleft())
        return group

    async def _commit(self, group: list[_Waiting]) -> list[Done | Exception]:
        """What came of each."""
        try:
            return await self._commit_some(group)
        except Exception as error:
            if not isinstance(error, StoreError):
                self.forget()
            return [error] * len(group)

    async def _commit_some(self, group: list[_Waiting]) -> list[Done | Exception]:
        began, drawn = self.clock(), set[bytes]()

        def draw(n: int) -> bytes:
            drawn.add(out := self.draw(n))
            return out

        async def lookup(current: Current, ids: Sequence[Id]) -> Mapping[Id, BaseRow | None]:
            base: dict[Id, BaseRow | None] = {}
            for one in (waiting.submission for waiting in group):
                if one.generation == current.generation:  # others are decided without: they are to be checked anew
                    base |= {one.ids[place]: row for place, row in (one.base or {}).items()}
            return base

        kept, state = self._kept, self._state
        if state is None or not state.tail.holds:
            state = await read_log(kept, self.clock, ATTRIBUTES)
        writes, shape = [one.write for one in group], group[0].submission.shape
        state, seqs = await commit(kept, state, writes, shape, lookup, self.clock, draw)
        self._take(kept, state, began)
        nonces, known = dict(state.tail.nonces), set[bytes]()
        done: list[Done | Exception] = []
        for write, seq in zip(writes, seqs, strict=True):
            if isinstance(seq, int):
                done.append(Done(seq, nonces.get(seq) not in drawn or write.request.key in known))
                known.add(write.request.key)
            else:
                done.append(seq)
        return done

    def _take(self, kept: _Kept, state: LogState, began: float) -> None:
        """Holds a state that has all that was acknowledged before a time, unless it was to be forgotten meanwhile. No
        condition asks for a vector.
        """
        if kept is self._kept:
            state.settle()
            state.tail.hold(ATTRIBUTES)
            kept.begin(state.current.log.id, state.current.log.start)
            self._state, self._seen_at = state, began
            self.nbytes = self._held_bytes()

    async def since(self, etag: str, log: str, seq: int, most: int = BYTES_MAX) -> News:
        """What a reader does not know that has the CURRENT of this etag, and of this log all up to a seq: all writes
        that this object has acknowledged before, and those of others that were a second ago. At most so many bytes of
        segments, but one at least.

        Raises NotFoundError without an index, DamagedError, StoreError.
        """
        await self._look()
        state, segments = self._state, list[bytes]()
        if state is None or self._kept.current is None:
            raise StoreError("what was held of the log is let go", hint="ask the bucket")
        own = state.current.log
        lacking = max(own.start, seq + 1) if log == own.id else own.start
        first = end = state.tail.next + (state.seal is not None)
        while first > lacking and first - 1 in self._kept.segments:  # what is before, the bucket has
            first -= 1
        for n in range(first, end):
            data = self._kept.segments[n]
            most -= len(data)
            if most < 0 and segments:
                break
            segments.append(data)
        current, held = self._kept.current
        return News(None if held == etag else current, held, own.id, state.seq, first, segments)

    async def _look(self) -> None:
        """Looks at the bucket: before the answer where that is needed, else beside it."""
        age = self.clock() - self._seen_at
        if self._state is None or age > SEEN_S:
            async with self._lock:
                if self._state is None or self.clock() - self._seen_at > SEEN_S:
                    await self._read_on()
        elif age > LOOK_S and self._looking is None and not self._lock.locked():
            self._looking = asyncio.ensure_future(self._look_beside())

    async def _look_beside(self) -> None:
        try:
            async with self._lock:
                await self._read_on()
        except VantageError:  # whoever asks next is told
            pass
        finally:
            self._looking = None

    async def _read_on(self) -> None:
        began, kept, state = self.clock(), self._kept, self._state
        try:
            state = await (follow(kept, state, self.clock) if state else read_log(kept, self.clock, NOTHING))
        except Exception as error:
            if not isinstance(error, StoreError):
                self.forget()
            raise
        self._take(kept, state, began)
