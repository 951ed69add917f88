"""A query at work in a segment: what it asks, what it may still spend, what it has done; and what a source hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..cost import Budget
from ..read.waves import Steps
from ..receipt import Receipt
from .filtered import Matched
from .prepare import Prepared
from .query import Query
from .scan import BlockIds, Contender
from .segment import Segment


@dataclass
class Run:
    """One query at work. Sources, scores and attributes take from one budget, and count in one receipt.

    receipt: what the query wanted to read, as if alone. block_ids: shared by a batch. done: extents scanned, by their
    numbers in the directory of the query.
    """

    query: Query
    prepared: Prepared
    segment: Segment
    budget: Budget
    receipt: Receipt
    block_ids: BlockIds
    done: set[int] = field(default_factory=set)

    @property
    def wanted(self) -> int:
        """Matches that the answer is to have, if there are as many: with distinct, no more than there are values."""
        root, distinct = self.segment.root, self.prepared.distinct
        if distinct is None:
            return self.query.top_k
        field = root.filters[distinct]
        return min(self.query.top_k, field.distinct + (field.rows < root.live_rows))

    def left(self, reserved: int = 0) -> Budget:
        """What it may still spend, with `reserved` GETs and waves kept for later."""
        return self.receipt.left_of(self.budget, reserved)


@dataclass(frozen=True)
class Candidates:
    """Contenders of a source, best first, for score and attach to make an answer of.

    rerank: so many of the first get exact scores, and the answer is of those; 0: none. complete is False where the
    budget or the time cut what was to be read. recall: the recall@top_k to expect, None where it is not known;
    recall_unranked(): the same without exact scores. vectors: full ones by row, as far as they were read already.
    attributes(contenders): as Scan.attributes, where they were read with the blocks. matched: rows that the filter
    takes, None without one.
    """

    contenders: list[Contender]
    rerank: int
    complete: bool
    recall: float | None
    recall_unranked: Callable[[], float | None]
    vectors: dict[int, bytes] = field(default_factory=dict)
    attributes: Callable[[list[Contender]], Iterator[tuple[int, str, bytes]]] | None = None
    matched: Matched | None = None


Source = Callable[[Run], Steps[Candidates]]
