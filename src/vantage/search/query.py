"""A question and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..cost import Budget
from ..receipt import Receipt
from .filtered import Matched
from .rank import Match
from .rows import ATTRIBUTES_BYTES_MAX

TOP_K_MAX = 1000
DISTINCT_NEAREST = 4  # rows of a value among the nearest, that are planned for


@dataclass(frozen=True)
class Query:
    """One question, by a vector or by the id of a row, which is left out of its answer.

    recall None: the contract's target. rerank 0: exact scores only where the recall takes them.
    filter: rows that may answer, as JSON has it (vantage.filter.parse); None: all.
    exact: the best of the whole index, proven; complete is False where the budget ended before that.
    """

    vector: Any
    top_k: int = 10
    recall: float | None = None
    rerank: int = 0
    attributes: bool = False
    vectors: bool = False
    budget: Budget = field(default_factory=Budget)
    without: int | None = None  # a row that is left out of the answer: the query itself
    param: str = "vector"  # what errors call the vector
    exact: bool = False
    id: int | bytes | None = None  # then vector and without are found; their two GETs are not in the budget
    room: int = ATTRIBUTES_BYTES_MAX  # for attributes; a batch shares it
    filter: Any = None
    distinct: str | None = None  # an attribute: the best row of each of its values

    @property
    def nearest(self) -> int:
        """Rows that plans look for: with distinct more than are answered."""
        return self.top_k if self.distinct is None else min(TOP_K_MAX, DISTINCT_NEAREST * self.top_k)


@dataclass(frozen=True)
class Answer:
    """matches best first; exact says what their scores are; complete is False when a budget cut something.

    matched: rows that the filter takes, None without one.
    """

    matches: list[Match]
    exact: bool
    complete: bool
    recall_estimate: float | None
    receipt: Receipt
    matched: Matched | None = None
