"""Bytes and GETs a query when queries are asked together, nothing cached.

    python -m bench.batches INDEX... --queries FILE... [--limit N] [--sizes 1 16 256]

INDEX is a folder in a bucket, FILE Parquet with vectors, one for each index. All queries of a file are asked in batches
of each size, in file order; what does not fill a batch is left out. Answers are compared with those of single queries.
For the published figures: `vantage build DATA/wordnet/part-*.parquet --out bucket/wordnet` and
`vantage build DATA/sift/base.parquet --out bucket/sift`, then both with their queries.parquet.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from build_index.bucket.open import open_index
from build_index.ingest.queries import read_queries
from vantage.index import Index
from vantage.receipt import Receipt
from vantage.search.query import Answer, Query


def asked(index: Index, queries: list[Query], size: int) -> tuple[list[Answer], list[Receipt]]:
    """Answers in order, and the receipt of each batch."""
    receipts = [Receipt() for _ in range(len(queries) // size)]

    async def all_of() -> list[Answer]:
        return [
            answer
            for i, receipt in enumerate(receipts)
            for answer in await index.answer(queries[i * size : (i + 1) * size], receipt)
        ]

    return asyncio.run(all_of()), receipts


def main() -> None:
    """Prints a table an index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, nargs="+")
    parser.add_argument("--queries", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 256])
    options = parser.parse_args()
    for path, file in zip(options.index, options.queries, strict=True):
        index = open_index(path)
        queries = [Query(v.tolist(), index.root.contract.k) for v in read_queries(file, options.limit).vectors]
        directory = index.segment.resident
        assert directory is not None
        nbytes = sum(directory.places[0].whole)
        print(f"{path.name}: {index.root.index.rows:,} rows, {nbytes / 1e6:.2f} MB of blocks, {len(queries)} queries")
        print("batch   GETs a query   kB a query   of single   waves   modelled ms a batch   answers differ")
        single: list[Answer] = []
        for size in (n for n in options.sizes if n <= len(queries)):
            answers, receipts = asked(index, queries, size)
            single = single or answers
            n, total = len(answers), sum(r.bytes for r in receipts)
            alone = sum(a.receipt.bytes for a in answers)
            differ = sum(a.matches != b.matches for a, b in zip(answers, single, strict=False))
            print(
                f"{size:5}{sum(r.gets for r in receipts) / n:15.2f}{total / n / 1e3:13.1f}{total / alone:12.3f}"
                f"{max(r.waves for r in receipts):8}{sum(r.modelled_ms for r in receipts) / len(receipts):22.1f}"
                f"{differ:17}"
            )


if __name__ == "__main__":
    main()
