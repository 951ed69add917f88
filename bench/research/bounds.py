"""The Hamming-angle bound on pairs of held-out rows: how often it is violated, and how tight it is.

    python -m bench.research.bounds DATA [--sets wordnet,sift] [--pairs 1000000] [--delta 0.01] [--bits 23] [--draws 20]

Half of the pairs are drawn at random, half are a row and one of its 100 nearest among the others; both rows of a pair
are held out: a twentieth of the base, which trains nothing here. Random directions are drawn again for each of --draws
shares of the pairs, since the bound is over their draw. For directions that follow the data (PCA and ITQ on the other
rows, and the ecvh router's, trained from there) one half of the held-out rows calibrates, pairs of the other half count
violations. Exit 1 where a bound that is proved or calibrated is violated by more than --delta.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common import MEMORY, rows_of
from build_index.blocks.graph_cut import VOTERS
from build_index.hashing.bound import calibrated_limit, random_limit
from build_index.hashing.codewords import START_ROWS, golay, start_codewords, train_codewords
from build_index.ingest.rows import F32, Rows
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.graph import neighbour_graph

NEAR = 100
AT = (0, 2, 4, 6, 8, 11)  # bits, for the table
Pairs = npt.NDArray[np.int64]


def pairs_of(x: F32, count: int, rng: np.random.Generator) -> Pairs:
    """i64 (count, 2): half at random, half a row and one of its nearest; no row with itself."""
    near = exact_neighbours(x, iter([(0, x)]), NEAR, "cosine", np.arange(len(x)))
    some = rng.integers(len(x), size=count)
    other = (some + rng.integers(1, len(x), size=count)) % len(x)
    other[::2] = near[some[::2], rng.integers(NEAR, size=len(some[::2]))]
    return np.stack([some, other], 1)


def angles(x: F32, pairs: Pairs) -> npt.NDArray[np.float64]:
    """f64 (P), radians; x of norm 1."""
    out = np.empty(len(pairs))
    for low in range(0, len(pairs), 1 << 15):
        a, b = x[pairs[low : low + (1 << 15)].T]
        out[low : low + (1 << 15)] = np.arccos(np.clip(np.einsum("ij,ij->i", a, b), -1, 1))
    return out


def differing(x: F32, pairs: Pairs, directions: F32, threshold: F32 | float) -> npt.NDArray[np.int64]:
    """i64 (P): bits in which the codewords of a pair differ."""
    codewords = (x @ directions.T > threshold) @ (1 << np.arange(len(directions)))
    return np.bitwise_count(codewords[pairs[:, 0]] ^ codewords[pairs[:, 1]]).astype(np.int64)


def line(what: str, limit: npt.NDArray[np.float64], broken: float) -> None:
    """Prints the share of violations and the limits in degrees."""
    print(f"{what:34}{100 * broken:12.3f}" + "".join(f"{np.degrees(limit[h]):8.1f}" for h in AT), flush=True)


def measured(rows: Rows, options: argparse.Namespace) -> bool:
    """Prints the table of a set; whether the bounds held."""
    rng, bits, delta = np.random.default_rng(3), options.bits, options.delta
    raw = rows.slice(0, rows.count)
    x = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    order = rng.permutation(len(x))
    some, sample = order[: len(x) // 20], np.sort(order[len(x) // 20 :])
    held, others = x[some], x[order[len(x) // 20 :]]
    half = len(held) // 2
    pairs = pairs_of(held, options.pairs, rng)
    angle, limit = angles(held, pairs), random_limit(bits, delta)
    broken = []
    for part in np.array_split(rng.permutation(len(pairs)), options.draws):
        directions = rng.standard_normal((bits, x.shape[1]), np.float32)
        broken.append((angle[part] > limit[differing(held, pairs[part], directions, 0.0)]).mean())
    line("random directions, proved", limit, float(np.mean(broken)))
    print(f"{'  the worst of the draws':34}{100 * max(broken):12.3f}")
    generator = golay(bits - 11)
    kept = [float(np.mean(broken))]
    codewords = start_codewords(
        others[:: max(1, len(others) // START_ROWS)], generator, np.arange(1, dtype=np.uint32), 0
    )
    first, second = (pairs_of(half_of, options.pairs, rng) for half_of in (held[:half], held[half:]))
    graph = neighbour_graph(rows, np.arange(rows.count), VOTERS, seed=0, memory_bytes=MEMORY)
    start = start_codewords(raw[sample[:: max(1, len(sample) // START_ROWS)]], generator, golay_messages(bits), 0)
    learnt = train_codewords(rows, sample, graph, start, 0)
    for what, of, by in (("PCA and ITQ, calibrated", held, codewords), ("trained, calibrated", raw[some], learnt)):
        found = differing(of[:half], first, by.directions, by.threshold)
        limit = calibrated_limit(found, angles(held[:half], first), bits, delta, half)
        away = angles(held[half:], second) > limit[differing(of[half:], second, by.directions, by.threshold)]
        line(what, limit, float(away.mean()))
        kept.append(float(away.mean()))
    limit = random_limit(bits, delta)
    away = (
        angles(held[half:], second) > limit[differing(held[half:], second, codewords.directions, codewords.threshold)]
    )
    line("PCA and ITQ under the proved bound", limit, float(away.mean()))
    return max(kept) <= delta


def golay_messages(bits: int) -> npt.NDArray[np.uint32]:
    """The messages of a code of so many bits, shortened from 23: one for each bucket."""
    return np.arange(1 << (bits - 11), dtype=np.uint32)


def main() -> int:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--delta", type=float, default=0.01)
    for name, default in (("pairs", 1_000_000), ("bits", 23), ("draws", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    held = True
    for name in options.sets.split(","):
        print(f"\n{name}: {options.pairs} pairs, {options.bits} bits, delta {options.delta}")
        print(f"{'limit in degrees at bits':34}{'violated %':>12}" + "".join(f"{h:8}" for h in AT))
        with rows_of(options.data, name) as rows:
            held &= measured(rows, options)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
