"""pq: the dimensions in runs, a nibble a run, which picks one of 16 centroids; product quantization, 4 bits.

Jegou et al. 2011, in the layout of Andre et al. 2015 (fast scan). The row's length is taken out before, and an unbiased
factor puts it back. A code of more nibbles than dimensions gives some of these a second table.
"""

from __future__ import annotations

import numpy as np

from ..kernels import matmul
from .fitting import draw_rows, error, fit
from .planes import F32, F64, Codec, Quantizer, assemble, nearest, scale_to_unit
from .rotations.basis import Basis, deviations

CENTROIDS = 16
TWICE_ROWS = 4096  # for 256 values of one dimension


def train(second_moment: F64, query_moment: F64, code_bytes: int, sample: F32, basis: Basis | None = None) -> Codec:
    """The codec of 2 code_bytes runs of dimensions, fitted to residuals f32 (n, d); at most 8 bits a dimension.

    basis: turned to it first, as OPQ does (Ge et al. 2013).
    """
    dimension = len(second_moment)
    axes = np.eye(dimension) if basis is None else basis.axes
    stored = None if basis is None else basis.stored(np.arange(dimension))
    own = deviations(axes, second_moment) ** 2
    deviation = np.full(dimension, np.sqrt(max(own.mean(), 1e-12)))
    unit = scale_to_unit(matmul(sample, axes.astype(np.float32)), deviation.astype(np.float32))
    runs = np.array_split(np.arange(dimension), min(dimension, 2 * code_bytes))
    twice = set(np.argsort(-own, kind="stable")[: max(0, 2 * code_bytes - dimension)].tolist())
    quantizers = []
    for i, run in enumerate(runs):
        x = unit[:, run]
        one = fit(Quantizer(tuple(run.tolist()), (draw_rows(x, CENTROIDS, i),)), x)
        if len(run) == 1 and int(run[0]) in twice:
            left = x - one.decoded(nearest(one, x))
            fine = fit(Quantizer((0,), (draw_rows(left, CENTROIDS, i),)), left)
            one = fit(Quantizer(one.axes, (*one.parts, *fine.parts)), x[:TWICE_ROWS], 4)
        quantizers.append(one)
    spread = deviations(axes, query_moment)
    lost = float((((spread * deviation) ** 2) * error(quantizers, unit)).sum())
    return assemble("pq", axes, deviation, quantizers, code_bytes, spread * deviation, lost, rotation=stored)
