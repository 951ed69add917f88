"""Virtual time: an event loop whose clock jumps to its next timer, and a bucket that takes its time by a plan."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vantage.store import Body, Bucket

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Nothing but timers ends a wait: it advances the clock instead of sleeping."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing would ever happen again")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop at time 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in no time at all."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Slow:
    """`bucket`, each get after the seconds that plan(number of the get from 0, key, length) says."""

    def __init__(self, bucket: Bucket, plan: Callable[[int, str, int | None], float]) -> None:
        self.bucket, self.plan, self.count, self.ended = bucket, plan, 0, 0

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        seconds = self.plan(self.count, key, length)
        self.count += 1
        await asyncio.sleep(seconds)
        self.ended += 1
        return await self.bucket.get(key, offset, length, etag)

    async def list(self) -> list[str]:
        return await self.bucket.list()
