"""rabitq: a random rotation, the same bits for every direction on a uniform grid, an unbiased factor.

RaBitQ (arXiv 2405.12497) and its extension to several bits (arXiv 2409.09913). The grid is exactly linear in its bits,
so that any bits may share a nibble. What equal shares leave over goes to the first directions, which are like others.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .fitting import directions
from .planes import F32, F64, Codec, Quantizer, assemble
from .rotations.basis import Basis, deviations

BITS_MAX = 8
# Of a row before its grid: the one with the smallest angle is taken, as the extension searches all.
SCALES = (1.0, 0.75, 0.83, 0.91, 1.1, 1.21, 1.33)


@cache
def grid(bits: int) -> tuple[float, tuple[F64, ...]]:
    """(mean squared error, parts) of the uniform quantizer of the unit Gaussian with the best step, 1 to 8 bits."""
    x = np.linspace(-6, 6, 6001)
    weight = np.exp(-0.5 * x**2)
    weight /= weight.sum()
    half = (1 << bits) / 2

    def lost(step: float) -> float:
        value = (np.clip(np.floor(x / step), -half, half - 1) + 0.5) * step
        return float((weight * (x - value) ** 2).sum())

    steps = np.geomspace(4 / half / 4, 4 / half, 400)
    step = float(min(steps, key=lost))
    # Whole nibbles from the top, then single bits: they pack without a gap.
    widths = [4] * (bits // 4) + [1] * (bits % 4)
    low = bits
    parts: list[F64] = []
    for width in widths:
        low -= width
        values = np.arange(1 << width, dtype=np.float64)[:, None] - ((1 << width) - 1) / 2
        parts.append(values * (step * (1 << low)))
    return lost(step), tuple(parts)


def train(
    second_moment: F64, query_moment: F64, code_bytes: int, sample: F32 | None = None, basis: Basis | None = None
) -> Codec:
    """The codec of 8 code_bytes bits in equal shares over d directions, or one bit for the first of them.

    Only the trace of the moments (d, d) counts, for the rounding of tables. basis: directions, else random ones.
    """
    dimension = len(second_moment)
    count = min(dimension, 8 * code_bytes)
    given = np.full(count, min(BITS_MAX, 8 * code_bytes // count))
    given[: max(0, min(count, 8 * code_bytes - int(given.sum()))) if given[0] < BITS_MAX else 0] += 1
    axes, stored = directions(count, dimension, 0, basis)
    deviation = np.full(count, np.sqrt(max(np.trace(second_moment) / dimension, 1e-12)))
    spread = deviations(axes, query_moment)
    lost = sum(float((s * d) ** 2) * grid(int(b))[0] for s, d, b in zip(spread, deviation, given, strict=True))
    quantizers = [Quantizer((j,), grid(int(b))[1]) for j, b in enumerate(given)]
    scales = SCALES if given.max() > 1 else (1.0,)
    return assemble(
        "rabitq", axes, deviation, quantizers, code_bytes, spread * deviation, lost, rotation=stored, scales=scales
    )
