"""What attributes cost by their length, read with the codes against single rows: bytes of a query, and of the places.

    python -m bench.research.attributes [--rows 2000] [--dimension 64] [--bytes 100,300,500,1000,3000,50000]
        [--queries 30]

Builds an index of clustered rows for each length, both ways, and asks for the top 10 with attributes, nothing cached.
Printed of each: bytes of the answer's attributes, what a query reads more for them in bytes and GETs, what that is over
the answer, and the share of the scan blocks that says where attributes are. Exit 1 where the way that the builder takes
for rows of 50,000 bytes reads over 20% more than it returns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune.options import Options
from vantage.format import SPOT_BYTES, aligned
from vantage.search.query import Query

TOP_K = 10
LONG = 50_000
OVER_MAX = 0.2


@dataclass(frozen=True)
class Cost:
    """Means of a query: bytes of the attributes it returns; bytes of the scan, and bytes and GETs more for attributes.

    share: of the bytes of scan blocks, what says where attributes are.
    """

    returned: float
    scan: float
    read: float
    gets: float
    share: float

    @property
    def over(self) -> float:
        """What is read over what is returned."""
        return self.read / self.returned - 1


def clustered(rows: int, dimension: int, seed: int) -> np.ndarray:
    """f32 (rows, dimension): clouds around forty centres, most of them along few axes, as embeddings are."""
    draw, axes = np.random.default_rng(seed), 1 / np.sqrt(1 + np.arange(dimension))
    centres = np.random.default_rng(0).standard_normal((40, dimension))
    rows_of = centres[draw.integers(40, size=rows)] + 0.5 * draw.standard_normal((rows, dimension))
    return (rows_of * axes).astype(np.float32)


def made(folder: Path, rows: int, dimension: int, nbytes: int, by_row: bool) -> Path:
    """An index of rows with texts of so many bytes."""
    x = clustered(rows, dimension, 1)
    words = ["of", "the", "a", "text", "that", "people", "store", "beside", "vectors"]
    draw = np.random.default_rng(2)
    texts = [" ".join(draw.choice(words, nbytes // 4))[:nbytes] for _ in range(rows)]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), dimension)
    source, out = folder / "source.parquet", folder / f"{nbytes}-{by_row}"
    pq.write_table(pa.table({"id": np.arange(rows), "vector": flat, "text": texts}), source)
    with (
        patch("build_index.write.contents.are_long", lambda *_: by_row),
        patch("build_index.ingest.attributes.are_long", lambda *_: by_row),
        patch("build_index.write.contents.BLOCK_BYTES_MAX", 1 << 40),
        patch("build_index.tune.renditions.INLINE_BYTES", 0),
    ):
        build(open_source([source]), BuildContext(out, "cosine", Options(k=TOP_K, fast=True)))
    return out


def measured(path: Path, queries: np.ndarray) -> Cost:
    """Means over queries (Q, d); all must be answered whole."""
    index, rows = open_index(path), []
    for q in queries:
        plain = asyncio.run(index.query(Query(q.tolist(), TOP_K)))
        answer = asyncio.run(index.query(Query(q.tolist(), TOP_K, attributes=True)))
        assert answer.complete and all(m.attributes for m in answer.matches)
        told = [json.dumps(list((m.attributes or {}).values()), separators=(",", ":")) for m in answer.matches]
        spent, before = answer.receipt, plain.receipt
        rows.append((sum(map(len, told)), before.bytes, spent.bytes - before.bytes, spent.gets - before.gets))
    directory = index.segment.resident
    assert directory is not None
    places = SPOT_BYTES * sum(aligned(n, 16) for n in directory.rows) * index.root.index.by_row
    return Cost(*np.mean(rows, 0).tolist(), places / sum(directory.places[0].whole))


def main() -> int:
    """Prints a line a length and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--bytes", default=f"100,300,500,1000,3000,{LONG}")
    parser.add_argument("--queries", type=int, default=30)
    options = parser.parse_args()
    queries = clustered(options.queries, options.dimension, 3)
    worst = 0.0
    print("bytes a row  read by   returned    attribute wave       over   scan wave  places, share of scan blocks")
    for nbytes in map(int, options.bytes.split(",")):
        for by_row in (False, True):
            if nbytes * 200 > 1 << 22 and not by_row:
                continue  # a block of them is over what one read may be
            with tempfile.TemporaryDirectory() as folder:
                path = made(Path(folder), options.rows, options.dimension, nbytes, by_row)
                cost = measured(path, queries)
            print(
                f"{nbytes:11,}  {'row' if by_row else 'block':7} {cost.returned / 1e3:7.1f} kB  "
                f"{cost.read / 1e3:8.1f} kB, {cost.gets:4.1f} GETs  "
                f"{cost.over:7.0%}  {cost.scan / 1e3:6.1f} kB  {cost.share:.1%}",
                flush=True,
            )
            worst = max(worst, cost.over) if nbytes >= LONG else worst
    print(f"most over at {LONG:,} bytes and more: {worst:.1%}")
    return int(worst > OVER_MAX)


if __name__ == "__main__":
    sys.exit(main())
