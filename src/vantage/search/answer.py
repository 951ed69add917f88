"""From a run to its answer: candidates of a source, then scores, then what is attached to the rows."""

from __future__ import annotations

from typing import Any

from ..read.waves import Steps
from . import exact, routed
from .filtered import Matched
from .query import Answer
from .rank import Match, rank_estimated, rank_exact
from .run import Candidates, Run, Source


def answer(run: Run) -> Steps[Answer]:
    """A yield is a wave."""
    if run.segment.root.is_empty:
        candidates = _of_no_rows(run)
    else:
        source: Source = exact.candidates if run.query.exact else routed.candidates
        candidates = yield from source(run)
    matches, vectors, ranked = yield from score(run, candidates)
    matched = candidates.matched
    if (fresh := run.segment.fresh) is not None:
        taken = fresh.taken(run.prepared.selection)
        matches = fresh.merged(matches, run.prepared, run.query.top_k, run.query.without, taken)
        run.receipt.fresh, run.receipt.superseded = fresh.count, len(fresh.ids)
        matched = matched and Matched(matched.rows + taken.bit_count(), matched.exact)
    attached = yield from attach(run, candidates, matches, vectors)
    recall = candidates.recall if ranked or not candidates.rerank else candidates.recall_unranked()
    complete = candidates.complete and attached and (ranked or not candidates.rerank)
    recall = recall if candidates.complete else None
    return Answer(matches, ranked, complete, recall, run.receipt, matched)


def _of_no_rows(run: Run) -> Candidates:
    """Of an empty index, whose rows are all in the log: what is found there is exact, and proven."""
    if run.query.exact:
        run.receipt.proof = vars(exact.Proof(True, 0, 0, 0, 0))
    matched = None if run.prepared.selection is None else Matched(0, True)
    return Candidates([], run.query.top_k, True, 1.0, lambda: 1.0, matched=matched)


def score(run: Run, candidates: Candidates) -> Steps[tuple[list[Match], dict[int, bytes], bool]]:
    """(the best top_k, full vectors by row, whether their scores are exact).

    Exact scores are of the first `candidates.rerank` contenders; where the budget or the time does not allow to read
    all of these, estimates stand for all.
    """
    segment, query = run.segment, run.query
    first = candidates.contenders[: candidates.rerank]
    unread = {c.row: c.check for c in first if c.row not in candidates.vectors}
    vectors = candidates.vectors | (yield from segment.rows.vectors(unread, run.left()))
    run.receipt.rows_ranked = len(vectors)
    if candidates.rerank and all(c.row in vectors for c in first):
        return rank_exact(first, vectors, run.prepared, segment.root.index, query.top_k), vectors, True
    return rank_estimated(candidates.contenders, run.prepared, segment.root.index, query.top_k), vectors, False


def attach(run: Run, candidates: Candidates, matches: list[Match], vectors: dict[int, bytes]) -> Steps[bool]:
    """Attributes and full vectors of the matches, where the query wants them; whether all could be read.

    vectors: those at hand. Of rows in the log all is.
    """
    query, rows, fresh, complete = run.query, run.segment.rows, run.segment.fresh, True
    written = {} if fresh is None else {m.row: m.row - fresh.first for m in matches if m.row >= fresh.first}
    if query.vectors and matches:
        if fresh is not None:
            vectors = vectors | {row: fresh.rows.vector(place) for row, place in written.items()}
        unread = {m.row: m.check for m in matches if m.row not in vectors}
        vectors = vectors | (yield from rows.vectors(unread, run.left()))
        for m in matches:
            m.stored, m.kind = vectors.get(m.row), run.segment.root.index.vector_kind
        complete &= all(m.stored is not None for m in matches)
    if query.attributes and matches:
        own, room = ({}, query.room) if fresh is None else fresh.attributes(written.values(), query.room)
        attributes = yield from _attributes(run, candidates, matches, room)
        attributes |= {row: own[place] for row, place in written.items() if place in own}
        for m in matches:
            m.attributes = attributes.get(m.row)
        complete &= all(m.attributes is not None for m in matches)
    for m in matches:  # a batch keeps many answers until the last is there
        m.contender = None
    return complete


def _attributes(run: Run, candidates: Candidates, matches: list[Match], room: int) -> Steps[dict[int, dict[str, Any]]]:
    """By row: from the blocks, where they were read with them; else by spots, from blocks or from pages of rows."""
    rows, found = run.segment.rows, [m.contender for m in matches if m.contender is not None]
    if not run.segment.root.names:
        return {c.row: {} for c in found}
    if candidates.attributes is not None:
        return rows.parsed([c.row for c in found], candidates.attributes(found), room)
    spots = {c.row: c.spot for c in found if c.spot is not None}
    if len(spots) < len(found):
        spots = yield from rows.spots([c.row for c in found], run.left())
    return (yield from rows.attributes(spots, run.left(), room))
