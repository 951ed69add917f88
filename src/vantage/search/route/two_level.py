"""two-level: the page of a region of queries names the blocks."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

from ...errors import DamagedError
from ...format import EcvhSection, IndexSection, TwoLevelSection
from ..prepare import Prepared
from .common import Routed, mixture
from .ecvh import EcvhRouter
from .lse import LseRouter


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
            return Routed(mixture(query, [(scale, weight, table)], section, self.index.dimension), array("I", blocks))
        except ValueError as error:
            raise DamagedError(f"routing.bin: {error}", hint="build the index again") from None
