"""What an index costs and finds whose rows come, change and go while compactions follow.

    python -m bench.churn ROWS QUERIES [--base 45000] [--operations 100000] [--batch 5000] [--attributes 0]
    python -m bench.churn ROWS QUERIES --base 1000 --operations 1000000 --batch 20000 --same

ROWS and QUERIES are sources of vectors as `vantage build` takes them. The first --base rows are built, fast, with as
many filterable attributes as asked for, up to five (a text of 30 values, two integers, a number, a list of texts). Then
operations are written to the log, a batch at a time, and each batch is compacted: a quarter of them each are new rows,
rows replaced by another vector, patches (without attributes: replaced again) and deletes. With --same, rows are deleted
and added again under the ids of the base alone, in turn.

Prints of the index as it was built, after each tenth of the operations, and of one built anew of the same rows: rows;
compactions by what they did, and their seconds; bytes that compactions wrote over those of the vectors and attributes
that came (amplification). Of 200 queries for 100 rows as the contract keeps it, nothing cached, and of the same under a
filter that takes a thirtieth: GETs, bytes, recall@100 against all rows; and, as a promise is kept more or less amply,
the bytes at which the queries find 0.95 (between those of promises around it). Bytes that the live generation names,
and those of the bucket once `gc` has deleted what no generation needs. No two rows have the same vector.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.growing import K, vectors_of
from build_index.bucket.generations import find_generation, gc
from build_index.bucket.log_store import StoreLog
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.compact import Folded, compact
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.neighbours.exact import exact_neighbours
from build_index.tune.options import Options
from build_index.write.vectors import stored_values
from vantage.format.log import NO_KEY, OPERATIONS_MAX, Request, RowShape
from vantage.log.commit import commit
from vantage.log.conditions import Write
from vantage.log.state import read_log
from vantage.search.query import Query

F32 = npt.NDArray[np.float32]
QUERIES = 200
ALIKE = 0.95  # recall at which bytes are compared
PROMISES = (0.9, 0.93, 0.95, 0.97)  # that are asked for, to find the bytes
TENTHS = 10
VALUES = 30  # of the text
TYPES = {
    "kind": pa.string(), "number": pa.int64(), "year": pa.int64(), "weight": pa.float64(),
    "tags": pa.list_(pa.string()),
}  # fmt: skip


class Rows:
    """The rows that there ought to be: of each id the position of its vector, and its attributes."""

    def __init__(self, x: F32, base: int, attributes: int) -> None:
        self.x, self.names, self.draw = x, [*TYPES][:attributes], np.random.default_rng(1)
        self.vector, self.free = {i: i for i in range(base)}, [*range(base, len(x))]
        self.attributes = {i: self.drawn() for i in range(base)}
        self.next = base

    def drawn(self) -> dict[str, Any]:
        """Attributes of a row."""
        kind, number, year, weight, tag = self.draw.integers(0, [VALUES, 100_000, 60, 1000, 300]).tolist()
        values = [f"kind-{kind}", number, 1965 + year, weight / 10, [f"tag-{tag}", f"tag-{tag % 17}"]]
        return dict(zip(self.names, values, strict=False))

    def put(self, identifier: int) -> None:
        """Another vector, which no row has, and other attributes."""
        place = int(self.draw.integers(len(self.free)))
        self.free[place], self.free[-1] = self.free[-1], self.free[place]
        new, old = self.free.pop(), self.vector.get(identifier)
        if old is not None:
            self.free.append(old)
        self.vector[identifier], self.attributes[identifier] = new, self.drawn()

    def delete(self, identifier: int) -> None:
        """The row is gone."""
        self.free.append(self.vector.pop(identifier))
        del self.attributes[identifier]

    def table(self) -> pa.Table:
        """All of them, for a build."""
        ids = [*self.vector]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(self.x[[*self.vector.values()]].ravel()), self.x.shape[1])
        columns = {name: pa.array([self.attributes[i][name] for i in ids], TYPES[name]) for name in self.names}
        return pa.table({"id": pa.array(ids, pa.int64()), "vector": flat, **columns})


def step(rows: Rows, count: int, *, same: bool) -> list[tuple[str, int]]:
    """Does so many operations; (what was done last, id) of each id that was written."""
    last, known = dict[int, str](), [*rows.vector]
    for i in range(count):
        identifier = known[int(rows.draw.integers(len(known)))]
        if same:
            if identifier in rows.vector:
                rows.delete(identifier)
                last[identifier] = "delete"
            else:
                rows.put(identifier)
                last[identifier] = "upsert"
            continue
        turn = i % 4
        if turn == 0:
            identifier, rows.next = rows.next, rows.next + 1
        elif identifier not in rows.vector:
            continue
        if turn == 3:
            rows.delete(identifier)
            last[identifier] = "delete"
        elif turn == 2 and rows.names and last.get(identifier) != "upsert":
            rows.attributes[identifier] = rows.attributes[identifier] | {rows.names[0]: rows.drawn()[rows.names[0]]}
            last[identifier] = "patch"
        else:
            rows.put(identifier)
            last[identifier] = "upsert"
    if same:  # an even number of times each, so that all ids are there
        for identifier in [i for i in known if i not in rows.vector]:
            rows.put(identifier)
            last[identifier] = "upsert"
    return [(what, identifier) for identifier, what in last.items()]


def write(where: Path, rows: Rows, done: list[tuple[str, int]]) -> int:
    """Writes them to the log; bytes of the vectors and attributes that came."""
    index = open_index(where).root.index
    shape, store = RowShape(index.dimension, index.id_kind, index.vector_kind), StoreLog(FolderStore(where))
    nbytes = 0

    def texts(ids: list[int]) -> list[bytes]:
        return [json.dumps(rows.attributes[i]).encode() if rows.names else b"" for i in ids]

    async def unasked(current: Any, ids: Any) -> Any:
        raise AssertionError("no condition asks for rows")

    async def run() -> None:
        nonlocal nbytes
        state = await read_log(store, time.monotonic)
        for low in range(0, len(done), OPERATIONS_MAX):
            some = done[low : low + OPERATIONS_MAX]
            put, change, gone = ([i for what, i in some if what == w] for w in ("upsert", "patch", "delete"))
            vectors = rows.x[[rows.vector[i] for i in put]]
            stored = stored_values(vectors, index.vector_kind, np.arange(len(put))).tobytes()
            own, changes = texts(put), texts(change)
            nbytes += len(stored) + sum(map(len, own)) + sum(map(len, changes))
            request = Request(NO_KEY, 0, put, stored, own, change, changes, gone)
            state, _ = await commit(store, state, [Write(request)], shape, unasked, time.monotonic)

    asyncio.run(run())
    return nbytes


def measured(where: Path, rows: Rows, queries: F32) -> dict[str, Any]:
    """What a query costs and finds, with a filter and without; what the index takes."""
    index, ids = open_index(where), np.array([*rows.vector])
    x = rows.x[[*rows.vector.values()]]
    if index.root.index.metric == "cosine":
        x, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, queries))
    out: dict[str, Any] = {"rows": len(ids)}

    def asked(wanted: dict[str, Any] | None, taken: npt.NDArray[Any], truth: Any, recall: float | None) -> list[float]:
        """GETs and MB of a query, and recall."""
        found, gets, nbytes, n = 0, 0, 0, len(queries)
        for q, best in zip(queries, truth, strict=True):
            answer = asyncio.run(index.query(Query(q.tolist(), K, recall=recall, filter=wanted)))
            found += len({match.id for match in answer.matches} & set(ids[taken[best]].tolist()))
            gets, nbytes = gets + answer.receipt.gets, nbytes + answer.receipt.bytes
        return [gets / n, nbytes / n / 1e6, found / n / K]

    for name in ("", *(("filtered_",) if rows.names else ())):
        taken = np.arange(len(ids))
        if name:
            taken = np.flatnonzero([rows.attributes[i]["kind"] == "kind-7" for i in ids.tolist()])
        truth = exact_neighbours(queries, iter([(0, x[taken])]), K, index.root.index.metric)
        gets, mb, recall = asked({"kind": "kind-7"} if name else None, taken, truth, None)
        out |= {f"{name}gets": round(gets, 2), f"{name}mb": round(mb, 3), f"{name}recall": round(recall, 4)}
        if not name:
            points = sorted((asked(None, taken, truth, recall)[1:] for recall in PROMISES), key=lambda one: one[1])
            mbs, recalls = zip(*points, strict=True)
            if recalls[0] <= ALIKE <= recalls[-1]:
                out["mb_alike"] = round(float(np.exp(np.interp(ALIKE, recalls, np.log(mbs)))), 3)
    _, objects, _ = find_generation(FolderStore(where), index.current.generation)
    gc(FolderStore(where), 0.0)
    size = sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    return out | {
        "live_mb": round(sum(o.size for o in objects) / 1e6, 2), "bucket_mb": round(size / 1e6, 2),
        "root_kb": round(index.current.root.size / 1e3, 1),
    }  # fmt: skip


def built(where: Path, rows: Rows, metric: str) -> None:
    """The index of the rows as they are now."""
    file = where.with_name("rows.parquet")
    pq.write_table(rows.table(), file)
    options = Options(fast=True, filters=tuple(rows.names))
    build(open_source([file], id_column="id", attributes=rows.names), BuildContext(where, metric, options))


def main() -> None:
    """Prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--base", type=int, default=45_000)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--attributes", type=int, default=0, choices=range(len(TYPES) + 1))
    parser.add_argument("--same", action="store_true", help="only the ids of the base, deleted and added again")
    parser.add_argument("--metric", default="cosine")
    given = parser.parse_args()
    x, queries = vectors_of(given.rows, 1 << 30), vectors_of(given.queries, QUERIES)
    rows = Rows(x, given.base, given.attributes)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder, "bucket", "index")
        where.parent.mkdir()
        built(where, rows, given.metric)
        print(json.dumps({"how": "build", **measured(where, rows, queries)}), flush=True)
        came, wrote, seconds, hows, done = 0, 0, 0.0, Counter[str](), 0
        for tenth in range(1, TENTHS + 1):
            while done < given.operations * tenth // TENTHS:
                some = min(given.batch, given.operations - done)
                came += write(where, rows, step(rows, some, same=given.same))
                began = time.monotonic()
                folded: Folded = compact(FolderStore(where))
                seconds += time.monotonic() - began
                wrote, done, hows = wrote + folded.written_bytes, done + some, hows + Counter([folded.how])
            told = {
                "operations": done, "how": dict(hows), "seconds": round(seconds, 1), "pending": folded.pending,
                "dead": folded.dead, "rebuild_pays": folded.rebuild_pays, "amplification": round(wrote / came, 2),
            }  # fmt: skip
            print(json.dumps(told | measured(where, rows, queries)), flush=True)
        again = Path(folder, "again", "index")
        again.parent.mkdir()
        built(again, rows, given.metric)
        print(json.dumps({"how": "built anew", **measured(again, rows, queries)}), flush=True)


if __name__ == "__main__":
    main()
