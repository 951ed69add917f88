"""lse: a few sub-centroids per block, log-sum-exp of their scores, one beta and temperature; centroids: one each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vantage.format import LseSection

from ..ingest.rows import F32, Ints
from ..kernels import nearest
from ..progress import Progress
from .packing import bits_of, quantize
from .training import Cost, TrainingSet, cheapest

ROUNDS = 6
READ_BYTES = 8 << 20  # of rows at a time
SUBS = 8
FEWER_SUBS = (
    4,
    2,
)  # tried beside: on WordNet and SIFT two read as little as eight, on tight clusters three times as much
TABLE_BYTES_MAX = 6 << 20  # of a router in the root; where eight of a block were more there are fewer, one at least
ONE_BYTES_MAX = 16 << 20  # of a table of one a block
BETAS = (9.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0)  # over the spread of the rows
SOFTER = 16  # times a quarter of the least beta, at most
WEIGHT_MIN = -1e8  # blocks of far rows under l2: less likely than any other, and finite in float32
TEMPERATURES = (0.65, 0.3, 0.45, 0.9)  # the first one serves to find beta


@dataclass(frozen=True)
class SubCentroids:
    """table f32 (B, S, d), count f32 (B, S), 0 where a block has fewer."""

    table: F32
    count: F32


def sub_centroids(x: F32, home: npt.NDArray[np.int32], blocks: int, seed: int, subs: int = SUBS) -> SubCentroids:
    """k-means inside each block over the sample rows x (n, d) with first assignments home (n)."""
    return _sub_centroids(x.__getitem__, x.shape[1], home, blocks, seed, [subs])[0]


def sub_centroids_of(training: TrainingSet, subs: Sequence[int]) -> list[SubCentroids]:
    """The same of the sample's home rows, for several numbers of sub-centroids: rows are read once, and not held."""
    sample, rows = training.sample, training.rows
    return _sub_centroids(
        lambda some: rows.take(sample[some]), rows.dimension, training.partition.home[sample], training.blocks,
        training.seed, subs,
    )  # fmt: skip


