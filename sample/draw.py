"""Draws the committed WordNet sample from the full collection: `python sample/draw.py DATA_FOLDER`.

DATA_FOLDER holds WordNet 3.0 as `wordnet/part-0.parquet`, `part-1.parquet` (base) and `queries.parquet` (synsets that
are not in the base). 12,288 base rows and 600 queries are drawn at random, because the base lies in dictionary order
and a prefix is not a fair sample; both keep their order. The bytes depend on nothing but the input and the versions of
numpy and pyarrow.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 7
ROWS = 12_288
QUERIES = 600
NEIGHBORS = 100


def draw(table: pa.Table, rows: int) -> pa.Table:
    """`rows` rows of `table`, at random, in the order of `table`."""
    return table.take(np.sort(np.random.default_rng(SEED).choice(table.num_rows, rows, replace=False)))


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """f64[rows, dimension] of a fixed-size list column."""
    column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), -1)


def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A fixed-size list column of `values`, shape (rows, width)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), values.shape[1])


def neighbors(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """int32[queries, 100]: rows of the largest inner products, best first, ties by lower row.

    The values are f16, so every product is a multiple of 2^-48 and a sum of 384 of them, below 16, fits the 53 bits of
    an f64: the sums are exact in any order, and the ranking is the same on every machine.
    """
    return np.argsort(-(queries @ base.T), axis=1, kind="stable")[:, :NEIGHBORS].astype(np.int32)


def write(table: pa.Table, path: Path, plain: list[str], split: list[str]) -> None:
    """zstd, with `split` columns byte-stream-split (0.85 of the raw f16 size; 0.92 with plain pages)."""
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=plain,
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in split},
    )
    print(f"{path}: {table.num_rows:,} rows, {path.stat().st_size:,} bytes")


def main(data: Path, out: Path) -> None:
    base = pa.concat_tables([pq.read_table(data / "wordnet" / f"part-{i}.parquet") for i in range(2)])
    base = draw(base.select(["id", "vector", "words", "pos", "category", "gloss"]), ROWS)
    write(base, out / "wordnet.parquet", plain=["pos", "category"], split=["vector"])

    queries = draw(pq.read_table(data / "wordnet" / "queries.parquet"), QUERIES)
    vectors = matrix(queries["vector"])
    halves = vectors.astype(np.float16)
    assert (halves == vectors).all(), "the query values are f16-exact, so that f16 loses nothing"
    truth = neighbors(matrix(base["vector"]), vectors)
    table = pa.table(
        {
            "id": queries["id"],
            "text": queries["text"],
            "vector": lists(halves, pa.float16()),
            "neighbors": lists(truth, pa.int32()),
        }
    )
    write(table, out / "queries.parquet", plain=[], split=["vector", "neighbors"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python sample/draw.py DATA_FOLDER")
    main(Path(sys.argv[1]), Path(__file__).parent)
