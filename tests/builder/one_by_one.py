"""What the builder's batched kernels compute, a query at a time and plainly: plans, answers, recall."""

from __future__ import annotations

from array import array

import numpy as np

from build_index.ingest.rows import Ints
from build_index.neighbours.truth import right
from build_index.simulate.edge import P
from build_index.simulate.measure import Bools, Candidates, Reads
from vantage.format import aligned
from vantage.read.cache import CACHED, STARTS_OBJECT
from vantage.search import plan
from vantage.search.route.common import Routed


def plans_one_by_one(
    p: P, block_bytes: Ints, price: int, gets: int = plan.GETS_MAX, done: Bools | None = None
) -> Reads:
    """As measure.plans, by the planner of the edge."""
    size = array("I", block_bytes.tolist())
    at = array("Q", np.cumsum([0, *map(aligned, size)])[:-1].tolist())
    read, ranges = np.zeros(p.shape, bool), []
    if not price and sum(size) <= plan.SMALL_BYTES:
        p = np.maximum(p, 1)
    for i, row in enumerate(p):
        flags = bytearray(len(size)) if done is None else bytearray((done[i] * CACHED).astype(np.uint8))
        flags[0] |= STARTS_OBJECT
        named = np.flatnonzero(row)
        few = array("I", row[named].tolist()), array("I", named.tolist())
        items = plan.items_of(Routed(*few), flags, size, at, (len(size),))
        lengths = []
        for first, last in plan.ranges_of(items.p, items.size, items.flags, items.at, price, gets):
            low, high = items.first[first], items.first[last - 1] + 1
            read[i, low:high] = True
            lengths.append(at[high - 1] + size[high - 1] - at[low])
        ranges.append(lengths)
    return Reads(read, ranges)


def answered_one_by_one(candidates: Candidates, read: Bools, most: int) -> Bools:
    """As Candidates.answered."""
    out = np.zeros(candidates.block.shape, bool)
    for blocks, rows, own, mark in zip(candidates.block, candidates.row, read, out, strict=True):
        seen = set[int]()
        for i, (b, row) in enumerate(zip(blocks.tolist(), rows.tolist(), strict=True)):
            if b >= 0 and own[b] and row not in seen and len(seen) < most:
                mark[i] = True
                seen.add(row)
    return out


def recall_one_by_one(candidates: Candidates, read: Bools, k: int, rerank: int = 0) -> np.ndarray:
    """As Candidates.recall."""
    rank = np.where(answered_one_by_one(candidates, read, max(k, rerank)), candidates.rank, np.int32(-1))
    truth = candidates.truth
    return right(rank, truth.better, k) / np.maximum((truth.rows[:, :k] >= 0).sum(1), 1)