def _sub_centroids(
    take: Callable[[Ints], F32],
    dimension: int,
    home: npt.NDArray[np.int32],
    blocks: int,
    seed: int,
    subs: Sequence[int],
) -> list[SubCentroids]:
    out = [SubCentroids(np.zeros((blocks, n, dimension), np.float32), np.zeros((blocks, n), np.float32)) for n in subs]
    rngs = [np.random.default_rng([seed, 2]) for _ in subs]
    order = np.argsort(home, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(home, minlength=blocks))])
    low = 0
    while low < blocks:  # some blocks at a time: their rows lie all over the file
        high = max(low + 1, int(np.searchsorted(ends, ends[low] + READ_BYTES // (4 * dimension), side="right")) - 1)
        x = take(order[ends[low] : ends[high]])
        for b in range(low, high):
            y = x[ends[b] - ends[low] : ends[b + 1] - ends[low]]
            for one, rng in zip(out, rngs, strict=True):
                if len(y):
                    divide_rows(y, one.table[b], one.count[b], rng)
        low = high
    return out


def divide_rows(y: F32, table: F32, count: F32, rng: np.random.Generator) -> None:
    """k-means of rows y (n, d) into table (S, d) and count (S), the first of them where there are fewer rows."""
    c = y[rng.choice(len(y), min(len(table), len(y)), replace=False)].copy()
    for _ in range(ROUNDS):
        tag = nearest(y, c, -0.5 * np.einsum("ij,ij->i", c, c), 1)[0][:, 0]
        n = np.bincount(tag, minlength=len(c)).astype(np.float32)
        pick = (tag == np.arange(len(c))[:, None]).astype(np.float32)
        c = np.where(n[:, None] > 0, pick @ y / np.maximum(n, 1)[:, None], c)
    table[: len(c)], count[: len(c)] = c, n


def table_bytes(dimension: int, blocks: int, subs: int) -> int:
    """Of a table of so many sub-centroids per block, as stored, without scales and weights."""
    return blocks * subs * LseSection.stride(bits_of(dimension), dimension)


def subs_of(dimension: int, blocks: int) -> int:
    """Sub-centroids per block: as many as stay resident, or one."""
    return next((n for n in (SUBS, *FEWER_SUBS) if table_bytes(dimension, blocks, n) <= TABLE_BYTES_MAX), 1)


def weights(subs: SubCentroids, metric: str, beta: float) -> F32:
    """f32 (B S): the logarithm of the counts, -inf for none; under l2 -beta |c|^2 / 2 is in it."""
    with np.errstate(divide="ignore"):
        weight = np.log(subs.count.reshape(-1))
    if metric == "l2":
        weight = weight - beta * 0.5 * np.einsum("ijk,ijk->ij", subs.table, subs.table).reshape(-1)
    out: F32 = weight.astype(np.float32)
    return out


def section(subs: SubCentroids, metric: str, beta: float, temperature: float, bits: int) -> LseSection:
    """The router as stored; under l2 the score is beta (<q, c> - |c|^2 / 2)."""
    flat = subs.table.reshape(-1, subs.table.shape[2])
    return pack_section(flat, weights(subs, metric, beta), subs.table.shape[1], beta, temperature, bits)


def pack_section(flat: F32, weight: F32, subs: int, beta: float, temperature: float, bits: int) -> LseSection:
    """flat (B S, d) as symmetric integers with a scale a row, around the mean of those whose weight is not -inf.

    The mean drops out: it adds the same to every score. So does the largest weight: without it float32 keeps more of
    the rest.
    """
    live = np.isfinite(weight)
    centred = np.where(live[:, None], flat - flat[live].mean(0), 0)
    weight = np.where(live, np.maximum(weight - weight[live].max(), WEIGHT_MIN), weight)
    table, scale = quantize(centred, bits)
    stored = float(np.float32(beta))  # what a reader gets, so that the builder's p is the edge's
    return LseSection(
        bits, subs, stored, temperature, memoryview(table), memoryview(scale), memoryview(weight.astype(np.float32))
    )


def summary(values: F32, weight: F32, seed: int, subs: int) -> tuple[F32, F32]:
    """(centres (subs, d), log of their mass): k-means of sub-centroids that exist."""
    x, w = values[np.isfinite(weight)], weight[np.isfinite(weight)]
    centroids = sub_centroids(x, np.zeros(len(x), np.int32), 1, seed, subs)
    c = centroids.table[0]
    live = centroids.count[0] > 0
    bias = np.where(live, -0.5 * np.einsum("ij,ij->i", c, c), np.float32(-np.inf))
    tag = nearest(x, c, bias, 1)[0][:, 0]
    mass = np.full(subs, -np.inf, np.float32)
    np.logaddexp.at(mass, tag, w)
    return c, mass


def reorder(section: LseSection, order: Ints) -> LseSection:
    """Block order[i] as number i."""

    def moved(column: memoryview, dtype: type) -> memoryview:
        return memoryview(np.ascontiguousarray(np.frombuffer(column, dtype).reshape(len(order), -1)[order]).reshape(-1))

    return replace(
        section, table=moved(section.table, np.uint8), scale=moved(section.scale, np.float32),
        weight=moved(section.weight, np.float32),
    )  # fmt: skip


def grow(section: LseSection, before: Ints, after: Ints) -> LseSection:
    """With weights moved by what blocks have grown, from rows before (B) to rows after (B), copies too."""
    weight = np.array(section.weight, np.float32).reshape(len(before), -1)
    weight = weight + np.log((after + 1) / (before + 1)).astype(np.float32)[:, None]
    weight = np.maximum(weight - weight.max(), np.float32(WEIGHT_MIN))
    return replace(section, weight=memoryview(weight.reshape(-1)))


def divide(own: LseSection, training: TrainingSet, _: Ints) -> LseSection:
    """Sub-centroids of all blocks anew, as many a block; as sharp as they were."""
    [subs] = sub_centroids_of(training, [own.subs])
    return section(subs, training.rows.metric, own.beta, own.temperature, own.bits)


def fit(training: TrainingSet, cost: Cost, progress: Progress, subs: int | None = None) -> LseSection:
    """Sub-centroids of the sample's home rows; beta, then the temperature, by cost.

    subs: how many a block; None: as many as subs_of says, or FEWER_SUBS where these cost less, what they save an
    opening counted.
    """
    most = subs or subs_of(training.rows.dimension, training.blocks)
    few = [] if subs is not None else [n for n in FEWER_SUBS if n < most]
    table, *others = sub_centroids_of(training, [most, *few])
    bits = bits_of(training.rows.dimension)
    betas = [beta / training.spread for beta in BETAS]
    candidates = [section(table, training.rows.metric, beta, TEMPERATURES[0], bits) for beta in betas]
    progress(0.5)
    costs = [cost(one) for one in candidates]
    best = candidates[int(np.argmin(costs))]
    # All too sharp where scores differ far more than rows lie apart, as inner products of rows far from the origin do.
    softer = (section(table, training.rows.metric, betas[0] / 4**n, TEMPERATURES[0], bits) for n in range(1, SOFTER))
    if not np.isfinite(min(costs)):
        best = next((one for one in softer if np.isfinite(cost(one))), best)
    best = cheapest([best], TEMPERATURES, cost)
    fewer = (section(one, training.rows.metric, best.beta, best.temperature, bits) for one in others)
    return min([best, *fewer], key=cost) if few else best


def fit_centroids(training: TrainingSet, cost: Cost, progress: Progress) -> LseSection:
    """The block means alone."""
    return fit(training, cost, progress, 1)
