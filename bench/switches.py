"""Four ideas of the sources beside the routers that are built: what each could save at best, in rows read.

    python bench/switches.py DATA [--sets wordnet,sift] [--blocks 1024]

DATA holds wordnet/ and sift/. All without copies and in float32, so that no idea loses to rounding; a cell is the share
of rows read, in %, as in bench/routers.py. Everything learns from rows of the base, and is asked held-out queries.

- the table: a trained sub-centroid table, the router of the default build, and the nearest centroid;
- predicted centroids: a network names four vectors for a query; a block is as good as its centre's products with them;
- a warp of the query: a learned matrix before the nearest centroid; what it can say, a trained table of as many
  sub-centroids says too;
- a warp of the space: k-means after whitening by the differences between near rows, by the power named;
- a price for each query: a classifier that sees the probabilities picks one of three prices, against one for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.nn import logsumexp, relu
from routers import cells, rows_of

from build_index.choose import ASKED
from build_index.evaluate import read_queries
from build_index.graph import neighbour_graph
from build_index.lesson import Lesson
from build_index.partition import Partition, partition
from build_index.routers import trained
from build_index.routers.learn import train
from build_index.routers.lse import SUBS
from build_index.routers.trained import BATCH, BETA, STEPS
from build_index.rows import F32, Ints, Rows
from build_index.shape import index_section
from build_index.truth import hold_out, truth_of
from vantage.prepare import prepare

HIDDEN, NAMED = 256, 4  # units of the network that predicts centroids, and vectors that it names
POWERS = (0.25, 0.5)  # of the whitening
RIDGE = 0.05  # of the mean variance, added before whitening
CLASSES = 3
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)  # of the threshold, tried for each class
GOAL = 0.95  # of recall@100
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """queries f32 (Q, d) in the scale of the index, with exact neighbours i32 (Q, 100)."""

    queries: F32
    truth: npt.NDArray[np.int32]


def probabilities(scores: Callable[[Any], Any], queries: F32) -> F64:
    """(Q, B) softmax of the scores of queries."""
    logit = np.concatenate([np.asarray(scores(queries[i : i + 500]), np.float64) for i in range(0, len(queries), 500)])
    p: F64 = np.exp(logit - logit.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def learned(
    start: dict[str, Any], rates: dict[str, float], scores: Callable[[dict[str, Any], Any], Any], lesson: Lesson
) -> Callable[[Any], Any]:
    """The scores with the parameters that training found."""
    found = train(start, rates, scores, lesson, STEPS, BATCH, lambda done: None)
    return lambda q: scores(found, q)


def table(lesson: Lesson, subs: int) -> Callable[[Any], Any]:
    """A trained table of this many sub-centroids a block."""
    found, scores = trained.table(lesson, subs)
    return lambda q: scores(found, q)


def _bias(lesson: Lesson, beta: float) -> F32:
    """What a centre's score begins with: nothing under cosine, -beta |c|^2 / 2 under l2."""
    centres = lesson.partition.centres
    half = 0.5 * np.einsum("ij,ij->i", centres, centres) if lesson.rows.metric == "l2" else np.zeros(len(centres))
    return (-beta * half).astype(np.float32)


