"""Ranged reads of a bucket: six lanes, bytes in flight bounded, one retry, slow reads hedged, every answer checked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from ..cost import LANES, Limits
from ..errors import ChangedError, DamagedError, StoreError
from ..format import READ_BYTES_MAX
from ..receipt import Receipt
from .bucket import Body, Bucket, Folder
from .deadline import Deadline
from .digest import sha256_hex
from .hedge import Hedging
from .warm import WarmClient

T = TypeVar("T")

IN_FLIGHT_BYTES_MAX = 8 << 20
TIMEOUT_S = 10.0
SHORT_BYTES = 1 << 20  # most reads are shorter
CURRENT_BYTES_MAX = 1 << 16


class Buffer:
    """The buffer that reads land in: a short one, and from the first longer read on one as long as ranges may be. One
    that grew with each read would leave holes in the heap. A longer root makes it grow all the same. A Worker takes all
    of it `at_once`, while there is room in a row.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def view(self, length: int) -> memoryview:
        """Its first `length` bytes; what was there before is lost."""
        if len(self._data) < length:
            self._data = bytearray(SHORT_BYTES if length <= SHORT_BYTES else max(length, READ_BYTES_MAX))
        return memoryview(self._data)[:length]


def at_once() -> None:
    """Makes the buffer as long as ranges may be."""
    _BUFFER.view(READ_BYTES_MAX)


# One an isolate. Bytes are used before the next await, so that queries side by side can share it.
_BUFFER = Buffer()

# One an isolate, as the buffer is.
_HEDGING = Hedging()


class Reader:
    """The reads of one query (or one opening): counts them in its receipt, and stops at its deadline.

    The lanes belong to the query, as a Worker's connections belong to its request: queries never wait for each other.
    """

    def __init__(
        self,
        bucket: Bucket,
        etags: dict[str, str],
        receipt: Receipt,
        deadline: Deadline | None = None,
        warm_client: WarmClient | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.bucket, self.etags, self.receipt, self.warm_client = bucket, etags, receipt, warm_client
        self.deadline, self.limits = deadline or Deadline(), limits or Limits()
        self._lanes = asyncio.Semaphore(LANES)
        self._room = asyncio.Condition()
        self._in_flight = 0

    async def wave(self, reads: list[tuple[str, int, int, int]], use: Callable[[int, memoryview], None]) -> bool:
        """Reads (key, offset, length, object size) side by side; use(i, bytes) as each arrives, in any order.

        The bytes are in a buffer that the next read overwrites. Longest first. The first failure ends the wave. False
        where time was up before all had arrived: those that had were used; and, with no read, where it would pass what
        a request may read.
        """
        if not reads:
            return True
        spent, nbytes = self.receipt, sum(length for _, _, length, _ in reads)
        if spent.gets + len(reads) > self.limits.gets or spent.bytes + nbytes > self.limits.bytes:
            return False
        if self.deadline.over:
            return False
        self.receipt.waves += 1
        self.receipt.wave_sizes.append([length for _, _, length, _ in reads])
        order = sorted(range(len(reads)), key=lambda i: (-reads[i][2], i))
        tasks = [asyncio.ensure_future(self._one(i, *reads[i], use)) for i in order]
        await self.deadline.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        return not any(task.cancelled() for task in tasks)

    async def _one(
        self, i: int, key: str, offset: int, length: int, size: int, use: Callable[[int, memoryview], None]
    ) -> None:
        async with self._lane(length):
            body = await self._quicker(key, offset, length, size)
            view = _BUFFER.view(length)
            body.into(view)
            use(i, view.toreadonly())

    @asynccontextmanager
    async def _lane(self, length: int) -> AsyncIterator[None]:
        """A lane, and room for so many bytes in flight."""
        async with self._lanes:
            async with self._room:
                await self._room.wait_for(
                    lambda: not self._in_flight or self._in_flight + length <= IN_FLIGHT_BYTES_MAX
                )
                self._in_flight += length
            try:
                yield
            finally:
                self._in_flight -= length
                async with self._room:
                    self._room.notify_all()

    async def _quicker(self, key: str, offset: int, length: int, size: int) -> Body:
        """One read; when it is slow, the first good answer of it and of a second one."""
        if isinstance(self.bucket, Folder):  # one disk: a second read of it is no quicker, and would count as a GET
            return await self._get(key, offset, length, size)
        clock = asyncio.get_running_loop().time
        began, patience = clock(), _HEDGING.delay(length)
        first = asyncio.ensure_future(self._get(key, offset, length, size))
        racing, sent = {first}, asyncio.Event()
        try:
            done, left = await asyncio.wait(racing, timeout=patience)
            if not done:
                left.add(asyncio.ensure_future(self._second(key, offset, length, size, sent)))
                racing |= left
            while left and not (first.done() and (first.exception() is None or not sent.is_set())):
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {first}:
                    if task.exception() is None:
                        return task.result()
            return first.result()
        finally:
            _HEDGING.note(clock() - began, length)
            for task in racing:
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)

    async def _second(self, key: str, offset: int, length: int, size: int, sent: asyncio.Event) -> Body:
        """The same read again, once a lane is free, if it may be paid for; `sent` tells that it went out."""
        async with self._lane(length):
            if not _HEDGING.take():
                raise StoreError(f"{key}: no second request now", hint="try again later")
            sent.set()
            self.receipt.hedged += 1
            return await self._get(key, offset, length, size)

    async def _get(self, key: str, offset: int, length: int, size: int) -> Body:
        def check(body: Body) -> None:
            if body.size != size:
                raise DamagedError(f"{key}: {body.size} bytes, expected {size}", hint="publish the index again")
            if body.length != length:
                what = "the whole object came" if body.length == size else f"{body.length} bytes came"
                raise StoreError(f"{key}: {what} for bytes {offset} to {offset + length}", hint="try again later")

        body = await fetch(self.bucket, key, offset, length, self.etags.get(key), self.receipt, check)
        if body is None:
            raise DamagedError(f"{key}: no such object", hint="publish the index again")
        self.etags.setdefault(key, body.etag)
        return body

    async def whole(self, key: str, size: int, sha256: str) -> bytes:
        """An object of known size and checksum."""
        out = bytearray(size)

        def keep(_: int, data: memoryview) -> None:
            out[:] = data

        await self.wave([(key, 0, size, size)], keep)
        if await sha256_hex(out) != sha256:
            raise DamagedError(f"{key}: SHA-256 differs from what CURRENT says", hint="publish the index again")
        return bytes(out)


