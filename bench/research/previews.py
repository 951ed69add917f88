"""Whether previews pay: short codes of many blocks first, then whole codes where the best rows of these lie.

    python -m bench.research.previews QUERIES ROWS... [--metric cosine] [--blocks 512] [--share 0.5] [--code 192]
        [--short 16,32,64] [--queries 200]

ROWS are Parquet files of a set, QUERIES a file of vectors that are not in it. Blocks are those of k-means in one level,
routed by lse as it begins, with SOAR copies for a share of the rows. All ways reach recall@100 0.95 on the queries
themselves, and are the quickest that do by the model of time (docs/costs.md), nothing cached, over the numbers of
ranges, of 6 to 48 a wave.

"one wave" reads whole codes. "previews" are an object of their own with short codes of all rows, trained for their
length, without ids; a second wave reads whole blocks. It is planned from what the first has found: a row that has place
r by short code is worth how often rows at place r are true neighbours, which is counted on the queries themselves. All
of that flatters previews. "in planes" flatters them further: the second wave reads what the first has left.

Printed, MB and mean ms of the quickest wave, of previews and of previews in planes, each at its best short code (100
queries): WordNet 3.3 MB 59 ms, 5.9 114, 5.6 112; SIFT 300,000 rows 2.2 53, 3.0 99, 2.5 96; Linux windows 64,000 rows
4.3 62, 5.9 112, 5.3 108; 256,000 rows 11.6 101, 14.2 164, 12.8 157; 1,024,000 rows 43.8 306, 55.9 398, 54.4 369
(with 16 and 32 bytes alone).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.research.unwritten import ID_BYTES, K, Setting, arguments, large
from build_index.codecs import lrsq
from build_index.ingest.rows import Ints
from build_index.simulate.edge import P
from build_index.simulate.measure import Candidates, Reads, block_bytes, planner, price_for
from build_index.tune.codes import second_moments
from build_index.tune.fit import probabilities_of

GOAL = 0.95
RANGES = (6, 12, 18, 24, 36, 48)  # of one wave
FEW_RANGES = (6, 12, 24)  # of each of two
WIDER = (0.5, 0.25, 0.1, 0.03)  # over the price of one wave: of the first wave of two, whose codes are short
SHORT_KEPT = 2048  # copies that a short code may rank
ONE = 1 << 20  # of a probability


@dataclass(frozen=True)
class Way:
    """The waves of a way to read, and what it reaches."""

    what: str
    waves: list[Reads]
    recall: float

    @property
    def ms(self) -> npt.NDArray[np.float64]:
        return np.sum([wave.ms for wave in self.waves], axis=0)

    def line(self) -> str:
        gets, nbytes = (
            " + ".join(f"{v:.{n}f}" for v in values)
            for n, values in ((1, [w.gets for w in self.waves]), (2, [w.nbytes / 1e6 for w in self.waves]))
        )
        return (
            f"{self.what:34}{self.recall:8.4f}{gets:>15}{nbytes:>17}{sum(w.nbytes for w in self.waves) / 1e6:9.2f}"
            f"{self.ms.mean():8.1f}{np.quantile(self.ms, 0.99):8.1f}"
        )


def one_wave(p: P, sizes: Ints, whole: Candidates, gets: int) -> tuple[Way, int] | None:
    """(the plans of the highest price that reaches the goal, that price)."""
    plan, everything = planner(p, sizes, gets), slice(None)
    price = price_for(lambda at: float(whole.recall(plan(at, everything).blocks, K).mean()), GOAL)
    if price is None:
        return None
    reads = plan(price, everything)
    return Way(f"one wave, {gets} ranges", [reads], float(whole.recall(reads.blocks, K).mean())), price


def places(short: Candidates, read: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """i64 (Q, M): the place of each copy among the rows of blocks read (Q, B), from 0; -1 for those that have none."""
    first = short.answered(read, short.row.shape[1])
    out: npt.NDArray[np.int64] = np.where(first, np.cumsum(first, 1) - 1, -1)
    return out


def worth(short: Candidates, read: npt.NDArray[np.bool_]) -> P:
    """u32 (Q, B): expected neighbours of the blocks read (Q, B), by the places of their rows."""
    place = places(short, read)
    true = (short.rank >= 0) & (short.rank < K)
    hits, count = (np.bincount(place[where], minlength=place.shape[1]) for where in (true & (place >= 0), place >= 0))
    odds = np.convolve(hits / np.maximum(count, 1), np.ones(9) / 9, "same")  # neighbouring places are alike
    out = np.zeros(read.shape, np.float64)
    for row, at, where in zip(out, place, short.block, strict=True):
        np.add.at(row, where[at >= 0], odds[at[at >= 0]])
    return (out * ONE).astype(np.uint32)


def two_waves(
    what: str, p: P, short_sizes: Ints, sizes: Ints, short: Candidates, whole: Candidates, price: int
) -> Iterator[Way]:
    """Previews with these sizes of blocks in both waves, at several prices and numbers of ranges."""
    for gets in FEW_RANGES:
        plan = planner(p, short_sizes, gets)
        for wider in WIDER:
            first = plan(int(price * wider), slice(None))
            value = worth(short, first.blocks)
            for further in FEW_RANGES:
                again = one_wave(value, sizes, whole, further)
                if again is not None:
                    yield Way(f"{what}, {gets} and {further} ranges", [first, *again[0].waves], again[0].recall)


def compare(setting: Setting, lengths: list[int]) -> None:
    """Prints a line for one wave at each number of ranges, and for the quickest previews of each length."""
    rows, layout, task = setting.rows, setting.layout, setting.task
    code = setting.codec.code_bytes
    sizes = block_bytes(layout.sizes(), code, ID_BYTES, rows.dimension)
    p, whole = probabilities_of(rows, layout, setting.queries), setting.scanned(setting.codec)
    print(f"{'':34}  recall           GETs         MB a wave       MB mean ms     p99", flush=True)
    prices = {}
    for gets in RANGES:
        found = one_wave(p, sizes, whole, gets)
        if found is None:
            print(f"one wave, {gets} ranges: {whole.recall(np.ones(p.shape, bool), K).mean():.4f} with all blocks read")
            return
        prices[gets] = found[1]
        print(found[0].line(), flush=True)
    for length in lengths:
        short = setting.scanned(lrsq.train(*second_moments(rows, task.sample, layout), length), SHORT_KEPT)
        short_sizes = block_bytes(layout.sizes(), length, 0.0, rows.dimension)
        for what, rest in ((f"{length} of {code} bytes", sizes), ("  in planes", sizes - short_sizes)):
            ways = list(two_waves(what, p, short_sizes, rest, short, whole, prices[FEW_RANGES[-1]]))
            print(min(ways, key=lambda way: way.ms.mean()).line() if ways else f"{what}: goal not reached", flush=True)


def main() -> None:
    """Prints the table of one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--short", default="16,32,64")
    options = parser.parse_args()
    with large(options) as setting:
        compare(setting, [int(n) for n in options.short.split(",")])


if __name__ == "__main__":
    main()
