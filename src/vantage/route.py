"""Query -> probability of each block that it holds answers. One class a router, one interface, one table."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from typing import Any, Protocol

from . import kernels
from .errors import DamagedError
from .format import (
    NO_CHILD,
    TREE_UNITS,
    TREE_WAYS,
    EcvhSection,
    IndexSection,
    LseSection,
    MlpSection,
    TreeSection,
    TwoLevelSection,
    aligned,
)
from .prepare import Prepared

PAGES_BYTES_MAX = 4 << 20  # of routing.bin, in one read
UNIT_MAX = 32767  # a hidden unit, in the query's integers
SCALE_MIN = 1e-25  # of a query's integers: below it a bias of 1e9 is no finite number of them


@dataclass(frozen=True)
class Routed:
    """p u32: probability in units of 2^-20 of each of `blocks` (ascending), or of every block when that is None."""

    p: array[int]
    blocks: array[int] | None = None


class Router(Protocol):
    """What Index needs of a router."""

    def route(self, query: Prepared) -> Routed: ...


class LseRouter:
    """Sub-centroids with log-sum-exp: a block is as probable as the mixture of its parts says."""

    def __init__(self, section: LseSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8

    def route(self, query: Prepared) -> Routed:
        section, n = self.section, len(self.section.scale)
        dots, scratch = array("i", bytes(4 * n)), bytearray(4 * n)
        out = array("I", bytes(4 * self.index.blocks))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        alpha = section.beta * query.i16_scale
        kernels.block_probabilities(
            dots, section.scale, section.weight, section.subs, alpha, section.temperature, out, scratch
        )
        return Routed(out)


class TwoLevelRouter:
    """Probabilities of the blocks of one contiguous range of regions; the blocks of the others are left out."""

    def __init__(self, section: TwoLevelSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._regions = LseRouter(section.regions, replace(index, blocks=len(section.size)))
        self._flags = bytearray(len(section.size))

    def pages(self, query: Prepared) -> range:
        """The pages worth their bytes: the best single range by probability of the region minus price times bytes.

        No more than PAGES_BYTES_MAX of it, around the most probable region.
        """
        section, p = self.section, self._regions.route(query).p
        out, scratch = array("I", bytes(8)), bytearray(2 * len(p))
        if not kernels.plan_ranges(p, section.size, self._flags, section.price, 1, out, scratch):
            best = max(range(len(p)), key=p.__getitem__)
            return range(best, best + 1)
        first, end = out[0], out[1]
        if section.offset[end - 1] + section.size[end - 1] - section.offset[first] <= PAGES_BYTES_MAX:
            return range(first, end)
        low = max(range(first, end), key=p.__getitem__)
        high, nbytes = low + 1, section.size[low]
        while first < low or high < end:  # the more probable neighbour, while there is room for it
            below, above = p[low - 1] if first < low else -1, p[high] if high < end else -1
            nbytes += section.size[low - 1 if below >= above else high]
            if nbytes > PAGES_BYTES_MAX or max(below, above) <= 0:
                break
            low, high = (low - 1, high) if below >= above else (low, high + 1)
        return range(low, high)

    def route(self, query: Prepared, pages: Mapping[int, bytes | memoryview] | None = None) -> Routed:
        """pages: consecutive ones, verified, by number; None takes them from the builder's memory, and where that
        has none, spreads the probability of each region evenly over its blocks.

        Their blocks share the whole probability: what other regions may hold is for the contract to have measured.
        Raises DamagedError where a page holds numbers that are not finite.
        """
        section = self.section
        if pages is None and not section.pages:
            return self._by_region(query)
        if pages is None:
            pages = {
                r: section.pages[section.offset[r] : section.offset[r] + section.size[r]] for r in self.pages(query)
            }
        dots, scale, weight = array("i"), bytearray(), bytearray()
        matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        numbers = sorted(pages)
        for r in numbers:
            page = memoryview(pages[r])
            n = (section.first_block[r + 1] - section.first_block[r]) * section.subs
            some = array("i", bytes(4 * n))
            matvec(query.i16, page[8 * n :], n, self.index.dimension, some)
            dots.extend(some)
            scale += page[: 4 * n]
            weight += page[4 * n : 8 * n]
        first, end = section.first_block[numbers[0]], section.first_block[numbers[-1] + 1]
        p, scratch = array("I", bytes(4 * (end - first))), bytearray(len(scale))
        alpha = section.beta * query.i16_scale
        try:
            kernels.block_probabilities(dots, scale, weight, section.subs, alpha, section.temperature, p, scratch)
        except ValueError as error:
            raise DamagedError(f"routing.bin: {error}", hint="build the index again") from None
        return Routed(p, array("I", range(first, end)))

    def _by_region(self, query: Prepared) -> Routed:
        out, first = array("I"), self.section.first_block
        for r, p in enumerate(self._regions.route(query).p):
            blocks = first[r + 1] - first[r]
            out.extend([p // blocks] * blocks)
        return Routed(out)


class MlpRouter:
    """A hidden layer, and an lse router over its units in the place of the query."""

    def __init__(self, section: MlpSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        self._output = LseRouter(section.output, replace(index, dimension=section.units))

    def route(self, query: Prepared) -> Routed:
        section, dots = self.section, array("i", bytes(4 * self.section.units))
        self._matvec(query.i16, section.table, section.units, self.index.dimension, dots)
        hidden = _hidden(dots, section.scale, section.bias, section.linear, query)
        return self._output.route(replace(query, i16=hidden))


class TreeRouter:
    """From the root down, the `beam` most probable nodes of each level split their probability over their children."""

    def __init__(self, section: TreeSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        self._matvec = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8
        self._stride = LseSection.stride(section.bits, index.dimension) * TREE_UNITS

    def route(self, query: Prepared) -> Routed:
        found: dict[int, float] = {}  # block -> probability, in units of 2^-20
        level = [(float(1 << 20), 0)]
        while level:
            below: list[tuple[float, int]] = []
            for whole, node in level:
                at = node * TREE_WAYS
                for child, p in zip(self.section.child[at : at + TREE_WAYS], self._split(query, node), strict=True):
                    if child >= 0:
                        below.append((whole * p / (1 << 20), child))
                    elif child != NO_CHILD:
                        found[-1 - child] = whole * p / (1 << 20)
            level = sorted(below, key=lambda one: (-one[0], one[1]))[: self.section.beam]
        blocks = sorted(found)
        return Routed(array("I", [int(found[b] + 0.5) for b in blocks]), array("I", blocks))

    def _split(self, query: Prepared, node: int) -> array[int]:
        """Probabilities of the children of a node, in units of 2^-20."""
        section, first, at = self.section, node * TREE_UNITS, node * TREE_WAYS
        dots, sums = array("i", bytes(4 * TREE_UNITS)), array("i", bytes(4 * TREE_WAYS))
        table = section.table[node * self._stride : (node + 1) * self._stride]
        self._matvec(query.i16, table, TREE_UNITS, self.index.dimension, dots)
        units = slice(first, first + TREE_UNITS)
        hidden = _hidden(dots, section.scale[units], section.bias[units], 0, query)
        kernels.matvec_i8(hidden, section.out[at * TREE_UNITS :], TREE_WAYS, TREE_UNITS, sums)
        out, scratch, ways = array("I", bytes(4 * TREE_WAYS)), bytearray(4 * TREE_WAYS), slice(at, at + TREE_WAYS)
        kernels.block_probabilities(
            sums, section.out_scale[ways], section.out_weight[ways], 1, query.i16_scale, section.temperature, out,
            scratch,
        )  # fmt: skip
        return out


class EcvhRouter:
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

    def route(self, query: Prepared) -> Routed:
        section, n = self.section, len(self.section.scale)
        dots = array("i", bytes(4 * n))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        margins = _hidden(dots, section.scale, section.bias, n, query) + self._padding
        return self._output.route(replace(query, i16=margins))


def _hidden(dots: array[int], scale: memoryview, bias: memoryview, linear: int, query: Prepared) -> array[int]:
    """i16 of hidden units from their dots: the first `linear` signed, others at least 0, none past the query's norm.

    They are in the query's integers and share its scale. Of a query of all zeros nothing is left.
    """
    unit = 1.0 / query.i16_scale if query.i16_scale > SCALE_MIN else 0.0
    values = [s * dot + b * unit for s, dot, b in zip(scale, dots, bias, strict=True)]
    return _rounded(values[:linear], -UNIT_MAX) + _rounded(values[linear:], 0)


def _rounded(values: list[float], low: int) -> array[int]:
    """i16 (n): halves up, cut at low and UNIT_MAX."""
    return array("h", [low if v <= low else floor(v + 0.5) if v < UNIT_MAX else UNIT_MAX for v in values])


ROUTERS: dict[str, Any] = {
    "centroids": LseRouter,
    "lse": LseRouter,
    "trained": LseRouter,
    "two-level": TwoLevelRouter,
    "mlp": MlpRouter,
    "tree": TreeRouter,
    "ecvh": EcvhRouter,
}
