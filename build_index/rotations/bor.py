"""bor: a butterfly that stands in for the principal axes at a twentieth of their bytes and multiplications.

Each layer pairs the coordinates that are most correlated and turns each pair to its own principal axes, exactly: a
parallel Jacobi sweep cut short (Le Magoarou, Gribonval and Tremblay 2018; Mathieu and LeCun 2014). A pair of
correlation r lowers the sum of log variances, the coding gain, by -log(1 - r^2), so pairs are taken by r^2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vantage.format import LAYERS_MAX, TANGENT_ONE

from .basis import F64, Basis, Ints
from .butterfly import Layers, basis, complete, turn

SHARE = 20  # a layer costs 1 / d of a dense matrix in bytes and in multiplications: d / 20 of them cost a twentieth
LAYERS_MIN = 4


def count_of(dimension: int) -> int:
    """Layers that with the axes kept and the scales, as much as one more, cost a twentieth of a dense matrix."""
    return min(LAYERS_MAX, max(LAYERS_MIN, dimension // SHARE - 1))


def matched(strength: npt.NDArray[np.floating]) -> Ints:
    """Pairs (P, 2) of coordinates of a symmetric strength (d, d): strongest first, each coordinate once (greedy).

    Pairs that are each other's best are what taking one at a time would take, so they are taken together.
    """
    left, found = np.arange(len(strength)), list[tuple[int, int]]()
    strength = strength.copy()
    np.fill_diagonal(strength, -1)
    while len(left) > 1:
        best = strength.argmax(1)
        at = np.flatnonzero((best[best] == np.arange(len(left))) & (np.arange(len(left)) < best))
        if not len(at):  # ties all around
            at = np.array([0])
        found += zip(left[at].tolist(), left[best[at]].tolist(), strict=True)
        keep = np.ones(len(left), bool)
        keep[at] = keep[best[at]] = False
        left, strength = left[keep], strength[np.ix_(keep, keep)]
    return np.array(found, np.int64).reshape(-1, 2)


def compacted(moment: F64, count: int) -> Layers:
    """`count` layers, each the best of its own step for what the layers before it left of the moment."""
    now, pairs, tangents = moment.astype(np.float32), [], []
    for _ in range(count):
        variance = np.maximum(np.diag(now), np.float32(1e-12))
        pair = complete(matched(now**2 / variance / variance[:, None]), len(now))
        a, b, both = now[pair[:, 0], pair[:, 0]], now[pair[:, 1], pair[:, 1]], now[pair[:, 0], pair[:, 1]]
        angle = 0.5 * np.arctan2(2 * both, np.abs(a - b)) * np.where(a < b, -1, 1)  # the smaller of the two turns
        tangent = np.rint(np.tan(angle.astype(np.float64)) * TANGENT_ONE).clip(-TANGENT_ONE, TANGENT_ONE)
        for _ in range(2):
            turn(now, pair, tangent / TANGENT_ONE)
            now = np.ascontiguousarray(now.T)
        pairs.append(pair)
        tangents.append(tangent.astype(np.int64))
    return Layers(np.array(pairs), np.array(tangents))


def fit(moment: F64, _seed: int) -> Basis:
    """See count_of for how many layers."""
    return basis(compacted(moment, count_of(len(moment))), moment)
