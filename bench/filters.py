"""Filtered queries of a real set: recall, GETs and bytes by how many rows match, and by how they lie to the query.

    python -m bench.filters FOLDER ROWS.parquet [ROWS.parquet ...] --queries QUERIES.parquet --key category [--fast]

FOLDER keeps the rows with made-up attributes beside their own and the index that is built of them. KEY: an attribute
whose values follow the vectors. Made up, and independent of them: `half`, `tenth` and `cent` of 2, 10 and 100 values,
`u` uniform in [0, 1), and `num`, a number of its own for each row. Queries are held out; truth is exact under each
filter; nothing is cached.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.ingest.queries import read_queries
from build_index.tune.options import Options
from vantage.index import Index
from vantage.search.query import Query

SEED = 7
FAR_ROWS = 200  # of a value that can be far
Mask = npt.NDArray[np.bool_]
Case = tuple[str, Callable[[int], tuple[dict[str, Any], Mask]]]


def made_up(files: list[Path], to: Path) -> None:
    """The rows with attributes beside their own, once."""
    if to.exists():
        return
    table, draw = pa.concat_tables([pq.read_table(file) for file in files]), np.random.default_rng(SEED)
    n = len(table)
    columns = {
        "half": [f"h{v}" for v in draw.integers(0, 2, n)], "tenth": [f"t{v}" for v in draw.integers(0, 10, n)],
        "cent": draw.integers(0, 100, n), "u": draw.random(n), "num": draw.permutation(n),
    }  # fmt: skip
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, to)


def cases(table: pa.Table, exact: npt.NDArray[np.float32], key: str) -> list[Case]:
    """Filters for each query, and the rows that they take. exact f32 (Q, N): scores, larger is nearer."""
    draw, queries = np.random.default_rng(SEED + 1), len(exact)
    column = {name: np.array(table[name].to_pylist()) for name in ("half", "tenth", "cent", "u", "num", key)}
    names, code = np.unique(column[key], return_inverse=True)
    size = np.bincount(code)
    own, far = np.empty(queries, int), np.empty(queries, int)
    for i, scores in enumerate(exact):
        near = np.argpartition(-scores, 1000)[:1000]
        seen = np.bincount(code[near], minlength=len(names))
        own[i] = np.bincount(code[near[np.argsort(-scores[near])[:20]]], minlength=len(names)).argmax()
        able = np.flatnonzero((seen <= np.quantile(seen[size >= FAR_ROWS], 0.3)) & (size >= FAR_ROWS))
        far[i] = draw.choice(able)
    low = draw.random(queries)
    tenth, cent, row = (
        draw.integers(0, 10, queries),
        draw.integers(0, 100, queries),
        draw.integers(0, len(code), queries),
    )

    def window(share: float) -> Callable[[int], tuple[dict[str, Any], Mask]]:
        def one(i: int) -> tuple[dict[str, Any], Mask]:
            a = float(low[i] * (1 - share))
            return {"u": {"$gte": a, "$lt": a + share}}, (column["u"] >= a) & (column["u"] < a + share)

        return one

    def value(name: str, wanted: Callable[[int], Any]) -> Callable[[int], tuple[dict[str, Any], Mask]]:
        return lambda i: ({name: wanted(i)}, column[name] == wanted(i))

    mine = value(key, lambda i: names[own[i]].item())
    tens = value("tenth", lambda i: f"t{tenth[i]}")

    def both(i: int) -> tuple[dict[str, Any], Mask]:
        (a, x), (b, y) = mine(i), tens(i)
        return a | b, x & y

    return [
        ("value 50%", value("half", lambda i: f"h{i % 2}")),
        ("value 10%", tens),
        ("value 1%", value("cent", lambda i: int(cent[i]))),
        ("range 10%", window(0.1)), ("range 1%", window(0.01)), ("range 0.1%", window(0.001)),
        ("range 0.01%", window(0.0001)),
        ("own value", mine),
        ("far value", value(key, lambda i: names[far[i]].item())),
        ("not own value", lambda i: ({key: {"$ne": names[own[i]].item()}}, ~mine(i)[1])),
        ("own AND 10%", both),
        ("a unique id", value("num", lambda i: int(column["num"][row[i]]))),
        ("nothing", lambda i: ({key: "there is no such value"}, np.zeros(len(code), bool))),
    ]  # fmt: skip


def measure(index: Index, queries: npt.NDArray[np.float32], exact: npt.NDArray[np.float32], case: Case, k: int) -> str:
    """A line of the table."""
    name, of = case
    recall, rows = list[float](), list[Any]()
    for i, query in enumerate(queries):
        value, mask = of(i)
        answer = asyncio.run(index.query(Query(query.tolist(), k, filter=value)))
        got = np.array([m.row for m in answer.matches], int)
        best = np.where(mask[SOURCE], exact[i][SOURCE], -np.inf)
        count = min(k, int(mask.sum()))
        assert mask[SOURCE][got].all(), f"{name}: a row that does not match"
        if count:
            recall.append(len(set(np.argpartition(-best, count - 1)[:count].tolist()) & set(got.tolist())) / count)
        rows.append((answer.receipt.gets, answer.receipt.bytes / 1e6, answer.receipt.waves, answer.receipt.modelled_ms,
                     mask.mean(), not answer.complete))  # fmt: skip
    gets, mb, waves, ms, share, cut = np.mean(rows, axis=0)
    found = f"{np.mean(recall):.4f}" if recall else "-"
    return f"{name:14} {100 * share:8.4f}%  recall@{k} {found}  {gets:5.2f} GETs  {mb:6.3f} MB  {waves:.2f} waves  " \
           f"{ms:5.1f} ms  {100 * cut:.0f}% cut"  # fmt: skip


SOURCE: npt.NDArray[np.int64]  # the source row of each row number


def main() -> None:
    """Prints a line a case, at both k."""
    global SOURCE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, out = options.folder / "rows.parquet", options.folder / "index"
    made_up(options.rows, rows)
    if not (out / "CURRENT").exists():
        names = (options.key, "half", "tenth", "cent", "u", "num")
        build(open_source([rows]), BuildContext(out, options.metric, Options(fast=options.fast, filters=names)))
    index, table = open_index(out), pq.read_table(rows)
    from build_index.evaluate.stored import source_rows

    SOURCE = source_rows(out, index)
    x = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    queries = read_queries(options.queries, options.count).vectors
    if options.metric == "cosine":
        exact = queries @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    else:
        exact = queries @ x.T - (0.5 * np.einsum("ij,ij->i", x, x) if options.metric == "l2" else 0)
    for k in (100, 10):
        for case in cases(table, exact, options.key):
            print(measure(index, queries, exact, case, k), flush=True)


if __name__ == "__main__":
    main()
