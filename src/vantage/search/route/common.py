"""What routers share: their protocol, mixtures of sub-centroids, hidden units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ... import kernels
from ...format import Directory, LseSection, TwoLevelSection
from ...read.waves import Item, Steps
from ..prepare import Prepared

if TYPE_CHECKING:
    from ..run import Run
    from ..segment import Segment

Part = tuple[memoryview, memoryview, memoryview]  # of a table of sub-centroids: scale, weight, rows
PROBABILITY_BITS = 20  # Routed.p is in units of 2^-20
UNIT_MAX = 32767  # a hidden unit, in the query's integers
SCALE_MIN = 1e-25  # of a query's integers: below it a bias of 1e9 is no finite number of them


@dataclass(frozen=True)
class Routed:
    """p u32: probability in units of 2^-20 of each of `blocks` (ascending), or of every block when that is None.

    directory: of the blocks, where a routing page has it; None where the root does. complete: False where the router
    had to read and could not, so that it names no block.
    """

    p: array[int]
    blocks: array[int] | None = None
    directory: Directory | None = None
    complete: bool = True

    def dense(self, count: int) -> array[int]:
        """p of all `count` blocks."""
        p = array("I", bytes(4 * count))
        for b, value in zip(range(count) if self.blocks is None else self.blocks, self.p, strict=True):
            p[b] = value
        return p

    def floored(self, count: int) -> Routed:
        """Of all `count`, those without a probability at the least one."""
        p = array("I", [1]) * count
        for b, value in zip(range(count) if self.blocks is None else self.blocks, self.p, strict=True):
            p[b] = value or 1
        return Routed(p, None, self.directory, self.complete)


class Page(NamedTuple):
    """A routing page, by its number, and where its bytes are."""

    number: int
    object: int
    item: Item


class Router(Protocol):
    """A query's vector -> the probability of each block, as sharp as the query says. It reads what that takes."""

    def route(self, run: Run) -> Steps[Routed]:
        """The probabilities, read where that takes a read."""

    def peek(self, query: Prepared, segment: Segment) -> tuple[Routed, list[Page]]:
        """What it says without a read, and what `route` would read first; nothing where all of it is in memory."""

    def logits(self, query: Prepared) -> array[float] | None:
        """f32 (B): of every block, before any temperature, -inf for one that it never names; None where it gives none.

        Unlike probabilities they tell blocks apart that are far from the query.
        """


class Resident(ABC):
    """A router that is in the root, all of it: it reads nothing."""

    @abstractmethod
    def probabilities(self, query: Prepared) -> Routed:
        """Of every block, or of those that the router names."""

    def route(self, run: Run) -> Steps[Routed]:
        return self.probabilities(run.prepared)
        yield  # never reached: it makes these steps that read nothing

    def peek(self, query: Prepared, segment: Segment) -> tuple[Routed, list[Page]]:
        return self.probabilities(query), []

    def logits(self, query: Prepared) -> array[float] | None:
        return None


def mixture(query: Prepared, parts: list[Part], section: LseSection | TwoLevelSection, dimension: int) -> array[int]:
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
    temperature = query.sharpness * section.temperature
    kernels.block_probabilities(dots, scale, weight, section.subs, alpha, temperature, p, scratch)
    return p


def hidden_units(dots: array[int], scale: memoryview, bias: memoryview, linear: int, query: Prepared) -> array[int]:
    """i16 of hidden units from their dots: the first `linear` signed, others at least 0, none past the query's norm.

    They are in the query's integers and share its scale. Of a query of all zeros nothing is left.
    """
    unit = 1.0 / query.i16_scale if query.i16_scale > SCALE_MIN else 0.0
    values = [s * dot + b * unit for s, dot, b in zip(scale, dots, bias, strict=True)]
    return _rounded(values[:linear], -UNIT_MAX) + _rounded(values[linear:], 0)


def _rounded(values: list[float], low: int) -> array[int]:
    """i16 (n): halves up, cut at low and UNIT_MAX."""
    return array("h", [low if v <= low else floor(v + 0.5) if v < UNIT_MAX else UNIT_MAX for v in values])
