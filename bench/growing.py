"""What an index costs and finds as it grows by flushes.

    python -m bench.growing ROWS QUERIES [--base 10000] [--flush 1000,1000,1000] [--count 200] [--metric cosine]
        [--router mlp]

ROWS and QUERIES are sources of vectors as `vantage build` takes them. The first --base rows are built by --router,
without attributes; then as many as --flush says are written to the log and compacted, one flush after the other. Prints
of the index as it was built, and after each flush: rows; what the compaction did; its seconds, those of CPU, blocks;
bytes that it wrote, and these over the bytes of the rows that came (amplification). And of a query for 100 rows as the
contract keeps it, nothing cached: GETs, bytes, recall@100 against all rows, and which part of the rows that flushes
brought was found, of those that are among the best 100.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from build_index.bucket.log_store import StoreLog
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.compact import compact
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.neighbours.exact import exact_neighbours
from build_index.routers import ROUTERS
from build_index.tune.options import Options
from build_index.write.vectors import stored_values
from vantage.format import VECTOR_BYTES
from vantage.format.log import NO_KEY, OPERATIONS_MAX, Request, RowShape
from vantage.log.commit import commit
from vantage.log.conditions import Write
from vantage.log.state import read_log
from vantage.search.query import Query

K = 100
F32 = npt.NDArray[np.float32]


def vectors_of(path: Path, count: int) -> F32:
    """f32 (n, d): the first rows of a source, so many at most."""
    parts, left = list[F32](), count
    for batch in open_source([path]).batches(8192):
        parts.append(batch.vectors[:left].astype(np.float32))
        left -= len(parts[-1])
        if left <= 0:
            break
    return np.concatenate(parts)


def write(where: Path, x: F32, first: int) -> None:
    """Rows (n, d) to the log, with ids from `first` on."""
    index = open_index(where).root.index
    shape, store = RowShape(index.dimension, index.id_kind, index.vector_kind), StoreLog(FolderStore(where))
    stored = stored_values(x, index.vector_kind, np.arange(len(x)))

    async def unasked(current: Any, ids: Any) -> Any:
        raise AssertionError("no condition asks for rows")

    async def run() -> None:
        state = await read_log(store, time.monotonic)
        for low in range(0, len(x), OPERATIONS_MAX):
            some = stored[low : low + OPERATIONS_MAX]
            request = Request(NO_KEY, 0, list(range(first + low, first + low + len(some))), some.tobytes(),
                              [b""] * len(some))  # fmt: skip
            state, _ = await commit(store, state, [Write(request)], shape, unasked, time.monotonic)

    asyncio.run(run())


def measured(where: Path, queries: F32, x: F32, base: int) -> dict[str, float]:
    """What a query costs and finds."""
    index, scaled = open_index(where), x
    if index.root.index.metric == "cosine":
        scaled = x / np.linalg.norm(x, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    truth = exact_neighbours(queries, iter([(0, scaled)]), K, index.root.index.metric)
    found = new = wanted = gets = nbytes = 0

    async def run() -> None:
        nonlocal found, new, wanted, gets, nbytes
        for q, best in zip(queries, truth, strict=True):
            answer = await index.query(Query(q.tolist(), K))
            own, right = {match.id for match in answer.matches}, set(best.tolist())
            late = {row for row in right if row >= base}
            found, new, wanted = found + len(own & right), new + len(own & late), wanted + len(late)
            gets, nbytes = gets + answer.receipt.gets, nbytes + answer.receipt.bytes

    asyncio.run(run())
    n = len(queries)
    return {
        "gets": round(gets / n, 2), "mb": round(nbytes / n / 1e6, 3), "recall": round(found / n / K, 4),
        "recall_new": round(new / max(1, wanted), 4), "root_mb": round(index.current.root.size / 1e6, 3),
    }  # fmt: skip


def main() -> None:
    """Prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--base", type=int, default=10_000)
    parser.add_argument("--flush", default="1000,1000,1000")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--router", default="lse")
    given = parser.parse_args()
    sizes = [int(size) for size in given.flush.split(",")]
    x, queries = vectors_of(given.rows, given.base + sum(sizes)), vectors_of(given.queries, given.count)
    with tempfile.TemporaryDirectory() as folder:
        where, base = Path(folder, "bucket", "index"), Path(folder, "base.npy")
        np.save(base, x[: given.base])
        options = Options(fast=not ROUTERS[given.router].trains, router=given.router)
        build(open_source([base]), BuildContext(where, given.metric, options))
        rows = given.base
        print(json.dumps({"rows": rows, "how": "build", **measured(where, queries, x[:rows], rows)}), flush=True)
        for size in sizes:
            write(where, x[rows : rows + size], rows)
            began, cpu, before = time.monotonic(), time.process_time(), rows
            folded = compact(FolderStore(where))
            took, rows = time.monotonic() - began, rows + size
            index = open_index(where).root.index
            nbytes = VECTOR_BYTES[index.vector_kind] * index.dimension * (rows - before)
            told = {
                "rows": rows, "how": folded.how, "seconds": round(took, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1), "blocks": index.blocks,
                "written_mb": round(folded.written_bytes / 1e6, 3),
                "amplification": round(folded.written_bytes / nbytes, 2),
            }  # fmt: skip
            print(json.dumps(told | measured(where, queries, x[:rows], given.base)), flush=True)


if __name__ == "__main__":
    main()
