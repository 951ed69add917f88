"""Where rows near a query are dead or superseded: how much farther it has to look for those that count."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .plan import READ_ALL
from .rank import best_first, rank_estimated
from .run import Run
from .scan import Contender, Scan

# A query is asked for more where so many times as many rows, and so many more, lie before the last that it wants as do
# in the mean: prices were measured beside the rows that are dead.
DEEPER, DEEPER_ROWS = 1.5, 4


def depth_of(run: Run, scan: Scan, best: Sequence[Contender]) -> int:
    """How many rows of the generation, those that answer nothing too, a query asks for that wants top_k: itself where
    few are lost. best: of the scan. Rows in the log take places of theirs.
    """
    top_k, prepared, segment = run.query.top_k, run.prepared, run.segment
    lost = scan.lost()
    if not lost or prepared.distinct is not None:
        return top_k
    index = segment.root.index
    found = rank_estimated(list(best), prepared, index, top_k)
    if (fresh := segment.fresh) is not None:
        found = fresh.merged(found, prepared, top_k, run.query.without, fresh.taken(prepared.selection))
    every = best_first([*rank_estimated(lost, prepared, index, len(lost)), *found], index)
    rows = {c.row for c in lost}
    before, left = 0, len(found) if len(found) == top_k else -1  # all that are lost lie before the last of too few
    for match in every:
        before += match.row in rows
        left -= match.row not in rows
        if not left:
            break
    depth = before + sum(match.contender is not None for match in found)
    return depth if depth > DEEPER * top_k / (segment.live_share or 1) + DEEPER_ROWS else top_k


def price_for(price: int, top_k: int, depth: int) -> int:
    """At which a query reads for `depth` rows, of that at which it does for top_k: bytes grow about as the cube root of
    k, and as the price falls to the power of two thirds.
    """
    return max(READ_ALL, int(price * math.sqrt(top_k / depth)))
