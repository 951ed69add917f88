"""two-level: the page of a region of queries names the blocks."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import DamagedError
from ...format import EcvhSection, IndexSection, TwoLevelSection
from ...read.gather import Span
from ...read.waves import Item, Steps, Wave
from ..prepare import Prepared
from .common import Page, Routed, mixture
from .ecvh import EcvhRouter
from .lse import LseRouter

if TYPE_CHECKING:
    from ..run import Run
    from ..segment import Segment

OBJECT = "routing.bin"


class TwoLevelRouter:
    """Probabilities of the blocks that one page names: those that queries of the same region want."""

    def __init__(self, section: TwoLevelSection, index: IndexSection) -> None:
        self.section, self.index, self.pages = section, index, len(section.size)
        inner = replace(index, blocks=self.pages)
        regions = section.regions
        self._regions = EcvhRouter(regions, inner) if isinstance(regions, EcvhSection) else LseRouter(regions, inner)

    def page(self, query: Prepared) -> int:
        """The page of the most probable region, the lower one among equals."""
        p = self._regions.probabilities(query).p
        return max(range(len(p)), key=p.__getitem__)

    def probabilities(self, query: Prepared, page: memoryview | None = None) -> Routed:
        """page: the one of this query, verified; None takes it from the builder's memory, and names no block without.

        The blocks share the whole probability: what others may hold is for the contract to have measured.
        Raises DamagedError where a page holds numbers that are not finite, or blocks that do not exist.
        """
        section = self.section
        if page is None:
            if not section.pages:
                return Routed(array("I"), array("I"))
            r = self.page(query)
            page = section.pages[section.offset[r] : section.offset[r] + section.size[r]]
        blocks, scale, weight, table = section.columns(page, self.index, OBJECT)
        try:
            return Routed(mixture(query, [(scale, weight, table)], section, self.index.dimension), array("I", blocks))
        except ValueError as error:
            raise DamagedError(f"{OBJECT}: {error}", hint="build the index again") from None

    def peek(self, query: Prepared, segment: Segment) -> tuple[Routed, Page | None]:
        number = self.page(query)
        page = segment.page(number)
        if page is not None:
            return self.probabilities(query, page), None
        section = self.section
        offset, size, crc = section.offset[number], section.size[number], section.crc[number]
        item = Item(segment.key(OBJECT), offset, size, section.nbytes, crc, f"page {number}")
        return Routed(array("I"), array("I"), complete=False), Page(number, item)

    def route(self, run: Run) -> Steps[Routed]:
        """Reads the page unless it is cached; a budget without room for that and one read after it names no block."""
        routed, page = self.peek(run.prepared, run.segment)
        left = run.left()
        if page is None or left.gets < 2 or left.waves < 2 or left.bytes < page.item.size:
            return routed
        item, data = page.item, bytearray()
        span = Span(item.key, item.offset, item.size, [0])
        if not (yield Wave([item], [span], lambda _, views: data.extend(views[0]), hot=True)):
            return routed
        run.segment.keep_page(page.number, memoryview(data))
        return self.probabilities(run.prepared, memoryview(data))
