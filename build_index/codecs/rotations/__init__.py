"""Rotations by name, one file for each, fitted to second moments of residuals; vantage.search.rotate applies them."""

from __future__ import annotations

from collections.abc import Callable

from . import bor, dense, hadamard, pca
from .basis import F64, Basis

DENSE_BYTES_MAX = 8 << 20  # of principal axes in the root: above it, from d = 2,049 on, a butterfly stands in

ROTATIONS: dict[str, Callable[[F64, int], Basis]] = {  # (second moment (d, d), seed) -> basis
    "pca": pca.fit,
    "bor": bor.fit,
    "hadamard": hadamard.fit,
    "dense": dense.fit,
}


def default(codec: str, dimension: int) -> str | None:
    """The rotation when none is asked for; None where the codec has directions of its own."""
    if codec != "lrsq":
        return None
    return "pca" if 2 * dimension * dimension <= DENSE_BYTES_MAX else "bor"
