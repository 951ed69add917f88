"""bor: a butterfly that stands in for the principal axes at a fifth of their bytes and a tenth of the multiplications.

Each layer pairs the coordinates that are most correlated and turns each pair to its own principal axes, exactly: a
parallel Jacobi sweep cut short (Le Magoarou, Gribonval and Tremblay 2018; Mathieu and LeCun 2014). A pair of
correlation r lowers the sum of log variances, the coding gain, by -log(1 - r^2), so pairs are taken by r^2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vantage.format import LAYERS_MAX, TANGENT_ONE

from .basis import F64, Basis, Ints
from .butterfly import Layers, Turn, basis, complete, step_of, turn_twice

SHARE = 10  # a layer costs 2 / d of the bytes of a dense matrix, and 1 / d of the multiplications
LAYERS_MIN = 4
GAIN_MIN = 1e-3  # bits an axis that a layer saves, of 3 to 6 that it has: less is what noise in the moment would save


def count_of(dimension: int) -> int:
    """Layers, at most, that with the axes kept and the scales cost a fifth of the bytes of a dense matrix."""
    return min(LAYERS_MAX, max(LAYERS_MIN, dimension // SHARE - 1))


def match_pairs(strength: npt.NDArray[np.floating]) -> Ints:
    """Pairs (P, 2) of coordinates of a symmetric strength (d, d): strongest first, each coordinate once (greedy).

    Pairs that are each other's best are what taking one at a time would take, so they are taken together, and only
    coordinates whose best was taken look again. Of two that have no strength there is no pair. Spoils the diagonal.
    """
    np.fill_diagonal(strength, -1)
    best, pairs = strength.argmax(1), list[Ints]()
    left = strength[np.arange(len(best)), best] > 0
    while len(on := np.flatnonzero(left)) > 1:
        at = on[left[best[on]] & (best[best[on]] == on) & (on < best[on])]
        if not len(at):  # ties all around
            at = on[:1]
        pairs.append(np.stack([at, best[at]], 1))
        left[at] = left[best[at]] = False
        on = np.flatnonzero(left)
        again = on[~left[best[on]]]
        if len(again):
            among = strength[np.ix_(again, on)]
            best[again] = on[among.argmax(1)]
            left[again] = among.max(1) > 0
    return np.concatenate([np.zeros((0, 2), np.int64), *pairs])


def compact(moment: F64, count: int, gain_min: float = 0.0) -> Layers:
    """`count` layers, each the best of its own step for what the layers before it left of the moment.

    Fewer where the next one would gain less than gain_min bits an axis; one at least.
    """
    now, pairs, tangents = moment.astype(np.float32), list[Ints](), list[Ints]()
    strength = np.empty_like(now)
    for _ in range(count):
        variance = np.maximum(np.diag(now), np.float32(1e-12))
        for low in range(0, len(now), step_of(len(now))):
            part = slice(low, low + step_of(len(now)))
            np.square(now[part], out=strength[part])
            strength[part] /= variance
            strength[part] /= variance[part, None]
        pair = match_pairs(strength)
        correlation = now[pair[:, 0], pair[:, 1]] ** 2 / (variance[pair[:, 0]] * variance[pair[:, 1]])
        gain = -0.5 * np.log2(np.maximum(1 - correlation, 1e-6)).sum()
        if pairs and gain < gain_min * len(now):
            break
        pair = complete(pair, len(now))
        a, b, both = now[pair[:, 0], pair[:, 0]], now[pair[:, 1], pair[:, 1]], now[pair[:, 0], pair[:, 1]]
        angle = 0.5 * np.arctan2(2 * both, np.abs(a - b)) * np.where(a < b, -1, 1)  # the smaller of the two turns
        tangent = np.rint(np.tan(angle.astype(np.float64)) * TANGENT_ONE).clip(-TANGENT_ONE, TANGENT_ONE)
        now = turn_twice(now, Turn.of(pair, tangent / TANGENT_ONE, len(now), now.dtype))
        pairs.append(pair)
        tangents.append(tangent.astype(np.int64))
    return Layers(np.array(pairs), np.array(tangents))


def fit(moment: F64, _seed: int) -> Basis:
    """See count_of for how many layers."""
    return basis(compact(moment, count_of(len(moment)), GAIN_MIN), moment)
