"""One wave of whole codes against two: short codes of more blocks first, then the rest of those with a chance.

    python bench/waves.py ROWS.npy [--metric l2] [--router two-level] [--queries 300]

The blocks, router and code are those that the builder chooses; queries are held-out rows. The short code is trained for
its length, which flatters the two waves: a prefix of a longer code ranks no better. The first wave reads short codes by
the plan of some price, the second the missing bytes of the blocks that hold the best M rows; a row is found if the
first wave ranks it among M and the whole code among k. All is modelled from measured candidates: no such blocks are
written. Printed is the quickest plan of each kind that reaches the target.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from build_index.choose import _second_moments, choose
from build_index.codecs import lrsq
from build_index.contract import target_point
from build_index.fit import Options, pages_of, probabilities_of
from build_index.measure import Candidates, Reads, block_bytes, full_scan, plans, price_for
from build_index.rows import Rows, row_scale
from build_index.shape import prepared
from build_index.source import open_source
from build_index.spool import spool
from build_index.truth import hold_out, truth_of
from vantage.plan import LANE_BYTES_PER_MS, LANES, ROUND_MS

SHORT_SHARES = (0.25, 0.5, 0.75)  # of the code's bytes, in the first wave
CHANCES = (150, 200, 300, 500)  # rows whose blocks the second wave completes


def best_rows(found: Candidates, read: npt.NDArray[np.bool_], count: int) -> list[npt.NDArray[np.int64]]:
    """Of each query, where in found its first `count` places are that lie in blocks read."""
    inside = read[np.arange(len(read))[:, None], found.block] & (found.block >= 0)
    return [np.flatnonzero(row)[:count] for row in inside]


def second_wave(
    short: Candidates, whole: Candidates, read: npt.NDArray[np.bool_], count: int, rest: npt.NDArray[np.int64], k: int
) -> tuple[float, Reads]:
    """(recall@k, reads of the second wave) where the first one read these blocks of short codes."""
    kept = best_rows(short, read, count)
    wanted = np.zeros(read.shape, np.uint32)
    rank = np.full(whole.row.shape, -1, np.int32)
    for i, places in enumerate(kept):
        wanted[i, short.block[i, places]] = 1 << 16
        chance = np.isin(whole.row[i], short.row[i, places])
        rank[i, chance] = whole.rank[i, chance]
    reads = plans(wanted, rest, 1)
    return float(replace(whole, rank=rank).recall(read, k).mean()), reads


def main() -> None:
    """Prints a line for one wave and one for each short code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--metric", default="l2")
    parser.add_argument("--router", default="two-level")
    parser.add_argument("--queries", type=int, default=300)
    asked = parser.parse_args()
    options = Options(router=asked.router, memory_bytes=2 << 30)
    with (
        tempfile.TemporaryDirectory() as scratch,
        spool(open_source([asked.rows]), Path(scratch), metric=asked.metric) as s,
    ):
        rows = Rows(s, asked.metric, row_scale(asked.metric, s.norm_mean, s.norm_max))
        choice = choose(rows, 8.0, options, lambda phase, done: None)
        shape, codec, k = choice.shape, choice.codec, options.k
        held = hold_out(rows.count, options.seed)
        some = held.price[:: max(1, len(held.price) // asked.queries)]
        queries, truth = prepared(rows, some), truth_of(rows, some, k)
        sample = np.setdiff1d(np.arange(rows.count), held.all)
        p, pages = probabilities_of(rows, shape, queries), pages_of(rows, shape, queries)
        sizes = block_bytes(shape.sizes(), codec.code_bytes, 8.0)
        whole = full_scan(rows, shape, codec, queries, some, truth, p=p)

        def one(price: int) -> float:
            return float(whole.recall(plans(p, sizes, price).blocks, k).mean())

        found = price_for(one, options.recall)
        assert found is not None
        reads = replace(plans(p, sizes, found), pages=pages)
        print(
            f"{rows.count:,} rows, {shape.blocks:,} blocks, price of the contract {target_point(choice.contract).price}"
        )
        print(f"one wave, {codec.code_bytes} bytes: recall {one(found):.4f}, {told([reads])}", flush=True)
        moments = _second_moments(rows, sample, shape)
        for share in SHORT_SHARES:
            length = max(4, int(codec.code_bytes * share) // 4 * 4)
            short_sizes = block_bytes(shape.sizes(), length, 0.0)
            short = full_scan(rows, shape, lrsq.train(*moments, length), queries, some, truth, p=p)
            best: tuple[float, str] | None = None
            for price in (found, found // 2, found // 4):
                first = replace(plans(p, short_sizes, price), pages=pages)
                for count in CHANCES:
                    recall, second = second_wave(short, whole, first.blocks, count, sizes - short_sizes, k)
                    ms = float((first.ms + second.ms).mean())
                    if recall >= options.recall and (best is None or ms < best[0]):
                        best = ms, f"best {count}: recall {recall:.4f}, {told([first, second])}"
            print(f"two waves, {length} bytes first, {best[1] if best else 'target not reached'}", flush=True)
    print(f"a wave more costs what {ROUND_MS * LANES * LANE_BYTES_PER_MS / 1e6:.1f} MB over {LANES} lanes cost")


def told(reads: list[Reads]) -> str:
    gets, nbytes, ms = (sum(values) for values in zip(*((r.gets, r.nbytes, r.ms.mean()) for r in reads), strict=True))
    return f"{gets:.2f} GETs, {nbytes / 1e6:.3f} MB, {ms:.1f} ms"


if __name__ == "__main__":
    main()
