"""A partition gives every row its home block; this is what all partitions share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..hashing.codewords import Codewords
from ..hashing.prefixes import Prefixes
from ..ingest.rows import F32, Ints, Rows
from ..progress import SILENT, Progress
from .nearest import index_centres

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Partition:
    """centres f32 (B, d): means of the sample's home rows. home i32 (N).

    codewords: what gave each row its block, where they are buckets of a code; tree: the same, where they are leaves of
    one.
    """

    centres: F32
    home: npt.NDArray[np.int32]
    codewords: Codewords | None = None
    tree: Prefixes | None = None

    @property
    def blocks(self) -> int:
        return len(self.centres)

    def reordered(self, order: Ints) -> Partition:
        """The same with block order[i] as number i."""
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        codewords, tree = self.codewords, self.tree
        return Partition(
            self.centres[order], number[self.home], None if codewords is None else codewords.reordered(order),
            None if tree is None else tree.reordered(order),
        )  # fmt: skip


def homes(rows: Rows, centres: F32, penalty: F32 | float = 0.0, progress: Progress = SILENT) -> npt.NDArray[np.int32]:
    """i32 (N): the nearest of the centres (B, d), each as much further as its penalty (B)."""
    home, index = np.empty(rows.count, np.int32), index_centres(centres, penalty)
    for low, chunk in rows.chunks(CHUNK_BYTES, progress):
        home[low : low + len(chunk)] = index.nearest(chunk)[0][:, 0]
    return home


def means_of(x: F32, home: npt.NDArray[np.int32], centres: F32) -> F32:
    """Means of the rows of each block; an empty block keeps its centre."""
    order = np.argsort(home, kind="stable")
    sizes = np.bincount(home, minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    filled = sizes > 0
    out = centres.copy()
    out[filled] = np.add.reduceat(x[order], starts[filled], axis=0) / sizes[filled, None]
    return out


def centres_of(rows: Rows, sample: Ints, home: npt.NDArray[np.int32], centres: F32) -> F32:
    """`means_of` the sample rows (sorted), which are read in order and not held."""
    total = np.zeros_like(centres)
    for low, x in rows.chunks(CHUNK_BYTES):
        mine = sample[slice(*np.searchsorted(sample, [low, low + len(x)]))]
        if len(mine):
            mine = mine[np.argsort(home[mine], kind="stable")]
            starts = np.flatnonzero(np.diff(home[mine], prepend=-1))
            total[home[mine[starts]]] += np.add.reduceat(x[mine - low], starts, axis=0)
    size = np.bincount(home[sample], minlength=len(centres))[:, None]
    out: F32 = np.where(size > 0, total / np.maximum(size, 1).astype(np.float32), centres)
    return out
