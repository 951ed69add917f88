"""Exact answers: what proves them, checked against every row, and what they read with all blocks cached.

    vantage build DATA/wordnet/part-0.parquet DATA/wordnet/part-1.parquet --out INDEX --error-norms
    python -m bench.proof INDEX QUERIES [--queries 2000] [--k 10,100] [--pairs 10000000]

INDEX is a folder, bucket/name; QUERIES is Parquet or .npy with vectors of rows that it does not hold. Wrong is a query
whose answer differs from the best k of all rows by rank.exact_score, rows and scores; a violation is a row whose score
is outside of its interval, or a block with a row above its ceiling, both in f64.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_index.bucket.open import open_index
from build_index.ingest.queries import read_queries
from vantage import kernels
from vantage.cost import Budget
from vantage.format import VECTOR_BYTES, IndexSection
from vantage.index import Index
from vantage.search.exact import BoundedScan
from vantage.search.prepare import Prepared, prepare
from vantage.search.query import Query

LARGE = 1 << 40
F64 = npt.NDArray[np.float64]


def stored(path: Path, index: Index) -> npt.NDArray[np.generic]:
    """(N, d) full vectors by row number, as they are stored."""
    root = index.root
    dtype = {"f16": np.float16, "f32": np.float32, "u8": np.uint8, "i8": np.int8}[root.index.vector_kind]
    width, pages, out = VECTOR_BYTES[root.index.vector_kind] * root.index.dimension, root.rows, []
    for page, (first, end) in enumerate(pairwise(pages.first_row)):
        key = root.objects.keys[pages.vector_object[page]]
        with (path / index.current.generation / key).open("rb") as file:
            file.seek(pages.vector_offset[page])
            out.append(np.frombuffer(file.read((end - first) * width), dtype).reshape(end - first, -1))
    return np.concatenate(out)


def exact_scores(x: npt.NDArray[np.generic], own: npt.NDArray[np.float32], query: Prepared, index: IndexSection) -> F64:
    """rank.exact_score of every row of x at once, by the same kernels; own: <x, x> in f32, for cosine."""
    out = np.empty(len(x), np.float32)
    name = "l2" if index.metric == "l2" else "dot"
    vector = query.vector if index.metric == "cosine" else query.source
    getattr(kernels, f"{name}_{index.vector_kind}")(vector, x, 0, x.strides[0], *x.shape, out)
    scores = out.astype(np.float64)
    return np.clip(scores / np.sqrt(own.astype(np.float64)), -1, 1) if index.metric == "cosine" else scores


def own_products(x: npt.NDArray[np.generic], kind: str) -> npt.NDArray[np.float32]:
    """<x, x> of each row, as rank.exact_score computes it."""
    own = np.empty(len(x), np.float32)
    for i, row in enumerate(x):
        getattr(kernels, f"dot_{kind}")(row.astype(np.float32), row, 0, x.strides[0], 1, x.shape[1], own[i : i + 1])
    return own


def violations(index: Index, x: F64, query: Prepared) -> tuple[int, int, float]:
    """(pairs, violations, mean half width in score) of one query with every place of the index, all cached.

    x f64 (N, d): the stored rows in the scale of the index.
    """
    root, directory = index.root, index.segment.resident
    assert directory is not None
    scan = BoundedScan(root, directory, query, 1, 1)
    true = x @ np.asarray(query.vector, np.float64)
    if root.index.metric == "l2":
        true -= 0.5 * np.einsum("ij,ij->i", x, x)
    true *= query.unit
    pairs, wrong, width = 0, 0, 0.0
    ceilings, places = scan.ceilings(), directory.places[0]
    for i, block in enumerate(directory.block):
        data = index.segment.part(places.object[i], places.offset[i])
        assert data is not None
        opened = scan.open(i, data, keep=True)
        at = opened.at
        here = true[np.frombuffer(data, "<u4", at.n, at.rows)]
        lower, upper = (np.asarray(v, np.float64) for v in scan.intervals(i, data, opened)[1:])
        pairs += at.n
        wrong += int(((here < lower) | (here > upper)).sum()) + int(here.max() > ceilings[block])
        width += float((upper - lower).sum()) / 2 / query.unit
    return pairs, wrong, width / pairs


def fill(path: Path, index: Index) -> None:
    """Brings every block into the cache."""
    directory = index.segment.resident
    assert directory is not None
    for number, low, high in directory.runs[0]:
        data = memoryview((path / index.current.generation / index.root.objects.keys[number]).read_bytes())
        for extent in (directory.extent(i, 0) for i in range(low, high)):
            part = data[extent.offset : extent.offset + extent.whole]
            index.cache.put(index.segment.keys[number], extent.offset, part)


def main() -> None:
    """Prints what the proofs cost, and the violations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--queries", dest="limit", type=int, default=2000)
    parser.add_argument("--k", default="10,100")
    parser.add_argument("--pairs", type=int, default=10_000_000)
    options = parser.parse_args()
    index = open_index(options.index, LARGE)
    asked = [v.tolist() for v in read_queries(options.queries, options.limit).vectors]
    root = index.root
    x = stored(options.index, index)
    own = own_products(x, root.index.vector_kind) if root.index.metric == "cosine" else np.empty(0, np.float32)
    print(
        f"{root.index.rows:,} rows in {root.index.slots:,} places, {root.index.blocks} blocks, codes of "
        f"{root.codec.code_bytes} bytes, {root.index.metric}; {len(asked)} queries, all blocks cached"
    )
    fill(options.index, index)
    print("k    vectors mean  p50  p99  most   blocks scanned  bytes of vectors  GETs  proven  wrong")
    for k in (int(k) for k in options.k.split(",")):
        read, blocks, nbytes, gets, proven, wrong = [], [], [], [], 0, 0
        for vector in asked:
            answer = asyncio.run(index.query(Query(vector, k, exact=True, budget=Budget(1000, LARGE, 9))))
            told, query = answer.receipt.proof, prepare(vector, root.index)
            assert told is not None
            scores = exact_scores(x, own, query, root.index)
            best = np.lexsort((np.arange(len(x)), scores if root.index.metric == "l2" else -scores))[:k]
            proven += told["proven"]
            wrong += [(m.row, m.score) for m in answer.matches] != [(int(r), float(scores[r])) for r in best]
            read.append(told["vectors_read"])
            blocks.append(told["blocks_scanned"])
            nbytes.append(answer.receipt.bytes)
            gets.append(answer.receipt.gets)
        p50, p99 = np.percentile(read, (50, 99))
        print(
            f"{k:<4} {np.mean(read):12.1f} {p50:4.0f} {p99:4.0f} {max(read):5}   {np.mean(blocks):14.1f}  "
            f"{np.mean(nbytes):16,.0f}  {np.mean(gets):4.1f}  {proven:6}  {wrong:5}",
            flush=True,
        )
    scaled = x.astype(np.float64)
    if root.index.metric == "cosine":
        scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    else:
        if root.index.metric == "l2":
            scaled -= np.asarray(root.index.origin)
        scaled *= root.index.row_scale
    pairs, wrong, width = 0, 0, []
    for vector in asked:
        if pairs >= options.pairs:
            break
        found = violations(index, scaled, prepare(vector, root.index))
        pairs, wrong, width = pairs + found[0], wrong + found[1], [*width, found[2]]
    print(f"{wrong} violations in {pairs:,} pairs; mean half width {np.mean(width):.5f} (1 = a score of 1)")


if __name__ == "__main__":
    main()
