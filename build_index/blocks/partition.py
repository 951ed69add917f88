"""A partition gives every row its home block; this is what all partitions share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix

from ..hashing.codewords import Codewords
from ..hashing.prefixes import Prefixes
from ..ingest.rows import F32, Ints, Rows
from ..progress import SILENT, Progress
from .nearest import FEW_GROUPS, I32, CentreIndex, index_centres

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Partition:
    """centres f32 (B, d): means of the sample's home rows. home i32 (N).

    codewords: what gave each row its block, where they are buckets of a code; tree: the same, where they are leaves of
    one.
    """

    centres: F32
    home: I32
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


def homes(rows: Rows, centres: F32, penalty: F32 | float = 0.0, progress: Progress = SILENT) -> I32:
    """i32 (N): the nearest of the centres (B, d), each as much further as its penalty (B)."""
    shared = rows, index_centres(centres, penalty)
    return np.concatenate([home for (home,) in rows.tasks.map(_assign, shared, rows.cells(), progress)])


def _assign(shared: tuple[Rows, CentreIndex], cell: tuple[int, int]) -> tuple[I32]:
    """i32 (n): the blocks nearest to the rows of a cell."""
    rows, index = shared
    return (np.concatenate([index.nearest(x)[0][:, 0] for _, x in rows.chunks(CHUNK_BYTES, cell)]),)


def means_of(x: F32, home: I32, centres: F32) -> F32:
    """Means of the rows of each block; an empty block keeps its centre."""
    return _means(_sums(x, home, len(centres)), np.bincount(home, minlength=len(centres)), centres)


def centres_of(rows: Rows, sample: Ints, home: I32, centres: F32) -> F32:
    """`means_of` the sample rows (sorted), which are read in order and not held."""
    pieces = [(*piece, home[piece[0] : piece[1]]) for piece in _with_sample(rows, sample)]
    total = np.zeros_like(centres)
    for blocks, sums in rows.tasks.map(_sum, rows, pieces, keep=False):
        total[blocks] += sums
    return _means(total, np.bincount(home[sample], minlength=len(centres)), centres)


def homes_and_centres(
    rows: Rows, sample: Ints, centres: F32, penalty: F32, progress: Progress = SILENT
) -> tuple[I32, F32]:
    """`homes` and then `centres_of`, in one reading; of many blocks a home is the nearest one in fewer groups."""

    def both() -> tuple[I32, F32]:
        shared, home, total = (rows, index_centres(centres, penalty)), list[I32](), np.zeros_like(centres)
        for own, blocks, sums in rows.tasks.map(
            _assign_and_sum, shared, _with_sample(rows, sample), progress, keep=False
        ):
            home.append(own)
            total[blocks] += sums
        home_of = np.concatenate(home)
        return home_of, _means(total, np.bincount(home_of[sample], minlength=len(centres)), centres)

    home_of, moved = rows.tasks.once("round", (rows, sample, centres, penalty), both)
    return home_of, moved


def _with_sample(rows: Rows, sample: Ints) -> list[tuple[int, int, Ints]]:
    """Of each cell: its rows [low, high), and those of the sample among them."""
    return [(low, high, sample[slice(*np.searchsorted(sample, [low, high]))]) for low, high in rows.cells()]


def _assign_and_sum(shared: tuple[Rows, CentreIndex], piece: tuple[int, int, Ints]) -> tuple[I32, Ints, F32]:
    """`_assign`, and then `_sum`."""
    rows, index = shared
    low, high, sample = piece
    home, total = np.empty(high - low, np.int32), np.zeros_like(index.centres)
    for first, x in rows.chunks(CHUNK_BYTES, (low, high)):
        own = home[first - low : first - low + len(x)]
        own[:] = index.nearest(x, groups=FEW_GROUPS)[0][:, 0]
        mine = sample[slice(*np.searchsorted(sample, [first, first + len(x)]))] - first
        total += _sums(x[mine], own[mine], len(total))
    blocks = np.unique(home).astype(np.int64)
    return home, blocks, total[blocks]


def _sum(rows: Rows, piece: tuple[int, int, Ints, I32]) -> tuple[Ints, F32]:
    """(the blocks that rows of a cell lie in, sums f32 of the sample rows of each), from the homes of the cell."""
    low, high, sample, home = piece
    blocks, inverse = np.unique(home, return_inverse=True)
    own = inverse.astype(np.int32)
    total = np.zeros((len(blocks), rows.dimension), np.float32)
    for first, x in rows.chunks(CHUNK_BYTES, (low, high)):
        mine = sample[slice(*np.searchsorted(sample, [first, first + len(x)]))]
        total += _sums(x[mine - first], own[mine - low], len(blocks))
    return blocks.astype(np.int64), total


def _sums(x: F32, home: I32, blocks: int) -> F32:
    """f32 (B, d): sums of the rows (n, d) of each block, in their order."""
    one = np.ones(len(x), np.float32)
    out: F32 = csc_matrix((one, home, np.arange(len(x) + 1)), shape=(blocks, len(x))) @ x
    return out


def _means(total: F32, size: Ints, centres: F32) -> F32:
    out: F32 = np.where(size[:, None] > 0, total / np.maximum(size, 1).astype(np.float32)[:, None], centres)
    return out
