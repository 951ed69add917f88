"""What a log costs who reads an index: CPU of a query beside fresh rows, and reads of rows that were patched.

    python -m bench.fresh INDEX [--queries 40] [--top-k 10]
    python -m bench.fresh INDEX --patched

The first, in this process, against the same index without a log: fresh rows are rows of the index, moved a little, and
queries lie near such rows. Prints the median milliseconds of CPU a query, its GETs, and what it took to take in the
log; the log lies in memory alone. The second prints what a reader that comes to a log reads of the generation, by the
number of its rows that were patched, drawn from all: GETs and bytes, the modelled milliseconds, and those of CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from random import Random

import numpy as np

from build_index.bucket.open import open_index
from build_index.write.vectors import stored_values
from vantage.format.log import NO_KEY, OPERATIONS_MAX, Id, Request, RowShape, Segment
from vantage.index import Index
from vantage.log.tail import Tail
from vantage.receipt import Receipt
from vantage.search.fresh import FreshRows
from vantage.search.listing import Listing, prepare_listing
from vantage.search.query import Query

PATCHED = (1, 10, 30, 100, 300, 1000, 2000, 5000)
CASES = ((0, 0), (1000, 0), (10_000, 0), (0, 4096), (10_000, 4096))


def with_log(index: Index, rows: np.ndarray, count: int, gone: int) -> Index:
    """The index with so many fresh rows, drawn from these (n, d) and moved, and so many deleted ids that it has not."""
    section, draw = index.root.index, np.random.default_rng(count)
    tail = Tail(1)

    def named(kind: int, number: int) -> Id:
        return (1 << 60) + (kind << 40) + number if section.id_kind == "i64" else f"{kind} of {number}".encode()

    for first in range(0, max(count, gone), OPERATIONS_MAX):
        some = range(first, min(first + OPERATIONS_MAX, count))
        if some:
            moved = rows[draw.integers(len(rows), size=len(some))] + draw.normal(size=(len(some), rows.shape[1])) * 0.02
            vectors = stored_values(moved.astype(np.float32), section.vector_kind, np.array(some)).tobytes()
            upsert = Request(NO_KEY, 0, [named(0, i) for i in some], vectors, [b""] * len(some))
            tail.apply(
                Segment(bytes(16), RowShape(section.dimension, section.id_kind, section.vector_kind), [upsert]), 0, ""
            )
        doomed = [named(1, i) for i in range(first, min(first + OPERATIONS_MAX, gone))]
        if doomed:
            shape = RowShape(section.dimension, section.id_kind, section.vector_kind)
            tail.apply(Segment(bytes(16), shape, [Request(NO_KEY, 0, deletes=doomed)]), 0, "")
    return index.with_fresh(FreshRows.none(index.root, 0).followed(tail, {}))


def median_ms(index: Index, queries: list[Query]) -> tuple[float, float]:
    """(milliseconds of CPU, GETs) a query; the second time around."""

    async def run() -> tuple[float, float]:
        took, gets = list[float](), 0
        for query in queries:
            began = time.process_time()
            answer = await index.query(query)
            took.append(time.process_time() - began)
            gets += answer.receipt.gets
        return 1e3 * statistics.median(took), gets / len(queries)

    asyncio.run(run())
    return asyncio.run(run())


async def every_id(index: Index) -> list[Id]:
    """Of all rows."""
    ids, cursor = list[Id](), None
    while not ids or cursor is not None:
        asked = Listing(limit=1000, cursor=cursor, attributes=False)
        page = await index.list_rows(prepare_listing(index.segment, asked))
        ids, cursor = ids + [row.id for row in page.rows], page.cursor
    return ids


async def print_patched(index: Index) -> None:
    """A line of JSON for each number of patched rows."""
    ids = await every_id(index)
    for count in PATCHED:
        receipt, began = Receipt(), time.process_time()
        await index.base_rows(Random(count).sample(ids, min(count, len(ids))), receipt, {})
        took = time.process_time() - began
        print(json.dumps({"patched": count, "gets": receipt.gets, "bytes": receipt.bytes,
                          "modelled_ms": round(receipt.modelled_ms), "cpu_ms": round(1e3 * took)}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--patched", action="store_true")
    asked = parser.parse_args()
    index = open_index(asked.index)
    if asked.patched:
        asyncio.run(print_patched(index))
        return
    listing = prepare_listing(index.segment, Listing(limit=1000, attributes=False, vectors=True))
    rows = np.array([row.vector for row in asyncio.run(index.list_rows(listing)).rows], np.float32)
    near = rows[np.linspace(0, len(rows) - 1, asked.queries).astype(int)]
    near = near + np.random.default_rng(0).normal(size=near.shape) * 0.02
    queries = [Query(vector, asked.top_k) for vector in near.tolist()]
    for count, gone in CASES:
        began = time.process_time()
        one = with_log(index, rows, count, gone) if count or gone else index
        took = time.process_time() - began
        ms, gets = median_ms(one, queries)
        print(json.dumps({"fresh": count, "deleted": gone, "cpu_ms": round(ms, 2), "gets": round(gets, 2),
                          "log_ms": round(1e3 * took, 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
