"""Where rows that come after the fit lie: their home blocks, and copies as rows of the fit have them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import LENGTH_MAX, RouterSection

from .blocks.copies import COPY_RULES, Copies
from .blocks.layout import index_section
from .blocks.partition import Partition, homes
from .ingest.rows import F32, Rows
from .simulate.edge import prepare_rows, probabilities

MEASURED_ROWS = 20_000  # of those that were fitted: how near they lie to their centres, which of them have copies

I32 = npt.NDArray[np.int32]


class CopyRule(NamedTuple):
    """name: of COPY_RULES. most: copies of a row. worth: a copy that is worth no more (of Copies) is not made."""

    name: str
    most: int
    worth: float


def rule_name(copies: str | None) -> str:
    """The rule for rows that come later, of an index built by one: new rows have no queries that could miss them."""
    return "soar" if copies in (None, "misses") else copies


def check_lengths(rows: Rows) -> None:
    """Raises InputError for rows that are so long that the scores of an index in this scale cannot hold them."""
    limit = LENGTH_MAX.get(rows.metric)
    if limit is None:
        return
    [long] = np.nonzero(np.linalg.norm(rows.slice(0, rows.count), axis=1) > limit)
    if len(long):
        first = rows.stored.ids(long[:1])[0]
        named = repr(first.decode(errors="replace") if isinstance(first, bytes) else int(first))
        raise InputError(
            f"vectors over {limit:g} times as long as those of the fit: that of row {named[:80]}, {len(long)} in all",
            hint="delete or replace them, or build all rows anew: `vantage compact --rebuild`, or fit again",
        )


def find_homes(rows: Rows, centres: F32, router: str, section: RouterSection) -> I32:
    """i32 (n): the block of the nearest centre (B, d); where the router is one of words, that of the row's word."""
    if router not in ("ecvh", "bec-tree"):
        return homes(rows, centres)
    index = index_section(rows, len(centres), rows.count, router)
    p = probabilities(router, section, index, prepare_rows(rows, np.arange(rows.count)))
    out: I32 = p.argmax(1).astype(np.int32)
    return out


def find_copies(rows: Rows, home: I32, centres: F32, rule: CopyRule) -> I32:
    """i32 (n, most): blocks of copies, -1 for none: where rows of the fit would have them too."""
    if not rule.most or len(centres) == 1:
        return np.full((len(home), rule.most), -1, np.int32)
    copies = _possible(rows, home, centres, rule.name)
    return np.where(copies.order(rule.most) <= rule.worth, copies.block[:, : rule.most], np.int32(-1))


def copy_rule(rows: Rows, home: I32, copies: npt.NDArray[np.integer], most: int, centres: F32, name: str) -> CopyRule:
    """The rule of fitted rows that have so many copies (n) each, at most `most`: their largest worth where as many are
    made.
    """
    worst, copied = -np.inf, int(copies.sum())
    if copied and len(centres) > 1:
        worth = np.sort(_possible(rows, home, centres, name).order(most).ravel())
        worst = float(worth[min(copied, int(np.isfinite(worth).sum())) - 1])
    return CopyRule(name, most, worst)


def _possible(rows: Rows, home: I32, centres: F32, name: str) -> Copies:
    return COPY_RULES[name](rows, Partition(centres, home))
