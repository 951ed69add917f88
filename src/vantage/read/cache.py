"""Blocks kept in memory under a byte budget, least recently used out first; one per isolate, for all its indexes."""

from __future__ import annotations

from collections import OrderedDict

STARTS_SHARD, CACHED = 1, 2  # flags of a block, as kernels.plan_ranges knows them


class Cache:
    """Scan blocks as read and verified. An index gives its flags (one byte a block), kept current here."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._flags: dict[str, bytearray] = {}

    def register(self, generation: str, flags: bytearray) -> bytearray:
        """The flags of a generation: those of an earlier registration if there are, with their CACHED bits."""
        return self._flags.setdefault(generation, flags)

    def get(self, generation: str, block: int) -> bytes:
        """A block whose flag says CACHED; marks it used."""
        self._blocks.move_to_end((generation, block))
        return self._blocks[generation, block]

    def put(self, generation: str, block: int, data: memoryview) -> None:
        """Copies a block in, and throws out what is over the budget. A forgotten generation keeps nothing."""
        key = (generation, block)
        if len(data) > self.budget or key in self._blocks or generation not in self._flags:
            return
        while self.held + len(data) > self.budget:
            self._drop(next(iter(self._blocks)))
        self._blocks[key] = bytes(data)
        self.held += len(data)
        self._flags[generation][block] |= CACHED

    def forget(self, generation: str) -> None:
        """Drops a generation that is no longer live, and its routing pages."""
        for space in (generation, f"{generation}/routing"):
            for key in [k for k in self._blocks if k[0] == space]:
                self._drop(key)
            self._flags.pop(space, None)

    def clear(self) -> None:
        """Drops all blocks; the generations stay registered."""
        for key in list(self._blocks):
            self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        self.held -= len(self._blocks.pop(key))
        self._flags[key[0]][key[1]] &= ~CACHED
