"""centroids, lse, trained: sub-centroids with log-sum-exp."""

from __future__ import annotations

from array import array

from ... import kernels
from ...format import IndexSection, LseSection
from ..prepare import Prepared
from .common import Resident, Routed


class LseRouter(Resident):
    """Sub-centroids with log-sum-exp: a block is as probable as the mixture of its parts says."""

    def __init__(self, section: LseSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8

    def probabilities(self, query: Prepared) -> Routed:
        section, dots = self.section, self._dots(query)
        out, scratch = array("I", bytes(4 * self.index.blocks)), bytearray(4 * len(dots))
        alpha, temperature = section.beta * query.i16_scale, query.sharpness * section.temperature
        kernels.block_probabilities(dots, section.scale, section.weight, section.subs, alpha, temperature, out, scratch)
        return Routed(out)

    def logits(self, query: Prepared) -> array[float]:
        section, dots = self.section, self._dots(query)
        out, scratch = array("f", bytes(4 * self.index.blocks)), bytearray(4 * len(dots))
        alpha = section.beta * query.i16_scale
        kernels.block_logits(dots, section.scale, section.weight, section.subs, alpha, out, scratch)
        return out

    def _dots(self, query: Prepared) -> array[int]:
        """i32 (B, S): inner products with all sub-centroids."""
        dots = array("i", bytes(4 * len(self.section.scale)))
        self._matvec(query.i16, self.section.table, len(dots), self.index.dimension, dots)
        return dots
