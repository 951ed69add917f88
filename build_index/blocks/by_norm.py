"""kmeans, which under inner products divides rows of varied norms into bands of norms first, and each band by itself.

The rows of largest inner product are nearly all long (norm-ranging: Yan et al., NeurIPS 2018, arXiv 1809.08782). Blocks
over all rows mix them with short ones of the same direction, so that a query reads most of these too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vantage.format import READ_BYTES_MAX

from ..ingest.rows import F32, Ints, Rows, usual_length
from ..neighbours.exact import exact_neighbours
from ..neighbours.graph import Graph
from ..progress import Progress
from ..tasks.digest import digest
from .kmeans import by_kmeans
from .partition import CHUNK_BYTES, Partition

QUERIES, ANSWERS = 500, 100  # rows of the sample that say how long answers are, and how many answers of each
SEARCHED_BYTES = 64 << 20  # of the sample, for that
LONG = 1.5  # times the usual length of a row is that of half of the answers: where they are shorter, bands read more
TOP = 0.005  # of the rows, which the first band has, with all that are no shorter than these by half an octave
STEP = 2**0.5  # from one band to the next; whole octaves read about the same
BANDS_MAX = 24
TAIL = 0.01  # of the answers, at most, are in the last band
BAND_ROWS = 64  # of the sample, at least, are in a band
BLOCK_ROWS = 32  # of the sample, at least, are in a block of it on average
ROW_BYTES = 32  # beside a code of a byte a dimension
ROOM = 4  # times the mean block of a band, at most, is its largest, copies counted


@dataclass(frozen=True, eq=False)
class _Band(Rows):
    """The rows of these numbers (n) in the place of all rows."""

    numbers: Ints = field(kw_only=True)

    def content(self) -> str:
        return digest(super().content(), self.numbers)

    @property
    def count(self) -> int:
        return len(self.numbers)

    def slice(self, low: int, high: int) -> F32:
        return super().take(self.numbers[low:high])

    def take(self, rows: Ints) -> F32:
        return super().take(self.numbers[rows])


def by_kmeans_in_bands(
    rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress
) -> Partition:
    """As by_kmeans; where the answers of inner products are among few, long rows, about `blocks` blocks in bands."""
    if rows.metric != "dot" or blocks == 1:
        return by_kmeans(rows, sample, blocks, graph, seed, progress)
    norms = np.concatenate([np.linalg.norm(x, axis=1) for _, x in rows.chunks(CHUNK_BYTES)])
    answers = answer_norms(rows, sample, norms, seed)
    if np.median(answers) < LONG * usual_length(norms):
        return by_kmeans(rows, sample, blocks, graph, seed, progress)
    limits = band_limits(norms, norms[sample], answers)
    band, known = (np.searchsorted(-limits, -of, "right") for of in (norms, norms[sample]))
    counts = _blocks_of(band, known, np.searchsorted(-limits, -answers, "right"), blocks, rows.dimension)
    home, centres, first = np.empty(rows.count, np.int32), list[F32](), 0
    for b, count in enumerate(counts.tolist()):
        numbers = np.flatnonzero(band == b)
        own = _Band(rows.stored, rows.metric, rows.origin, rows.scale, rows.tasks, numbers=numbers)
        part = progress.part(first / counts.sum(), (first + count) / counts.sum())
        some = by_kmeans(own, np.searchsorted(numbers, sample[known == b]), count, None, seed, part)
        home[numbers] = first + some.home
        centres.append(some.centres)
        first += count
    return Partition(np.concatenate(centres), home)


def answer_norms(rows: Rows, sample: Ints, norms: F32, seed: int) -> F32:
    """f32 (n): norms of the answers that rows of the sample have as queries, as deep among some of it as 100 among all.

    norms f32 (N): of the rows.
    """
    some = sample[:: -(-len(sample) * 4 * rows.dimension // SEARCHED_BYTES)]
    x = rows.take(some)
    at = np.sort(np.random.default_rng([seed, 10]).choice(len(some), min(QUERIES, len(some)), replace=False))
    k = min(max(1, round(ANSWERS * len(some) / rows.count)), len(some) - 1)
    near = exact_neighbours(x[at], iter([(0, x)]), k, rows.metric, at)
    out: F32 = norms[some[near.ravel()]]
    return out


def band_limits(norms: F32, known: F32, answers: F32) -> F32:
    """f32 (bands - 1): norms that the bands end above, falling by half octaves; see the constants for where they begin
    and end. norms (N): of the rows; known (n): of the sample; answers: of answers.
    """
    limits, above, last = list[float](), 0, float(np.quantile(answers, TAIL))
    for limit in (np.quantile(norms, 1 - TOP) / STEP ** np.arange(1, BANDS_MAX)).astype(np.float32):
        within = int(np.count_nonzero(known > limit))
        if limit <= last or len(known) - within < BAND_ROWS:
            break
        if within - above >= BAND_ROWS:
            limits.append(float(limit))
            above = within
    return np.array(limits, np.float32)


def _blocks_of(band: Ints, known: Ints, answers: Ints, blocks: int, dimension: int) -> npt.NDArray[np.int64]:
    """Blocks of each band, from the bands of all rows, of the sample and of answers.

    In proportion to the geometric mean of rows and answers, so that blocks of long rows, which many queries read, are
    small, and no longer one than a reader takes.
    """
    bands = int(band.max()) + 1
    in_rows, in_sample, in_answers = (np.bincount(of, minlength=bands) for of in (band, known, answers))
    share = np.sqrt(in_rows * np.maximum(in_answers, TAIL * len(answers)))
    fair = (blocks * share / share.sum()).astype(np.int64)
    longest = READ_BYTES_MAX // (
        ROOM * (dimension + BLOCK_ROWS)
    )  # of codes of a byte a dimension, and of what is beside
    out: npt.NDArray[np.int64] = np.maximum(
        np.clip(fair, 1, np.maximum(1, in_sample // BLOCK_ROWS)), -(-in_rows // longest)
    )
    return out
