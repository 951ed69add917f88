"""Blocks kept in memory under a byte budget, least recently used out first; one per isolate, for all its indexes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable

STARTS_OBJECT, CACHED = 1, 2  # flags of an extent, as kernels.plan_ranges knows them
_NOTHING: frozenset[int] = frozenset()


class Cache:
    """Parts of objects as read and verified, by key and offset; what an object holds there never changes."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        self._left = 0  # bytes of the budget that others need
        self._lent_until = 0.0
        self._parts: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._offsets: dict[str, set[int]] = {}  # of each known object

    def register(self, keys: Iterable[str]) -> None:
        """Objects whose parts may be kept."""
        for key in keys:
            self._offsets.setdefault(key, set())

    def offsets(self, key: str) -> Collection[int]:
        """Where the parts kept of an object begin."""
        return self._offsets.get(key, _NOTHING)

    def get(self, key: str, offset: int) -> bytes | None:
        """A part, where it is kept; marks it used."""
        part = self._parts.get((key, offset))
        if part is not None:
            self._parts.move_to_end((key, offset))
        return part

    def put(self, key: str, offset: int, data: memoryview) -> None:
        """Copies a part in, and throws out what is over the budget. Of a forgotten object nothing is kept.

        Where memory ends, all parts are given back instead: an answer that is under way needs it more.
        """
        if len(data) > self.budget - self._left or key not in self._offsets or offset in self._offsets[key]:
            return
        if time.monotonic() < self._lent_until:
            return
        self._shrink(len(data))
        try:
            self._parts[key, offset] = bytes(data)
        except MemoryError:
            self.clear()
            return
        self.held += len(data)
        self._offsets[key].add(offset)

    def forget(self, keys: Iterable[str]) -> None:
        """Drops objects that no open index has."""
        for key in keys:
            for offset in list(self._offsets.get(key, ())):
                self._drop((key, offset))
            self._offsets.pop(key, None)

    def clear(self) -> None:
        """Drops all parts; the objects stay known."""
        for part in list(self._parts):
            self._drop(part)

    def leave(self, nbytes: int) -> None:
        """Leaves so many bytes of the budget to others from now on."""
        self._left = min(nbytes, self.budget)
        self._shrink(0)

    def lend(self, seconds: float) -> None:
        """Drops all parts and keeps none for so long: a request has their room. 0 seconds: it has given it back."""
        self._lent_until = time.monotonic() + seconds
        if seconds:
            self.clear()

    def _shrink(self, more: int) -> None:
        """Drops what was used longest ago until so much more fits."""
        while self._parts and self.held + more > self.budget - self._left:
            self._drop(next(iter(self._parts)))

    def _drop(self, part: tuple[str, int]) -> None:
        self.held -= len(self._parts.pop(part))
        self._offsets[part[0]].discard(part[1])
