"""mlp: a hidden layer of learned directions, a smaller table over them, a quarter of trained's bytes.

Above 4,096 blocks it is progressive: regions first, then the blocks of the best ones.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np

from vantage.format import DIMENSION_MAX, UNITS_STEP, LseSection, MlpSection, Regions

from ..hashing.products import times
from ..ingest.rows import F32, Ints
from ..progress import Progress
from . import learn, lse
from .packing import bits_of, quantize, round_through, unpack
from .training import Cost, TrainingSet

BETA = 14.0  # over the spread of the rows; to start from, as in trained
SHARE = 0.25  # of the bytes of trained's table
BYTES_MAX = 2 << 20  # of a network in the root: of more, a smaller share (an eighth reads as little at 16,384 blocks)
UNITS = 0.4  # of the dimension at least, before a block has more sub-centroids
RECTIFIED = 0.0  # of the units; the others are signed, and read no more rows: see bench/research/networks.py
RATES = {"first": 1e-3, "bias": 1e-3, "table": 1e-3, "weight": 0.02, "log_beta": 0.01}
STEPS = 500
BATCH = 1024
TEMPERATURES = (1.0, 0.7, 0.85, 1.15)
BITS = 4
FLAT_BLOCKS_MAX = 4096  # of a network whose every block is looked at for every query
REGION_SUBS = 16  # sub-centroids of a region
BEAMS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the regions; the last one serves until one is chosen
BEAM_LOSS = 0.01  # of the cost of a query that looks at all blocks, for fewer


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
    import jax.numpy as jnp
    from jax.nn import logsumexp

    d, blocks, metric = training.rows.dimension, training.blocks, training.rows.metric
    whole = lse.table_bytes(d, blocks, lse.SUBS)
    units, subs = shape_for(d, blocks, min(share, BYTES_MAX / whole))
    parts = lse.sub_centroids_of(training, [subs])[0]
    beta = BETA / training.spread
    weight = lse.weights(parts, metric, beta)
    live = np.isfinite(weight)
    linear = units - round(rectified * units)
    start = _start(parts.table.reshape(-1, d), live, linear, units, training.seed)
    start |= {"weight": np.where(live, weight, 0).astype(np.float32), "log_beta": np.array(np.log(beta), np.float32)}
    signed = jnp.arange(units) < linear

    def scores(now: dict[str, Any], q: Any) -> Any:
        length = jnp.linalg.norm(q, axis=1, keepdims=True)
        hidden = times(q, round_through(now["first"], BITS)) + now["bias"]
        hidden = jnp.clip(hidden, jnp.where(signed, -length, 0), length)
        table = round_through(now["table"] - now["table"][live].mean(0), BITS)
        logit = jnp.exp(now["log_beta"]) * times(hidden, table) + jnp.where(live, now["weight"], -1e9)
        return logsumexp(logit.reshape(len(q), blocks, subs), axis=2)

    learnt = learn.train(start, RATES, scores, training, STEPS, BATCH, progress.part(0, 0.9), blocks * subs)
    network = section(learnt, np.where(live, learnt["weight"], -np.inf), subs, linear)

    def tempered(temperature: float) -> MlpSection:
        return replace(network, output=replace(network.output, temperature=temperature))

    return min((tempered(t) for t in TEMPERATURES), key=cost)


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
    table = np.frombuffer(output.table, np.uint8).reshape(len(scale), -1)
    values = unpack(table, output.bits)[:, :units] * scale[:, None]
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
