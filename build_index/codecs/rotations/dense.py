"""dense: a d x d rotation trained for signs (ITQ, Gong and Lazebnik 2011): what bounds any rotation of sign codes.

It makes the axes alike, where pca makes them unlike: no codec that gives bits by the strength of an axis wants it.
"""

from __future__ import annotations

import numpy as np

from .basis import F64, Basis, dense, deviations
from .pca import principal_axes

DRAWS = 8192  # Gaussian rows of the moment that signs are taken of
STEPS = 30


def fit(moment: F64, seed: int) -> Basis:
    """Alternates the signs of turned rows and the rotation nearest to them (Procrustes), from a random start."""
    rng, d = np.random.default_rng([seed, 6]), len(moment)
    principal, deviation = principal_axes(moment)
    x = (rng.standard_normal((max(DRAWS, 4 * d), d)) * deviation) @ principal
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    for _ in range(STEPS):
        left, _, right = np.linalg.svd(np.sign(x @ axes.T).T @ x)
        axes = left @ right
    spread = deviations(axes, moment)
    order = np.argsort(-spread, kind="stable")
    return dense(axes[order], spread[order])
