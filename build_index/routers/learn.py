"""Trains a router on where neighbours lie: noisy rows are queries, and blocks that hold their neighbours the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hashing.minimise import minimise
from ..ingest.rows import F32, Ints, Rows
from ..progress import Progress
from .training import TrainingSet

NOISE = 0.3  # of the mean distance to the nearest row: what makes a row that trained look like one that did not
LOGITS_BYTES = 64 << 20  # held at a time, of a batch; there are a few such arrays
DEPTHS = (1, 10, 100)  # of neighbours that a query looks for, drawn for each
AHEAD = 16  # batches that are drawn at a time


def unit(x: F32) -> F32:
    """Rows (n, d) with norm 1; zeros stay."""
    out: F32 = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-30))
    return out


def as_queries(rows: Rows, numbers: Ints) -> F32:
    """f32 (n, d): rows as a router is asked for them: under inner products with norm 1."""
    x = rows.take(numbers)
    return unit(x) if rows.metric == "dot" else x


def noise_of(training: TrainingSet) -> float:
    """Mean distance that queries are moved by, in the scale of the rows."""
    drawn = np.linspace(0, len(training.queries) - 1, min(2000, len(training.queries))).astype(np.int64)
    drawn = drawn[training.neighbours[drawn, 0] >= 0]
    nearest = training.neighbours[drawn, 0].astype(np.int64)
    apart = as_queries(training.rows, training.queries[drawn]) - as_queries(training.rows, nearest)
    return NOISE * float(np.linalg.norm(apart, axis=1).mean())


Lesson = tuple[F32, npt.NDArray[np.int32], F32]


def lessons(training: TrainingSet, batch: int) -> Callable[[], Lesson]:
    """Draws (queries f32 (n, d), near i32 (n, K), weight f32 (n, K)): noisy rows, and how much a neighbour counts.

    A query looks for 1, 10 or 100 of its neighbours, which count as much together. Rows are drawn and read for several
    batches at a time, as those that lie near to each other in the file are read together.
    """
    rng = np.random.default_rng([training.seed, 6])
    noise = np.float32(noise_of(training) / training.rows.dimension**0.5)
    depths = np.array([min(depth, training.neighbours.shape[1]) for depth in DEPTHS])
    batches = max(1, min(AHEAD, len(training.queries) // batch))
    ready = list[tuple[F32, Ints]]()

    def draw() -> Lesson:
        if not ready:
            drawn = rng.choice(len(training.queries), batches * batch, replace=False)
            x = as_queries(training.rows, training.queries[drawn])
            ready.extend(zip(np.split(x, batches), np.split(drawn, batches), strict=True))
        q, drawn = ready.pop()
        q = q + noise * rng.standard_normal(q.shape, np.float32)
        if training.rows.metric != "l2":
            q = unit(q)
        near = training.neighbours[drawn]
        depth = depths[rng.integers(len(depths), size=len(drawn))]
        weight = ((np.arange(near.shape[1]) < depth[:, None]) & (near >= 0)) / depth[:, None]
        return q, near, weight.astype(np.float32)

    return draw


def train(
    parameters: dict[str, Any],
    rates: dict[str, float],
    scores: Callable[[dict[str, Any], Any], Any],
    training: TrainingSet,
    steps: int,
    batch: int,
    progress: Progress,
    logits: int = 0,
) -> dict[str, F32]:
    """Adam from `parameters` with a peak rate each; scores(parameters, queries f32 (n, d)) -> (n, B).

    The loss is the mean over a query's nearest neighbours, 1, 10 or 100 of them, of -log of the summed probability of
    the blocks that hold the neighbour: a copy counts as well as its row, and probabilities come out honest. Rates rise
    for 8 steps and fall as a cosine. JAX works on a GPU where it finds one.

    logits: numbers that scores hold for a query. Where those of a batch are over LOGITS_BYTES they are computed in
    parts, one after another and again for the slopes, so that memory does not grow with the blocks.
    """
    import jax
    import jax.numpy as jnp

    batch = min(batch, len(training.queries))
    parts = min(batch, -(-4 * logits * batch // LOGITS_BYTES) or 1)
    batch -= batch % parts

    def loss(now: dict[str, Any], *drawn: Any) -> Any:
        def likelihood(part: tuple[Any, Any, Any]) -> Any:
            q, blocks, weight = part
            log_p = jax.nn.log_softmax(scores(now, q))
            each = jnp.take_along_axis(log_p, jnp.maximum(blocks, 0).reshape(len(q), -1), 1).reshape(blocks.shape)
            return (jax.nn.logsumexp(jnp.where(blocks >= 0, each, -1e4), axis=2) * weight).sum()

        if parts == 1:
            return -likelihood(drawn) / drawn[2].sum()
        split = tuple(x.reshape(parts, -1, *x.shape[1:]) for x in drawn)
        return -jax.lax.map(jax.checkpoint(likelihood), split).sum() / drawn[2].sum()

    lesson = lessons(training, batch)

    def draw() -> tuple[F32, npt.NDArray[np.int32], F32]:
        q, near, weight = lesson()
        return q, training.blocks_of(near), weight

    return minimise(loss, parameters, rates, steps, draw, progress)
