"""Asks an index held-out queries, in-process, and counts: recall, reads, modelled and measured time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError, InputError, LimitError
from vantage.format import VECTOR_BYTES, ObjectName
from vantage.index import Index
from vantage.search.prepare import prepare
from vantage.search.query import TOP_K_MAX, Answer, Query

from ..bucket.generations import manifest_objects
from ..bucket.open import open_index
from ..bucket.store import FolderStore, ObjectStore, Ranged, store_at
from ..ingest.formats.batch import DTYPES
from ..ingest.queries import Queries
from ..ingest.rows import Ints, in_scale
from ..ingest.staging import GAP_BYTES
from ..neighbours.exact import CHUNK_BYTES, I32, exact_neighbours, exact_scores
from ..neighbours.truth import ranks, right, untied
from ..progress import SILENT, Progress

PARTS_KEPT = 4096  # checks that are remembered
AGAIN = "`vantage verify` tells what is damaged; publish or build the index again"

INCLUDE = ("attributes", "vector")  # what answers may hold besides


@lru_cache(maxsize=PARTS_KEPT)
def _list_objects(address: str, manifest: ObjectName, generation: str) -> dict[str, tuple[int, str]]:
    """(size, SHA-256) of each object that the manifest of a generation names, by key."""
    text = store_at(address).get(manifest.key)
    if text is None or hashlib.sha256(text[0]).hexdigest() != manifest.sha256:
        raise DamagedError(f"{manifest.key}: is missing or not what CURRENT says", hint=AGAIN)
    return {o.key: (o.size, o.sha256) for o in manifest_objects(text[0], generation)}


@lru_cache(maxsize=PARTS_KEPT)
def _check(address: str, key: str, identity: tuple[int, str] | None, stamp: object) -> None:
    """Raises DamagedError where an object is not the one that the manifest names; stamp: of the file, if it is one."""
    if identity is None or store_at(address).digest(key) != identity:
        raise DamagedError(f"{key}: is missing or not what was written", hint=AGAIN)


def _part(path: Path | str, index: Index, part: int) -> tuple[ObjectStore, str]:
    """Where the Parquet part that is object `part` lies and its key, once its bytes were held against the manifest:
    once a process, and again where it is a file that was written since.
    """
    address, current = str(path), index.current
    where, stamp = store_at(address), None
    key = index.root.objects.resolve("", current.generation)[part]
    if isinstance(where, FolderStore):
        address = str(where.path.absolute())  # a process may change its folder
        with where.open(key) as file:
            stat = os.fstat(file.fileno())
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
    _check(address, key, _list_objects(address, current.manifest, current.generation).get(key), stamp)
    return where, key


def source_rows(path: Path | str, index: Index) -> npt.NDArray[np.int64]:
    """(N) source row of each row number, from the Parquet files. Raises DamagedError where one is not as written."""
    out = []
    for part in sorted(set(index.root.rows.vector_object)):
        nbytes = index.root.objects.sizes[part]
        where, key = _part(path, index, part)
        try:
            file = pa.PythonFile(Ranged(where, key, nbytes), "r")
            out.append(pq.read_table(file, columns=["source_row"])["source_row"].to_numpy())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedError(f"{key}: is no Parquet file of rows", hint=AGAIN) from error
    rows = np.concatenate(out)
    if len(rows) != index.root.index.rows or rows.dtype != np.int64:
        raise DamagedError(f"{index.name}: the vectors of {len(rows):,} rows, {index.root.index.rows:,} are indexed")
    return rows


def stored_vectors(path: Path | str, index: Index, low: int, high: int) -> npt.NDArray[np.float32]:
    """f32 (high - low, d): the full vectors of rows [low, high) of one page. Raises DamagedError as source_rows."""
    pages, kind, d = index.root.rows, index.root.index.vector_kind, index.root.index.dimension
    page, width = pages.page_of(low), VECTOR_BYTES[kind] * d
    at = pages.vector_offset[page] + (low - pages.first_row[page]) * width
    where, key = _part(path, index, pages.vector_object[page])
    data = where.read(key, at, (high - low) * width)
    if len(data) != (high - low) * width:
        raise DamagedError(f"{key}: ends within the vectors of rows {low} to {high - 1}", hint=AGAIN)
    return np.frombuffer(data, DTYPES[kind]).reshape(high - low, d).astype(np.float32)


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


def compute_truth(path: Path | str, index: Index, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int32]:
    """Exact neighbours of the stored vectors, as source rows; k at most the rows of the index."""
    metric, first_row = index.root.index.metric, index.root.rows.first_row
    step, section = max(1, CHUNK_BYTES // (4 * index.root.index.dimension)), index.root.index

    def scaled(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return _unit(x) if metric == "cosine" else in_scale(x, metric, np.asarray(section.origin), section.row_scale)

    def chunks() -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for page_low, page_high in pairwise(first_row):
            for low in range(page_low, page_high, step):
                yield low, scaled(stored_vectors(path, index, low, min(page_high, low + step)))

    rows = exact_neighbours(scaled(queries), chunks(), k, metric)
    return source_rows(path, index)[rows].astype(np.int32)


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
    path: Path | str, index: Index, queries: Queries, k: int, recall: float | None = None, rerank: int = 0
) -> npt.NDArray[np.int32]:
    """i32 (Q, k or more): the neighbours that came with the queries, or exact ones, computed where those are too few.

    Raises InputError where queries, k, or what is asked of each query, do not fit the index.
    """
    if not 1 <= k <= TOP_K_MAX:
        raise LimitError("--k", k, f"1 to {TOP_K_MAX}")
    k = min(k, _others(index, queries))
    if not k:
        raise InputError("the index has no row but the query", hint="name a query by its vector")
    count, length = queries.vectors.shape
    if not count:
        raise InputError("there are no queries", hint="check --queries and --limit")
    if length != index.root.index.dimension:
        raise LimitError("the length of the queries", length, index.root.index.dimension, hint="name other --queries")
    first = queries.vectors[0].tolist()
    index.check([Query(first, k, recall, rerank)])
    prepare(first, index.root.index, "a query")
    truth = queries.neighbors
    if truth is not None and truth.shape[1] >= k:
        return truth
    if queries.own is None:
        truth = compute_truth(path, index, queries.vectors, k)
    else:
        near, own = compute_truth(path, index, queries.vectors, k + 1), source_rows(path, index)[queries.own]
        truth = np.array([some[some != one][:k] for some, one in zip(near, own, strict=True)], np.int32)
    return truth


def _others(index: Index, queries: Queries) -> int:
    """The most rows that an answer can have."""
    return index.root.index.rows - (queries.own is not None)


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
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The keys of `vantage eval` (docs/results.md). k, the contract's by default, is how many answers each asks for.

    include: what answers hold besides, as over HTTP: attributes, vector.

    Queries that are rows of the index are asked by their vectors: what it takes to find a row by its id does not count.
    """
    index = open_index(path, cache_bytes)
    contract = index.root.contract
    k = contract.k if k is None else k
    truth = check_truth(path, index, queries, k, recall, rerank)
    k = min(k, _others(index, queries))
    near = row_numbers(source_rows(path, index), truth[:, :k])
    without = [None] * len(queries.vectors) if queries.own is None else queries.own.tolist()
    attributes, vectors = "attributes" in include, "vector" in include
    ask = [
        Query(v.tolist(), k, recall, rerank, attributes, vectors, without=row)
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
        "index": index.name, "rows": index.root.index.rows, "dimension": index.root.index.dimension,
        "metric": index.root.index.metric, "queries": len(answers), "k": k, "recall": float(np.mean(hits)),
        "target": contract.target if recall is None else recall, "gets": mean("gets"), "bytes": mean("bytes"),
        "waves": mean("waves"), "blocks": mean("blocks"), "scan_cost": mean("rows") / index.root.index.rows,
        "rows_ranked": mean("rows_ranked"), "cpu_ms_p50": float(np.median(cpu)),
        "cpu_ms_p99": float(np.quantile(cpu, 0.99)), "modelled_ms_p50": float(np.median(modelled)),
        "modelled_ms_p99": float(np.quantile(modelled, 0.99)), "resident_bytes": index.current.root.size,
        "heap_bytes": None, "incomplete": sum(not answer.complete for answer, _ in answers),
    }  # fmt: skip
