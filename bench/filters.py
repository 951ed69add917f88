"""Filtered queries of a real set: recall, GETs and bytes by how many rows match, and by how they lie to the query.

    python -m bench.filters FOLDER ROWS.parquet [ROWS.parquet ...] --queries QUERIES.parquet --key category [--fast]
        [--metric cosine] [--count 200] [--lancedb] [--json]

FOLDER keeps the rows with made-up attributes beside their own and the index that is built of them. KEY: an attribute
whose values follow the vectors. Made up, and independent of them: `half`, `tenth` and `cent` of 2, 10 and 100 values,
`u` uniform in [0, 1), and `num`, a number of its own for each row. Queries are held out; truth is exact under each
filter; nothing is cached. Two tables: of a hundred answers, and of ten.

--lancedb (pip install lancedb): beside the first table what LanceDB does with the same filters, by a scalar index of
each attribute and prefilters. It probes all lists of its IVF_PQ index, which is in memory: that costs it CPU, and no
reads. Each filter was asked once before. Recall is of all queries, reads of every fourth, counted by an S3 server on
this machine. FOLDER keeps the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.counted import of_bucket, served, waves
from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.evaluate.stored import source_rows
from build_index.ingest.open import open_source
from build_index.ingest.queries import read_queries
from build_index.tune.options import Options
from vantage.index import Index
from vantage.search.query import Query

SEED = 7
TOP_K = (100, 10)
FAR_ROWS = 200  # of a value that can be far
REFINE = 2  # of LanceDB: times the answers, rows whose full vectors it reads
READS_STEP = 4  # of its queries one in so many is counted: its server waits before each answer
BITMAPS, TREES = ("half", "tenth", "cent"), ("u", "num")  # its scalar indexes; one of the key is a bitmap too
F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ask = Callable[[F32, dict[str, Any], int], tuple[list[int], dict[str, float]]]  # -> source rows, and what was read
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


def cases(table: pa.Table, exact: F32, key: str) -> list[Case]:
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
        ("range 90%", window(0.9)), ("range 50%", window(0.5)), ("range 10%", window(0.1)), ("range 1%", window(0.01)),
        ("range 0.1%", window(0.001)),
        ("range 0.01%", window(0.0001)),
        ("own value", mine),
        ("far value", value(key, lambda i: names[far[i]].item())),
        ("not own value", lambda i: ({key: {"$ne": names[own[i]].item()}}, ~mine(i)[1])),
        ("own AND 10%", both),
        ("a unique id", value("num", lambda i: int(column["num"][row[i]]))),
        ("nothing", lambda i: ({key: "there is no such value"}, np.zeros(len(code), bool))),
    ]  # fmt: skip


def ours(index: Index, source: npt.NDArray[np.int64]) -> Ask:
    """Answers of an index. source (N): the source row of each row number."""

    def ask(query: F32, value: dict[str, Any], k: int) -> tuple[list[int], dict[str, float]]:
        answer = asyncio.run(index.query(Query(query.tolist(), k, filter=value)))
        spent = answer.receipt
        read = {"gets": spent.gets, "mb": spent.bytes / 1e6, "waves": spent.waves, "ms": spent.modelled_ms}
        return source[[m.row for m in answer.matches]].tolist(), read | {"cut": not answer.complete}

    return ask


def measure(ask: Ask, queries: F32, exact: F32, case: Case, k: int, numbers: Sequence[int]) -> dict[str, Any]:
    """Means over the queries of these numbers; recall is None where no row matches."""
    name, of = case
    recall, told, shares = list[float](), list[dict[str, float]](), list[float]()
    for i in numbers:
        value, mask = of(i)
        rows, read = ask(queries[i], value, k)
        assert mask[rows].all(), f"{name}: a row that does not match"
        best, count = np.where(mask, exact[i], -np.inf), min(k, int(mask.sum()))
        if count:
            recall.append(len(set(np.argpartition(-best, count - 1)[:count].tolist()) & set(rows)) / count)
        told.append(read)
        shares.append(float(mask.mean()))
    means = {what: float(np.mean([one[what] for one in told])) for what in told[0]}
    return {
        "filter": name,
        "share": float(np.mean(shares)),
        "recall": float(np.mean(recall)) if recall else None,
    } | means


def line(one: dict[str, Any]) -> str:
    """Of the table."""
    out = (
        f"{one['filter']:14}{100 * one['share']:9.4f}%  {shown(one['recall'])}{one['gets']:7.2f}{one['mb']:8.3f}"
        f"{one['waves']:7.2f}{one['ms']:7.1f}{100 * one['cut']:5.0f}%"
    )
    if peer := one.get("lancedb"):
        out += f"   {shown(peer['recall'])}{peer['gets']:8.1f}{peer['mb']:8.3f}{peer['waves']:7.1f}"
    return out


def shown(recall: float | None) -> str:
    return "     -" if recall is None else f"{recall:.4f}"


class Lance:
    """A LanceDB table of the rows in a folder, made there once, and asked from the disk or through an S3 server."""

    def __init__(self, stack: ExitStack, folder: Path, table: pa.Table, x: F32, key: str, metric: str) -> None:
        os.environ.setdefault("LANCE_LOG", "error")
        logging.disable(logging.WARNING)
        import lancedb
        import lancedb.index

        self.metric, self.partitions = metric, round(len(x) ** 0.5)
        self.version: str = lancedb.__version__
        if not (folder / "rows.lance").exists():
            columns = {name: table[name].combine_chunks() for name in (key, *BITMAPS, *TREES)}
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
            made = lancedb.connect(folder).create_table(
                "rows", pa.table({"row": np.arange(len(x)), "vector": vectors} | columns)
            )
            config = lancedb.index.IvfPq(
                distance_type=metric, num_partitions=self.partitions, num_sub_vectors=x.shape[1] // 4
            )
            made.create_index("vector", config=config)
            for name in columns:
                made.create_index(name, config=lancedb.index.BTree() if name in TREES else lancedb.index.Bitmap())
        endpoint, self.log = stack.enter_context(served(folder))
        self.local = lancedb.connect(folder).open_table("rows")
        self.remote = lancedb.connect("s3://bucket", storage_options=of_bucket(endpoint)).open_table("rows")

    def ask(self, opened: Any, query: F32, value: dict[str, Any], k: int) -> list[int]:
        """Rows that it finds."""
        search = opened.search(query).distance_type(self.metric).nprobes(self.partitions).refine_factor(REFINE).limit(k)
        if value:
            search = search.where(sql_of(value), prefilter=True)
        found: list[int] = search.select(["row", "_distance"]).to_arrow()["row"].to_pylist()
        return found

    def from_disk(self, query: F32, value: dict[str, Any], k: int) -> tuple[list[int], dict[str, float]]:
        return self.ask(self.local, query, value, k), {}

    def counted(self, query: F32, value: dict[str, Any], k: int) -> tuple[list[int], dict[str, float]]:
        self.log.clear()
        rows = self.ask(self.remote, query, value, k)
        return rows, {"gets": len(self.log), "mb": sum(n for *_, n in self.log) / 1e6, "waves": waves(self.log)}

    def measure(self, queries: F32, exact: F32, case: Case, k: int) -> dict[str, Any]:
        """Recall from the disk over all queries, reads through the server over some."""
        told = measure(self.from_disk, queries, exact, case, k, range(len(queries)))
        self.counted(queries[0], case[1](0)[0], k)
        counted = measure(self.counted, queries, exact, case, k, range(0, len(queries), READS_STEP))
        return counted | {"recall": told["recall"]}


def sql_of(value: dict[str, Any]) -> str:
    """One of the filters above, as SQL has it."""
    signs = {"$gte": ">=", "$lt": "<", "$ne": "!="}
    parts = []
    for name, condition in value.items():
        own = condition if isinstance(condition, dict) else {"": condition}
        parts += [f"{name} {signs.get(sign, '=')} {operand!r}" for sign, operand in own.items()]
    return " AND ".join(parts)


def main() -> None:
    """Prints a line a case, at both k."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--lancedb", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, out = options.folder / "rows.parquet", options.folder / "index"
    made_up(options.rows, rows)
    if not (out / "CURRENT").exists():
        names = (options.key, "half", "tenth", "cent", "u", "num")
        build(open_source([rows]), BuildContext(out, options.metric, Options(fast=options.fast, filters=names)))
    index, table = open_index(out), pq.read_table(rows)
    x = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
    queries = read_queries(options.queries, options.count).vectors
    if options.metric == "cosine":
        exact = queries @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    else:
        exact = queries @ x.T - (0.5 * np.einsum("ij,ij->i", x, x) if options.metric == "l2" else 0)
    told = dict[str, list[dict[str, Any]]]()
    with ExitStack() as stack:
        ask, lance = ours(index, source_rows(out, index)), None
        if options.lancedb:
            lance = Lance(stack, options.folder / "lancedb", table, x, options.key, options.metric)
            lance.ask(lance.remote, queries[0], {}, TOP_K[0])  # reads the whole index into its cache
        for k in TOP_K:
            beside = lance if k == TOP_K[0] else None
            if not options.json:
                print(title(k, len(x), len(queries), beside))
            for case in cases(table, exact, options.key):
                one = measure(ask, queries, exact, case, k, range(len(queries)))
                if beside is not None:
                    one["lancedb"] = beside.measure(queries, exact, case, k)
                told.setdefault(str(k), []).append(one)
                if not options.json:
                    print(line(one), flush=True)
    if options.json:
        print(json.dumps({"rows": len(x), "queries": len(queries), "top_k": told}))


def title(k: int, rows: int, queries: int, lance: Lance | None) -> str:
    """Above a table."""
    first, second = f"{rows:,} rows, {queries} queries", f"recall@{k:<4} GETs      MB  waves     ms   cut"
    if lance is not None:
        first += f"; at the right lancedb {lance.version}, {lance.partitions} lists"
        second += "     recall    GETs      MB  waves"
    return f"{first}\n{'filter':17}matches  {second}"


if __name__ == "__main__":
    main()
