"""Virtual time: work on a loop whose clock jumps to its next timer, and a bucket that takes its time by a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bench.hedging import Loop
from vantage.read.bucket import Body, Bucket

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in no time at all."""
    with asyncio.Runner(loop_factory=Loop) as runner:
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

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return await self.bucket.list(prefix, after, limit)