def predicted(lesson: Lesson) -> Callable[[Any], Any]:
    """A network of d -> HIDDEN -> NAMED x d; a block is as good as the best of the named vectors finds its centre."""
    d, rng = lesson.rows.dimension, np.random.default_rng(lesson.seed)
    beta = BETA / lesson.spread
    centres = lesson.partition.centres

    def scores(now: dict[str, Any], q: Any) -> Any:
        hidden = relu(q @ now["into"] + now["shift"])
        named = q[:, None] + (hidden @ now["out"]).reshape(len(q), NAMED, d)
        logit = jnp.exp(now["log_beta"]) * (named @ centres.T) + (hidden @ now["gate"])[:, :, None]
        return logsumexp(logit, axis=1) + now["bias"]

    start = {
        "into": rng.normal(0, d**-0.5, (d, HIDDEN)).astype(np.float32),
        "shift": np.zeros(HIDDEN, np.float32),
        "out": rng.normal(0, 0.3 * (HIDDEN * d) ** -0.5, (HIDDEN, NAMED * d)).astype(np.float32),
        "gate": np.zeros((HIDDEN, NAMED), np.float32),
        "bias": _bias(lesson, beta),
        "log_beta": np.float32(np.log(beta)),
    }
    rates = {"into": 3e-3, "shift": 3e-3, "out": 1e-3, "gate": 3e-3, "bias": 0.02, "log_beta": 0.01}
    return learned(start, rates, scores, lesson)


def warped(lesson: Lesson) -> Callable[[Any], Any]:
    """A matrix before the nearest centroid."""
    beta = BETA / lesson.spread
    centres = lesson.partition.centres

    def scores(now: dict[str, Any], q: Any) -> Any:
        return jnp.exp(now["log_beta"]) * ((q @ now["warp"]) @ centres.T) + now["bias"]

    start = {
        "warp": np.eye(lesson.rows.dimension, dtype=np.float32),
        "bias": _bias(lesson, beta),
        "log_beta": np.float32(np.log(beta)),
    }
    return learned(start, {"warp": 1e-3, "bias": 0.02, "log_beta": 0.01}, scores, lesson)


def whitening(lesson: Lesson, power: float) -> F32:
    """(d, d): S^-power of the second moment S of differences between a row and its ten nearest ones."""
    some = np.arange(0, len(lesson.asked), 4)
    near = lesson.near[some, :10].astype(np.int64)
    x = lesson.rows.take(lesson.asked[some])
    moment = np.zeros((x.shape[1], x.shape[1]))
    for column in near.T:
        apart = x - lesson.rows.take(column)
        moment += apart.T @ apart
    value, axes = np.linalg.eigh(moment / near.size)
    value += RIDGE * value.mean()
    out: F32 = ((axes * (value / value.mean()) ** -power) @ axes.T).astype(np.float32)
    return out


class Warped:
    """Rows seen through a matrix: what `partition` asks of Rows."""

    def __init__(self, rows: Rows, warp: F32) -> None:
        self.rows, self.warp, self.count, self.dimension = rows, warp, rows.count, rows.dimension

    def take(self, wanted: Ints) -> F32:
        return self.rows.take(wanted) @ self.warp

    def chunks(self, nbytes: int) -> Any:
        return ((low, chunk @ self.warp) for low, chunk in self.rows.chunks(nbytes))


def in_warped_space(lesson: Lesson, power: float) -> Partition:
    """k-means there; the centres are means of the rows as they are."""
    there: Any = Warped(lesson.rows, whitening(lesson, power))
    home = partition(there, lesson.sample, lesson.blocks, lesson.seed).home
    x, own = lesson.rows.take(lesson.sample), home[lesson.sample]
    centres = np.stack([x[own == b].mean(0) for b in range(lesson.blocks)])
    return Partition(centres, home)


