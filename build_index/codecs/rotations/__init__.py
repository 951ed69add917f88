"""Rotations by name, one file for each, fitted to second moments of residuals; vantage.search.rotate applies them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vantage.format import ButterflyRotation, Rotation

from . import bor, dense, hadamard, pca
from .basis import DEAD, F64, Basis, nibbles

BYTES_MAX = 256 << 10  # of principal axes in 8 bits, above which they are stored in 4: all of up to 512 dimensions
NIBBLES_MAX = 5 << 18  # bytes of them in 4 bits, above which a butterfly stands in: all of up to 1,619 dimensions
DENSE_SMALL = 256  # dimensions, up to which they take 64 KiB at most
DIMENSION_MAX = 2048  # that principal axes are looked for in: what it takes grows with their cube
FLAT = 0.12  # bits an axis that principal axes save, below which they are noise, or nothing: a thirtieth of a code

ROTATIONS: dict[str, Callable[[F64, int], Basis]] = {  # (second moment (d, d), seed) -> basis
    "pca": pca.fit,
    "bor": bor.fit,
    "hadamard": hadamard.fit,
    "dense": dense.fit,
}


def fit(name: str | None, moment: F64, seed: int) -> Basis:
    """The rotation of this name; of none, the principal axes, or a butterfly where these save little or are many."""
    if name is not None:
        return ROTATIONS[name](moment, seed)
    d = len(moment)
    if d > DIMENSION_MAX:
        return bor.fit(moment, seed)
    basis = pca.fit(moment, seed)
    variance = np.maximum(basis.deviation, DEAD * basis.deviation[0]) ** 2
    saved = 0.5 * float(np.log2(variance.mean()) - np.log2(variance).mean())
    if d > DENSE_SMALL and (saved <= FLAT or basis.live * d > 2 * NIBBLES_MAX):
        return bor.fit(moment, seed)
    return basis if basis.live * d <= BYTES_MAX else nibbles(basis, moment)


def name_of(codec: str, rotation: Rotation) -> str | None:
    """The name of the rotation that `fit` takes without one; None where the codec has directions of its own."""
    if codec != "lrsq":
        return None
    return "bor" if isinstance(rotation, ButterflyRotation) else "pca"
