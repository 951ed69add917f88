"""Query -> probability of each block that it holds answers. One class a router, one interface, one table."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, floor, log1p
from typing import Any, Protocol

from . import kernels
from .errors import DamagedError
from .format import (
    NO_CHILD,
    TREE_UNITS,
    TREE_WAYS,
    BecTreeSection,
    EcvhSection,
    IndexSection,
    LseSection,
    MlpSection,
    TreeSection,
    TwoLevelSection,
    aligned,
)
from .prepare import Prepared

Part = tuple[memoryview, memoryview, memoryview]  # of a table of sub-centroids: scale, weight, rows
UNIT_MAX = 32767  # a hidden unit, in the query's integers
MARGIN_UNIT = 1 << 10  # of a margin's logit, as an integer
MARGIN_MAX = 30 * MARGIN_UNIT  # as an integer: both columns of a bit fit i16
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
    """Probabilities of the blocks that one page names: those that queries of the same region want."""

    def __init__(self, section: TwoLevelSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        over: Any = EcvhRouter if isinstance(section.regions, EcvhSection) else LseRouter
        self._regions = over(section.regions, replace(index, blocks=len(section.size)))

    def page(self, query: Prepared) -> int:
        """The page of the most probable region, the lower one among equals."""
        p = self._regions.route(query).p
        return max(range(len(p)), key=p.__getitem__)

    def route(self, query: Prepared, page: memoryview | None = None) -> Routed:
        """page: the one of this query, verified; None takes it from the builder's memory, and names no block without.

        The blocks share the whole probability: what others may hold is for the contract to have measured.
        Raises DamagedError where a page holds numbers that are not finite, or blocks that there are not.
        """
        section = self.section
        if page is None:
            if not section.pages:
                return Routed(array("I"), array("I"))
            r = self.page(query)
            page = section.pages[section.offset[r] : section.offset[r] + section.size[r]]
        blocks, scale, weight, table = section.columns(page, self.index, "routing.bin")
        try:
            return Routed(_mixture(query, [(scale, weight, table)], section, self.index.dimension), array("I", blocks))
        except ValueError as error:
            raise DamagedError(f"routing.bin: {error}", hint="build the index again") from None


class MlpRouter:
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

    def route(self, query: Prepared) -> Routed:
        section, dots = self.section, array("i", bytes(4 * self.section.units))
        self._matvec(query.i16, section.table, section.units, self.index.dimension, dots)
        units = replace(query, i16=_hidden(dots, section.scale, section.bias, section.linear, query))
        return self._output.route(units) if self._head is None else self._fine(units, self._head.route(units).p)

    def _fine(self, units: Prepared, p: array[int]) -> Routed:
        """Of the blocks of the `beam` regions of largest p, the lower number first among equals."""
        regions = self.section.regions
        assert regions is not None
        best = sorted(sorted(range(len(p)), key=lambda r: (-p[r], r))[: regions.beam])
        blocks = array("I")
        for r in best:
            blocks.extend(self._regions[r][0])
        parts = [self._regions[r][1] for r in best]
        return Routed(_mixture(units, parts, self.section.output, self.section.units), blocks)


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


def _parts(section: MlpSection) -> list[tuple[array[int], Part]]:
    """Of each region: its blocks, and what the output layer has of them."""
    regions, output = section.regions, section.output
    assert regions is not None
    stride, found = LseSection.stride(output.bits, section.units), []
    for first, end in pairwise(regions.first_block):
        low, high = first * output.subs, end * output.subs
        part = output.scale[low:high], output.weight[low:high], output.table[low * stride : high * stride]
        found.append((array("I", range(first, end)), part))
    return found


def _mixture(query: Prepared, parts: list[Part], section: LseSection | TwoLevelSection, dimension: int) -> array[int]:
    """p of the blocks of all parts, in turn, as if there were no others."""
    scale, weight, at = bytearray(), bytearray(), 0
    dots = array("i", bytes(sum(part_scale.nbytes for part_scale, _, _ in parts)))
    matvec, free = kernels.matvec_i4 if section.bits == 4 else kernels.matvec_i8, memoryview(dots)
    for part_scale, part_weight, table in parts:
        n = part_scale.nbytes // 4
        matvec(query.i16, table, n, dimension, free[at : at + n])
        at += n
        scale += part_scale
        weight += part_weight
    p, scratch = array("I", bytes(4 * (len(dots) // section.subs))), bytearray(len(scale))
    alpha = section.beta * query.i16_scale
    kernels.block_probabilities(dots, scale, weight, section.subs, alpha, section.temperature, p, scratch)
    return p


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


class BecTreeRouter:
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

    def route(self, query: Prepared) -> Routed:
        section, n = self.section, len(self.section.scale)
        dots = array("i", bytes(4 * n))
        self._matvec(query.i16, section.table, n, self.index.dimension, dots)
        columns = zip(section.scale, dots, section.bias, strict=True)
        margins = [_margin(scale * (dot * query.i16_scale) + bias) for scale, dot, bias in columns]
        both = array("h", margins + [abs(m) + _unsure(m) for m in margins]) + self._padding
        return self._output.route(replace(query, i16=both, i16_scale=1.0))


def _margin(logit: float) -> int:
    """In units of 2^-10, halves up."""
    return floor(min(max(logit * MARGIN_UNIT, -MARGIN_MAX), MARGIN_MAX) + 0.5)


def _unsure(margin: int) -> int:
    """2 log(1 + exp(-|m|)) in units of 2^-10: no value lies so near a half that two correct libraries disagree."""
    return floor(2 * MARGIN_UNIT * log1p(exp(-abs(margin) / MARGIN_UNIT)) + 0.5)


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
    "two-level-ecvh": TwoLevelRouter,
    "bec-tree": BecTreeRouter,
}
