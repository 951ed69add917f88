"""Asks an index held-out queries, in-process, and counts: recall, reads, modelled and measured time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError, LimitError
from vantage.index import Index
from vantage.search.prepare import prepare
from vantage.search.query import TOP_K_MAX, Answer, Query

from ..bucket.open import open_index
from ..ingest.queries import Queries
from ..ingest.rows import Ints, in_scale
from ..ingest.staging import GAP_BYTES
from ..neighbours.exact import CHUNK_BYTES, I32, exact_neighbours, exact_scores
from ..neighbours.truth import ranks, right, untied
from ..progress import SILENT, Progress
from .matching import able_rows
from .stored import source_rows, stored_vectors

INCLUDE = ("attributes", "vector")  # what answers may hold besides


def gather_vectors(path: Path | str, index: Index, rows: I32) -> npt.NDArray[np.float32]:
    """f32 (..., d): the full vectors of rows (...); those that lie close are read together."""
    unique = np.unique(rows)
    out, width = np.empty((len(unique), index.root.index.dimension), np.float32), 4 * index.root.index.dimension
    page = np.searchsorted(index.root.rows.first_row, unique, side="right")
    cuts = np.flatnonzero((np.diff(unique) > GAP_BYTES // width) | (np.diff(page) > 0)) + 1
    for some in np.split(np.arange(len(unique)), cuts) if len(unique) else []:
        low, high = int(unique[some[0]]), int(unique[some[-1]]) + 1
        step = max(1, CHUNK_BYTES // width)
        for first in range(low, high, step):
            mine = some[(unique[some] >= first) & (unique[some] < first + step)]
            if len(mine):
                out[mine] = stored_vectors(path, index, first, min(high, first + step))[unique[mine] - first]
    vectors: npt.NDArray[np.float32] = out[np.searchsorted(unique, rows)]
    return vectors


def compute_truth(
    path: Path | str, index: Index, queries: npt.NDArray[np.float32], k: int, able: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int32]:
    """Exact neighbours of the stored vectors, as source rows; k at most the rows of the index, or those that are able
    to answer (N), by row number.
    """
    metric, first_row = index.root.index.metric, index.root.rows.first_row
    step, section = max(1, CHUNK_BYTES // (4 * index.root.index.dimension)), index.root.index

    def scaled(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return _unit(x) if metric == "cosine" else in_scale(x, metric, np.asarray(section.origin), section.row_scale)

    def chunks() -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for page_low, page_high in pairwise(first_row):
            for low in range(page_low, page_high, step):
                high = min(page_high, low + step)
                x = stored_vectors(path, index, low, high)
                if able is None:
                    yield low, scaled(x)
                elif able[low:high].any():
                    yield int(able[:low].sum()), scaled(x[able[low:high]])

    rows = exact_neighbours(scaled(queries), chunks(), k, metric)
    source = source_rows(path, index)
    return (source if able is None else source[able])[rows].astype(np.int32)


def right_answers(
    path: Path | str, index: Index, queries: npt.NDArray[np.float32], truth: I32, answers: I32
) -> npt.NDArray[np.int64]:
    """(Q) how many answers are right: those among the neighbours, or whose exact score is not below the last one's.

    truth (Q, k): row numbers, best first; answers (Q, k): row numbers, -1 for none. Scores are of the stored vectors,
    read for answers that are not among the neighbours. Of rows that tie with the last neighbour as many are right as
    there is room for.
    """
    k, metric = truth.shape[1], index.root.index.metric
    better = untied(truth).better
    rank = ranks(answers, truth, better)
    unsure = np.flatnonzero(((rank < 0) & (answers >= 0)).any(1))
    step = max(1, CHUNK_BYTES // (8 * index.root.index.dimension * (k + 1)))

    def scores(of: Ints, rows: I32) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return exact_scores(queries[of], gather_vectors(path, index, rows), metric)

    for low in range(0, len(unsure), step):
        of = unsure[low : low + step]
        last = truth[of, -1:]
        other = (rank[of] < 0) & (answers[of] >= 0)
        score, slack = scores(of, np.concatenate([np.where(other, answers[of], last), last], 1))
        enough = other & (score[:, :-1] - score[:, -1:] >= -slack[:, -1:])
        tying = enough.any(1)
        of, reached, enough = of[tying], score[tying, -1:], enough[tying]
        score, slack = scores(of, truth[of])
        # Those that tie with the last neighbour are of one rank, behind all others.
        better[of] = np.where(score - reached > slack, 0, (score - reached > slack).sum(1, keepdims=True))
        rank[of] = np.where(enough, better[of, -1:], ranks(answers[of], truth[of], better[of]))
    return right(rank, better, k)


def _unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    wide = x.astype(np.float64)  # squares of small or large values leave float32
    out: npt.NDArray[np.float32] = (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)).astype("f4")
    return out


def row_numbers(source: Ints, rows: I32) -> I32:
    """Row numbers of source rows, both of one shape; source (N): of each row. Raises InputError for one not there."""
    order = np.argsort(source)
    at = order[np.minimum(np.searchsorted(source[order], rows), len(source) - 1)]
    missing = rows[source[at] != rows]
    if len(missing):
        raise InputError(
            f"the neighbors of the queries name row {missing[0]}, which the index does not have",
            hint="give the queries of its own source, or some without neighbors",
        )
    return at.astype(np.int32)


def check_truth(
    path: Path | str,
    index: Index,
    queries: Queries,
    k: int,
    recall: float | None = None,
    rerank: int = 0,
    able: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """i32 (Q, k or more): the neighbours that came with the queries, or exact ones, computed where those are too few.

    able (N): rows that can answer, where these are not all, by row number; their neighbours are always computed.

    Raises InputError where queries, k, or what is asked of each query, do not fit the index.
    """
    if not 1 <= k <= TOP_K_MAX:
        raise LimitError("--k", k, f"1 to {TOP_K_MAX}")
    k = min(k, _others(index, queries, able))
    if not k:
        what = "the index has no row but the query" if able is None else "the filter takes no row"
        raise InputError(what, hint="name a query by its vector" if able is None else "check --filter")
    count, length = queries.vectors.shape
    if not count:
        raise InputError("there are no queries", hint="check --queries and --limit")
    if length != index.root.index.dimension:
        raise LimitError("the length of the queries", length, index.root.index.dimension, hint="name other --queries")
    first = queries.vectors[0].tolist()
    index.check([Query(first, k, recall, rerank)])
    prepare(first, index.root.index, "a query")
    truth = queries.neighbors
    if truth is not None and truth.shape[1] >= k and able is None:
        return truth
    if queries.own is None:
        truth = compute_truth(path, index, queries.vectors, k, able)
    else:
        most = k + 1 if able is None else min(k + 1, int(able.sum()))
        near, own = compute_truth(path, index, queries.vectors, most, able), source_rows(path, index)[queries.own]
        truth = np.array([some[some != one][:k] for some, one in zip(near, own, strict=True)], np.int32)
    return truth


def _others(index: Index, queries: Queries, able: npt.NDArray[np.bool_] | None = None) -> int:
    """The most rows that every answer can have."""
    own = queries.own
    if able is None:
        return index.root.live_rows - (own is not None)
    return int(able.sum()) - (own is not None and bool(able[own].any()))


def evaluate(
    path: Path | str,
    queries: Queries,
    *,
    k: int | None = None,
    cache_bytes: int = 0,
    warm: bool = False,
    recall: float | None = None,
    rerank: int = 0,
    include: Collection[str] = (),
    filter: Any = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The keys of `vantage eval` (docs/results.md). k, the contract's by default, is how many answers each asks for.

    include: what answers hold besides, as over HTTP: attributes, vector. filter: the rows that may answer, which recall
    is of.

    Queries that are rows of the index are asked by their vectors: what it takes to find a row by its id does not count.
    """
    index = open_index(path, cache_bytes)
    contract = index.root.contract
    k = contract.k if k is None else k
    able = able_rows(path, index, filter)
    truth = check_truth(path, index, queries, k, recall, rerank, able)
    asked, k = k, min(k, _others(index, queries, able))
    near = row_numbers(source_rows(path, index), truth[:, :k])
    without = [None] * len(queries.vectors) if queries.own is None else queries.own.tolist()
    attributes, vectors = "attributes" in include, "vector" in include
    ask = [
        Query(v.tolist(), k if able is None else asked, recall, rerank, attributes, vectors, without=row, filter=filter)
        for v, row in zip(queries.vectors, without, strict=True)
    ]
    answers: list[tuple[Answer, float]] = []

    async def run(counted: bool) -> None:
        for i, query in enumerate(ask):
            start = time.thread_time()
            answer = await index.query(query)
            if counted:
                answers.append((answer, 1000 * (time.thread_time() - start)))
            progress((i + 1) / len(ask))

    if warm:
        asyncio.run(run(False))
    asyncio.run(run(True))
    answered = np.full((len(answers), k), -1, np.int32)
    for rows, (answer, _) in zip(answered, answers, strict=True):
        own = [m.row for m in answer.matches[:k]]
        rows[: len(own)] = own
    hits = right_answers(path, index, queries.vectors, near, answered) / k
    cpu = np.array([ms for _, ms in answers])
    receipts = [answer.receipt for answer, _ in answers]
    modelled = np.array([r.modelled_ms for r in receipts])

    def mean(name: str) -> float:
        return float(np.mean([getattr(r, name) for r in receipts]))

    return {
        "index": index.name, "rows": index.root.live_rows, "dimension": index.root.index.dimension,
        "metric": index.root.index.metric, "queries": len(answers),
        **({} if able is None else {"filter": json.dumps(filter), "matched": int(able.sum())}),
        "k": k, "recall": float(np.mean(hits)),
        "target": contract.target if recall is None else recall, "gets": mean("gets"), "bytes": mean("bytes"),
        "waves": mean("waves"), "blocks": mean("blocks"), "scan_cost": mean("rows") / index.root.live_rows,
        "rows_ranked": mean("rows_ranked"), "cpu_ms_p50": float(np.median(cpu)),
        "cpu_ms_p99": float(np.quantile(cpu, 0.99)), "modelled_ms_p50": float(np.median(modelled)),
        "modelled_ms_p99": float(np.quantile(modelled, 0.99)), "resident_bytes": index.current.root.size,
        "heap_bytes": None, "incomplete": sum(not answer.complete for answer, _ in answers),
    }  # fmt: skip
