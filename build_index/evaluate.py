"""Asks an index held-out queries, in-process, and counts: recall, reads, modelled and measured time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.cache import Cache
from vantage.errors import InputError, LimitError
from vantage.format import VECTOR_BYTES, part_key
from vantage.index import TOP_K_MAX, Answer, Index, Query
from vantage.stats import Receipt
from vantage.store import Folder

from .bucket import Ranged, Remote, StorePlace, place
from .source import HDF5, open_source
from .sources import hdf5, npy, vecs
from .truth import CHUNK_BYTES, exact_neighbours


def open_index(path: Path | str, cache_bytes: int = 0) -> Index:
    """Opens an index: bucket/name in a folder, s3://bucket/name or r2://bucket/name.

    Raises NotFoundError, DamagedError when it does not hold together, or StoreError when a bucket fails.
    """
    where, name = place(str(path)), PurePath(path).name
    bucket = Remote(where, name) if isinstance(where, StorePlace) else Folder(Path(path).parent)
    return asyncio.run(Index.open(bucket, name, Cache(cache_bytes), Receipt()))


@dataclass(frozen=True)
class Queries:
    """vectors f32 (Q, d); neighbors i32 (Q, k) source rows, best first, or None."""

    vectors: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int32] | None

    def spread(self, most: int) -> Queries:
        """At most so many of them, evenly from the first to the last: a file may be sorted."""
        count = max(0, min(most, len(self.vectors)))
        some = np.unique(np.linspace(0, len(self.vectors) - 1, count).astype(np.int64))
        return Queries(self.vectors[some], None if self.neighbors is None else self.neighbors[some])


def read_queries(path: Path, limit: int | None) -> Queries:
    """The first `limit` of a source, or all; with neighbours where the format has a place for them.

    Parquet: a column `neighbors`; HDF5: the datasets test and neighbors; .fvecs and .bvecs: NAME_groundtruth.ivecs
    beside NAME_query.fvecs.
    """
    suffix = path.suffix.lower()
    parts = hdf5.batches(path, 4096, hdf5.TEST) if suffix in HDF5 else _source_batches(path)
    if suffix == ".npy" and path.is_file() and npy.is_one_vector(path):
        parts = iter([npy.one_vector(path)])
    batches, held = [], 0
    for part in parts:
        batches.append(part.astype(np.float32))
        held += len(part)
        if limit is not None and held >= limit:
            break
    if not batches:
        raise InputError(f"{path} holds no queries")
    vectors = np.concatenate(batches)[:limit]
    if not np.isfinite(vectors).all():
        raise InputError(f"{path} holds queries with NaN or infinite values")
    neighbors = None
    if suffix in HDF5:
        neighbors = hdf5.neighbors(path, len(vectors))
    beside = path.with_name(path.stem.replace("_query", "_groundtruth") + ".ivecs")
    if suffix in (".fvecs", ".bvecs") and beside.is_file():
        neighbors = vecs.neighbors(beside, len(vectors))
    if suffix == ".parquet" and path.is_file() and "neighbors" in pq.read_schema(path).names:
        column = pq.read_table(path, columns=["neighbors"])["neighbors"].combine_chunks()[: len(vectors)]
        neighbors = column.flatten().to_numpy().reshape(len(vectors), -1).astype(np.int32)
    return Queries(vectors, neighbors)


def _source_batches(path: Path) -> Iterator[npt.NDArray[Any]]:
    return (batch.vectors for batch in open_source([path], attributes=[]).batches(4096))


def source_rows(path: Path | str, index: Index) -> npt.NDArray[np.int64]:
    """(N) source row of each row number, from the Parquet files."""
    where, out = place(str(path)), []
    for part, nbytes in enumerate(index.root.objects.parts):
        file = pa.PythonFile(Ranged(where, part_key(index.current.generation, part), nbytes), "r")
        out.append(pq.read_table(file, columns=["source_row"])["source_row"].to_numpy())
    return np.concatenate(out)


def computed_truth(path: Path | str, index: Index, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int32]:
    """Exact neighbours of the stored vectors, as source rows."""
    root, source, where = index.root, source_rows(path, index), place(str(path))
    dtype = {"f16": np.float16, "f32": np.float32, "u8": np.uint8, "i8": np.int8}[root.index.vector_kind]
    width = VECTOR_BYTES[root.index.vector_kind] * root.index.dimension

    def chunks() -> Any:
        step = max(1, CHUNK_BYTES // (4 * root.index.dimension))
        pages = root.vectors
        for page in range(len(pages.part)):
            key = part_key(index.current.generation, pages.part[page])
            for low in range(pages.first_row[page], pages.first_row[page + 1], step):
                n = min(step, pages.first_row[page + 1] - low)
                data = where.read(key, pages.offset[page] + (low - pages.first_row[page]) * width, n * width)
                x = np.frombuffer(data, dtype).reshape(n, -1).astype(np.float32)
                yield low, _unit(x) if root.index.metric == "cosine" else x

    prepared = _unit(queries) if root.index.metric == "cosine" else queries
    rows = exact_neighbours(prepared, chunks(), min(k, root.index.rows), root.index.metric)
    return source[rows].astype(np.int32)


def _unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    out: npt.NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    return out


def checked_truth(path: Path | str, index: Index, queries: Queries, k: int) -> npt.NDArray[np.int32]:
    """i32 (Q, k or more): the neighbours that came with the queries, or exact ones, computed.

    Raises InputError where queries or k do not fit the index.
    """
    if not 1 <= k <= TOP_K_MAX:
        raise LimitError("--k", k, f"1 to {TOP_K_MAX}")
    count, length = queries.vectors.shape
    if not count:
        raise InputError("there are no queries", hint="check --queries and --limit")
    if length != index.root.index.dimension:
        raise LimitError("the length of the queries", length, index.root.index.dimension, hint="name other --queries")
    truth = queries.neighbors if queries.neighbors is not None else computed_truth(path, index, queries.vectors, k)
    if truth.shape[1] < k:
        raise InputError(f"the queries have {truth.shape[1]} neighbors each, k is {k}", hint="use a smaller --k")
    return truth


def evaluate(
    path: Path | str,
    queries: Queries,
    *,
    k: int | None = None,
    cache_bytes: int = 0,
    warm: bool = False,
    recall: float | None = None,
    rerank: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Any]:
    """The keys of `vantage eval` (docs/results.md). k defaults to the contract's; a smaller k cuts the same answers."""
    index = open_index(path, cache_bytes)
    contract = index.root.contract
    k = contract.k if k is None else k
    truth = checked_truth(path, index, queries, k)
    depth = max(k, contract.k)
    source = source_rows(path, index)
    ask = [Query(v.tolist(), min(depth, index.root.index.rows), recall, rerank) for v in queries.vectors]
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
    hits = [
        len(np.intersect1d(source[[m.row for m in answer.matches[:k]]], truth[i, :k])) / k
        for i, (answer, _) in enumerate(answers)
    ]
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
