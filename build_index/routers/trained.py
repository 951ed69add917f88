"""trained: the table of lse, its weights and beta moved to where neighbours lie, so that probabilities are honest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vantage.format import LseSection

from ..lesson import Cost, Lesson
from . import learn
from .lse import SUBS, bits_of, packed, sub_centroids, weights

BETA = 14.0  # to start from: less than what orders best, since probabilities are to be honest
RATES = {"table": 1e-3, "weight": 0.02, "log_beta": 0.01}
STEPS = 240
BATCH = 1024
TEMPERATURES = (1.0, 0.7, 0.85, 1.15)


def fit(lesson: Lesson, cost: Cost, progress: Callable[[float], None]) -> LseSection:
    """Trains from sub-centroids of the sample's home rows; then the temperature, by cost."""
    import jax.numpy as jnp
    from jax.nn import logsumexp

    home = lesson.partition.home[lesson.sample]
    subs = sub_centroids(lesson.rows.take(lesson.sample), home, lesson.blocks, lesson.seed, SUBS)
    beta = BETA * (2 if lesson.rows.metric == "l2" else 1)
    weight = weights(subs, lesson.rows.metric, beta)
    live = np.isfinite(weight)

    def scores(now: dict[str, Any], q: Any) -> Any:
        logit = jnp.exp(now["log_beta"]) * (q @ now["table"].T) + jnp.where(live, now["weight"], -1e9)
        return logsumexp(logit.reshape(len(q), lesson.blocks, SUBS), axis=2)

    start = {
        "table": subs.table.reshape(-1, lesson.rows.dimension),
        "weight": np.where(live, weight, 0).astype(np.float32),
        "log_beta": np.float32(np.log(beta)),
    }
    found = learn.train(start, RATES, scores, lesson, STEPS, BATCH, lambda done: progress(0.9 * done))
    section = packed(
        found["table"], np.where(live, found["weight"], -np.inf), SUBS, float(np.exp(found["log_beta"])),
        TEMPERATURES[0], bits_of(lesson.rows.dimension),
    )  # fmt: skip
    return min((replace(section, temperature=t) for t in TEMPERATURES), key=cost)
