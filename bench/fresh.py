"""CPU of a query beside fresh rows and superseded ids, in this process, against the same index without a log.

    python -m bench.fresh INDEX [--queries 40] [--top-k 10]

Fresh rows are rows of the index, moved a little, and queries lie near such rows. Prints the median milliseconds of CPU
a query, its GETs, and what it took to take in the log; the log lies in memory alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

import numpy as np

from build_index.bucket.open import open_index
from build_index.write.vectors import stored_values
from vantage.format.log import NO_KEY, OPERATIONS_MAX, Id, Request, RowShape, Segment
from vantage.index import Index
from vantage.log.tail import Tail
from vantage.search.fresh import FreshRows
from vantage.search.listing import Listing, prepare_listing
from vantage.search.query import Query

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--top-k", type=int, default=10)
    asked = parser.parse_args()
    index = open_index(asked.index)
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
