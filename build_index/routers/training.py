"""What routers learn from: rows as queries, and the blocks that hold their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vantage.format import BecTreeSection, EcvhSection, LseSection, RouterSection, TreeSection

from ..blocks.partition import Partition
from ..ingest.rows import Ints, Rows, temper

# What a section would cost at the edge, as modelled ms or bytes a query on rows that serve for tuning: less is better.
Cost = Callable[[RouterSection], float]

S = TypeVar("S", LseSection, TreeSection, EcvhSection, BecTreeSection)

SPREAD_ROWS = 20_000
SPREAD_MIN = 1e-6  # of rows that are all but one: sharper than that, float32 scores mean nothing


def spread_of(rows: Rows, sample: Ints) -> float:
    """Mean squared distance of rows of the sample to their mean: the unit of a router's sharpness, 1 / beta.

    Rows far from the origin, or all in a narrow cone, have norms near 1 like any others and lie far closer together.
    Under inner products a row counts by its squared norm: long rows are the answers, and apart by more.
    """
    some = np.linspace(0, len(sample) - 1, min(SPREAD_ROWS, len(sample))).astype(np.int64)
    x = rows.take(sample[some])
    if rows.metric == "l2":
        x = temper(x)
    if rows.metric == "dot":
        weight = np.einsum("ij,ij->i", x, x, dtype=np.float64)
        weight /= max(weight.sum(), 1e-30)
        apart = x - weight @ x
        return max(float(weight @ np.einsum("ij,ij->i", apart, apart)), SPREAD_MIN)
    return max(float(x.var(0, dtype=np.float64).sum()), SPREAD_MIN)


@dataclass(frozen=True)
class TrainingSet:
    """Blocks are decided, a router is to be fitted.

    sample: rows that may train, sorted. copy i32 (N, E): blocks of a row's copies, -1 for none. queries: rows of
    the sample that train as queries, and neighbours i32 (n, K) theirs among all rows, best first, themselves left out,
    -1 for none; neither is there for a router that needs no training.
    """

    rows: Rows
    sample: Ints
    partition: Partition
    copy: npt.NDArray[np.int32]
    queries: Ints
    neighbours: npt.NDArray[np.int32]
    seed: int

    @property
    def blocks(self) -> int:
        return self.partition.blocks

    @cached_property
    def spread(self) -> float:
        """See spread_of."""
        return spread_of(self.rows, self.sample)

    def blocks_of(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """i32 (..., 1 + E): the blocks that hold rows (...), home first; -1 where there is none."""
        known = np.maximum(rows, 0)
        held = np.concatenate([self.partition.home[known][..., None], self.copy[known]], -1)
        return np.where((rows >= 0)[..., None], held, np.int32(-1))

    def reordered(self, order: Ints) -> TrainingSet:
        """The same with block order[i] as number i."""
        return replace(self, partition=self.partition.reordered(order), copy=renumber(self.copy, order))


def renumber(copy: npt.NDArray[np.int32], order: Ints) -> npt.NDArray[np.int32]:
    """copy with block order[i] as number i; -1 stays."""
    number = np.empty(len(order) + 1, np.int32)
    number[order], number[-1] = np.arange(len(order), dtype=np.int32), -1
    out: npt.NDArray[np.int32] = number[copy]
    return out


def cheapest(sections: Iterable[S], temperatures: Sequence[float], cost: Cost) -> S:
    """The section of least cost, each tried at all temperatures."""
    return min((replace(one, temperature=t) for one in sections for t in temperatures), key=cost)