def priced_by_class(p_tune: F64, tune: Asked, p: F64, asked: Asked, home: npt.NDArray[np.int32], sizes: Ints) -> str:
    """Rows read at recall@100 GOAL with one threshold, and with one a class of queries, both set on tuning rows."""
    kind_tune, edges = _classes(p_tune, None)
    kind, _ = _classes(p, edges)
    fair = len(home) / len(sizes)
    value_tune, value = p_tune / np.maximum(sizes, 1) * fair, p / np.maximum(sizes, 1) * fair

    def read(value: F64, of: Asked, cut: F64) -> tuple[float, float]:
        chosen = value >= cut[:, None]
        found = np.take_along_axis(chosen, home[of.truth].astype(np.int64), 1)
        return float(found.mean()), float((chosen * sizes).sum(1).mean())

    def level(kind: Ints, value: F64, of: Asked, factors: tuple[float, ...]) -> float:
        """The threshold at which the goal is met when class c has factors[c] times it."""
        low, high = -30.0, 0.0
        each = np.asarray(factors)[kind]
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if read(value, of, 2**middle * each)[0] >= GOAL else (low, middle)
        return float(2**low)

    best = (np.inf, (1.0,) * CLASSES)
    for a in FACTORS:
        for b in FACTORS:
            factors = (a, 1.0, b)
            at = level(kind_tune, value_tune, tune, factors)
            best = min(best, (read(value_tune, tune, at * np.asarray(factors)[kind_tune])[1], factors))
    out = []
    for factors in ((1.0,) * CLASSES, best[1]):
        at = level(kind, value, asked, factors)
        out.append(100 * read(value, asked, at * np.asarray(factors)[kind])[1] / len(home))
    return f"one price {out[0]:.2f}, three classes {out[1]:.2f} (factors {best[1]})"


def _classes(p: F64, edges: F64 | None) -> tuple[Ints, F64]:
    """Three classes by the entropy of the probabilities, and the edges between them: thirds where none are given."""
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    edges = np.quantile(entropy, [1 / 3, 2 / 3]) if edges is None else edges
    return np.searchsorted(edges, entropy), edges


def compare(rows: Rows, asked: Asked, blocks: int) -> None:
    """Prints the table of one set."""
    held = hold_out(rows.count, 0)
    sample = np.setdiff1d(np.arange(rows.count), held.all)
    tune = Asked(rows.take(held.tune), truth_of(rows, held.tune, 100))
    learners = np.sort(np.random.default_rng(5).choice(sample, min(ASKED, len(sample)), replace=False))
    near = neighbour_graph(rows, learners, 100, seed=0, memory_bytes=2 << 30)
    base = partition(rows, sample, blocks, 0)
    none = np.full((rows.count, 1), -1, np.int32)
    lesson = Lesson(rows, sample, base, none, learners, near, 0)
    print(f"{'% of rows read':44}    r@1    r@10   r@100, then the same at a fixed number of blocks")

    def show(name: str, part: Partition, scores: Callable[[Any], Any]) -> None:
        p, sizes = probabilities(scores, asked.queries), np.bincount(part.home, minlength=blocks)
        line = cells(p / np.maximum(sizes, 1), sizes, part.home[asked.truth][:, :, None], rows.count)
        print(f"{name:44}{line}", flush=True)

    beta = BETA / lesson.spread
    bias = _bias(lesson, beta)
    show("nearest centroid", base, lambda q: beta * (q @ base.centres.T) + bias)
    eight = table(lesson, SUBS)
    show(f"trained table, {SUBS} sub-centroids a block", base, eight)
    show("trained table, 1 sub-centroid a block", base, table(lesson, 1))
    show(f"predicted centroids, {NAMED} of a network", base, predicted(lesson))
    show("a learned warp before the nearest centroid", base, warped(lesson))
    for power in POWERS:
        other = replace(lesson, partition=in_warped_space(lesson, power))
        show(f"k-means in a space whitened by {power}, trained", other.partition, table(other, SUBS))
    sizes = np.bincount(base.home, minlength=blocks)
    found = [probabilities(eight, of.queries) for of in (tune, asked)]
    print("a price for each query:", priced_by_class(found[0], tune, found[1], asked, base.home, sizes), flush=True)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--blocks", type=int, default=1024)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            read = read_queries(options.data / name / "queries.parquet", None)
            assert read.neighbors is not None
            section = index_section(rows, 1, rows.count)
            queries = np.array([prepare(v.tolist(), section).vector for v in read.vectors], np.float32)
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks")
            compare(rows, Asked(queries, read.neighbors[:, :100]), options.blocks)


if __name__ == "__main__":
    main()
