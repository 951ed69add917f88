"""The verified source: the nearest rows, whatever they have, and of these the ones that a filter takes.

For filters that take a good part of all rows by attributes that blocks lack: nearly all chunks of their projection
would be read, while some more rows of the blocks, with their attributes, cost little.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..cost import wave_ms
from ..filter.row import takes
from ..format import Root
from ..read.waves import Steps
from .filtered import Matched, Selection
from .query import Query
from .rows import ATTRIBUTES_BYTES_MAX
from .run import Candidates, Run, Source

SHARE_MIN = 0.2  # of all rows, that a filter is expected to take
ROWS_MAX = 512  # whose attributes are looked at
SURE = 4.0  # standard deviations of how many of them it takes
ATTRIBUTES_COST = 1.5  # times what blocks take without


def is_for(selection: Selection, root: Root) -> bool:
    """Whether blocks lack a column of the filter; where they have all, plans of them were measured under filters."""
    return not selection.in_blocks(root)


def instead(run: Run, selection: Selection, ms: float) -> Query | None:
    """The query that finds the rows to look at, where that is quicker by the model than what takes `ms`; else None."""
    query, segment, root = run.query, run.segment, run.segment.root
    share = sum(selection.rows) / max(1, root.live_rows)
    if share < SHARE_MIN or query.distinct is not None or not any(r.attributes for r in root.renditions):
        return None
    if not is_for(selection, root):
        return None
    most = max(query.top_k, query.rerank)
    nearest = math.ceil((most + SURE * math.sqrt(most * max(0.0, 1 - share)) + 1) / min(1.0, share))
    if nearest > ROWS_MAX:
        return None
    found = replace(query, top_k=nearest, filter=None, attributes=True, vectors=False, rerank=0)
    promise = segment.promise(found)
    gets = max(1, round(promise.gets))
    quick = ATTRIBUTES_COST * wave_ms([round(promise.nbytes / gets)] * gets) < ms
    return found if quick and not promise.rerank else None


def run_of(run: Run, query: Query) -> Run:
    """The run of a query that takes all rows, in the place of another one, from whose budget it takes."""
    prepared = replace(run.prepared, selection=None, sharpness=run.segment.promise(query).sharpness)
    return Run(query, prepared, run.segment, run.budget, run.receipt, run.block_ids)


def candidates(run: Run, selection: Selection, query: Query, source: Source) -> Steps[Candidates | None]:
    """Of the rows that `query` finds by a source; None where the filter takes too few of them, and others may match."""
    found = yield from source(run_of(run, query))
    rows, root = run.segment.rows, run.segment.root
    if found.attributes is None:
        return None
    seen = rows.parsed([c.row for c in found.contenders], found.attributes(found.contenders), ATTRIBUTES_BYTES_MAX)
    fields, names = root.filters, root.names
    kept = [c for c in found.contenders if c.row in seen and takes(selection.parsed, fields, names, seen[c.row])]
    wanted = max(run.query.top_k, run.query.rerank)
    if len(kept) < wanted or len(seen) < len(found.contenders):
        return None
    matched = Matched(max(len(kept), round(sum(selection.rows))), False)
    recall = found.recall if found.recall is not None else run.segment.promise(query).recall
    return Candidates(
        kept, run.query.rerank, found.complete, recall, lambda: recall, attributes=found.attributes, matched=matched
    )
