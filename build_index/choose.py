"""Measures candidates and picks: blocks, copies, router, code bytes and prices, under the recall asked for.

Parameters are tuned on one set of held-out rows, prices come from another that serves nothing else. Every figure is in
the kernels' own arithmetic, against exact neighbours.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage import kernels
from vantage.errors import InputError
from vantage.format import Contract, LseSection, Point
from vantage.plan import LANES
from vantage.prepare import Prepared

from .codecs import lrsq
from .layout import file_order
from .measure import Candidates, Reads, block_bytes, full_scan, plans, price_for
from .partition import Partition, partition
from .routers.lse import SubCentroids, section, sub_centroids
from .rows import Ints, Rows
from .shape import P, Shape, index_section, prepared, probabilities, stored_centres
from .spill import soar
from .truth import HeldOut, hold_out, truth_of

BLOCK_ROWS = 112  # small blocks read less once the planner joins them; what was tried stands in the manifest
SHARE = 0.35
CALIBRATION_MARGIN = 0.005  # unseen rows run a little high
BETAS = (9.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0)
TEMPERATURES = (0.65, 0.3, 0.45, 0.9)  # the first one serves to find beta
TUNE_QUERIES = 500  # of the tuning rows, for beta and temperature
CODE_QUERIES = 1000  # for the code length, which is compared on the same ones
CODE_BITS = (3, 4, 5, 6, 7, 8)  # a dimension, as candidates
ROUTED_SHARE = 0.25  # of the loss that the target allows, what the code may take in the first stage
ORDER_QUERIES = 4000
MOMENT_ROWS = 60_000

Say = Callable[[str, float], None]  # phase, share done


@dataclass(frozen=True)
class Options:
    """What the user asked for. cache_bytes: an index that can fit it is made to fit it."""

    recall: float = 0.95
    k: int = 100
    seed: int = 0
    cache_bytes: int = 40 << 20
    memory_bytes: int = 1 << 30


@dataclass
class Choice:
    """The index to write, and what was tried for it (for the manifest)."""

    shape: Shape
    codec: lrsq.Lrsq
    contract: Contract
    tried: list[dict[str, Any]]
    modelled_ms: tuple[float, float]  # p50 and p99 of a query at the target, nothing cached


@dataclass(frozen=True)
class _Calibration:
    queries: list[Prepared]
    rows: Ints
    truth: npt.NDArray[np.int32]

    def first(self, n: int) -> _Calibration:
        return _Calibration(self.queries[:n], self.rows[:n], self.truth[:n])


def choose(rows: Rows, id_bytes: float, options: Options, say: Say) -> Choice:
    """Picks everything. Raises InputError when no candidate reaches the recall."""
    held = hold_out(rows.count, options.seed)
    k = min(options.k, rows.count - 1)
    say("truth", 0.0)
    truth = truth_of(rows, held.all, min(max(k, 10), rows.count - 1), lambda done: say("truth", done / rows.count))
    where = np.searchsorted(held.all, held.tune), np.searchsorted(held.all, held.price)
    tune, price = (
        _Calibration(prepared(rows, part), part, truth[at])
        for part, at in zip((held.tune, held.price), where, strict=True)
    )
    sample = _sample(rows, held, options)
    tried: list[dict[str, Any]] = []
    shape, p = _choose_shape(rows, sample, tune, id_bytes, k, options, tried, say)
    codec = _choose_codec(
        rows, sample, shape, p[:CODE_QUERIES], tune.first(CODE_QUERIES), id_bytes, k, options, tried, say
    )
    sizes = block_bytes(shape.sizes(), codec.code_bytes, id_bytes)
    found = full_scan(rows, shape, codec, price.queries, price.rows, price.truth, partial(say, "prices"))
    index = index_section(rows, shape.blocks, int(shape.sizes().sum()))
    p = probabilities(shape.router, index, price.queries)
    contract = _contract(found, p, sizes, k, options)
    modelled = plans(p, sizes, target_point(contract).price).ms
    return Choice(shape, codec, contract, tried, (float(np.median(modelled)), float(np.quantile(modelled, 0.99))))


def _choose_shape(
    rows: Rows,
    sample: Ints,
    tune: _Calibration,
    id_bytes: float,
    k: int,
    options: Options,
    tried: list[dict[str, Any]],
    say: Say,
) -> tuple[Shape, P]:
    """Blocks and copies by the time of routing alone, with codes of a middle length; and p of the tuning queries."""
    best: tuple[float, Shape, P] | None = None
    target = options.recall + (1 - options.recall) * ROUTED_SHARE
    for blocks in _block_counts(rows.count):
        base = partition(rows, sample, blocks, options.seed, partial(say, f"partition, {blocks} blocks"))
        phase = partial(say, f"copies and router, {blocks} blocks")
        phase(0.0)
        copies, subs = soar(rows, base), sub_centroids(rows.take(sample), base.home[sample], blocks, options.seed)
        phase(0.5)
        shares = _shares(rows, blocks, id_bytes, options)
        trial = _trial(rows, base, copies.best(shares[-1]), subs)
        trial, order, p = _router(rows, trial, subs, tune, sample, id_bytes, k, target, options)
        number = np.argsort(order)
        for share in shares:
            copy = copies.best(share)
            shape = replace(trial, copy=np.where(copy >= 0, number[copy], -1).astype(np.int32))
            reads = _routed(shape, p, tune, k, target, block_bytes(shape.sizes(), _middle_code(rows), id_bytes))
            tried.append({
                "blocks": blocks, "copies": round(share, 4), "beta": shape.router.beta,
                "temperature": shape.router.temperature, "routed_recall": round(target, 4), **_cost(reads),
            })  # fmt: skip
            if best is None or reads.ms.mean() < best[0]:
                best = float(reads.ms.mean()), shape, p
        phase(1.0)
    assert best is not None
    return best[1], best[2]


def _choose_codec(
    rows: Rows,
    sample: Ints,
    shape: Shape,
    p: P,
    tune: _Calibration,
    id_bytes: float,
    k: int,
    options: Options,
    tried: list[dict[str, Any]],
    say: Say,
) -> lrsq.Lrsq:
    """The code length that reaches the target in the least modelled time, codes and routing together."""
    residual_moment, row_moment = _second_moments(rows, sample, shape)
    best: tuple[float, lrsq.Lrsq] | None = None
    for code_bytes, wanted in _code_candidates(rows, shape, id_bytes, options):
        if best is not None and not wanted:
            break
        codec = lrsq.train(residual_moment, row_moment, code_bytes)
        phase = partial(say, f"codes of {code_bytes} bytes")
        found = full_scan(rows, shape, codec, tune.queries, tune.rows, tune.truth, phase)
        sizes = block_bytes(shape.sizes(), code_bytes, id_bytes)
        at = _price(found, p, sizes, k, options.recall + CALIBRATION_MARGIN)
        ceiling = float(found.recall(np.ones_like(p, bool), k).mean())
        row: dict[str, Any] = {"blocks": shape.blocks, "code_bytes": code_bytes, "all_blocks_recall": round(ceiling, 4)}
        if at is None:
            tried.append(row | {"reaches_target": False})
            continue
        reads = plans(p, sizes, at)
        tried.append(row | _cost(reads))
        if best is None or reads.ms.mean() < best[0]:
            best = float(reads.ms.mean()), codec
    if best is None:
        raise InputError(
            f"no candidate reaches recall {options.recall} at k = {options.k}", hint="ask for a lower --recall"
        )
    return best[1]


def target_point(contract: Contract) -> Point:
    """The cheapest measured point that keeps the promise."""
    points = (p for p in contract.points if p.k == contract.k and p.recall >= contract.target)
    return min(points, key=lambda p: p.recall)


def _cost(reads: Reads) -> dict[str, float]:
    """Means over the queries, for the table of what was tried."""
    return {"gets": round(reads.gets, 3), "bytes": round(reads.nbytes), "modelled_ms": round(float(reads.ms.mean()), 3)}


def _block_counts(rows: int) -> list[int]:
    """Powers of two near rows / 112 and half of it; few blocks for few rows."""
    most = max(1, min(1 << 14, rows // 16))
    near = int(2 ** np.rint(np.log2(max(1.0, rows / BLOCK_ROWS))))
    near = max(1, min(near, most))
    return [near] if near < 64 or rows > 2_000_000 else [near, near // 2]


def _middle_code(rows: Rows) -> int:
    return max(8, rows.dimension * 5 // 8)


def _fits(rows: Rows, blocks: int, share: float, code_bytes: int, id_bytes: float, options: Options) -> bool:
    """Whether all blocks fit the cache: rows with copies, groups half full on average, alignment."""
    row = code_bytes + 2 + 4 + 4
    padding = blocks * (8 * row + 32 + 32)
    return rows.count * (1 + share) * (row + id_bytes) + padding <= options.cache_bytes


def _shares(rows: Rows, blocks: int, id_bytes: float, options: Options) -> list[float]:
    """Shares of rows to copy: none, and what the cache holds of the usual share beside codes of 4 bits a dimension."""
    smallest, share = max(8, rows.dimension // 2), SHARE
    if _fits(rows, blocks, 0.0, smallest, id_bytes, options):
        while share > 0 and not _fits(rows, blocks, share, smallest, id_bytes, options):
            share = max(0.0, share - 0.01)
    return sorted({0.0, 0.0 if blocks == 1 else round(share, 4)})


def _code_candidates(rows: Rows, shape: Shape, id_bytes: float, options: Options) -> list[tuple[int, bool]]:
    """Code lengths by rising bytes; whether each is wanted, or there in case that no shorter one reaches the recall.

    Wanted are 3 to 6 bits a dimension; where some of them let the index fit the cache, those and the longest that fits.
    """
    share = float((shape.copy >= 0).mean())
    lengths = sorted({max(4, int(rows.dimension * bits / 8) // 4 * 4) for bits in CODE_BITS})
    fitting = [c for c in range(lengths[0], lengths[-1], 4) if _fits(rows, shape.blocks, share, c, id_bytes, options)]
    if not fitting:
        return [(c, i < 4) for i, c in enumerate(lengths)]
    longest = min(fitting[-1], lengths[min(3, len(lengths) - 1)])
    return [(c, c <= longest) for c in sorted({*lengths, longest})]


def _sample(rows: Rows, held: HeldOut, options: Options) -> Ints:
    """Rows to train on: all but the held-out ones, or as many as a fifth of the memory budget holds."""
    seen = np.setdiff1d(np.arange(rows.count), held.all)
    most = max(1000, options.memory_bytes // 5 // (4 * rows.dimension))
    if len(seen) <= most:
        return seen
    return np.sort(np.random.default_rng([options.seed, 3]).choice(seen, most, replace=False))


def _trial(rows: Rows, base: Partition, copy: npt.NDArray[np.int32], subs: SubCentroids) -> Shape:
    bits = 4 if rows.dimension >= 32 else 8
    router = section(subs, rows.metric, BETAS[0], TEMPERATURES[0], bits)
    return Shape(base, copy, router, *stored_centres(base.centres, rows.metric))


def _router(
    rows: Rows,
    trial: Shape,
    subs: SubCentroids,
    tune: _Calibration,
    sample: Ints,
    id_bytes: float,
    k: int,
    target: float,
    options: Options,
) -> tuple[Shape, Ints, P]:
    """Measures beta, then the temperature, then orders the blocks by co-probes of the sample.

    Returns the shape in file order, that order, and p of the tuning queries in it.
    """
    index = index_section(rows, trial.blocks, rows.count)
    few = tune.first(TUNE_QUERIES)
    sizes = block_bytes(trial.sizes(), _middle_code(rows), id_bytes)
    order: Ints | None = None  # one for all candidates: it hardly depends on them, and is found again at the end

    def read(beta: float, temperatures: tuple[float, ...]) -> list[tuple[float, LseSection]]:
        """(bytes a query, router) for each temperature."""
        nonlocal order
        router, out = section(subs, rows.metric, beta, 1.0, trial.router.bits), []
        for temperature, p in zip(
            temperatures, _tempered(router, few.queries, rows.dimension, temperatures), strict=True
        ):
            order = file_order(p) if order is None else order
            reads = _routed(_reordered(trial, order), p[:, order], few, k, target, sizes[order])
            out.append((reads.nbytes, replace(router, temperature=temperature)))
        return out

    _, router = min((r for beta in BETAS for r in read(beta, TEMPERATURES[:1])), key=lambda r: r[0])
    _, router = min(read(router.beta, TEMPERATURES), key=lambda r: r[0])
    drawn = np.random.default_rng([options.seed, 4]).choice(sample, min(ORDER_QUERIES, len(sample)), replace=False)
    order = file_order(probabilities(router, index, prepared(rows, np.sort(drawn))))
    shape = _reordered(replace(trial, router=router), order)
    return shape, order, probabilities(shape.router, index, tune.queries)


def _tempered(router: LseSection, queries: list[Prepared], dimension: int, temperatures: tuple[float, ...]) -> list[P]:
    """p (Q, B) for each temperature; the dot products are made once."""
    n = len(router.scale)
    out: list[list[npt.NDArray[np.uint32]]] = [[] for _ in temperatures]
    matvec = kernels.matvec_i4 if router.bits == 4 else kernels.matvec_i8
    dots, scratch = array("i", bytes(4 * n)), bytearray(4 * n)
    for q in queries:
        matvec(q.i16, router.table, n, dimension, dots)
        for kept, temperature in zip(out, temperatures, strict=True):
            p = np.empty(n // router.subs, np.uint32)
            kernels.block_probabilities(
                dots, router.scale, router.weight, router.subs, router.beta * q.i16_scale, temperature, p, scratch
            )
            kept.append(p)
    return [np.stack(kept) for kept in out]


def _reordered(shape: Shape, order: Ints) -> Shape:
    """The same shape with block order[i] as number i."""
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    copy = np.where(shape.copy >= 0, number[np.maximum(shape.copy, 0)], -1).astype(np.int32)
    router, centres = shape.router, shape.centre_section

    def moved(column: memoryview, dtype: type) -> memoryview:
        return memoryview(np.ascontiguousarray(np.frombuffer(column, dtype).reshape(len(order), -1)[order]).reshape(-1))

    router = replace(
        router, table=moved(router.table, np.uint8), scale=moved(router.scale, np.float32),
        weight=moved(router.weight, np.float32),
    )  # fmt: skip
    section_ = type(centres)(
        moved(centres.table, np.uint8), moved(centres.scale, np.float32), moved(centres.bias, np.float32)
    )
    return Shape(shape.partition.reordered(order), copy, router, section_, shape.centres[order])


def _routed(shape: Shape, p: P, of: _Calibration, k: int, target: float, sizes: Ints) -> Reads:
    """Plans that reach the target with exact scores: what the routing alone reads."""

    def recall(price: int) -> float:
        found = shape.holds(of.truth[:, :k], plans(p, sizes, price).blocks)
        return float(found.mean())

    return plans(p, sizes, price_for(recall, target) or 0)


def _price(found: Candidates, p: P, sizes: Ints, k: int, target: float) -> int | None:
    return price_for(lambda price: float(found.recall(plans(p, sizes, price).blocks, k).mean()), target)


def _second_moments(rows: Rows, sample: Ints, shape: Shape) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(d, d) second moments of the sample's residuals to the stored centres, and of its rows."""
    used = sample[:: max(1, len(sample) // MOMENT_ROWS)]
    residual, whole = np.zeros((2, rows.dimension, rows.dimension))
    for low in range(0, len(used), 8192):
        part = used[low : low + 8192]
        x = rows.take(part)
        r = (x - shape.centres[shape.partition.home[part]]).astype(np.float64)
        residual += r.T @ r
        whole += x.T @ x
    return residual / len(used), whole / len(used)


def _contract(found: Candidates, p: P, sizes: Ints, k: int, options: Options) -> Contract:
    """Measured points from cheap to dear, and one at the target; the margin is taken off what is promised."""
    target = _price(found, p, sizes, k, options.recall + CALIBRATION_MARGIN)
    if target is None:
        raise InputError(f"recall {options.recall} is not reached on held-out rows", hint="ask for a lower --recall")
    prices = {target, 0}
    for goal in (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995):
        at = _price(found, p, sizes, k, goal + CALIBRATION_MARGIN)
        if at is not None:
            prices.add(at)
    points = []
    for price in sorted(prices, reverse=True):
        reads = plans(p, sizes, price)
        for depth in sorted({min(10, k), k, 1}):
            recall = float(found.recall(reads.blocks, depth).mean())
            points.append(Point(depth, price, max(0.0, recall - CALIBRATION_MARGIN), reads.nbytes, reads.gets))
    return Contract(k, LANES, options.recall, tuple(points))
