"""Plans over the few blocks that a query gives a probability: their work does not grow with the number of blocks."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.plan import CACHED, RANGE_BYTES_MAX, STARTS_SHARD, ranges_of

from .rows import Ints


def spans(p: npt.NDArray[np.uint32]) -> Ints:
    """i64 (Q, 2): the first block of a probability in p (Q, B), and the one after the last; 0, 0 where all are 0."""
    out = np.zeros((len(p), 2), np.int64)
    for span, row in zip(out, p, strict=True):
        some = np.flatnonzero(row)
        if len(some):
            span[:] = some[0], some[-1] + 1
    return out


@dataclass(frozen=True)
class Narrow:
    """Bytes of each block u32 (B), and where it begins in the one shard, u64 (B)."""

    size: npt.NDArray[np.uint32]
    at: npt.NDArray[np.uint64]

    def ranges(self, p: npt.NDArray[np.uint32], price: int, gets: int) -> list[tuple[int, int]]:
        """Blocks [a, b) of the ranges of most value for p (B), as ranges_of finds them.

        As at the edge, a gap between two blocks of a probability is one item without value, and one that no range may
        span begins a new object.
        """
        kept = np.flatnonzero(p)
        if not len(kept):
            return []
        after = kept[:-1] + 1
        gap = self.at[kept[1:]] - self.at[after]
        bridged = after[(kept[1:] > after) & (gap <= RANGE_BYTES_MAX)]
        first = np.sort(np.concatenate([kept, bridged]))
        at, value, flags = self.at[first], p[first], np.zeros(len(first), np.uint8)
        size = self.size[first]
        idle = np.flatnonzero(value == 0)
        size[idle], flags[idle] = (at[idle + 1] - at[idle]).astype(np.uint32), CACHED
        flags[np.searchsorted(first, kept[1:][gap > RANGE_BYTES_MAX])] |= STARTS_SHARD
        flags[0] |= STARTS_SHARD
        pairs = ranges_of(
            array("I", value.tolist()), array("I", size.tolist()), bytearray(flags.tobytes()), at.tolist(), price, gets
        )
        return [(int(first[a]), int(first[b - 1]) + 1) for a, b in pairs]
