"""tree: nodes that split their probability over three children."""

from __future__ import annotations

from array import array

from ... import kernels
from ...format import NO_CHILD, TREE_UNITS, TREE_WAYS, IndexSection, LseSection, TreeSection
from ..prepare import Prepared
from .common import Resident, Routed, hidden_units


class TreeRouter(Resident):
    """From the root down, the `beam` most probable nodes of each level split their probability over their children."""

    def __init__(self, section: TreeSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        self._stride = LseSection.stride(section.bits, index.dimension) * TREE_UNITS

    def probabilities(self, query: Prepared) -> Routed:
        leaf: dict[int, float] = {}  # block -> probability, in units of 2^-20
        level = [(float(1 << 20), 0)]
        while level:
            below: list[tuple[float, int]] = []
            for whole, node in level:
                at = node * TREE_WAYS
                for child, p in zip(self.section.child[at : at + TREE_WAYS], self._split(query, node), strict=True):
                    if child >= 0:
                        below.append((whole * p / (1 << 20), child))
                    elif child != NO_CHILD:
                        leaf[-1 - child] = whole * p / (1 << 20)
            level = sorted(below, key=lambda one: (-one[0], one[1]))[: self.section.beam]
        blocks = sorted(leaf)
        return Routed(array("I", [int(leaf[b] + 0.5) for b in blocks]), array("I", blocks))

    def _split(self, query: Prepared, node: int) -> array[int]:
        """Probabilities of the children of a node, in units of 2^-20."""
        section, first, at = self.section, node * TREE_UNITS, node * TREE_WAYS
        dots, sums = array("i", bytes(4 * TREE_UNITS)), array("i", bytes(4 * TREE_WAYS))
        table = section.table[node * self._stride : (node + 1) * self._stride]
        self._matvec(query.i16, table, TREE_UNITS, self.index.dimension, dots)
        units = slice(first, first + TREE_UNITS)
        hidden = hidden_units(dots, section.scale[units], section.bias[units], 0, query)
        kernels.matvec_i8(hidden, section.out[at * TREE_UNITS :], TREE_WAYS, TREE_UNITS, sums)
        out, scratch, ways = array("I", bytes(4 * TREE_WAYS)), bytearray(4 * TREE_WAYS), slice(at, at + TREE_WAYS)
        kernels.block_probabilities(
            sums, section.out_scale[ways], section.out_weight[ways], 1, query.i16_scale,
            query.sharpness * section.temperature, out, scratch,
        )  # fmt: skip
        return out
