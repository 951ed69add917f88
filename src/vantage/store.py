"""Ranged reads of a bucket: six lanes, bytes in flight bounded, one retry, slow reads hedged, every answer checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from errno import EISDIR
from io import BufferedReader
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, Protocol

from .errors import ChangedError, DamagedError, StoreError
from .plan import LANE_BYTES_PER_MS, LANES, Limits
from .stats import Receipt
from .warm import Asker

IN_FLIGHT_BYTES_MAX = 8 << 20
TIMEOUT_S = 10.0
CURRENT_BYTES_MAX = 1 << 16
HEDGE_SHARE = 0.05  # second requests, of all reads
HEDGE_BURST = 6.0  # saved up at most
HEDGE_MARGIN = 1.25  # times the 95th percentile: without it the many that are just past it use up the share
HEDGE_AFTER_S = 0.02  # sooner, a second request would hardly come back before the first
PACE_READS = 128  # latencies remembered
PACE_READS_MIN = 20  # fewer say nothing of a 95th percentile


class Body(Protocol):
    """An answer of a bucket: `length` bytes of an object of `size` bytes with this etag."""

    length: int
    size: int
    etag: str

    def into(self, target: memoryview) -> None:
        """Copies the bytes; len(target) == length."""


class Bucket(Protocol):
    """Where objects are. `get` gives None when there is no such object, and raises ChangedError when the etag differs,
    StoreError (or anything else) when the bucket fails."""

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None: ...

    async def list(self) -> list[str]:
        """Names of the top folders."""


class Bytes:
    """A body that is already here."""

    def __init__(self, data: bytes, size: int, etag: str) -> None:
        self.data, self.length, self.size, self.etag = data, len(data), size, etag

    def into(self, target: memoryview) -> None:
        target[:] = self.data


def beneath(folder: Path, key: str) -> Path:
    """The path of `key` (a/b/c) below a folder. Raises DamagedError where a part of it is a link or leads elsewhere."""
    path = folder
    for name in key.split("/"):
        if name in ("", ".", "..") or "\0" in name:
            raise DamagedError(f"{key!r} is no name of an object", hint="build the index again")
        path = path / name
        if path.is_symlink():
            raise DamagedError(f"{path} is a link, and links are not followed", hint="put the file itself there")
    return path


def open_beneath(folder: Path, key: str) -> BufferedReader:
    """The file `key` below a folder, to read. Raises OSError; DamagedError as `beneath`, or where it is no file."""
    path = beneath(folder, key)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    mode = os.fstat(file).st_mode
    if S_ISREG(mode):
        return os.fdopen(file, "rb")
    os.close(file)
    if S_ISDIR(mode):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    raise DamagedError(f"{path} is no plain file", hint="build the index again")  # a pipe, or a device without an end


class Folder:
    """A folder as a bucket; an object's etag is its size and time of change. An index in it may be a link to a folder,
    what is in an index may not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        name, _, rest = key.partition("/")
        if name in ("", ".", ".."):  # the folder that a system's root lies in, say
            return None
        try:
            with open_beneath(self.path / name, rest) if rest else open_beneath(self.path, key) as file:
                stat = os.fstat(file.fileno())
                found = f"{stat.st_size}-{stat.st_mtime_ns}"
                if etag is not None and etag != found:
                    raise ChangedError(f"{key}: changed under its name", hint="open the index again")
                file.seek(offset)
                return Bytes(file.read(-1 if length is None else length), stat.st_size, found)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{key}: {error.strerror or error}", hint="check the folder and try again") from None

    async def list(self) -> list[str]:
        return sorted(p.name for p in self.path.iterdir() if p.is_dir()) if self.path.is_dir() else []


class Buffer:
    """The buffer that reads land in: it grows to the largest read and is reused, so that the heap stays whole."""

    def __init__(self) -> None:
        self._data = bytearray()

    def view(self, length: int) -> memoryview:
        """Its first `length` bytes; what was there before is lost."""
        if len(self._data) < length:
            self._data = bytearray(length)
        return memoryview(self._data)[:length]


# One an isolate. Bytes are used before the next await, so that queries side by side can share it.
_BUFFER = Buffer()


