"""trained: the table of lse, its weights and beta moved to where neighbours lie, so that probabilities are honest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vantage.format import LseSection

from ..hashing.products import times
from ..progress import SILENT, Progress
from . import learn
from .lse import pack_section, sub_centroids_of, subs_of, weights
from .packing import bits_of
from .training import Cost, TrainingSet, cheapest

BETA = 14.0  # over the spread of the rows, to start from: less than what orders best, so that p comes out honest
RATES = {"table": 1e-3, "weight": 0.02, "log_beta": 0.01}
STEPS = 240
BATCH = 1024
TEMPERATURES = (1.0, 0.7, 0.85, 1.15)


def table(
    training: TrainingSet, subs: int, progress: Progress = SILENT
) -> tuple[dict[str, Any], Callable[[dict[str, Any], Any], Any]]:
    """(parameters found, scores of queries by them) of a table of so many sub-centroids a block.

    Starts from sub-centroids of the sample's home rows. table f32 (B subs, d); weight f32 (B subs), -inf where a block
    has fewer; log_beta. scores(parameters, queries f32 (n, d)) -> (n, B).
    """
    import jax.numpy as jnp
    from jax.nn import logsumexp

    parts = sub_centroids_of(training, [subs])[0]
    beta = BETA / training.spread
    weight = weights(parts, training.rows.metric, beta)
    live = np.isfinite(weight)

    def scores(now: dict[str, Any], q: Any) -> Any:
        logit = jnp.exp(now["log_beta"]) * times(q, now["table"]) + jnp.where(live, now["weight"], -1e9)
        return logsumexp(logit.reshape(len(q), training.blocks, subs), axis=2)

    start = {
        "table": parts.table.reshape(-1, training.rows.dimension),
        "weight": np.where(live, weight, 0).astype(np.float32),
        "log_beta": np.float32(np.log(beta)),
    }
    learnt = learn.train(start, RATES, scores, training, STEPS, BATCH, progress, training.blocks * subs)
    return learnt | {"weight": np.where(live, learnt["weight"], -np.inf)}, scores


def fit(training: TrainingSet, cost: Cost, progress: Progress) -> LseSection:
    """The table, then the temperature, by cost."""
    subs = subs_of(training.rows.dimension, training.blocks)
    learnt, _ = table(training, subs, progress.part(0, 0.9))
    section = pack_section(
        learnt["table"], learnt["weight"], subs, float(np.exp(learnt["log_beta"])),
        TEMPERATURES[0], bits_of(training.rows.dimension),
    )  # fmt: skip
    return cheapest([section], TEMPERATURES, cost)
