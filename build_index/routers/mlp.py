"""mlp: rectified units beside the query itself, a quarter of trained's bytes, trained as it will be quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vantage.errors import InputError
from vantage.format import DIMENSION_MAX, UNITS_STEP, LseSection, MlpSection

from ..graph import neighbour_graph
from ..lesson import Cost, Lesson
from ..rows import F32, Ints
from . import learn, lse

BETA = 14.0  # to start from, as in trained
UNITS_MAX = 512  # more take too long in Wasm
SHARE = 0.25  # of the bytes of trained's table
RATES = {"first": 4e-3, "bias": 4e-3, "table": 4e-3, "weight": 0.02, "log_beta": 0.01}
QUESTIONS = 120_000  # with 30,000 it reads 7% more rows on WordNet
STEPS = 1200
BATCH = 1024
TEMPERATURES = (0.7, 0.6, 0.85, 1.0)
BITS = 4
NEIGHBOURS_BYTES = 1 << 30  # of memory, as training itself may take


def units_for(dimension: int, blocks: int) -> int:
    """The most hidden units with which the network takes a quarter of the bytes of trained's table; 32 at least."""

    def nbytes(rows: int, width: int, bits: int) -> int:
        return rows * (8 + LseSection.stride(bits, width))

    budget = SHARE * nbytes(blocks * lse.SUBS, dimension, lse.bits_of(dimension))
    most = min(UNITS_MAX, (DIMENSION_MAX - dimension) // UNITS_STEP * UNITS_STEP)
    fitting = [
        n
        for n in range(UNITS_STEP, most + 1, UNITS_STEP)
        if nbytes(n, dimension, BITS) + nbytes(blocks, n + dimension, BITS) <= budget
    ]
    return max(fitting, default=UNITS_STEP)


def fit(lesson: Lesson, cost: Cost, progress: Callable[[float], None], units: int | None = None) -> MlpSection:
    """Trains from the blocks' centres and random units; then the temperature, by cost. units: as many as fit.

    Raises InputError where the dimension leaves no room for units beside it.
    """
    import jax.numpy as jnp

    d, blocks, metric = lesson.rows.dimension, lesson.blocks, lesson.rows.metric
    if d > DIMENSION_MAX - UNITS_STEP:
        raise InputError(f"--router mlp has no room beside {d} dimensions", hint="take another router")
    centres = lse.sub_centroids(
        lesson.rows.take(lesson.sample), lesson.partition.home[lesson.sample], blocks, lesson.seed, 1
    )
    beta = BETA * (2 if metric == "l2" else 1)
    weight = lse.weights(centres, metric, beta)
    live = np.isfinite(weight)
    table, units = centres.table[:, 0], units or units_for(d, blocks)
    rng = np.random.default_rng([lesson.seed, 7])
    first = rng.standard_normal((units, d), np.float32) / np.float32(d**0.5)
    start = {
        "first": first,
        "bias": -(first @ table[live].mean(0)),
        "table": np.concatenate([0.01 * rng.standard_normal((blocks, units), np.float32), table], 1),
        "weight": np.where(live, weight, 0).astype(np.float32),
        "log_beta": np.float32(np.log(beta)),
    }

    def scores(now: dict[str, Any], q: Any) -> Any:
        length = jnp.linalg.norm(q, axis=1, keepdims=True)
        hidden = jnp.clip(q @ lse.rounded(now["first"], BITS).T + now["bias"], 0, length)
        table = now["table"] - now["table"][live].mean(0)
        logit = jnp.exp(now["log_beta"]) * (jnp.concatenate([hidden, q], 1) @ lse.rounded(table, BITS).T)
        return jnp.where(live, logit + now["weight"], -1e9)

    lesson = more_questions(lesson)
    progress(0.2)
    found = learn.train(start, RATES, scores, lesson, STEPS, BATCH, lambda done: progress(0.2 + 0.7 * done))
    made = section(found, np.where(live, found["weight"], -np.inf))

    def tempered(temperature: float) -> MlpSection:
        return replace(made, output=replace(made.output, temperature=temperature))

    return min((tempered(t) for t in TEMPERATURES), key=cost)


def more_questions(lesson: Lesson) -> Lesson:
    """The same with up to QUESTIONS rows of the sample as questions: a network learns little from few."""
    rest = np.setdiff1d(lesson.sample, lesson.asked)
    count = min(QUESTIONS - len(lesson.asked), len(rest))
    if count <= 0:
        return lesson
    more = np.random.default_rng([lesson.seed, 8]).choice(rest, count, replace=False)
    found = neighbour_graph(
        lesson.rows, np.sort(more), lesson.near.shape[1], seed=lesson.seed, memory_bytes=NEIGHBOURS_BYTES
    )
    asked = np.concatenate([lesson.asked, np.sort(more)])
    order = np.argsort(asked)
    return replace(lesson, asked=asked[order], near=np.concatenate([lesson.near, found])[order])


def section(found: dict[str, F32], weight: F32) -> MlpSection:
    """The network as stored: first f32 (units, d), bias (units), table (B, units + d), log_beta; weight (B)."""
    table, scale = lse.quantized(found["first"], BITS)
    output = lse.packed(found["table"], weight, 1, float(np.exp(found["log_beta"])), TEMPERATURES[0], BITS)
    bias = np.asarray(found["bias"], np.float32)
    return MlpSection(BITS, memoryview(table), memoryview(scale), memoryview(bias), output)


def ordered(section: MlpSection, order: Ints) -> MlpSection:
    """Block order[i] as number i."""
    return replace(section, output=lse.ordered(section.output, order))