class Pace:
    """How quick the bucket has been lately, and the second requests that may be sent because of it."""

    def __init__(self) -> None:
        self._first_byte: deque[float] = deque(maxlen=PACE_READS)
        self._tokens = 0.0

    def note(self, seconds: float, length: int) -> None:
        """A read of `length` bytes took so long, or was given up after so long."""
        self._first_byte.append(seconds - length / LANE_BYTES_PER_MS / 1000)
        self._tokens = min(HEDGE_BURST, self._tokens + HEDGE_SHARE)

    def patience(self, length: int) -> float | None:
        """Seconds until a read of `length` bytes is well past the 95th percentile; None while that is not known."""
        if len(self._first_byte) < PACE_READS_MIN:
            return None
        p95 = sorted(self._first_byte)[int(0.95 * len(self._first_byte))]
        return max(HEDGE_MARGIN * p95 + length / LANE_BYTES_PER_MS / 1000, HEDGE_AFTER_S)

    def take(self) -> bool:
        """Whether a second request may be sent now; it is then paid for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


# One an isolate, as the buffer is.
_PACE = Pace()


class Until:
    """When a query has to end, finished or not: at a time of the loop's clock, or by `end` (nobody waits for it)."""

    def __init__(self, at: float | None = None) -> None:
        self.at, self._ended = at, False
        self._reads: set[asyncio.Task[Any]] = set()

    @classmethod
    def after(cls, ms: int | None) -> Until:
        """So many milliseconds from now; None: no end."""
        return cls(None if ms is None else asyncio.get_running_loop().time() + ms / 1000)

    @property
    def over(self) -> bool:
        return self._ended or (self.at is not None and asyncio.get_running_loop().time() >= self.at)

    def end(self) -> None:
        """Gives up the reads in flight."""
        self._ended = True
        for task in self._reads:
            task.cancel()

    async def wait(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Until all reads are done, one has failed, or it is over; then those that are left are cancelled."""
        self._reads.update(tasks)
        loop = asyncio.get_running_loop()
        timer = None if self.at is None else loop.call_at(self.at, self.end)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if timer is not None:
                timer.cancel()
            self._reads.difference_update(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # so that nothing is read or used after the wave


class Reader:
    """The reads of one query (or one opening): counts them in its receipt, and stops when `until` says so.

    The lanes belong to the query, as a Worker's connections belong to its request: queries never wait for each other.
    """

    def __init__(
        self,
        bucket: Bucket,
        etags: dict[str, str],
        receipt: Receipt,
        until: Until | None = None,
        warm: Asker | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.bucket, self.etags, self.receipt, self.warm = bucket, etags, receipt, warm
        self.until, self.limits = until or Until(), limits or Limits()
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
        if self.until.over:
            return False
        self.receipt.waves += 1
        self.receipt.wave_sizes.append([length for _, _, length, _ in reads])
        order = sorted(range(len(reads)), key=lambda i: (-reads[i][2], i))
        tasks = [asyncio.ensure_future(self._one(i, *reads[i], use)) for i in order]
        await self.until.wait(tasks)
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
        began, patience = clock(), _PACE.patience(length)
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
            _PACE.note(clock() - began, length)
            for task in racing:
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)

    async def _second(self, key: str, offset: int, length: int, size: int, sent: asyncio.Event) -> Body:
        """The same read again, once a lane is free, if it may be paid for; `sent` tells that it went out."""
        async with self._lane(length):
            if not _PACE.take():
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
        if hashlib.sha256(out).hexdigest() != sha256:
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
    for last in (False, True):
        receipt.gets += 1
        try:
            body = await asyncio.wait_for(bucket.get(key, offset, length, etag), TIMEOUT_S)
            if body is not None:
                check(body)
                receipt.bytes += body.length
            return body
        except (DamagedError, ChangedError):
            raise
        except TimeoutError:
            failure = StoreError(f"{key}: no answer in {TIMEOUT_S:.0f} s", hint="try again later")
        except StoreError as error:
            failure = error
        except Exception as error:  # a bucket's own failure, whatever its type
            failure = StoreError(f"{key}: {type(error).__name__}: {error}"[:300], hint="try again later")
        if last:
            raise failure
        receipt.retries += 1
        await asyncio.sleep(0.02 + 0.06 * random.random())
    raise AssertionError("unreachable")
