"""What the lrsq code alone loses: all blocks scanned, float sums of the same levels beside the kernel's integers.

    python -m bench.codes DATA [--bytes 96,144,192,240] [--blocks 1024] [--queries 200]

DATA holds wordnet/ (see sample/README.md for its columns). Bytes count the code and its two factor bytes. Every row is
scored from its home block; recall@k is against exact neighbours.
"""

from __future__ import annotations

import argparse
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common import packed, rows_of
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section, quantize_centres
from build_index.codecs import lrsq
from build_index.codecs.planes import encode, encode_blocks
from build_index.ingest.queries import read_queries
from vantage import kernels
from vantage.format import RANGES_AT
from vantage.search.prepare import prepare

BLOCKS_AT_ONCE = 64


def recall(
    scores: npt.NDArray[np.generic], truth: npt.NDArray[np.int32], source: npt.NDArray[np.int64], k: int
) -> float:
    """Mean recall@k of scores (Q, N), column i being source row source[i]."""
    best = np.argpartition(-scores.astype(np.float64), k, axis=1)[:, :k]
    return float(np.mean([np.isin(source[b], t[:k]).mean() for b, t in zip(best, truth, strict=True)]))


def main() -> None:
    """Prints a row a code length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bytes", default="96,144,192,240")
    parser.add_argument("--blocks", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    asked = read_queries(options.data / "wordnet" / "queries.parquet", options.queries)
    assert asked.neighbors is not None
    with rows_of(options.data, "wordnet") as rows:
        base = partition(rows, np.arange(rows.count), options.blocks, 0)
        order = np.argsort(base.home, kind="stable")
        sizes = np.bincount(base.home, minlength=options.blocks)
        x = rows.take(order)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    centres = quantize_centres(base.centres, "cosine")[1]
    home = np.repeat(np.arange(options.blocks), sizes)
    residual = x - centres[home]
    moments = [(a.astype(np.float64).T @ a) / len(a) for a in (residual, x)]
    queries = [prepare(v.tolist(), index_section(rows, options.blocks, rows.count)) for v in asked.vectors]
    plain = np.stack([np.asarray(q.vector) for q in queries])
    print(f"{rows.count} rows, {options.blocks} blocks, {len(queries)} held-out queries, all blocks scanned")
    print("bytes  axes  16-bit segments  float@10  float@100  kernel@10  kernel@100")
    for total in (int(b) for b in options.bytes.split(",")):
        codec = lrsq.train(moments[0], moments[1], total - 2)
        floats = np.empty((len(queries), len(x)), np.float32)
        integers = np.empty((len(queries), len(x)), np.int32)
        rotated = plain @ codec.axes.T
        tables = []
        for q, y in zip(queries, rotated, strict=True):
            table = bytearray(kernels.lrsq_tables_size(codec.code_bytes, codec.section.fine))
            kernels.lrsq_tables(
                array("f", (y * codec.deviation).tolist()), codec.section.fields, codec.section.starts,
                codec.section.levels, q.unit, codec.section.fine, table,
            )  # fmt: skip
            tables.append(table)
        near = plain @ centres.T
        for low in range(0, options.blocks, BLOCKS_AT_ONCE):
            high = min(low + BLOCKS_AT_ONCE, options.blocks)
            part = slice(starts[low], starts[high])
            decoded = encode(codec, residual[part] @ codec.axes.T)[1]
            local = (starts[low : high + 1] - starts[low]).tolist()
            encoded = encode_blocks(codec, x[part], local, centres[low:high], "cosine")
            for i, e in enumerate(encoded):
                n, at = len(e.f), starts[low + i]
                f, h = (np.float32(e.ranges[j]) + np.float32(e.ranges[j + 1]) * v for j, v in ((0, e.f), (2, e.h)))
                base_scores = near[:, low + i]
                floats[:, at : at + n] = base_scores[:, None] + h + f * (rotated @ decoded[local[i] : local[i + 1]].T)
                data, planes = packed(e, x.shape[1])
                out = array("i", bytes(4 * n))
                for j, table in enumerate(tables):
                    kernels.lrsq_scores(
                        data, RANGES_AT, planes.codes, planes.f, planes.h, planes.rows, n, float(base_scores[j]), 0,
                        table, out,
                    )  # fmt: skip
                    integers[j, at : at + n] = out
        figures = [recall(s, asked.neighbors, order, k) for s in (floats, integers) for k in (10, 100)]
        print(f"{total:5}  {len(codec.axes):4}  {codec.section.fine:15}  " + "  ".join(f"{v:9.4f}" for v in figures))


if __name__ == "__main__":
    main()
