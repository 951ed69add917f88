"""mlp: a hidden layer, then sub-centroids over its units."""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import pairwise

from ... import kernels
from ...format import IndexSection, LseSection, MlpSection
from ..prepare import Prepared
from .common import Part, Resident, Routed, hidden_units, mixture
from .lse import LseRouter


class MlpRouter(Resident):
    """A hidden layer, and an lse router over its units in the place of the query.

    With regions it is progressive: a coarse head picks some, and only the blocks of these are looked at. They share the
    whole probability, as those of a page of two levels do.
    """

    def __init__(self, section: MlpSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        inner, regions = replace(index, dimension=section.units), section.regions
        self._output = LseRouter(section.output, inner)
        self._head = LseRouter(regions.head, replace(inner, blocks=len(regions.first_block) - 1)) if regions else None
        self._regions = _parts(section) if regions else []

    def probabilities(self, query: Prepared) -> Routed:
        units = self._units(query)
        return (
            self._output.probabilities(units)
            if self._head is None
            else self._fine(units, self._head.probabilities(replace(units, sharpness=1.0)).p)
        )

    def logits(self, query: Prepared) -> array[float]:
        """Of the blocks of all regions."""
        return self._output.logits(self._units(query))

    def _units(self, query: Prepared) -> Prepared:
        """The query with its hidden units in the place of its numbers."""
        section, dots = self.section, array("i", bytes(4 * self.section.units))
        self._matvec(query.i16, section.table, section.units, self.index.dimension, dots)
        return replace(query, i16=hidden_units(dots, section.scale, section.bias, section.linear, query))

    def _fine(self, units: Prepared, p: array[int]) -> Routed:
        """Of the blocks of the `beam` regions of largest p, the lower number first among equals."""
        regions = self.section.regions
        assert regions is not None
        best = sorted(sorted(range(len(p)), key=lambda r: (-p[r], r))[: regions.beam])
        blocks = array("I")
        for r in best:
            blocks.extend(self._regions[r][0])
        parts = [self._regions[r][1] for r in best]
        return Routed(mixture(units, parts, self.section.output, self.section.units), blocks)


def _parts(section: MlpSection) -> list[tuple[array[int], Part]]:
    """Of each region: its blocks, and what the output layer has of them."""
    regions, output = section.regions, section.output
    assert regions is not None
    stride = LseSection.stride(output.bits, section.units)
    parts: list[tuple[array[int], Part]] = []
    for first, end in pairwise(regions.first_block):
        low, high = first * output.subs, end * output.subs
        part = output.scale[low:high], output.weight[low:high], output.table[low * stride : high * stride]
        parts.append((array("I", range(first, end)), part))
    return parts
