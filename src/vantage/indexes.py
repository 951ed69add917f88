"""The open indexes of an isolate: opened once, revalidated against CURRENT, switched without a failed query."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from weakref import ref

from .admission import GONE_S, WAIT_S, Admission, BusyError
from .arrival import Bodies
from .cost import Limits
from .errors import BehindError, ChangedError, DamagedError, InputError, NotFoundError, StoreError
from .follow import NEVER, Followed
from .format import Current, Root
from .index import Index
from .log.client import WriteClient
from .log.relay import Since
from .read.bucket import Bucket
from .read.cache import Cache
from .read.deadline import Deadline
from .read.digest import sha256_hex
from .read.reader import read_small, retried
from .read.warm import WarmClient
from .receipt import Receipt
from .reserve import Reserve
from .search.fresh import FreshRows
from .search.query import Answer, Query

T = TypeVar("T")

LOG_POLL_S = 0.05  # between two looks for what a request waits for: a write, or room for a log
LOG_WAIT_S = 10.0  # for that, where the request has no end of time

REVALIDATE_S = 30.0
READING_BYTES = 6 << 20
WORKING_BYTES = 14 << 20  # of it in the heap about half: reads under way are not
LARGE_BYTES = 8 << 20  # one that holds more in the heap gets the room of the blocks kept
INDEXES_BYTES = 10 << 20  # what open indexes may hold together; one alone may hold more
SHARED_BYTES = 20 << 20  # for indexes, logs, bodies and their reserve; what these need more, the cache leaves to them
OPENING_S = 15.0  # one that takes longer is taken for gone
INDEX_BYTES = 32 << 10  # what an open index holds beside its root: a small one holds little else
ROOT_COPIES = 2  # a root as it came, and what is made of it
PART_BYTES = 1024  # of a field or of a segment of ids or of a projection, beside what the root holds of it
BEGINNING = 0.0  # of the monotonic clock
REOPENED_MAX = 4  # generations in a row, for a log that goes away behind its reader
UNKNOWN_S = 10.0  # so long after a name without an index, names are asked of the bucket alone
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "names have 1 to 64 letters, digits, '.', '_', '-', and begin with a letter or a digit"

# Hands out (CURRENT, root.bin) of an index from a warmer place, or None; must never raise or wait long.
WarmRoot = Callable[[str], Awaitable[tuple[bytes, bytes] | None]]


class Late(Exception):
    """Time was up before an index was open; `rest` is what is left of the opening, for waitUntil."""

    def __init__(self, rest: Awaitable[Any]) -> None:
        super().__init__("time was up")
        self.rest = rest


async def _timely(work: Coroutine[Any, Any, T], deadline: Deadline | None) -> T:
    """The result of opening or looking again. Raises Late where `deadline` comes first."""
    if deadline is None or deadline.at is None:
        return await work
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=max(0.0, deadline.at - asyncio.get_running_loop().time()))
    if not task.done():
        raise Late(task)
    return task.result()


def _index_bytes(index: Index) -> int:
    """About what an open index holds."""
    root = index.root
    parts = len(root.filters) + sum(len(p.first) + len(p.objects) for p in root.projections) + len(root.id_pages)
    log = 0 if index.fresh is None else index.fresh.nbytes
    dead = 0 if index.root.dead is None else len(index.root.dead.bits)
    return INDEX_BYTES + PART_BYTES * parts + ROOT_COPIES * index.current.root.size + dead + log


class _Log:
    """The log of a closed index, which requests may read still: what it holds, until they have ended or are gone."""

    def __init__(self, fresh: FreshRows) -> None:
        self._rows, self._nbytes, self._gone_at = ref(fresh.rows), fresh.nbytes, monotonic() + GONE_S

    @property
    def nbytes(self) -> int:
        return 0 if self._rows() is None or monotonic() > self._gone_at else self._nbytes


def _read_at(known: Followed, bucket: bool) -> float:
    return known.bucket_at if bucket else known.read_at


def _alike(a: Index, b: Index) -> bool:
    """Whether two snapshots differ in how far the log was read alone."""
    return a.space == b.space and a.current.log.id == b.current.log.id


@dataclass(frozen=True)
class Wish:
    """How new an answer has to be. stale_s: the log was looked at so many seconds before the request came, or later;
    None: as the service has it. after: the seq of a write that it has to see. bucket: the bucket was looked at, whoever
    else may know what was written.
    """

    stale_s: float | None = None
    after: int = 0
    bucket: bool = False


class Service:
    """All that requests share. Before the bucket it asks `warm_root` for an index, `warm_client` for blocks.

    stale_s: so many seconds what is known of a log may be old; None: logs are read for requests alone that wish it.
    since_rpc: asks the sequencer of a log, which knows all that it acknowledged; None: the bucket is asked. beside:
    bytes that others hold in this isolate, of logs. give_back: lets go of what others hold and can have again; True: of
    all of it, logs too. reserve: for bodies that are long.
    """

    def __init__(self, bucket: Bucket, cache_bytes: int, warm_root: WarmRoot | None = None) -> None:
        self.bucket, self.cache, self.warm_root = bucket, Cache(cache_bytes), warm_root
        self.warm_client: WarmClient | None = None
        self.write_client: WriteClient | None = None  # None: nothing is written here
        self.limits = Limits()
        self.stale_s: float | None = None
        self.since_rpc: Since | None = None
        self.beside: Callable[[], int] = lambda: 0
        self.give_back: Callable[[bool], None] = lambda everything: None
        self.reserve = Reserve()
        self.bodies = Bodies()  # of requests that stand at no door yet
        self.reading = Admission(READING_BYTES)  # requests whose bodies have come, until they are answered
        self.working = Admission(WORKING_BYTES)  # those of them that are being answered
        self.open: dict[str, Index] = {}  # the one used last stands last
        self._opening = Admission(1, OPENING_S)  # one index at a time: each takes its root several times over
        self._checked: dict[str, float] = {}
        self._followed: dict[str, Followed] = {}
        self._following = Admission(1, OPENING_S)  # one log at a time
        self._closed_logs: list[_Log] = []
        self._unknown_at = 0.0  # when a name without an index was last asked for

    async def index(self, name: str, receipt: Receipt) -> Index:
        """The live generation as last seen; opens the index when it is not open. What that costs is in `opened_*`."""
        if not NAME.fullmatch(name):
            raise InputError(f"{name[:80]!r} is not a name of an index", hint=NAME_RULE, param="index")
        if name not in self.open:
            opening = Receipt()
            try:
                async with self._opening.enter(1):
                    if name not in self.open:  # another request may have opened it meanwhile
                        await self._open(name, opening)
            finally:
                receipt.add_opening(opening)
        self.open[name] = self.open.pop(name)
        return self.open[name]

    async def current(
        self, name: str, receipt: Receipt, wish: Wish = Wish(), deadline: Deadline | None = None
    ) -> Index:
        """The open index with its log as new as is wished; what looking at that takes is in `log_*`.

        Raises BehindError where a write was not seen in time.
        """
        came = monotonic()
        until = came + LOG_WAIT_S
        if deadline is not None and deadline.at is not None:
            until = min(until, came + max(0.0, deadline.at - asyncio.get_running_loop().time()))
        stale_s = self.stale_s if wish.stale_s is None else wish.stale_s
        while True:
            since = NEVER if stale_s is None else came - stale_s
            index = await self._followed_to(name, receipt, since, wish.bucket)
            if (seq := index.seq) >= wish.after:
                return index
            if monotonic() + LOG_POLL_S >= until:
                raise BehindError(
                    f"the log of {name!r} is at seq {seq}, not at {wish.after} yet",
                    hint="ask again, or ask whether that write was acknowledged", param="after",
                )  # fmt: skip
            del index
            await asyncio.sleep(LOG_POLL_S)
            stale_s = 0.0
            came = monotonic()

    async def _followed_to(self, name: str, receipt: Receipt, since: float, bucket: bool) -> Index:
        """The open index, whose log was last asked for behind `since` of the monotonic clock; bucket: there.

        Not in the same tick of it: ticks take 16 ms on some systems, and something may have been written between.
        """
        for _ in range(REOPENED_MAX):
            index, known = await self.index(name, receipt), self._followed.get(name)
            if known is not None and _alike(known.index, index) and (since == NEVER or _read_at(known, bucket) > since):
                return known.index
            if since == NEVER and known is None:
                return index
            del index, known  # whoever waits holds on to no log: another may wait until it is let go of
            async with self._following.enter(1):
                index = await self.index(name, receipt)
                known = self._followed.get(name)
                if known is None or known.is_reading or not _alike(known.index, index):
                    await self._leave_room(name)
                    known = self._followed[name] = Followed(index)
                if _read_at(known, bucket) > max(since, BEGINNING):  # another request has looked meanwhile
                    return known.index
                try:
                    whole = await known.follow(receipt, None if bucket else self.since_rpc)
                except NotFoundError:
                    self._close(name)
                    raise
                if whole and self._followed.get(name) is known:
                    self.open[name] = known.index
                    self._fit(name)
                    if known.moved:
                        self._checked[name] = 0.0
                elif whole:  # it was closed meanwhile
                    self._let_go(known.index)
                if whole:
                    return known.index
                self._followed.pop(name, None)
            await self.revalidate(name, receipt)
        raise StoreError(f"the log of {name!r} went on faster than it was read", hint="try again")

    async def _open(self, name: str, opening: Receipt) -> None:
        now = time.time()
        try:
            # While unknown names are asked for, no warm object is made for each of them: the bucket alone is asked.
            held = await self._open_warm(name, opening) if now - self._unknown_at > UNKNOWN_S else None
            self._switch(name, held or await Index.open(self.bucket, name, self.cache, opening))
        except NotFoundError:
            self._unknown_at = now
            raise
        if held is not None:  # as old as its last visitor: look at CURRENT after this request
            self._checked[name] = 0.0

    async def _open_warm(self, name: str, opening: Receipt) -> Index | None:
        if self.warm_root is None:
            return None
        opening.opened_rpc += 1
        held = await self.warm_root(name)
        if held is None:
            return None
        try:
            current = Current.unpack(held[0], f"{name}/CURRENT")
            if current.deleted or await sha256_hex(held[1]) != current.root.sha256:
                return None
            return Index(name, self.bucket, self.cache, current, Root.unpack(held[1], f"{name}/{current.root.key}"))
        except DamagedError:  # the bucket has the last word
            return None

    def _switch(self, name: str, index: Index) -> None:
        old = self.open.get(name)
        index.warm_client, index.limits = self.warm_client, self.limits
        self.open[name] = index
        self._checked[name] = time.time()
        if old is not None and old.space != index.space:  # what both have stays
            self.cache.forget(set(old.segment.keys) - set(index.segment.keys))
        self._fit(name)

    def _fit(self, name: str) -> None:
        """Closes those that were used longest ago, but for this one, until there is room."""
        while len(self.open) > 1 and sum(map(_index_bytes, self.open.values())) > INDEXES_BYTES:
            self._close(next(n for n in self.open if n != name))
        self._fit_cache()

    async def _leave_room(self, name: str) -> None:
        """Closes other indexes, those used longest ago first, until their logs leave room for one more, and waits for
        the requests that read them still. Raises BusyError where these take long.
        """
        until = monotonic() + WAIT_S
        while True:
            self._closed_logs = [log for log in self._closed_logs if log.nbytes]
            others = {n: index.fresh.nbytes for n, index in self.open.items() if n != name and index.fresh is not None}
            if sum(others.values()) + sum(log.nbytes for log in self._closed_logs) <= INDEXES_BYTES:
                return
            if others:
                self._close(next(iter(others)))
            elif monotonic() > until:
                raise BusyError("requests on other indexes leave no room for this log", hint="ask again in a second")
            else:
                await asyncio.sleep(LOG_POLL_S)

    def _fit_cache(self) -> None:
        """Leaves to others what they need of the cache's room; gives back what else may go where that is too little."""
        held = sum(map(_index_bytes, self.open.values())) + self.beside() + self.reading.held + self.reserve.held
        self.cache.leave(max(0, held - SHARED_BYTES))
        if held - SHARED_BYTES > self.cache.budget:
            self.give_back(False)
            if self.warm_client is not None:
                self.warm_client.rest()

    @asynccontextmanager
    async def body_room(self, nbytes: int, deadline: float) -> AsyncIterator[None]:
        """Room for what a request holds of its body until it is answered. See Admission.enter."""
        async with self.reading.enter(nbytes, deadline):
            if nbytes > READING_BYTES:  # alone behind this door, as it takes more than there is
                self.reserve.open()
            self._fit_cache()
            try:
                yield
            finally:
                self.reserve.close()
                self._fit_cache()

    def _close(self, name: str) -> None:
        """Forgets an open index and its blocks; the next that asks for it opens it again."""
        closed = self.open.pop(name, None)
        self._checked.pop(name, None)
        self._followed.pop(name, None)
        if closed is not None:
            self.cache.forget(closed.segment.keys)
            self._let_go(closed)

    def _let_go(self, index: Index) -> None:
        """Of the log of an index that is open no more: requests may read it still."""
        if index.fresh is not None:
            self._closed_logs.append(_Log(index.fresh))

    @asynccontextmanager
    async def room(self, nbytes: int, in_flight: int, deadline: float, share: float = 0.0) -> AsyncIterator[None]:
        """Room for a request that holds nbytes in the heap, and so many of reads under way. See Admission.enter.

        share: of what an isolate may compute at once, 1 for a request that works alone: those side by side take turns,
        and each ends when the last does.
        """
        async with self.working.enter(max(nbytes + in_flight, round(share * WORKING_BYTES)), deadline):
            if nbytes <= LARGE_BYTES:
                yield
                return
            self.cache.lend(GONE_S)  # as long as its ticket lasts, where its context ends and nothing follows
            try:
                yield
            finally:
                self.cache.lend(0)

    def shed(self) -> None:
        """Gives back what can be had again: blocks, all indexes but the one used last, what was to be given away."""
        self.cache.clear()
        self.give_back(True)
        for name in list(self.open)[:-1]:
            self._close(name)
        if self.warm_client is not None:
            self.warm_client.drop()
        self.reserve.close()
        gc.collect()  # frames of what failed refer to each other, and hold what they had

    def is_stale(self, name: str) -> bool:
        """Whether CURRENT was last read more than REVALIDATE_S ago."""
        return name in self.open and time.time() - self._checked[name] > REVALIDATE_S

    async def revalidate(self, name: str, receipt: Receipt | None = None) -> bool:
        """Reads CURRENT and opens the new generation if it names one; whether it did. For waitUntil."""
        opening = Receipt()
        try:
            return await self._revalidate(name, opening)
        finally:
            if receipt is not None:
                receipt.add_opening(opening)

    async def _revalidate(self, name: str, opening: Receipt) -> bool:
        self._checked[name] = time.time()
        data = await read_small(self.bucket, f"{name}/CURRENT", opening)
        if data is None:
            self._close(name)
            return False
        live = self.open.get(name)
        current = Current.unpack(data, f"{name}/CURRENT")
        if current.deleted:
            self._close(name)
            return False
        if live is not None and (current.generation, current.log.id) == (live.current.generation, live.current.log.id):
            return False
        self._switch(name, await Index.open(self.bucket, name, self.cache, opening))
        return True

    async def query(self, name: str, query: Query, deadline: Deadline | None = None) -> Answer:
        """A batch of one; see `live`. It ends at the deadline, or after the milliseconds of its budget: so does an
        opening, with Late, but not by `deadline.end()`.
        """
        receipt, end = Receipt(), deadline or Deadline.after(query.budget.ms)
        return await self.live(name, receipt, lambda index: index.query(query, receipt, end), end)

    async def live(
        self, name: str, receipt: Receipt, work: Callable[[Index], Awaitable[T]], deadline: Deadline | None = None,
        wish: Wish = Wish(),
    ) -> T:  # fmt: skip
        """Asks the open generation; if that turns out to be gone from the bucket, all of it is asked of its successor.

        An object that was put again under its key is read by its new etag: its size and checksums still decide.
        Raises Late where `deadline` comes before an index is open.
        """
        index = await _timely(self.current(name, receipt, wish, deadline), deadline)
        try:
            return await work(index)
        except (DamagedError, ChangedError) as error:
            index.etags.clear()
            space = index.space
            del index
            await _timely(self.revalidate(name, receipt), deadline)
            live = await _timely(self.current(name, receipt, wish, deadline), deadline)
            if live.space == space and isinstance(error, DamagedError):
                raise
            return await work(live)

    async def names(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        """Folders of the bucket that have a name as an index has, and the key to go on behind; see Bucket.list.

        One listing of the bucket, and no read of what lies in the folders: which of them is an index, opening it tells.
        """
        names, end = await retried("the list of indexes", lambda: self.bucket.list(prefix, after, limit), Receipt())
        return [name for name in names if NAME.fullmatch(name)], end
