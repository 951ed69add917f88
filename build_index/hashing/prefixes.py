"""Prefixes of codewords: what finds a leaf of a BEC-tree, how probable each is, and what asking a bit gains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints
from ..kernels import matmul

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
LEAF = -1  # in place of a bit


@dataclass(frozen=True)
class Prefixes:
    """What finds a leaf: a word's directions, and the tree.

    directions f32 (n, d), threshold f32 (n), beta: margin i of x is beta (<x, w_i> - t_i), and the probability that bit
    i is 0 the sigmoid of it. asked i16 (2 B - 1): the nodes in preorder, the side of bit 0 first: the bit that each
    asks, or LEAF. number i32 (B): of each leaf, in preorder.
    """

    directions: F32
    threshold: F32
    beta: float
    asked: npt.NDArray[np.int16]
    number: I32

    def margins(self, x: F32) -> F32:
        """f32 (m, n) of x (m, d)."""
        out: F32 = np.float32(self.beta) * (matmul(x, self.directions) - self.threshold)
        return out

    def signs(self) -> F32:
        """f32 (B, n) by leaf number: 1 where its prefix has bit 0, -1 where it has bit 1, 0 where it does not ask."""
        out, row = np.zeros((len(self.number), len(self.threshold)), np.float32), np.zeros(len(self.threshold))
        path, numbers = list[int](), iter(self.number.tolist())
        for bit in self.asked.tolist():
            if bit != LEAF:
                row[bit] = 1
                path.append(bit)
                continue
            out[next(numbers)] = row
            while path and row[path[-1]] < 0:  # both sides are done
                row[path.pop()] = 0
            if path:
                row[path[-1]] = -1
        return out

    def reordered(self, order: Ints) -> Prefixes:
        """The same with leaf order[i] as number i."""
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        return Prefixes(self.directions, self.threshold, self.beta, self.asked, number[self.number])


def log_probability(margins: F32, signs: F32) -> F32:
    """f32 (m, B): log of the probability of each leaf's prefix: the sum over its bits of log sigmoid(sign margin)."""
    size = np.abs(margins)
    both: F32 = (0.5 * size + np.log1p(np.exp(-size))).astype(np.float32)  # log 2 cosh(margin / 2)
    out: F32 = 0.5 * matmul(margins, signs) - matmul(both, np.abs(signs))
    return out


def gains(soft: F64, spread: F64, size: npt.NDArray[np.integer] | int) -> F64:
    """(..., n) nats a row that asking a bit brings: entropy of the mean probability less the mean entropy.

    High where the bit is balanced and margins are large. soft: sums over the rows of the probability of bit 0; spread:
    of its entropy; size: how many rows.
    """
    count = np.maximum(size, 1)
    return np.maximum(entropy(soft / count) - spread / count, 0)


def probability(margins: F32) -> F64:
    """f64 (m, n) that each bit is 0."""
    out: F64 = 0.5 + 0.5 * np.tanh(0.5 * margins.astype(np.float64))
    return out


def entropy(p: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    q = np.clip(p, 1e-12, 1 - 1e-12)
    out: npt.NDArray[np.floating] = -q * np.log(q) - (1 - q) * np.log1p(-q)
    return out
