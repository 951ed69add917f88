"""What VectorIndex costs in a notebook, and its drift on rows like those it was fitted to, and on others.

python -m bench.library DATA [--rows 20000]: DATA holds wordnet/part-0.parquet and sift/base.parquet; prints a table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from build_index import VectorIndex

SETS = {"wordnet": ("part-0.parquet", "cosine"), "sift": ("base.parquet", "l2")}


def timed(call: Any, *args: Any) -> float:
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--sets", default="wordnet,sift")
    asked = parser.parse_args()
    print(
        "| data | fit s | add 1,000, s | next search, s | remove 1,000, s | a query, ms | drift, alike | drift, moved |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in asked.sets.split(","):
        file, metric = SETS[name]
        column = pq.read_table(asked.data / name / file, columns=["vector"])["vector"].combine_chunks()
        flat = column.buffers()[1] if pa.types.is_fixed_size_binary(column.type) else column.flatten()
        x = np.asarray(np.frombuffer(flat, np.uint8) if isinstance(flat, pa.Buffer) else flat)
        x = x.reshape(len(column), -1).astype(np.float32)
        x = x[np.random.default_rng(0).permutation(len(x))[: asked.rows + 2000]]
        index, rows = VectorIndex(metric=metric, k=10, fast=True), asked.rows
        fit = timed(index.fit, x[:rows])
        index.search(x[:1])
        add = timed(index.add, x[rows : rows + 1000])
        alike, again = index.drift_, timed(index.search, x[:1])
        query = timed(index.search, x[:200]) / 200
        remove = timed(index.remove, np.arange(1000))
        index.add(x[rows + 1000 :, np.random.default_rng(1).permutation(x.shape[1])])  # of the same values, elsewhere
        print(
            f"| {name}, {rows:,} | {fit:.0f} | {add:.2f} | {again:.2f} | {remove:.2f} | {1000 * query:.1f} | "
            f"{alike:.3f} | {index.drift_:.2f} |"
        )


if __name__ == "__main__":
    main()
