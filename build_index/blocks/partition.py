"""A partition gives every row its home block; this is what all partitions share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..hashing.codewords import Codewords
from ..hashing.prefixes import Prefixes
from ..ingest.rows import F32, Ints, Rows

CHUNK_BYTES = 16 << 20

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Partition:
    """centres f32 (B, d): means of the sample's home rows. home i32 (N).

    region i32 (B): the region of each block, or None. From two_level, blocks of a region have consecutive numbers.
    codewords: what gave each row its block, where they are buckets of a code; tree: the same, where they are leaves of
    one.
    """

    centres: F32
    home: npt.NDArray[np.int32]
    region: npt.NDArray[np.int32] | None = None
    codewords: Codewords | None = None
    tree: Prefixes | None = None

    @property
    def blocks(self) -> int:
        return len(self.centres)

    def reordered(self, order: Ints) -> Partition:
        """The same with block order[i] as number i."""
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        region, codewords, tree = self.region, self.codewords, self.tree
        return Partition(
            self.centres[order], number[self.home], None if region is None else region[order],
            None if codewords is None else codewords.reordered(order), None if tree is None else tree.reordered(order),
        )  # fmt: skip


def homes(rows: Rows, centres: F32, penalty: F32 | float = 0.0) -> npt.NDArray[np.int32]:
    """i32 (N): the nearest of the centres (B, d), each as much further as its penalty (B)."""
    home = np.empty(rows.count, np.int32)
    for low, chunk in rows.chunks(4 * rows.dimension * rows_at_a_time(len(centres))):
        home[low : low + len(chunk)] = (closeness_of(chunk, centres) - penalty).argmax(1)
    return home


def rows_at_a_time(blocks: int) -> int:
    """Rows whose closeness to all blocks is found at a time."""
    return max(1, CHUNK_BYTES // (4 * blocks))


def closeness_of(x: F32, centres: F32) -> F32:
    """Larger is nearer: <x, c> - |c|^2 / 2."""
    out: F32 = x @ centres.T - 0.5 * np.einsum("ij,ij->i", centres, centres)
    return out


def means_of(x: F32, home: npt.NDArray[np.int32], centres: F32) -> F32:
    """Means of the rows of each block; an empty block keeps its centre."""
    order = np.argsort(home, kind="stable")
    sizes = np.bincount(home, minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    filled = sizes > 0
    out = centres.copy()
    out[filled] = np.add.reduceat(x[order], starts[filled], axis=0) / sizes[filled, None]
    return out
