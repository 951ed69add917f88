"""An open index and the log behind it: read on when somebody asks, and what is patched looked up in the generation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from .errors import BehindError, DamagedError, StoreError
from .format.log import Id
from .index import Index
from .log.relay import Since, relayed
from .log.state import LogState, read_on
from .log.store import LogReader
from .read.bucket import Body, Bucket
from .read.reader import fetch
from .receipt import Receipt
from .search.fresh import BaseRow, FreshRows
from .search.rows import IdEntry

NEVER = float("-inf")


class BucketLog:
    """A bucket as the log's readers see it. receipt: counts what is read."""

    def __init__(self, bucket: Bucket, name: str, receipt: Receipt) -> None:
        self.bucket, self.name, self.receipt = bucket, name, receipt

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        """See vantage.log.store.LogReader."""
        where = f"{self.name}/{key}"

        def check(body: Body) -> None:
            if body.size > most:
                raise DamagedError(f"{where}: {body.size} bytes, the limit is {most}", hint="a writer is broken")
            if body.length != body.size:
                raise StoreError(f"{where}: {body.length} bytes came of {body.size}", hint="try again later")

        body = await fetch(self.bucket, where, 0, most, None, self.receipt, check)
        if body is None:
            return None
        data = bytearray(body.length)
        body.into(memoryview(data))
        return bytes(data), body.etag

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        """See vantage.log.store.LogReader."""
        return await asyncio.gather(*(self.get(key, most) for key in keys))


class Followed:
    """An open index with the log behind its generation, as far as it was read. One call at a time.

    index: a snapshot, which has all segments before `state.tail.next`. read_at: of time.monotonic, before the log was
    last asked for; bucket_at: before the bucket was. is_reading: a call has not ended, and perhaps never will.
    """

    def __init__(self, index: Index) -> None:
        self.index, self.is_reading = index.with_fresh(None), False
        self.read_at = self.bucket_at = NEVER
        self.state = LogState(index.current.pack(), "", index.read_at)
        self.base: dict[Id, BaseRow | None] = {}  # of the generation, of rows that were patched, until all are there
        self.entries: dict[Id, IdEntry] = {}  # of those of them that are found and not yet read

    @property
    def moved(self) -> bool:
        """Whether there is a newer generation, which has a part of the log; this one has the rest of it still."""
        return self.state.current.generation != self.index.current.generation

    async def follow(self, receipt: Receipt, since: Since | None = None) -> bool:
        """Reads the log on to its end; False where it went away, and the index must be opened again.

        since: asks the log's sequencer, which tells without a GET what it knows; None: the bucket.
        `log_gets` and `log_bytes` of the receipt count it, and what it takes to look up rows that were patched. Where
        those are more than a request may read, BehindError: the next call goes on with them.
        """
        own, began, self.is_reading = Receipt(), monotonic(), True
        try:
            log: LogReader = BucketLog(self.index.bucket, self.index.name, own)
            if since is not None:
                log = await relayed(since, self.index.name, self.state, log, monotonic)
            if not await read_on(log, self.state, monotonic):
                return False
            fresh, tail = self.index.fresh, self.state.tail
            if fresh is None and not tail.rows:  # so an index without writes is answered as ever
                if self.index.seq != tail.next - 1:
                    self.index = self.index.with_fresh(FreshRows.none(self.index.root, tail.next - 1))
            elif fresh is None or fresh.seq != tail.next - 1:
                fresh = fresh or FreshRows.none(self.index.root, self.index.seq)
                fresh = fresh.followed(tail, await self._patched(fresh.unresolved(tail), own))
                self.base, self.entries = {}, {}
                tail.rows.clear()  # all of it is there now
                tail.keys.clear()  # no reader asks for them
                self.index = self.index.with_fresh(fresh)
            self.read_at = began
            if since is None:
                self.bucket_at = began
            return True
        finally:
            self.is_reading = False
            receipt.log_gets += own.gets
            receipt.log_bytes += own.bytes

    async def _patched(self, identifiers: Sequence[Id], receipt: Receipt) -> dict[Id, BaseRow | None]:
        """Rows of the generation that were patched."""
        left = [identifier for identifier in identifiers if identifier not in self.base]
        self.base |= await self.index.base_rows(left, receipt, self.entries)
        if missing := sum(identifier not in self.base for identifier in left):
            what = (
                f"{missing} of {len(identifiers)} rows of {self.index.name!r} that were patched are not looked up yet"
            )
            raise BehindError(what, hint="ask again; `vantage compact` makes rows of patches")
        return self.base
