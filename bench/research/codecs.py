"""What every codec finds at equal bytes a row: all blocks scanned, stored factors, the kernels' own integers.

    python -m bench.research.codecs DATA [--sets wordnet,sift] [--blocks 1024] [--queries 200] [--held-out]

Bytes count the code and its two factor bytes; row numbers, checks and ids are the same for all. r@k is recall@k of the
scan's own order, R95 and R99 how many rows must be scored exactly for that share of the true 100. Tables are trained
without the held-out rows; --held-out asks these instead of the queries of DATA, for choices. Every row lies in one
block, the nearest. faiss PQ has 8 bits a run, no blocks and no factors, and is scored in floats;
spectral hashing is scored by Hamming distance. sign stands as long as there is a dimension for every bit.
"""

from __future__ import annotations

import argparse
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from bench.common import packed, rows_of
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section, quantize_centres
from build_index.blocks.partition import Partition
from build_index.codecs import CODECS, sign
from build_index.codecs.planes import F32, F64, Codec, encode_blocks
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import Ints, Rows
from build_index.neighbours.truth import hold_out, truth_of
from build_index.simulate.edge import prepare_rows
from vantage import kernels
from vantage.format import RANGES_AT
from vantage.search.prepare import Prepared, prepare

BYTES = {"wordnet": (48, 96, 192), "sift": (16, 32, 64)}
AT_ONCE = 8192  # rows encoded
SAMPLE_ROWS = 20_000
K = 100


@dataclass(frozen=True)
class Asked:
    """Queries, the rows that they are (or -1), and their exact neighbours i32 (Q, 100)."""

    name: str
    queries: list[Prepared]
    own: Ints
    truth: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Data:
    """Rows x f32 (N, d) by block, source (N) their numbers, starts (B + 1), stored centres; what codecs learn from."""

    metric: str
    x: F32
    source: Ints
    starts: Ints
    centres: F32
    moments: tuple[F64, F64]
    sample: F32


