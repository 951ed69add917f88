"""hadamard: random signs and the fast Hadamard transform, which makes all axes alike: no training, the start of bor."""

from __future__ import annotations

import numpy as np

from vantage.format import TANGENT_ONE

from .basis import F64, Basis, Ints
from .butterfly import Layers, basis, complete


def strides(dimension: int, rng: np.random.Generator) -> Ints:
    """Pairs (L, P, 2): of d = 2^n m the n layers of a transform of 2^n, at strides 1, 2, 4 ..., then mixing of m parts.

    The parts (m odd) are mixed by log2(m) + 2 layers of pairs of parts at random, each of which leaves one part out.
    """
    size = dimension & -dimension
    count, out = dimension // size, []
    every = np.arange(dimension)
    for n in range(size.bit_length() - 1):
        low = every[every & (1 << n) == 0]
        out.append(np.stack([low, low + (1 << n)], 1))
    for _ in range((count - 1).bit_length() + 2 if count > 1 else 0):
        parts = rng.permutation(count)
        first, second = parts[: count // 2, None], parts[count // 2 : count // 2 * 2, None]
        pairs = np.stack([first * size + np.arange(size), second * size + np.arange(size)], 2).reshape(-1, 2)
        out.append(complete(pairs, dimension))
    return np.array(out) if out else np.zeros((1, 0, 2), np.int64)  # one dimension has a layer of no pairs


def layers(dimension: int, seed: int) -> Layers:
    """All angles a half right angle, of random sign; pairs within the part that is left out do not turn."""
    rng = np.random.default_rng([seed, 7])
    pairs = strides(dimension, rng)
    size = dimension & -dimension
    turns = rng.choice([-TANGENT_ONE, TANGENT_ONE], pairs.shape[:2])
    depth = size.bit_length() - 1
    turns[depth:][(pairs[depth:] // size)[..., 0] == (pairs[depth:] // size)[..., 1]] = 0
    return Layers(pairs, turns)


def fit(moment: F64, seed: int) -> Basis:
    """Costs d multiplications a layer, by the kernel that all butterflies share; a layer is 2 d bytes."""
    return basis(layers(len(moment), seed), moment)
