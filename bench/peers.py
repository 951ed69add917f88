"""What the same queries cost LanceDB on object storage: its reads are counted by a small S3 server on this machine.

    pip install lancedb
    python -m bench.peers DATA [--queries 50] [--table FOLDER]

DATA holds wordnet/ (Parquet with vectors and exact neighbours). Builds an IVF_PQ table, looks for the fewest probes to
reach recall@100 0.95 on every second query, and counts reads on the others: with the whole index in memory, and cold,
where each fifth query has a new connection. Waves are the longest chain of reads of which each began after the one
before had ended; the server waits so long before it answers that a busy machine makes no waves of its own.
Connections are not limited, so `ms` is 40 for each wave and nothing for bytes; dollars are of R2's reads alone. How
many reads LanceDB has under way when cold may depend on the processors, and the waves of that line with it. --table
keeps the table, which takes minutes to build.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.counted import of_bucket, served, waves
from vantage.cost import CLASS_B_USD, ROUND_MS

K, GOAL = 100, 0.95
COLD_STEP = 5  # each cold query opens the table again, which takes many waves
PARTITIONS, SUB_VECTORS = 340, 96  # about sqrt(rows); 96 bytes a row
PROBES, REFINES = (20, 30, 40, 44, 48, 52, 56, 64, 80, 120), (2, 3)


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """f32 (n, d) of a column of lists."""
    return np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float32)


def table(lancedb: Any, folder: Path, vectors: np.ndarray) -> None:
    """Builds the table, unless it is there."""
    db = lancedb.connect(folder)
    if (folder / "words.lance").exists():
        return
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    made = db.create_table("words", pa.table({"row": np.arange(len(vectors)), "vector": column}))
    config = lancedb.index.IvfPq(distance_type="cosine", num_partitions=PARTITIONS, num_sub_vectors=SUB_VECTORS)
    made.create_index("vector", config=config)


def ask(opened: Any, vector: np.ndarray, probes: int, refine: int) -> set[int]:
    """Rows that it finds."""
    query = opened.search(vector).distance_type("cosine").nprobes(probes).refine_factor(refine).limit(K)
    return set(query.select(["row", "_distance"]).to_arrow()["row"].to_pylist())


def main() -> None:
    """Prints a line for each state of its caches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("LANCE_LOG", "error")
    logging.disable(logging.WARNING)
    import lancedb
    import lancedb.index

    words = options.data / "wordnet"
    base = pa.concat_tables([pq.read_table(words / f"part-{i}.parquet", columns=["vector"]) for i in (0, 1)])
    asked = pq.read_table(words / "queries.parquet", columns=["vector", "neighbors"])
    asked = asked.take(np.unique(np.linspace(0, len(asked) - 1, 2 * options.queries).astype(int)))
    queries, truth = matrix(asked["vector"]), [set(near[:K]) for near in asked["neighbors"].to_pylist()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.table or Path(scratch)
        table(lancedb, folder, matrix(base["vector"]))
        local = lancedb.connect(folder).open_table("words")

        def recall(opened: Any, numbers: range, probes: int, refine: int) -> float:
            return statistics.mean(len(ask(opened, queries[i], probes, refine) & truth[i]) / K for i in numbers)

        tuning, counted = range(0, len(queries), 2), range(1, len(queries), 2)
        reaching = (p for p in itertools.product(PROBES, REFINES) if recall(local, tuning, *p) >= GOAL)
        probes, refine = next(reaching)
        with served(folder) as (endpoint, log):
            store = of_bucket(endpoint)

            def opened() -> Any:
                return lancedb.connect("s3://bucket", storage_options=store).open_table("words")

            print(
                f"lancedb {lancedb.__version__}, {len(base):,} rows, {PARTITIONS} partitions, "
                f"{SUB_VECTORS} bytes a code, {probes} probes, refine {refine}, {len(counted)} queries"
            )
            print("state                  recall    GETs      MB   waves  ms at least  $ a million, reads")
            warm = opened()
            ask(warm, queries[0], PARTITIONS, refine)  # reads the whole index into its cache
            for state in ("index in memory", "cold"):
                hits, gets, nbytes, chains = list[float](), list[int](), list[int](), list[int]()
                for i in counted[:: COLD_STEP if state == "cold" else 1]:
                    log.clear()
                    rows = ask(warm if state != "cold" else opened(), queries[i], probes, refine)
                    hits.append(len(rows & truth[i]) / K)
                    gets.append(len(log))
                    nbytes.append(sum(size for *_, size in log))
                    chains.append(waves(log))
                mean = statistics.mean
                print(
                    f"{state:<20}{mean(hits):>9.4f}{mean(gets):>8.1f}{mean(nbytes) / 1e6:>8.2f}{mean(chains):>8.1f}"
                    f"{ROUND_MS * mean(chains):>13.0f}{1e6 * CLASS_B_USD * mean(gets):>20.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
