"""mlp: a hidden layer of learned directions, a smaller table over them, a quarter of trained's bytes.

Above 4,096 blocks it is progressive: regions first, then the blocks of the best ones.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.format import DIMENSION_MAX, UNITS_STEP, LseSection, MlpSection, Regions

from ..hashing.minimise import adam
from ..ingest.rows import F32, Ints
from ..kernels import matmul
from ..progress import SILENT, Progress
from . import learn, lse
from .packing import bits_of, quantize, unpack
from .training import Cost, TrainingSet

BETA = 14.0  # over the spread of the rows; to start from, as in trained
SHARE = 0.25  # of the bytes of trained's table
# Of a network, for a root below 2 MB: where it would be more, its share is less (an eighth does at 16,384 blocks).
BYTES_MAX = 1_400_000
UNITS = 0.4  # of the dimension at least, before a block has more sub-centroids
UNITS_LEAST = 64  # of a network that a build tries
RECTIFIED = 0.0  # of the units; the others are signed, and read no more rows: see bench/research/networks.py
RATES = {"first": 1e-3, "bias": 1e-3, "table": 1e-3, "weight": 0.02, "log_beta": 0.01}
STEPS = 500
MORE_STEPS = 300  # once blocks have been divided
RIDGE = 1e-2  # of the mean square of what the table follows
BATCH = 1024
TEMPERATURES = (1.0, 0.7, 0.85, 1.15)
BITS = 4
PART_BYTES = 2 << 20  # of the scores of some queries of a batch, which a core's cache holds
PART_QUERIES = 128  # at least: the slopes of the whole table are added to for each part
MASS_MIN = 1e-30  # of the blocks that hold a neighbour: a loss of 69 at most
FLAT_BLOCKS_MAX = 4096  # of a network whose every block is looked at for every query
REGION_SUBS = 16  # sub-centroids of a region
BEAMS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the regions; the last one serves until one is chosen
BEAM_LOSS = 0.01  # of the cost of a query that looks at all blocks, for fewer


def fits(dimension: int, blocks: int) -> bool:
    """Whether a network of so many blocks has units enough within BYTES_MAX."""
    return blocks * (8 + LseSection.stride(BITS, min(UNITS_LEAST, dimension))) <= BYTES_MAX


def shape_for(dimension: int, blocks: int, share: float) -> tuple[int, int]:
    """(units, sub-centroids a block) within a share of the bytes of trained's table.

    The most sub-centroids that leave units for 0.4 of the dimension, then the most units; 32 and 1 at least.
    """

    def nbytes(rows: int, width: int, bits: int) -> int:
        return rows * (8 + LseSection.stride(bits, width))

    def most_units(subs: int) -> int:
        fitting = range(UNITS_STEP, min(DIMENSION_MAX, dimension) + 1, UNITS_STEP)
        return max(
            (n for n in fitting if nbytes(n, dimension, BITS) + nbytes(blocks * subs, n, BITS) <= budget), default=0
        )

    budget = share * nbytes(blocks * lse.SUBS, dimension, bits_of(dimension))
    subs = next((s for s in range(lse.SUBS, 1, -1) if most_units(s) >= UNITS * dimension), 1)
    return max(most_units(subs), UNITS_STEP), subs


def fit(
    training: TrainingSet,
    cost: Cost,
    progress: Progress,
    share: float = SHARE,
    rectified: float = RECTIFIED,
) -> MlpSection:
    """Trains from sub-centroids in their principal directions; then the temperature, by cost."""
    d, blocks, metric = training.rows.dimension, training.blocks, training.rows.metric
    whole = lse.table_bytes(d, blocks, lse.SUBS)
    units, subs = shape_for(d, blocks, min(share, BYTES_MAX / whole))
    parts = lse.sub_centroids_of(training, [subs])[0]
    beta = BETA / training.spread
    weight = lse.weights(parts, metric, beta)
    live = np.isfinite(weight)
    linear = units - round(rectified * units)
    now = _start(parts.table.reshape(-1, d), live, linear, units, training.seed)
    now |= {"weight": np.where(live, weight, 0).astype(np.float32), "log_beta": np.array(np.log(beta), np.float32)}
    _train(now, live, linear, training, STEPS, progress.part(0, 0.9))
    network = section(now, np.where(live, now["weight"], -np.inf), subs, linear)

    def tempered(temperature: float) -> MlpSection:
        return replace(network, output=replace(network.output, temperature=temperature))

    return min((tempered(t) for t in TEMPERATURES), key=cost)


def _train(
    now: dict[str, F32], live: npt.NDArray[np.bool_], linear: int, training: TrainingSet, steps: int, progress: Progress
) -> None:
    """Moves the parameters, see `slopes`, where they lie."""
    lesson, step = learn.lessons(training, min(BATCH, len(training.queries))), adam(now, RATES, steps)
    for turn in range(steps):
        q, near, weight = lesson()
        of, place = np.nonzero(weight)
        held = training.blocks_of(near[of, place])
        step(slopes(now, live, linear, training.blocks, q, of, held, weight[of, place])[1])
        progress((turn + 1) / steps)


def slopes(
    now: dict[str, F32],
    live: npt.NDArray[np.bool_],
    linear: int,
    blocks: int,
    q: F32,
    of: Ints,
    held: npt.NDArray[np.int32],
    counts: F32,
) -> tuple[float, dict[str, F32]]:
    """The loss of queries q (n, d), and its slopes by the parameters: first (H, d), bias (H), table (B S, H), weight
    (B S), log_beta.

    The loss is that of learn.train: of (m), rising, is the query of a neighbour, held i32 (m, E) the blocks that hold
    it, -1 for none, counts (m) how much it counts. Directions and table are rounded to BITS as they will be stored,
    which slopes do not see. Some queries are gone through at a time, so that their scores stay near. live bool (B S):
    sub-centroids that exist; linear: of the units, the first so many, are signed.
    """
    first, table = rounded(now["first"]), rounded(now["table"] - now["table"][live].mean(0))
    beta, bias = np.exp(now["log_beta"]), np.where(live, now["weight"], np.float32(-1e9))
    out, loss, total = {name: np.zeros_like(value) for name, value in now.items()}, 0.0, counts.sum()
    signed = np.arange(len(first)) < linear
    step, columns = max(PART_QUERIES, PART_BYTES // (4 * len(table))), np.ascontiguousarray(table.T)
    for low in range(0, len(q), step):
        part = q[low : low + step]
        linear_part, hidden = _hidden(part, first, now["bias"], signed)
        dots = matmul(hidden, table)
        p = beta * dots
        p += bias
        p -= p.max(1, keepdims=True)
        np.exp(p, out=p)
        mass = p.reshape(len(part), blocks, -1).sum(2)
        whole = mass.sum(1)
        mine = slice(*np.searchsorted(of, (low, low + step)))
        query, own, count = of[mine] - low, held[mine], counts[mine]
        known = own >= 0
        at = query[:, None] * blocks + np.maximum(own, 0)
        found = np.maximum(np.where(known, mass.ravel()[at], 0).sum(1), MASS_MIN)  # by the blocks that hold a neighbour
        loss -= float((count * np.log(found / whole[query])).sum())
        pull = np.bincount(at[known], np.broadcast_to((count / found)[:, None], at.shape)[known], mass.size)
        push = np.bincount(query, count, len(part)) / whole
        slope = ((push[:, None] - pull.reshape(mass.shape)) / total).astype(np.float32)
        p.reshape(len(part), blocks, -1)[...] *= slope[:, :, None]  # now the slopes by the scores
        out["weight"] += p.sum(0)
        out["log_beta"] += beta * np.vdot(p, dots)
        out["table"] += beta * matmul(p.T, hidden.T)
        back = beta * matmul(columns, p).T
        back[hidden != linear_part] = 0
        out["first"] += matmul(back.T, part.T)
        out["bias"] += back.sum(0)
    out["weight"][~live] = 0
    out["table"][live] -= out["table"].sum(0) / np.count_nonzero(live)
    return loss / float(total), out


def _hidden(x: F32, first: F32, bias: F32, signed: npt.NDArray[np.bool_]) -> tuple[F32, F32]:
    """(what the units (H) take of x (n, d), before and after they are cut, each f32 (n, H))."""
    length = np.linalg.norm(x, axis=1)[:, None]
    whole = matmul(x, first) + bias
    return whole, np.clip(whole, np.where(signed, -length, 0), length)


def rounded(x: F32) -> F32:
    """Rows (n, d) as `quantize` keeps them."""
    scale = np.abs(x).max(1, keepdims=True) / np.float32((1 << (BITS - 1)) - 1)
    out: F32 = np.rint(x / np.where(scale > 0, scale, np.float32(1))) * scale
    return out


def _start(table: F32, live: Any, linear: int, units: int, seed: int) -> dict[str, F32]:
    """first (units, d), bias, table (B S, units): principal directions of the rows that live, and noise to rectify."""
    rng = np.random.default_rng([seed, 7])
    centred = np.where(live[:, None], table - table[live].mean(0), 0)
    axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1][:linear]
    noise = rng.standard_normal((units - len(axes), table.shape[1]), np.float32) / np.float32(table.shape[1] ** 0.5)
    unknown = 0.01 * rng.standard_normal((len(table), units - len(axes)), np.float32)
    return {
        "first": np.concatenate([axes, noise]).astype(np.float32),
        "bias": np.zeros(units, np.float32),
        "table": np.concatenate([centred @ axes.T, unknown], 1).astype(np.float32),
    }


def section(learnt: dict[str, F32], weight: F32, subs: int, linear: int) -> MlpSection:
    """The network as stored: first f32 (units, d), bias (units), table (B S, units), log_beta; weight (B S)."""
    table, scale = quantize(learnt["first"], BITS)
    output = lse.pack_section(learnt["table"], weight, subs, float(np.exp(learnt["log_beta"])), TEMPERATURES[0], BITS)
    bias = np.asarray(learnt["bias"], np.float32)
    return MlpSection(BITS, linear, memoryview(table), memoryview(scale), memoryview(bias), output)


def reorder(section: MlpSection, order: Ints) -> MlpSection:
    """Block order[i] as number i; above FLAT_BLOCKS_MAX with regions, about sqrt(B) runs of consecutive blocks."""
    output, blocks = lse.reorder(section.output, order), len(order)
    regions = _regions(output, section.units) if blocks > FLAT_BLOCKS_MAX else None
    return replace(section, output=output, regions=regions)


def grow(section: MlpSection, before: Ints, after: Ints) -> MlpSection:
    """See lse.grow; regions are looked into as they were."""
    return replace(section, output=lse.grow(section.output, before, after))


def divide(own: MlpSection, training: TrainingSet, parent: Ints) -> MlpSection:
    """The rows of the table for parts of blocks are moved from those for whole ones as sub-centroids of their rows lie
    apart, see `_parts`; then all is trained on, for fewer steps than at first.
    """
    output = own.output
    live = np.array(output.weight) > 0.5 * lse.WEIGHT_MIN
    now = {
        "first": _values(own.table, own.scale, own.bits)[:, : training.rows.dimension],
        "bias": np.array(own.bias, np.float32),
        "table": _values(output.table, output.scale, output.bits)[:, : own.units],
        "weight": np.where(live, np.array(output.weight, np.float32), -np.inf),
        "log_beta": np.array(np.log(output.beta), np.float32),
    }  # fmt: skip
    now |= _parts(now, output.subs, own.linear, training, parent)
    live = np.isfinite(now["weight"])
    now["weight"][~live] = 0
    _train(now, live, own.linear, training, MORE_STEPS, SILENT)
    made = section(now, np.where(live, now["weight"], -np.inf), output.subs, own.linear)
    made = replace(made, output=replace(made.output, temperature=output.temperature))
    if own.regions is None:
        return made
    looked = own.regions.beam / (len(own.regions.first_block) - 1)
    return _with_beam(replace(made, regions=_regions(made.output, made.units)), looked)


def _parts(now: dict[str, F32], subs: int, linear: int, training: TrainingSet, parent: Ints) -> dict[str, F32]:
    """table f32 (B' S, H) and weight (B' S), -inf for none, of blocks that are parts of those of `now`.

    What the units make of a block's rows falls to the row of the table that it agrees with most; how the table follows
    the means of what falls to its rows, over all blocks, is found by least squares. k-means of a part's rows gives it
    rows of its own: that of the block whose mean is nearest, moved as far as the table follows.
    """
    sample, signed = training.sample, np.arange(len(now["first"])) < linear
    home = training.partition.home[sample]
    old, weight = now["table"].reshape(-1, subs, len(signed)), now["weight"].reshape(-1, subs)
    order, rng = np.argsort(home, kind="stable"), np.random.default_rng([training.seed, 2])
    ends = np.concatenate([[0], np.cumsum(np.bincount(home, minlength=training.blocks))])
    mean, count = np.zeros_like(old), np.zeros(weight.shape, np.float32)
    own, mass = np.zeros((training.blocks, *old.shape[1:]), np.float32), np.zeros((training.blocks, subs), np.float32)
    firsts = np.searchsorted(parent, np.arange(len(old) + 1))
    for block, (low, high) in enumerate(pairwise(firsts.tolist())):
        x = training.rows.take(sample[order[ends[low] : ends[high]]])
        if not len(x):
            continue
        seen = _hidden(x, now["first"], now["bias"], signed)[1]
        pick = np.where(np.isfinite(weight[block]), seen @ old[block].T, -np.inf).argmax(1) == np.arange(subs)[:, None]
        count[block] = pick.sum(1)
        mean[block] = pick.astype(np.float32) @ seen / np.maximum(count[block], 1)[:, None]
        for part in range(low, high) if high - low > 1 else ():
            lse.divide_rows(seen[ends[part] - ends[low] : ends[part + 1] - ends[low]], own[part], mass[part], rng)
    there = count > 0
    x, y = (of[there] - of[there].mean(0) for of in (mean, old))
    square = x.T @ x
    follow = np.linalg.solve(square + RIDGE * np.trace(square) / len(square) * np.eye(len(square)), x.T @ y)
    table, out = old[parent], weight[parent]
    for part in np.flatnonzero((firsts[parent + 1] - firsts[parent] > 1) & mass.any(1)).tolist():
        block, known = parent[part], np.flatnonzero(there[parent[part]])
        near = known[((own[part][:, None] - mean[block][known]) ** 2).sum(2).argmin(1)]
        table[part] = old[block][near] + (own[part] - mean[block][near]) @ follow
        with np.errstate(divide="ignore"):
            out[part] = weight[block][near] + np.log(mass[part] / count[block][near])
    return {"table": table.reshape(-1, len(signed)), "weight": out.reshape(-1)}


def _values(table: memoryview, scale: memoryview, bits: int) -> F32:
    """f32 (n, padded): what a stored table stands for."""
    long = np.array(scale, np.float32)
    out: F32 = unpack(np.frombuffer(table, np.uint8).reshape(len(long), -1), bits) * long[:, None]
    return out


def tune(section: MlpSection, _: TrainingSet, cost: Cost) -> MlpSection:
    """The fewest regions that cost a query hardly more than all blocks would; none where that takes over half of them.

    Where not even all blocks reach the recall, the section stays as it was.
    """
    flat = replace(section, regions=None)
    if section.regions is None or (whole := cost(flat)) == np.inf:
        return section
    candidates = (_with_beam(section, share) for share in BEAMS)
    return next((one for one in candidates if cost(one) <= (1 + BEAM_LOSS) * whole), flat)


def _with_beam(section: MlpSection, share: float) -> MlpSection:
    """The same with this share of the regions looked into."""
    regions = section.regions
    assert regions is not None
    return replace(section, regions=replace(regions, beam=max(1, round(share * (len(regions.first_block) - 1)))))


def _regions(output: LseSection, units: int) -> Regions:
    """The head is not trained: sub-centroids of a region stand for those of its blocks.

    In a trial (2,048 blocks, 45 regions) those picked held within 1% of the probability that the best ones held.
    """
    scale, weight = np.array(output.scale, np.float32), np.array(output.weight, np.float32)
    values = _values(output.table, output.scale, output.bits)[:, :units]
    blocks = len(scale) // output.subs
    count = max(1, round(blocks**0.5))
    firsts = np.linspace(0, blocks, count + 1).astype(np.int64)
    summaries = [
        lse.summary(values[low:high], weight[low:high], 0, REGION_SUBS)
        for low, high in zip(firsts[:-1] * output.subs, firsts[1:] * output.subs, strict=True)
    ]
    centre, mass = np.concatenate([c for c, _ in summaries]), np.concatenate([m for _, m in summaries])
    head = lse.pack_section(centre, mass, REGION_SUBS, output.beta, output.temperature, BITS)
    return Regions(max(1, round(BEAMS[-1] * count)), array("I", firsts.tolist()), head)
