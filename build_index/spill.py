"""Copies: a second block for the rows that gain most, by SOAR (Sun et al., arXiv 2404.00774)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .partition import CHUNK_BYTES, Partition
from .rows import Rows

LAMBDA = 1.5
NEAR = 24


@dataclass(frozen=True)
class Copies:
    """block i32 (N): where the row's copy would lie, and worth f32 (N): its loss over |r|^2, least first."""

    block: npt.NDArray[np.int32]
    worth: npt.NDArray[np.float32]

    def best(self, share: float) -> npt.NDArray[np.int32]:
        """i32 (N): the block of the copy for `share` of all rows, -1 for the others."""
        out = np.full(len(self.block), -1, np.int32)
        count = min(round(share * len(self.block)), int(np.isfinite(self.worth).sum()))
        chosen = np.argsort(self.worth, kind="stable")[:count]
        out[chosen] = self.block[chosen]
        return out


def soar(rows: Rows, partition: Partition) -> Copies:
    """For each row the block that minimises |r'|^2 + lambda <r', r/|r|>^2 among the 24 nearest others."""
    blocks, centres = partition.blocks, partition.centres
    block, worth = np.full(rows.count, -1, np.int32), np.full(rows.count, np.inf, np.float32)
    if blocks == 1:
        return Copies(block, worth)
    near = min(NEAR, blocks - 1)
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)
    for low, x in rows.chunks(CHUNK_BYTES // blocks * rows.dimension):
        part = slice(low, low + len(x))
        dots = x @ centres.T
        closeness = dots - half
        each, home = np.arange(len(x)), partition.home[part]
        closeness[each, home] = -np.inf
        ids = np.argpartition(-closeness, near - 1, axis=1)[:, :near]
        r = x - centres[home]
        length = np.maximum(np.linalg.norm(r, axis=1), 1e-9)
        unit = r / length[:, None]
        gap = np.einsum("ij,ij->i", x, x)[:, None] - 2 * np.take_along_axis(closeness, ids, 1)  # |x - c'|^2
        along = np.einsum("ij,ij->i", x, unit)[:, None] - np.take_along_axis(unit @ centres.T, ids, 1)
        loss = gap + LAMBDA * along**2
        best = loss.argmin(1)
        block[part] = ids[each, best]
        worth[part] = loss[each, best] / length**2
    return Copies(block, worth)