def data_of(rows: Rows, base: Partition, seen: Ints) -> Data:
    """Rows in blocks, and the moments and residuals of the rows seen (sorted)."""
    order = np.argsort(base.home, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(base.home, minlength=base.blocks))])
    centres = quantize_centres(base.centres, rows.metric)[1]
    residual, whole = np.zeros((2, rows.dimension, rows.dimension))
    for low in range(0, len(seen), AT_ONCE):
        part = seen[low : low + AT_ONCE]
        x = rows.take(part)
        r = x - centres[base.home[part]]
        residual += r.T @ r
        whole += x.T @ x
    some = seen[:: -(-len(seen) // SAMPLE_ROWS)]
    sample = rows.take(some) - centres[base.home[some]]
    return Data(
        rows.metric, rows.take(order), order, starts, centres, (residual / len(seen), whole / len(seen)), sample
    )


def scanned(data: Data, codec: Codec, queries: list[Prepared]) -> npt.NDArray[np.int32]:
    """i32 (Q, N): the kernels' integer of every row, by block."""
    out = np.empty((len(queries), len(data.x)), np.int32)
    half, tables = codec.axes.astype(np.float16), []
    for q in queries:
        rotated = array("f", bytes(4 * len(half)))
        kernels.dot_f16(q.vector, half, 0, 2 * half.shape[1], len(half), half.shape[1], rotated)
        table = bytearray(kernels.lrsq_tables_size(codec.code_bytes, codec.section.fine))
        weighted = np.asarray(rotated, np.float32) * codec.deviation
        section = codec.section
        kernels.lrsq_tables(weighted, section.fields, section.starts, section.levels, q.unit, section.fine, table)
        tables.append(table)
    vectors = np.stack([np.asarray(q.vector, np.float32) for q in queries])
    bias = -0.5 * (data.centres**2).sum(1) if data.metric == "l2" else np.zeros(len(data.centres))
    near, blocks, low = vectors @ data.centres.T + bias, len(data.centres), 0
    while low < blocks:
        high = max(low + 1, int(np.searchsorted(data.starts, data.starts[low] + AT_ONCE, "right")) - 1)
        high = min(high, blocks)
        x, local = data.x[data.starts[low] : data.starts[high]], data.starts[low : high + 1] - data.starts[low]
        for b, e in enumerate(encode_blocks(codec, x, local.tolist(), data.centres[low:high], data.metric), low):
            n, at = len(e.f), data.starts[b]
            body, planes = packed(e, data.x.shape[1])
            for j, table in enumerate(tables):
                kernels.lrsq_scores(
                    body, RANGES_AT, planes.codes, planes.f, planes.h, planes.rows, n, float(near[j, b]), 0, table,
                    out[j, at : at + n],
                )  # fmt: skip
        low = high
    return out


def faiss_pq(data: Data, total: int, queries: list[Prepared]) -> F32 | None:
    """f32 (Q, N): scores by PQ of `total` runs, 8 bits each, of whole rows; None where runs would differ in length."""
    dimension = data.x.shape[1]
    if dimension % total:
        return None
    pq = faiss.ProductQuantizer(dimension, total, 8)
    pq.train(np.ascontiguousarray(data.x[:: -(-len(data.x) // SAMPLE_ROWS)]))
    vectors = np.stack([np.asarray(q.vector, np.float32) for q in queries])
    out = np.empty((len(queries), len(data.x)), np.float32)
    for low in range(0, len(data.x), AT_ONCE):
        decoded = pq.decode(pq.compute_codes(data.x[low : low + AT_ONCE]))
        fixed = 0.5 * (decoded**2).sum(1) if data.metric == "l2" else 0
        out[:, low : low + AT_ONCE] = vectors @ decoded.T - fixed
    return out


def spectral(data: Data, total: int, queries: list[Prepared]) -> F32:
    """f32 (Q, N): minus the Hamming distance of spectral hashing's codes of `total` bytes (Weiss et al., NIPS 2008).

    Bits are sines along principal axes of whole rows, of the lowest frequencies, so that they are no signs of a
    direction and the scan has no tables for them.
    """
    x, bits = data.x, 8 * total
    axes = np.linalg.eigh(data.moments[1] - np.outer(x.mean(0), x.mean(0)))[1][:, ::-1][:, :bits].astype(np.float32)
    low, high = np.quantile(x[:: -(-len(x) // SAMPLE_ROWS)] @ axes, [0.001, 0.999], axis=0)
    waves = np.outer(np.arange(1, bits + 1), np.pi / (high - low))
    mode, axis = np.unravel_index(np.argsort(waves, axis=None)[:bits], waves.shape)

    def codes(of: F32) -> npt.NDArray[np.uint8]:
        phase = (of @ axes - low)[:, axis] * waves[mode, axis] + np.pi / 2
        return np.packbits(np.sin(phase) > 0, axis=1)

    asked = codes(np.stack([np.asarray(q.vector, np.float32) for q in queries]))
    out = np.empty((len(queries), len(x)), np.float32)
    for at in range(0, len(x), AT_ONCE):
        rows = codes(x[at : at + AT_ONCE])
        for j, code in enumerate(asked):
            out[j, at : at + len(rows)] = -np.bitwise_count(rows ^ code).sum(1, dtype=np.int32)
    return out


def cells(data: Data, asked: Asked, scores: npt.NDArray[np.int32] | F32) -> str:
    """recall@10, recall@100, R95 and R99 of scores (Q, N)."""
    place = np.empty(len(data.source), np.int64)
    place[data.source] = np.arange(len(place))
    ranks = np.empty(asked.truth.shape, np.int64)
    for i, (row, own, truth) in enumerate(zip(scores, asked.own, asked.truth, strict=True)):
        ordered = np.sort(row)
        ranks[i] = len(row) - np.searchsorted(ordered, row[place[truth]], "right")
        if own >= 0:
            ranks[i] -= row[place[own]] > row[place[truth]]
    found = [float((ranks[:, :k] < k).mean()) for k in (10, K)]
    need = [int(np.quantile(ranks, share, method="higher")) + 1 for share in (0.95, 0.99)]
    return f"  {found[0]:.4f}  {found[1]:.4f}  {need[0]:6}  {need[1]:6}"


def trainers(dimension: int) -> dict[str, Callable[[F64, F64, int, F32], Codec | None]]:
    """Names as they are printed -> codecs of these bytes, None where there is none."""

    def plain(residual: F64, queries: F64, code_bytes: int, sample: F32) -> Codec | None:
        if 8 * code_bytes > dimension:
            return None
        return sign.train(residual, queries, code_bytes, given=np.eye(dimension)[: 8 * code_bytes])

    return {"sign": plain, "rotated sign": CODECS["sign"]} | {k: CODECS[k] for k in ("rabitq", "pq", "ecvh", "lrsq")}


def measured(data: Data, sets: list[Asked], lengths: tuple[int, ...], names: list[str]) -> None:
    """Prints the table of one set."""
    print(f"{'codec':14} bytes" + "".join(f"  {one.name:30}  " for one in sets) + "  seconds")
    print(f"{'':20}" + len(sets) * "  r@10    r@100      R95     R99    ")
    queries = [q for one in sets for q in one.queries]
    parts = np.cumsum([len(one.queries) for one in sets])[:-1]
    for total in lengths:
        for name, train in (trainers(data.x.shape[1]) | {"faiss pq": None, "spectral": None}).items():
            if name not in names:
                continue
            began, scores = time.monotonic(), None
            if train is None:
                scores = (spectral if name == "spectral" else faiss_pq)(data, total, queries)
            elif (codec := train(*data.moments, total - 2, data.sample)) is not None:
                scores = scanned(data, codec, queries)
            if scores is not None:
                line = "".join(cells(data, *each) + "  " for each in zip(sets, np.split(scores, parts), strict=True))
                print(f"{name:14} {total:5}{line}{time.monotonic() - began:10.1f}", flush=True)


def main() -> None:
    """A table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--blocks", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--codecs", default="sign,rotated sign,rabitq,pq,faiss pq,spectral,ecvh,lrsq")
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            held = hold_out(rows.count, 0)
            seen = np.setdiff1d(np.arange(rows.count), held.all)
            data = data_of(rows, partition(rows, seen, options.blocks, 0), seen)
            if options.held_out:
                few = held.tuning[:: max(1, len(held.tuning) // options.queries)]
                sets = [Asked("held-out rows", prepare_rows(rows, few), few, truth_of(rows, few, K).rows)]
            else:
                sets, section = [], index_section(rows, 1, rows.count)
                for path in sorted((options.data / name).glob("queries*.parquet")):
                    found = read_queries(path, None).spread(options.queries)
                    assert found.neighbors is not None
                    asked = [prepare(v.tolist(), section) for v in found.vectors]
                    sets.append(Asked(path.stem, asked, np.full(len(asked), -1), found.neighbors[:, :K]))
        print(f"{name}: {rows.count} rows, {options.blocks} blocks, {len(sets[0].queries)} queries, all blocks scanned")
        measured(data, sets, BYTES[name], options.codecs.split(","))


if __name__ == "__main__":
    main()
