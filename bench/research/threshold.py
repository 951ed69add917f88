"""Threshold feedback in the scan: groups of 16 rows that the k-th score so far could drop by their leading segments.

    python -m bench.research.threshold DATA [--sets wordnet,sift] [--rows 20000] [--block-rows 226] [--share 0.1]
        [--queries 100]

Asked are tuning rows. Each scans the nearest blocks up to that share of the rows, nearest first, by stored factors and
the tables of the query in floats. The threshold is the k-th best score of the blocks before. A group is dropped after
so many code bytes where no row of it can reach the threshold any more: certified, as the rest of every row adds its
largest entries; likely, as it adds at most the mean over the 16 entries of each nibble and 3 deviations. "last": with
the threshold of the end, which no order of blocks can beat. A cell is the % of the code bytes that are not scanned;
lost: of the k best by the scan, the % in groups that the likely bound drops. Checks cost nothing here, so these are
upper limits of the time saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.research.common import drawn_rows
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import quantize_centres
from build_index.codecs import CODECS
from build_index.codecs.planes import F32, F64, Codec, encode_blocks
from build_index.ingest.rows import Rows
from build_index.neighbours.truth import hold_out
from build_index.simulate.edge import prepare_rows
from vantage.format import FIELD, GROUP

BYTES = {"wordnet": (48, 96, 192), "sift": (16, 32, 64)}  # of a row, two of them factors
LEADING = (8, 16, 32, 64, 96)  # code bytes after which a group may be dropped
K = (10, 100)
DEVIATIONS = 3.0


def tables(codec: Codec, query: F32) -> F64:
    """f64 (nibbles, 16): what each value of a nibble adds to the inner product with a query f32 (d)."""
    section, value = codec.section, np.arange(16)
    weighted = (codec.axes @ query * codec.deviation).astype(np.float64)
    level, fields = np.asarray(section.levels, np.float64), list(FIELD.iter_unpack(section.fields))
    out = np.zeros((2 * section.code_bytes, 16))
    for nibble in range(len(out)):
        for axis, shift, width, at in fields[section.starts[nibble] : section.starts[nibble + 1]]:
            out[nibble] += weighted[axis] * level[at + (value >> shift & (1 << width) - 1)]
    return out


def counted(
    table: F64, nibbles: npt.NDArray[np.uint8], f: F32, fixed: F32, starts: list[int], k: int
) -> tuple[list[float], float]:
    """(% of the code bytes saved: certified, likely, certified last, likely last; % of the k best lost by the likely).

    nibbles (n, nibbles), f and fixed (n): rows in the order of the scan, a multiple of 16 in each block of starts.
    """
    each = np.take_along_axis(table[None], nibbles[:, :, None].astype(np.int64), 2)[:, :, 0]
    along = np.cumsum(each, 1)
    score = fixed + f * along[:, -1]
    so_far = np.concatenate(
        [
            np.full(high - low, np.sort(score[:low])[-k] if low >= k else -np.inf)
            for low, high in zip(starts, starts[1:], strict=False)
        ]
    )
    last, size = np.sort(score)[-k], table.shape[0] // 2
    rest = {
        "certified": np.cumsum(table.max(1)[::-1])[::-1],
        "likely": np.cumsum(table.mean(1)[::-1])[::-1] + DEVIATIONS * np.cumsum(table.var(1)[::-1])[::-1] ** 0.5,
    }
    saved, lost = [], 0.0
    for threshold in (so_far, np.full(len(score), last)):
        for kind, most in rest.items():
            left = np.full(len(score) // GROUP, size)
            for at in (one for one in LEADING if one < size):
                upper = fixed + f * (along[:, 2 * at - 1] + most[2 * at])
                gone = (upper < threshold).reshape(-1, GROUP).all(1)
                left[gone] = np.minimum(left[gone], at)
            saved.append(100 * (1 - left.mean() / size))
            if kind == "likely" and threshold is so_far:
                lost = 100 * float((np.repeat(left < size, GROUP) & (score >= last)).sum()) / k
    return saved, lost


def measured(rows: Rows, name: str, block_rows: int, share: float, queries: int) -> None:
    """Prints the lines of a set."""
    held = hold_out(rows.count, 0)
    seen = np.setdiff1d(np.arange(rows.count), held.all)
    base = partition(rows, seen, rows.count // block_rows, 0)
    centres = quantize_centres(base.centres, rows.metric)[1]
    order = np.argsort(base.home, kind="stable")
    ends = np.cumsum(np.bincount(base.home, minlength=base.blocks))
    x, bounds = rows.take(order), [0, *ends.tolist()]
    known = rows.take(seen)
    r = known - centres[base.home[seen]]
    vectors = np.array(
        [q.vector for q in prepare_rows(rows, held.tuning[:: max(1, len(held.tuning) // queries)])], np.float32
    )
    for total in BYTES[name]:
        codec = CODECS["lrsq"](
            r.T.astype(np.float64) @ r / len(r), known.T.astype(np.float64) @ known / len(r), total - 2, r
        )
        blocks = []
        for e in encode_blocks(codec, x, bounds, centres, rows.metric):
            whole = slice(0, len(e.f) // GROUP * GROUP)  # rows of the last group, if it is not full, are left out
            f, h = (
                low + step * c[whole] for low, step, c in zip(e.ranges[::2], e.ranges[1::2], (e.f, e.h), strict=False)
            )
            nibbles = np.stack([e.codes & 15, e.codes >> 4], 2).reshape(len(e.codes), -1)[whole]
            blocks.append((nibbles, f, h))
        near = vectors @ centres.T - (0.5 * (centres**2).sum(1) if rows.metric == "l2" else 0)
        found: dict[int, list[tuple[list[float], float]]] = {k: [] for k in K}
        for query, own in zip(vectors, near, strict=False):
            best = np.argsort(-own)
            best = best[: np.searchsorted(np.cumsum([len(blocks[b][1]) for b in best]), share * rows.count) + 1]
            starts = np.cumsum([0, *(len(blocks[b][1]) for b in best)]).tolist()
            nibbles, f = (np.concatenate([blocks[b][i] for b in best]) for i in (0, 1))
            fixed = np.concatenate([own[b] + blocks[b][2] for b in best])
            table = tables(codec, query)
            for k in K:
                found[k].append(counted(table, nibbles, f, fixed, starts, k))
        for k, each in found.items():
            saved, lost = np.mean([one for one, _ in each], 0), np.mean([one for _, one in each])
            print(f"{total:5}{k:5}" + "".join(f"{one:17.1f}" for one in saved) + f"{lost:8.2f}", flush=True)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--share", type=float, default=0.1)
    for name, default in (("rows", 20_000), ("block-rows", 226), ("queries", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with drawn_rows(options.data, name, options.rows) as rows:
            print(f"\n{name}: {rows.count} rows, blocks of {options.block_rows}, {options.share:.0%} scanned")
            print(
                "bytes    k" + "".join(f"{w:>17}" for w in ("certified", "likely", "certified, last", "likely, last")),
                end="",
            )
            print("    lost")
            measured(rows, name, options.block_rows, options.share, options.queries)


if __name__ == "__main__":
    main()
