"""Rows in the scale of the index: norm 1 under cosine, else divided by their mean norm, under l2 from their middle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import LENGTH_MAX

from ..tasks.digest import digest
from ..tasks.tasks import HERE, Tasks

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FAR = 4  # times the median length: what is beyond counts as no more, where rows set a scale
ORIGIN_ROWS, ORIGIN_BYTES = 16_384, 64 << 20  # of a sample, that the origin is found from
CHUNK_BYTES = 8 << 20  # fixed, so that sums do not change with the memory budget
CELL_ROWS = 1 << 16  # of one task over rows: fixed, so that sums do not change with the number of workers
LENGTHS_MAX = 1e6  # times the median: integer scores are left with a few steps for the rest


def origin_of(sample: F32) -> F32:
    """f32 (d): a point amid rows (n, d) that no quarter of them moves far: the mean of each dimension's middle half."""
    quarter = len(sample) // 4
    middle = np.sort(sample, axis=0)[quarter : len(sample) - quarter]
    out: F32 = middle.mean(0, dtype=np.float64).astype(np.float32)
    return out


def usual_length(norms: npt.NDArray[np.floating]) -> float:
    """Median of the lengths (n) that are not zero; 0 where all are."""
    return float(np.median(norms[norms > 0])) if (norms > 0).any() else 0.0


def temper(x: F32) -> F32:
    """Rows (n, d), those of more than FAR times the usual length cut to it: a few far ones else outweigh the rest."""
    norms = np.linalg.norm(x, axis=1)
    most = FAR * usual_length(norms)
    far = norms > most
    if not far.any():
        return x
    out = x.copy()
    out[far] *= (most / norms[far])[:, None].astype(x.dtype)
    return out


def check_lengths(metric: str, norms: npt.NDArray[np.float64], norm_max: float, longest: str) -> None:
    """Raises InputError where the longest row, of norm_max and named, leaves nothing of the scores of most others.

    norms (n): of all rows, or evenly of some; under l2 distances from their origin.
    """
    usual = usual_length(norms) or norm_max
    if metric != "cosine" and norm_max > LENGTHS_MAX * usual:
        raise InputError(
            f"{longest} is {norm_max / usual:.1e} times as long as most of the others: no scale holds both",
            hint="leave it out, or choose --metric cosine where only the direction counts",
        )


class StoredRows(Protocol):
    """Where rows lie: a Staging, or Arrays. Properties and methods as those of a Staging."""

    @property
    def rows(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def id_kind(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...
    def floats(self, lo: int, hi: int) -> F32: ...
    def gather(self, rows: npt.NDArray[np.integer]) -> F32: ...
    def ids(self, rows: npt.NDArray[np.integer]) -> Ints | list[bytes]: ...
    def attributes(self, rows: npt.NDArray[np.integer]) -> list[bytes]: ...
    def attribute_sizes(self) -> Ints: ...
    def source_rows(self, rows: npt.NDArray[np.integer]) -> Ints: ...
    def content(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of d numbers, read from where they lie as they are needed. origin, scale: as in the index section.

    tasks: run the work over all rows; a copy in another process has none but itself.
    """

    stored: StoredRows
    metric: str
    origin: F32
    scale: float
    tasks: Tasks = HERE

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"tasks": HERE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def content(self) -> str:
        """A name of all that is read here."""
        return digest(self.stored.content(), self.metric, self.origin, self.scale)

    @property
    def count(self) -> int:
        return self.stored.rows

    @property
    def dimension(self) -> int:
        return self.stored.dimension

    def scaled(self, x: F32) -> F32:
        """f32 (n, d): vectors (n, d), as they were given, in the scale of the index."""
        return in_scale(x, self.metric, self.origin, self.scale)

    def slice(self, low: int, high: int) -> F32:
        """f32 (high - low, d)."""
        return self.scaled(self.stored.floats(low, high))

    def take(self, rows: Ints) -> F32:
        """f32 (len(rows), d), in the order asked for."""
        return self.scaled(self.stored.gather(rows))

    def cells(self) -> list[tuple[int, int]]:
        """The grid of tasks: row ranges [low, high) that cover all rows, in order."""
        return [(low, min(low + CELL_ROWS, self.count)) for low in range(0, self.count, CELL_ROWS)]

    def chunks(self, nbytes: int, cell: tuple[int, int] | None = None) -> Iterator[tuple[int, F32]]:
        """(first row, rows) in pieces of about nbytes of float32: of all rows, or of a cell."""
        first, end = cell or (0, self.count)
        step = max(1, nbytes // (4 * self.dimension))
        for low in range(first, end, step):
            yield low, self.slice(low, min(end, low + step))


def in_scale(x: F32, metric: str, origin: F32, scale: float) -> F32:
    """See Rows.scaled."""
    if metric == "cosine":
        squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)  # of small or large values, they leave float32
        unit: F32 = x / np.sqrt(squares).astype(np.float32)[:, None]
        return unit
    if metric == "l2":
        x = x - origin
    return x * np.float32(scale)


def scale_rows(stored: StoredRows, metric: str) -> Rows:
    """The rows in a scale of their own: read once, unless the metric is cosine."""
    origin = np.zeros(stored.dimension if metric == "l2" else 0, np.float32)
    if metric == "cosine":
        return Rows(stored, metric, origin, 1.0)
    step = max(1, stored.rows // ORIGIN_ROWS, stored.rows * 4 * stored.dimension // ORIGIN_BYTES)
    sample = stored.gather(np.arange(0, stored.rows, step))
    origin = origin_of(sample) if metric == "l2" else origin
    usual = usual_length(np.linalg.norm(sample.astype(np.float64) - (origin if metric == "l2" else 0), axis=1))
    longest, total, step = 0.0, 0.0, max(1, CHUNK_BYTES // (8 * stored.dimension))
    for low in range(0, stored.rows, step):
        x = stored.floats(low, min(stored.rows, low + step)).astype(np.float64)
        if metric == "l2":
            x -= origin
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))
        longest, total = max(longest, float(norms.max())), total + float(np.minimum(norms, FAR * usual).sum())
    unit = max(total / stored.rows, longest / LENGTH_MAX[metric])
    return Rows(stored, metric, origin, 1.0 / unit if unit > 0 else 1.0)
