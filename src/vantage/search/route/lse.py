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
        section, n = self.section, len(self.section.scale)
        dots, scratch = array("i", bytes(4 * n)), bytearray(4 * n)
        out = array("I", bytes(4 * self.index.blocks))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        alpha, temperature = section.beta * query.i16_scale, query.sharpness * section.temperature
        kernels.block_probabilities(dots, section.scale, section.weight, section.subs, alpha, temperature, out, scratch)
        return Routed(out)
