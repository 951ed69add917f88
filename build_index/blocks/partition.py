"""A partition gives every row its home block; this is what all partitions share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix

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
    return _means(_sums(x, home, len(centres)), np.bincount(home, minlength=len(centres)), centres)


def centres_of(rows: Rows, sample: Ints, home: npt.NDArray[np.int32], centres: F32) -> F32:
    """`means_of` the sample rows (sorted), which are read in order and not held."""
    total = np.zeros_like(centres)
    for low, x in rows.chunks(CHUNK_BYTES):
        mine = sample[slice(*np.searchsorted(sample, [low, low + len(x)]))]
        total += _sums(x[mine - low], home[mine], len(centres))
    return _means(total, np.bincount(home[sample], minlength=len(centres)), centres)


def homes_and_centres(
    rows: Rows, sample: Ints, centres: F32, penalty: F32, progress: Progress = SILENT
) -> tuple[npt.NDArray[np.int32], F32]:
    """`homes` and then `centres_of`, in one reading."""
    home, index, total = np.empty(rows.count, np.int32), index_centres(centres, penalty), np.zeros_like(centres)
    for low, x in rows.chunks(CHUNK_BYTES, progress):
        home[low : low + len(x)] = index.nearest(x)[0][:, 0]
        mine = sample[slice(*np.searchsorted(sample, [low, low + len(x)]))]
        total += _sums(x[mine - low], home[mine], len(centres))
    return home, _means(total, np.bincount(home[sample], minlength=len(centres)), centres)


def _sums(x: F32, home: npt.NDArray[np.int32], blocks: int) -> F32:
    """f32 (B, d): sums of the rows (n, d) of each block, in their order."""
    one = np.ones(len(x), np.float32)
    out: F32 = csc_matrix((one, home, np.arange(len(x) + 1)), shape=(blocks, len(x))) @ x
    return out


def _means(total: F32, size: Ints, centres: F32) -> F32:
    out: F32 = np.where(size[:, None] > 0, total / np.maximum(size, 1).astype(np.float32)[:, None], centres)
    return out
