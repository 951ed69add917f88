"""ecvh: signs along vantage directions that are trained for the scan; as many directions as the code has bits.

Learned hashing in the arithmetic of the scan: a row decodes to f times the sum of its signed directions, and these move
to where the scores of that are least wrong. They start at the principal axes turned by ITQ, and random bases beyond.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vantage.format import AXES_MAX

from ..hashing.products import times
from . import sign
from .fitting import random_directions
from .planes import F32, F64, Codec
from .rotations import dense
from .rotations.basis import Basis

STEPS, BATCH, RATE = 300, 1024, 2e-3


def train(second_moment: F64, query_moment: F64, code_bytes: int, sample: F32, basis: Basis | None = None) -> Codec:
    """The codec of 8 code_bytes directions for residuals like the sample f32 (n, d), n of at least 1.

    basis: directions to start from, else those of ITQ.
    """
    d = len(second_moment)
    count = min(8 * code_bytes, AXES_MAX)
    first = (basis or dense.fit(second_moment, 0)).axes[:count]
    start = np.concatenate([first, random_directions(max(0, count - d), d, 1)]) if count > d else first
    moved = train_directions(start.astype(np.float32), sample, query_moment)
    return sign.train(second_moment, query_moment, code_bytes, given=moved.astype(np.float64), name="ecvh")


def train_directions(start: F32, sample: F32, query_moment: F64) -> F32:
    """Directions f32 (m, d) moved so that E <q, x - f W' sign(W x)>^2 is least, f the unbiased factor of the scan.

    Gradients pass the signs as if they were tanh (straight-through, arXiv 1308.3432). Adam, rates falling as a cosine.
    """
    import jax
    import jax.numpy as jnp
    import optax

    ridge = max(1e-9 * np.trace(query_moment), 1e-30)  # of rows in a subspace, some axes have no queries
    weigh = jnp.asarray(np.linalg.cholesky(query_moment + ridge * np.eye(len(query_moment))).T)

    def loss(w: Any, x: Any) -> Any:
        y = times(x, w)
        soft = jnp.tanh(y / jnp.abs(y).mean())
        s = soft + jax.lax.stop_gradient(jnp.sign(y) - soft)
        f = (x * x).sum(1) / (y * s).sum(1)
        error = times(x - f[:, None] * times(s, w.T), weigh)
        return (error**2).sum() / (times(x, weigh) ** 2).sum()

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    @jax.jit
    def step(w: Any, state: Any, x: Any) -> Any:
        change, state = optimiser.update(jax.grad(loss)(w, x), state, w)
        return optax.apply_updates(w, change), state

    rng, w = np.random.default_rng(8), jnp.asarray(start)
    rows = sample[np.einsum("ij,ij->i", sample, sample) > 0]
    state = optimiser.init(w)
    for _ in range(STEPS if len(rows) else 0):
        w, state = step(w, state, rows[rng.integers(len(rows), size=BATCH)])
    out: F32 = np.asarray(w)
    return out
