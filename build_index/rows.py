"""Source rows in the scale of the index: norm 1 under cosine, divided by the mean norm under l2 and dot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# The largest row may be this many times the unit of the scale, so that integer scores never leave 31 bits.
NORM_MAX = 32.0
LENGTHS_MAX = 1e6  # times the median: integer scores are left with a few steps for the rest


def row_scale(metric: str, norm_mean: float, norm_max: float) -> float:
    """What rows are multiplied by; 1 under cosine, where each row has its own."""
    if metric == "cosine":
        return 1.0
    unit = max(norm_mean, norm_max / NORM_MAX)
    return 1.0 / unit if unit > 0 else 1.0


def check_lengths(metric: str, norms: npt.NDArray[np.float64], norm_max: float, longest: str) -> None:
    """Raises InputError where the longest row, of norm_max and named, leaves nothing of the scores of most others.

    norms (n): of all rows, or evenly of some.
    """
    usual = float(np.median(norms[norms > 0])) if (norms > 0).any() else norm_max
    if metric != "cosine" and norm_max > LENGTHS_MAX * usual:
        raise InputError(
            f"{longest} is {norm_max / usual:.1e} times as long as most of the others: no scale holds both",
            hint="leave it out, or choose --metric cosine where only the direction counts",
        )


class Stored(Protocol):
    """Where rows lie: a Spool, or Arrays. Properties and methods as those of a Spool."""

    @property
    def rows(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def id_kind(self) -> str: ...
    def floats(self, lo: int, hi: int) -> F32: ...
    def gather(self, rows: npt.NDArray[np.integer]) -> F32: ...
    def ids(self, rows: npt.NDArray[np.integer]) -> Ints | list[bytes]: ...
    def attributes(self, rows: npt.NDArray[np.integer]) -> list[bytes]: ...
    def attribute_sizes(self) -> Ints: ...
    def source_rows(self, rows: npt.NDArray[np.integer]) -> Ints: ...


@dataclass(frozen=True)
class Rows:
    """N rows of d numbers, read from where they lie as they are needed."""

    spool: Stored
    metric: str
    scale: float

    @property
    def count(self) -> int:
        return self.spool.rows

    @property
    def dimension(self) -> int:
        return self.spool.dimension

    def _scaled(self, x: F32) -> F32:
        if self.metric == "cosine":
            squares = np.einsum("ij,ij->i", x, x, dtype=np.float64)  # of small or large values, they leave float32
            unit: F32 = x / np.sqrt(squares).astype(np.float32)[:, None]
            return unit
        return x * np.float32(self.scale)

    def slice(self, low: int, high: int) -> F32:
        """f32 (high - low, d)."""
        return self._scaled(self.spool.floats(low, high))

    def take(self, rows: Ints) -> F32:
        """f32 (len(rows), d), in the order asked for."""
        return self._scaled(self.spool.gather(rows))

    def chunks(self, nbytes: int) -> Iterator[tuple[int, F32]]:
        """(first row, rows) in pieces of about nbytes of float32."""
        step = max(1, nbytes // (4 * self.dimension))
        for low in range(0, self.count, step):
            yield low, self.slice(low, min(self.count, low + step))
