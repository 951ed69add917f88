"""bec-tree: signs along directions against the prefixes of leaves."""

from __future__ import annotations

from array import array
from dataclasses import replace
from math import exp, floor, log1p

from ... import kernels
from ...format import BecTreeSection, IndexSection, LseSection, aligned
from ..prepare import Prepared
from .common import Resident, Routed
from .lse import LseRouter

MARGIN_UNIT = 1 << 10  # of a margin's logit, as an integer
MARGIN_MAX = 30 * MARGIN_UNIT  # as an integer: both columns of a bit fit i16


class BecTreeRouter(Resident):
    """A block is as probable as the prefix of its leaf: the product over its bits of the sigmoid of the signed margin.

    log sigmoid(+-m) is (+-m - |m|) / 2 - log(1 + exp(-|m|)): linear in two columns a bit, so one product of matrices.
    """

    def __init__(self, section: BecTreeSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        n, blocks = len(section.scale), index.blocks
        padding, asks = bytes(aligned(2 * n, 16) - 2 * n), bytes([0, *[255] * 255])  # 255: -1 as i8
        signs = b"".join(prefix + prefix.translate(asks) + padding for prefix in section.prefixes())
        self._padding = array("h", bytes(2 * len(padding)))
        output = LseSection(
            8, 1, 0.5 / MARGIN_UNIT, section.temperature, memoryview(signs), memoryview(array("f", [1.0] * blocks)),
            memoryview(array("f", [0.0] * blocks)),
        )  # fmt: skip
        self._output = LseRouter(output, replace(index, dimension=2 * n))

    def probabilities(self, query: Prepared) -> Routed:
        return self._output.probabilities(self._margins(query))

    def logits(self, query: Prepared) -> array[float]:
        return self._output.logits(self._margins(query))

    def _margins(self, query: Prepared) -> Prepared:
        """The query with its margins, and how unsure they are, in the place of its numbers."""
        section, n = self.section, len(self.section.scale)
        dots = array("i", bytes(4 * n))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        columns = zip(section.scale, dots, section.bias, strict=True)
        margins = [_margin(scale * (dot * query.i16_scale) + bias) for scale, dot, bias in columns]
        both = array("h", margins + [abs(m) + _unsure(m) for m in margins]) + self._padding
        return replace(query, i16=both, i16_scale=1.0)


def _margin(logit: float) -> int:
    """In units of 2^-10, halves up."""
    return floor(min(max(logit * MARGIN_UNIT, -MARGIN_MAX), MARGIN_MAX) + 0.5)


def _unsure(margin: int) -> int:
    """2 log(1 + exp(-|m|)) in units of 2^-10: no value lies so near a half that two correct libraries disagree."""
    return floor(2 * MARGIN_UNIT * log1p(exp(-abs(margin) / MARGIN_UNIT)) + 0.5)
