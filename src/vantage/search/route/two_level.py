"""two-level: the pages of the nearest regions of queries name the blocks."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from heapq import nsmallest
from itertools import chain
from typing import TYPE_CHECKING

from ...errors import DamagedError
from ...format import Cursor, EcvhSection, IndexSection, TwoLevelSection, check_prices, joined
from ...read.gather import Span
from ...read.waves import Item, Steps, Wave
from ..prepare import Prepared
from .common import PROBABILITY_BITS, Page, Routed, mixture
from .ecvh import EcvhRouter
from .lse import LseRouter

if TYPE_CHECKING:
    from ..run import Run
    from ..segment import Segment


class TwoLevelRouter:
    """Probabilities of the blocks that a few pages name: those that queries of the same regions want."""

    def __init__(self, section: TwoLevelSection, index: IndexSection) -> None:
        self.section, self.index = section, index
        inner = replace(index, blocks=len(section.size))
        regions = section.regions
        self._regions = EcvhRouter(regions, inner) if isinstance(regions, EcvhSection) else LseRouter(regions, inner)

    def pages(self, query: Prepared) -> list[int]:
        """The pages of the most probable regions, best first, the lower one among equals."""
        p = self._regions.probabilities(replace(query, sharpness=1.0)).p
        return nsmallest(min(self.section.beam, len(p)), range(len(p)), key=lambda r: (-p[r], r))

    def probabilities(
        self, query: Prepared, pages: Mapping[int, memoryview] | None = None, segment: Segment | None = None
    ) -> Routed:
        """pages: those of this query by their numbers, the best first, verified, with the directories of `segment`;
        None takes them from the builder's memory, which have none, and names no block without.

        Their blocks share the whole probability: what others may hold is for the contract to have measured. A block
        that several pages name counts once. Raises DamagedError where a page holds numbers that are not finite, or
        blocks that do not exist.
        """
        section = self.section
        if pages is None:
            if not section.pages:
                return Routed(array("I"), array("I"))
            pages = {r: memoryview(section.pages[r]) for r in self.pages(query)}
        keys = [f"{segment.keys[section.object[r]]}, " if segment else "" for r in pages]
        labels = [f"{key}page {r}" for key, r in zip(keys, pages, strict=True)]
        every = f"{keys[0]}page {', '.join(map(str, pages))}"
        cursors = [Cursor(page, label) for page, label in zip(pages.values(), labels, strict=True)]
        columns = [section.columns(cursor, self.index) for cursor in cursors]
        try:
            p = mixture(query, [column[1:] for column in columns], section, self.index.dimension)
        except ValueError as error:
            raise DamagedError(f"{every}: {error}", hint="build the index again") from None
        directory = None
        if segment is not None and segment.resident is None:
            sizes, count = segment.root.objects.sizes, len(segment.root.renditions)
            own = [
                section.directory(cursor, column[0], count, sizes)
                for cursor, column in zip(cursors, columns, strict=True)
            ]
            directory = joined(own, sizes, every)
            check_prices(segment.root, directory, every)
        if len(columns) == 1:
            return Routed(p, array("I", columns[0][0]), directory)
        p_of: dict[int, int] = {}
        again = 0
        for block, value in zip(chain.from_iterable(column[0] for column in columns), p, strict=True):
            if block in p_of:
                again += value
            else:
                p_of[block] = value
        blocks = sorted(p_of)
        whole = max(1, sum(p) - again)
        return Routed(
            array("I", [(p_of[b] << PROBABILITY_BITS) // whole for b in blocks]), array("I", blocks), directory
        )

    def logits(self, query: Prepared) -> None:
        """None: pages know their blocks alone."""
        return None

    def peek(self, query: Prepared, segment: Segment) -> tuple[Routed, list[Page]]:
        section, held, lacking = self.section, dict[int, memoryview](), list[Page]()
        for r in self.pages(query):
            number, offset = section.object[r], section.offset[r]
            page = segment.part(number, offset)
            if page is not None:
                held[r] = page
                continue
            item = Item(
                segment.keys[number], offset, section.size[r], segment.root.objects.sizes[number], section.crc[r],
                f"routing page {r}",
            )  # fmt: skip
            lacking.append(Page(r, number, item))
        if lacking:
            return Routed(array("I"), array("I"), complete=False), lacking
        return self.probabilities(query, held, segment), []

    def route(self, run: Run) -> Steps[Routed]:
        """Reads the pages unless they are cached; a budget without room for them and one read more names no block."""
        routed, lacking = self.peek(run.prepared, run.segment)
        left, segment = run.left(), run.segment
        nbytes = sum(page.item.size for page in lacking)
        if not lacking or left.gets < 1 + len(lacking) or left.waves < 2 or left.bytes < nbytes:
            return routed
        items = [page.item for page in lacking]
        read: dict[int, bytes] = {}

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for n, view in zip(numbers, views, strict=True):
                read[lacking[n].number] = bytes(view)
                segment.cache.put(items[n].key, items[n].offset, view)

        spans = [Span(item.key, item.offset, item.size, [n]) for n, item in enumerate(items)]
        if not (yield Wave(items, spans, use, hot=True)):
            return routed
        pages = dict[int, memoryview]()
        for r in self.pages(run.prepared):
            page = memoryview(read[r]) if r in read else segment.part(self.section.object[r], self.section.offset[r])
            if page is None:  # thrown out meanwhile
                return routed
            pages[r] = page
        return self.probabilities(run.prepared, pages, segment)