async def read_small(bucket: Bucket, key: str, receipt: Receipt) -> bytes | None:
    """A small object whose size nobody knows yet: CURRENT. None when there is none."""

    def check(body: Body) -> None:
        if body.size > CURRENT_BYTES_MAX:
            raise DamagedError(
                f"{key}: {body.size} bytes, the limit is {CURRENT_BYTES_MAX}", hint="publish the index again"
            )
        if body.length != body.size:
            raise StoreError(f"{key}: {body.length} bytes came of {body.size}", hint="try again later")

    body = await fetch(bucket, key, 0, CURRENT_BYTES_MAX, None, receipt, check)
    if body is None:
        return None
    data = bytearray(body.length)
    body.into(memoryview(data))
    return bytes(data)


async def fetch(
    bucket: Bucket,
    key: str,
    offset: int,
    length: int,
    etag: str | None,
    receipt: Receipt,
    check: Callable[[Body], None],
) -> Body | None:
    """One read with at most one retry; both are counted. Damage and change are not tried again."""

    async def read() -> Body | None:
        receipt.gets += 1
        body = await bucket.get(key, offset, length, etag)
        if body is not None:
            check(body)
            receipt.bytes += body.length
        return body

    return await retried(key, read, receipt)


async def retried(what: str, work: Callable[[], Awaitable[T]], receipt: Receipt) -> T:
    """What the bucket answers, asked at most twice. Raises StoreError that names `what` it was about."""
    for last in (False, True):
        try:
            return await asyncio.wait_for(work(), TIMEOUT_S)
        except (DamagedError, ChangedError):
            raise
        except TimeoutError:
            failure = StoreError(f"{what}: no answer in {TIMEOUT_S:.0f} s", hint="try again later")
        except StoreError as error:
            failure = error
        except Exception as error:  # a bucket's own failure, whatever its type
            failure = StoreError(f"{what}: {type(error).__name__}: {error}"[:300], hint="try again later")
        if last:
            raise failure
        receipt.retries += 1
        await asyncio.sleep(0.02 + 0.06 * random.random())
    raise AssertionError("unreachable")
