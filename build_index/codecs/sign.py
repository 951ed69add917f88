"""sign: one bit per direction, the side on which the residual lies; four directions per nibble.

The factor is the unbiased one (RaBitQ, arXiv 2405.12497), so with random orthogonal directions this is that paper's
code; directions may also be trained, and be more than dimensions.
"""

from __future__ import annotations

import numpy as np

from vantage.format import AXES_MAX, Rotation

from .fitting import directions
from .planes import F32, F64, Codec, Quantizer, assemble
from .rotations.basis import Basis, deviations, integer_rows

_SIDES = (np.array([[-1.0], [1.0]]),)
_LOST = 1 - 2 / np.pi  # squared error of a Gaussian known by its sign


def train(
    second_moment: F64,
    query_moment: F64,
    code_bytes: int,
    sample: F32 | None = None,
    basis: Basis | None = None,
    *,
    given: F64 | None = None,
    name: str = "sign",
) -> Codec:
    """The codec of 8 code_bytes directions: random orthogonal ones, those of a basis, or given ones f64 (m, d).

    Only the trace of the moments (d, d) counts, for the rounding of tables. More than d directions are several random
    bases: arXiv 2405.12497 has one bit a dimension, and beyond it this gains less than a second bit does.
    """
    dimension = len(second_moment)
    stored: Rotation | None = None
    if given is None:
        axes, stored = directions(min(8 * code_bytes, AXES_MAX), dimension, 0, basis)
    else:
        stored, axes = integer_rows(given.astype(np.float64))
    deviation = np.full(len(axes), np.sqrt(max(np.trace(second_moment) / dimension, 1e-12)))
    spread = deviations(axes, query_moment)
    return assemble(
        name, axes, deviation, [Quantizer((j,), _SIDES) for j in range(len(axes))], code_bytes,
        spread * deviation, _LOST * float(((spread * deviation) ** 2).sum()), rotation=stored, span=span_of(axes),
    )  # fmt: skip


def span_of(axes: F64) -> F32 | None:
    """An orthonormal base f32 (rank, d) of what rows (m, d) span; None where they are orthonormal as they are."""
    if len(axes) <= axes.shape[1] and np.abs(axes @ axes.T - np.eye(len(axes))).max() < 0.01:
        return None
    _, strength, base = np.linalg.svd(axes, full_matrices=False)
    out: F32 = base[strength > 1e-6 * strength[0]].astype(np.float32)
    return out
