"""Buckets for tests: one that counts and records, one that fails on plan; and a built index with its exact answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vantage.errors import ChangedError, StoreError
from vantage.index import Index
from vantage.read.bucket import Body, Bucket, Bytes, Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.plan import Plan as Planned
from vantage.search.prepare import prepare
from vantage.search.query import Query


def explained(index: Index, query: Query) -> dict[str, Any]:
    """What an index says of one query, without answering it."""
    return asyncio.run(index.explain([query]))[0]


def first_plan(index: Index, query: Query) -> Planned:
    """What a query's first wave reads, with what is cached now."""
    segment = index.segment
    routed, _ = segment.router.peek(prepare(query.vector, index.root.index), segment)
    return segment.plan(query, routed, query.budget)


# What a bucket can do to a read, by name.
FAULTS = ("error", "hang", "short", "whole", "changed", "size", "missing", "flip")
TRIED_AGAIN = ("error", "hang", "short", "whole")  # the others are final at once

Plan = Callable[[int, str], "str | None"]  # (number of the get, from 0; key) -> a fault, or None


@dataclass
class Get:
    """One read, as asked for; served is what came back, 0 when nothing did."""

    key: str
    offset: int
    length: int | None
    etag: str | None
    served: int = 0


@dataclass
class Recorder:
    """Counts and records what passes to `bucket`. delay_s: each get takes so long, so that gets overlap.

    running_max and in_flight_max: most gets and most bytes asked for at one time; beside: for each key, the most gets
    that ran beside one of it.
    """

    bucket: Bucket
    delay_s: float = 0.0
    gets: list[Get] = field(default_factory=list)
    running_max: int = 0
    in_flight_max: int = 0
    beside: dict[str, int] = field(default_factory=dict)
    _running: list[Get] = field(default_factory=list)

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        asked = Get(key, offset, length, etag)
        self.gets.append(asked)
        self._running.append(asked)
        self.running_max = max(self.running_max, len(self._running))
        self.in_flight_max = max(self.in_flight_max, sum(g.length or 0 for g in self._running))
        for get in self._running:
            self.beside[get.key] = max(self.beside.get(get.key, 0), len(self._running) - 1)
        try:
            await asyncio.sleep(self.delay_s)
            body = await self.bucket.get(key, offset, length, etag)
            asked.served = body.length if body else 0
            return body
        finally:
            self._running.remove(asked)

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return await self.bucket.list(prefix, after, limit)

    @property
    def bytes(self) -> int:
        return sum(g.served for g in self.gets)

    def forget(self) -> None:
        """Starts counting again."""
        self.gets.clear()
        self.running_max = self.in_flight_max = 0
        self.beside.clear()


@dataclass
class Failing:
    """Does to `bucket` what `plan` says; counts its gets, and those that failed."""

    bucket: Bucket
    plan: Plan
    count: int = 0
    failed: int = 0

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        fault = await self._fault(key)
        if fault == "changed":
            raise ChangedError(f"{key}: changed under its name", hint="open the index again")
        if fault == "missing":
            return None
        body = await self.bucket.get(key, *((0, None) if fault == "whole" else (offset, length)), etag)
        if body is None or fault is None or fault == "whole":
            return body
        data = bytearray(body.length)
        body.into(memoryview(data))
        if fault == "short":
            del data[-1:]
        if fault == "flip":
            data[len(data) // 2] ^= 4
        return Bytes(bytes(data), body.size + (fault == "size"), body.etag)

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        await self._fault(prefix)
        return await self.bucket.list(prefix, after, limit)

    async def _fault(self, key: str) -> str | None:
        """What the plan says of the next call; raises or hangs where that is the fault."""
        fault = self.plan(self.count, key)
        self.count += 1
        self.failed += fault is not None
        if fault == "error":
            raise RuntimeError("get: We encountered an internal error. Please try again. (10001)")
        if fault == "hang":
            await asyncio.sleep(3600)
        return fault


class MemoryLog:
    """A LogStore in memory; the creates and swaps whose numbers (from 0) are in `lost` take effect without an answer,
    those in `failed` do not.
    """

    def __init__(self, current: bytes, lost: tuple[int, ...] = (), failed: tuple[int, ...] = ()) -> None:
        self.objects: dict[str, bytes] = {"CURRENT": current}
        self.written: dict[str, float] = {}
        self.lost, self.failed, self.count, self.gets = lost, failed, 0, 0

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        self.gets += 1
        data = self.objects.get(key)
        return None if data is None else (data, str(hash(data)))

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        return [await self.get(key, most) for key in keys]

    async def create(self, key: str, data: bytes) -> bool:
        return self._put(key, data, key not in self.objects)

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        return self._put(key, data, str(hash(self.objects[key])) == etag)

    def _put(self, key: str, data: bytes, may: bool) -> bool:
        number = self.count
        self.count += 1
        if number in self.failed:
            raise StoreError(f"{key}: not answered", hint="try again")
        if may:
            self.objects[key] = data
            self.written.setdefault(key, 0.0)
        if number in self.lost:
            raise StoreError(f"{key}: not answered", hint="try again")
        return may

    async def list(self, prefix: str) -> list[tuple[str, float]]:
        return [(key, self.written[key]) for key in self.objects if key.startswith(prefix)]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


def never(_: int, __: str) -> None:
    """Nothing fails."""


def nth(*numbers: int, fault: str = "error", of: str = "") -> Plan:
    """The gets with these numbers fail, counted from 0 over keys that contain `of`."""
    seen = -1

    def plan(_: int, key: str) -> str | None:
        nonlocal seen
        if of not in key:
            return None
        seen += 1
        return fault if seen in numbers else None

    return plan


def always(fault: str, of: str = "") -> Plan:
    """Every get of a key that contains `of` fails."""
    return lambda _, key: fault if of in key else None


def seeded(seed: int, share: float, faults: tuple[str, ...] = TRIED_AGAIN) -> Plan:
    """This share of gets fails, each in a drawn way. Put the seed into the message of what you assert."""
    draw = random.Random(seed)
    return lambda _, __: draw.choice(faults) if draw.random() < share else None


@dataclass(frozen=True)
class Built:
    """An index in a bucket folder, the source that it was built from, and queries that are not in it.

    vectors f32 (N, d) in source order, as stored; ids in the same order; queries f32 (Q, d).
    """

    bucket: Path
    name: str
    metric: str
    vectors: np.ndarray
    ids: list[Any]
    queries: np.ndarray
    attributes: list[dict[str, Any]]

    def scores(self, query: np.ndarray) -> np.ndarray:
        """f64 (N): exact scores of every row."""
        x, q = self.vectors.astype(np.float64), query.astype(np.float64)
        if self.metric == "l2":
            return ((x - q) ** 2).sum(1)
        if self.metric == "cosine":
            return x @ q / (np.linalg.norm(x, axis=1) * np.linalg.norm(q))
        return x @ q

    def nearest(self, query: np.ndarray, k: int) -> list[Any]:
        """Ids of the exact k best."""
        scores = self.scores(query)
        order = np.argsort(scores if self.metric == "l2" else -scores, kind="stable")
        return [self.ids[i] for i in order[:k]]

    def open(self, cache_bytes: int = 0, bucket: Bucket | None = None) -> Index:
        """The index, in-process, through `bucket` or straight from its folder."""
        return asyncio.run(Index.open(bucket or Folder(self.bucket), self.name, Cache(cache_bytes), Receipt()))
