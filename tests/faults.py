"""A bucket that fails by seed, in front of another; standard library alone, so that a Worker runs it too."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vantage.read.bucket import Body, Bucket, Bytes

# What can happen to a get, each with its usual chance.
RATES = {
    "error": 0.01,  # the bucket raises
    "hang": 0.001,  # no answer ever
    "slow": 0.02,  # the first byte comes late
    "cut": 0.005,  # fewer bytes than asked for
    "long": 0.005,  # one byte more than asked for
    "size": 0.002,  # an object of another size
    "flip": 0.005,  # one bit differs
    "missing": 0.002,  # no such object
    "stale": 0.01,  # CURRENT as it was before the last switch
    "switch": 0.001,  # CURRENT names the next generation from now on
}
SLOW_S = 0.3  # at most


class Faults:
    """The state that all faulty buckets of a process share. The n-th get meets the same fault for the same seed.

    rates: chance of each fault, of RATES; generations: bodies of CURRENT, which "switch" goes through in a circle;
    live: the one that CURRENT has now; counts: faults met, by name.
    """

    def __init__(self, seed: int, rates: Mapping[str, float], generations: list[bytes] | None = None) -> None:
        unknown = rates.keys() - RATES.keys()
        if unknown or sum(rates.values()) > 1:
            raise ValueError(f"rates: unknown {sorted(unknown)}, or a sum above 1")
        self.rates, self.generations, self.live = dict(rates), generations or [], 0
        self.counts: Counter[str] = Counter()
        self._draw = random.Random(seed)

    def next(self) -> tuple[str | None, float]:
        """The fault of the next get, None for none; and a number in [0, 1) that says where or how much."""
        at, spot = self._draw.random(), self._draw.random()
        for fault, rate in self.rates.items():
            if at < rate:
                self.counts[fault] += 1
                return fault, spot
            at -= rate
        return None, spot

    def switch(self) -> None:
        """The next generation is live."""
        if self.generations:
            self.live = (self.live + 1) % len(self.generations)


class FaultyBucket:
    """`bucket` with these faults."""

    def __init__(self, bucket: Bucket, faults: Faults) -> None:
        self.bucket, self.faults = bucket, faults

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        fault, spot = self.faults.next()
        if fault == "error":
            raise RuntimeError("get: We encountered an internal error. Please try again. (10001)")
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "slow":
            await asyncio.sleep(SLOW_S * spot)
        if fault == "switch":
            self.faults.switch()
        if fault == "missing":
            return None
        body = await self._body(key, offset, length, etag, stale=fault == "stale")
        if body is None or fault not in ("cut", "long", "size", "flip"):
            return body
        data = bytearray(body.length)
        body.into(memoryview(data))
        if fault == "cut":
            del data[int(len(data) * spot) :]
        elif fault == "long":
            data.append(0)
        elif fault == "flip" and data:
            bit = int(8 * len(data) * spot)
            data[bit // 8] ^= 1 << bit % 8
        return Bytes(bytes(data), body.size + (fault == "size"), body.etag)

    async def _body(self, key: str, offset: int, length: int | None, etag: str | None, *, stale: bool) -> Body | None:
        if self.faults.generations and key.endswith("/CURRENT"):
            data = self.faults.generations[self.faults.live - stale]
            return Bytes(data, len(data), f"generation {self.faults.live - stale}")
        return await self.bucket.get(key, offset, length, etag)

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return await self.bucket.list(prefix, after, limit)


class FaultyBinding:
    """The binding of a bucket as the log uses it, with these faults; where a put is cut, its answer is lost."""

    def __init__(self, binding: Any, faults: Faults) -> None:
        self.binding, self.faults = binding, faults

    async def get(self, key: str) -> Any:
        fault, spot = self.faults.next()
        await _pass(fault, spot)
        return await self.binding.get(key)

    async def put(self, key: str, data: bytes, options: Any) -> Any:
        fault, spot = self.faults.next()
        await _pass(fault, spot)
        done = await self.binding.put(key, data, options)
        if fault in ("cut", "long", "size", "flip"):
            raise RuntimeError("put: the connection was reset")
        return done


async def _pass(fault: str | None, spot: float) -> None:
    if fault == "error":
        raise RuntimeError("We encountered an internal error. Please try again. (10001)")
    if fault in ("hang", "slow"):
        await asyncio.sleep(3600 if fault == "hang" else SLOW_S * spot)
