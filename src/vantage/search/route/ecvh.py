"""ecvh: signs along directions against all codewords."""

from __future__ import annotations

from array import array
from dataclasses import replace

from ... import kernels
from ...format import EcvhSection, IndexSection, LseSection, aligned
from ..prepare import Prepared
from .common import Resident, Routed, hidden_units
from .lse import LseRouter


class EcvhRouter(Resident):
    """Soft-decision decoding of all codewords: a block is as probable as its signs agree with the query's margins."""

    def __init__(self, section: EcvhSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        n, stride, blocks = len(section.scale), aligned(len(section.scale), 16), index.blocks
        signs, sign = bytearray(blocks * stride), bytes.maketrans(b"01", b"\x01\xff")
        for i, column in enumerate(section.columns(blocks)):
            signs[i::stride] = f"{column:0{blocks}b}"[: -blocks - 1 : -1].encode().translate(sign)
        self._padding = array("h", bytes(2 * (stride - n)))
        output = LseSection(
            8, 1, section.beta, section.temperature, memoryview(signs), memoryview(array("f", [1.0] * blocks)),
            memoryview(array("f", [0.0] * blocks)),
        )  # fmt: skip
        self._output = LseRouter(output, replace(index, dimension=n))

    def probabilities(self, query: Prepared) -> Routed:
        return self._output.probabilities(self._margins(query))

    def logits(self, query: Prepared) -> array[float]:
        return self._output.logits(self._margins(query))

    def _margins(self, query: Prepared) -> Prepared:
        """The query with its margins in the place of its numbers."""
        section, n = self.section, len(self.section.scale)
        dots = array("i", bytes(4 * n))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        margins = hidden_units(dots, section.scale, section.bias, n, query) + self._padding
        return replace(query, i16=margins)
