"""Four ideas of the sources beside the routers that are built: what each could save at best, in rows read.

    python -m bench.research.switches DATA [--sets wordnet,sift] [--blocks 1024] [--planned]

DATA holds wordnet/ and sift/. All without copies and in float32, so that no idea loses to rounding; a cell is the share
of rows read, in %, as in bench/research/routers.py. Everything learns from rows of the base, and is asked held-out
queries.

- the table: a trained sub-centroid table, the router of the default build, and the nearest centroid;
- predicted centroids: a network names four vectors for a query; a block is as good as its centre's products with them;
- a warp of the query: a learned matrix before the nearest centroid; what it can say, a trained table of as many
  sub-centroids says too;
- a warp of the space: k-means after whitening by the differences between near rows, by the power named;
- a price for each query: a classifier that sees the probabilities picks one of three prices, against one for all; at
  temperature 1, as the table is trained, and at the others of which the build takes the one that costs least on tuning
  rows.

--planned asks the last of them of what is built instead: the trained router at its temperature, half a copy a row,
codes and six ranges. Classes are by the effective number of blocks, (sum p)^2 / sum p^2; their edges and factors come
from tuning rows, factors for each promise apart, which flatters them. A line reads what reaches recall@100 off its own
price curve: so it compares ways, not promises. The full vectors of rows with exact scores count in its recall, not in
its reads.
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

from bench.common import cells, rows_of, task_of
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.blocks.partition import Partition
from build_index.codecs import lrsq
from build_index.ingest.queries import Queries, read_queries
from build_index.ingest.rows import F32, Ints, Rows
from build_index.neighbours.truth import Truth, untied
from build_index.progress import SILENT
from build_index.routers import trained
from build_index.routers.learn import train
from build_index.routers.lse import SUBS
from build_index.routers.trained import BATCH, BETA, STEPS
from build_index.routers.training import TrainingSet
from build_index.simulate.edge import HeldOutQueries, P
from build_index.simulate.measure import Candidates, Reads, block_bytes, full_scan, plans, price_for
from build_index.tune.codes import second_moments
from build_index.tune.fit import fit_router, middle_code, probabilities_of
from vantage.search.prepare import Prepared, prepare

HIDDEN, NAMED = 256, 4  # units of the network that predicts centroids, and vectors that it names
POWERS = (0.25, 0.5)  # of the whitening
RIDGE = 0.05  # of the mean variance, added before whitening
CLASSES = 3
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)  # of the threshold, tried for each class
GOAL = 0.95  # of recall@100
ONE_PRICE = (1.0,) * CLASSES
PROMISES = ((0.90, 0), (0.95, 0), (0.99, 200))  # recall@100, and rows with exact scores: codes alone end at 0.98
SHARE = 0.5  # of rows copied
QUARTERS = range(4 * 15, 4 * 25)  # prices 2^(i/4), from which factors are chosen
STEPS_MAX = 6  # of 2^(1/4): a factor is 0.35 to 2.8
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
    start: dict[str, Any], rates: dict[str, float], scores: Callable[[dict[str, Any], Any], Any], training: TrainingSet
) -> Callable[[Any], Any]:
    """The scores with the parameters that training found."""
    found = train(start, rates, scores, training, STEPS, BATCH, SILENT)
    return lambda q: scores(found, q)


def table(training: TrainingSet, subs: int) -> Callable[[Any], Any]:
    """A trained table of this many sub-centroids a block."""
    found, scores = trained.table(training, subs)
    return lambda q: scores(found, q)


def _bias(training: TrainingSet, beta: float) -> F32:
    """What a centre's score begins with: nothing under cosine, -beta |c|^2 / 2 under l2."""
    centres = training.partition.centres
    half = 0.5 * np.einsum("ij,ij->i", centres, centres) if training.rows.metric == "l2" else np.zeros(len(centres))
    return (-beta * half).astype(np.float32)


def predicted(training: TrainingSet) -> Callable[[Any], Any]:
    """A network of d -> HIDDEN -> NAMED x d; a block is as good as the best of the named vectors finds its centre."""
    d, rng = training.rows.dimension, np.random.default_rng(training.seed)
    beta = BETA / training.spread
    centres = training.partition.centres

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
        "bias": _bias(training, beta),
        "log_beta": np.float32(np.log(beta)),
    }
    rates = {"into": 3e-3, "shift": 3e-3, "out": 1e-3, "gate": 3e-3, "bias": 0.02, "log_beta": 0.01}
    return learned(start, rates, scores, training)


def warped(training: TrainingSet) -> Callable[[Any], Any]:
    """A matrix before the nearest centroid."""
    beta = BETA / training.spread
    centres = training.partition.centres

    def scores(now: dict[str, Any], q: Any) -> Any:
        return jnp.exp(now["log_beta"]) * ((q @ now["warp"]) @ centres.T) + now["bias"]

    start = {
        "warp": np.eye(training.rows.dimension, dtype=np.float32),
        "bias": _bias(training, beta),
        "log_beta": np.float32(np.log(beta)),
    }
    return learned(start, {"warp": 1e-3, "bias": 0.02, "log_beta": 0.01}, scores, training)


def whitening(training: TrainingSet, power: float) -> F32:
    """(d, d): S^-power of the second moment S of differences between a row and its ten nearest ones."""
    some = np.arange(0, len(training.queries), 4)
    near = training.neighbours[some, :10].astype(np.int64)
    x = training.rows.take(training.queries[some])
    moment = np.zeros((x.shape[1], x.shape[1]))
    for column in near.T:
        apart = x - training.rows.take(column)
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


def in_warped_space(training: TrainingSet, power: float) -> Partition:
    """k-means there; the centres are means of the rows as they are."""
    there: Any = Warped(training.rows, whitening(training, power))
    home = partition(there, training.sample, training.blocks, training.seed).home
    x, own = training.rows.take(training.sample), home[training.sample]
    centres = np.stack([x[own == b].mean(0) for b in range(training.blocks)])
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

    best: tuple[float, tuple[float, ...]] = (np.inf, ONE_PRICE)
    for a in FACTORS:
        for b in FACTORS:
            factors = (a, 1.0, b)
            at = level(kind_tune, value_tune, tune, factors)
            best = min(best, (read(value_tune, tune, at * np.asarray(factors)[kind_tune])[1], factors))
    out = []
    for value_of, of, kind_of, factors in (
        (value_tune, tune, kind_tune, ONE_PRICE), (value, asked, kind, ONE_PRICE), (value, asked, kind, best[1]),
    ):  # fmt: skip
        at = level(kind_of, value_of, of, factors)
        out.append(100 * read(value_of, of, at * np.asarray(factors)[kind_of])[1] / len(home))
    return f"one price {out[1]:.2f} ({out[0]:.2f} on tuning rows), three classes {out[2]:.2f} (factors {best[1]})"


def tempered(p: F64, temperature: float) -> F64:
    """(Q, B) of scores times the temperature."""
    sharper = p**temperature
    out: F64 = sharper / sharper.sum(1, keepdims=True)
    return out


def _classes(p: F64, edges: F64 | None) -> tuple[Ints, F64]:
    """Three classes by the entropy of the probabilities, and the edges between them: thirds where none are given."""
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    edges = np.quantile(entropy, [1 / 3, 2 / 3]) if edges is None else edges
    return np.searchsorted(edges, entropy), edges


def compare(rows: Rows, asked: Asked, blocks: int) -> None:
    """Prints the table of one set."""
    task = task_of(rows)
    tune = Asked(rows.take(task.tune.rows), task.tune.truth.rows)
    base = partition(rows, task.sample, blocks, 0)
    training = task.training_set(base, np.full((rows.count, 1), -1, np.int32))
    print(f"{'% of rows read':44}    r@1    r@10   r@100, then the same at a fixed number of blocks")

    def show(name: str, part: Partition, scores: Callable[[Any], Any]) -> None:
        p, sizes = probabilities(scores, asked.queries), np.bincount(part.home, minlength=blocks)
        line = cells(p / np.maximum(sizes, 1), sizes, part.home[asked.truth][:, :, None], rows.count)
        print(f"{name:44}{line}", flush=True)

    beta = BETA / training.spread
    bias = _bias(training, beta)
    show("nearest centroid", base, lambda q: beta * (q @ base.centres.T) + bias)
    eight = table(training, SUBS)
    show(f"trained table, {SUBS} sub-centroids a block", base, eight)
    show("trained table, 1 sub-centroid a block", base, table(training, 1))
    show(f"predicted centroids, {NAMED} of a network", base, predicted(training))
    show("a learned warp before the nearest centroid", base, warped(training))
    for power in POWERS:
        other = replace(training, partition=in_warped_space(training, power))
        show(f"k-means in a space whitened by {power}, trained", other.partition, table(other, SUBS))
    sizes = np.bincount(base.home, minlength=blocks)
    found = [probabilities(eight, of.queries) for of in (tune, asked)]
    for t in sorted(trained.TEMPERATURES, reverse=True):
        p_tune, p = (tempered(p, t) for p in found)
        line = priced_by_class(p_tune, tune, p, asked, base.home, sizes)
        print(f"a price for each query, temperature {t}: {line}", flush=True)


@dataclass(frozen=True)
class Planned:
    """Queries of what is built: p u32 (Q, B), what codes find for them, and the class of each (Q)."""

    p: P
    found: Candidates
    kind: Ints


def effective_blocks(p: P) -> F64:
    """(Q) (sum p)^2 / sum p^2: as many blocks, equally probable, are as unsure."""
    x = p.astype(np.float64)
    out: F64 = x.sum(1) ** 2 / np.maximum((x * x).sum(1), 1)
    return out


def planned(of: Planned, sizes: Ints, price: int, factors: tuple[float, ...]) -> Reads:
    """The edge's plans, a query of class c at factors[c] times the price."""
    blocks, ranges = np.zeros(of.p.shape, bool), [list[int]() for _ in of.kind]
    for c, factor in enumerate(factors):
        some = np.flatnonzero(of.kind == c)
        reads = plans(of.p[some], sizes, int(price * factor))
        blocks[some] = reads.blocks
        for i, lengths in zip(some, reads.ranges, strict=True):
            ranges[i] = lengths
    return Reads(blocks, ranges)


def best_factors(tune: Planned, sizes: Ints) -> list[tuple[float, ...]]:
    """For each promise the factors that read the fewest bytes on tuning rows, all prices and factors 2^(i/4)."""
    all_reads = [planned(tune, sizes, int(2 ** (i / 4)), ONE_PRICE) for i in QUARTERS]
    nbytes = np.array([[sum(lengths) for lengths in reads.ranges] for reads in all_reads], np.float64)
    each, out = np.arange(len(tune.kind)), []
    for goal, rerank in PROMISES:
        recall = np.array([tune.found.recall(reads.blocks, 100, rerank) for reads in all_reads])

        def cost(steps: tuple[int, ...], recall: F64 = recall, goal: float = goal) -> float:
            at = np.arange(STEPS_MAX, len(QUARTERS) - STEPS_MAX)[:, None] + np.asarray(steps)[tune.kind]
            reached, taken = recall[at, each].mean(1), nbytes[at, each].mean(1)  # falling, as the price rises
            return float(np.interp(goal, reached[::-1], taken[::-1]))

        ways = ((a, 0, b) for a in range(-STEPS_MAX, STEPS_MAX + 1) for b in range(-STEPS_MAX, STEPS_MAX + 1))
        steps = min(ways, key=cost)
        saved = 100 * (1 - cost(steps) / cost((0,) * CLASSES))
        print(f"promise {goal}: steps of 2^(1/4) {steps}, {saved:.1f}% fewer bytes on tuning rows", flush=True)
        out.append(tuple(2 ** (step / 4) for step in steps))
    return out


def compare_planned(rows: Rows, asked: dict[str, Queries], blocks: int) -> None:
    """Prints what is read with one price and with three, by what is built."""
    task = task_of(rows)
    base = PARTITIONS["kmeans"](rows, task.sample, blocks, None, 0, SILENT)
    layout, _ = fit_router(task, base, COPY_RULES["soar"](rows, base).best(SHARE), "trained", SILENT)
    codec = lrsq.train(*second_moments(rows, task.sample, layout), middle_code(rows))
    sizes, section = (
        block_bytes(layout.sizes(), codec.code_bytes, 8.0, rows.dimension),
        index_section(rows, 1, rows.count),
    )
    edges: F64 | None = None

    def scanned(queries: list[Prepared], without: Ints, truth: Truth) -> Planned:
        nonlocal edges
        p = probabilities_of(rows, layout, queries)
        unsure = effective_blocks(p)
        edges = np.quantile(unsure, [1 / 3, 2 / 3]) if edges is None else edges
        found = full_scan(rows, layout, codec, HeldOutQueries(queries, without, truth), p=p)
        return Planned(p, found, np.searchsorted(edges, unsure))

    factors = best_factors(scanned(task.tune.queries, task.tune.rows, task.tune.truth), sizes)
    print(f"{'':32} promise  exact  recall   GETs      MB  rows %      ms     p50     p99")
    for name, of in asked.items():
        assert of.neighbors is not None
        none = np.full(len(of.vectors), -1)
        queries = scanned([prepare(v.tolist(), section) for v in of.vectors], none, untied(of.neighbors[:, :100]))
        for promise, three in zip(PROMISES, factors, strict=True):
            for what, way in (("one price", ONE_PRICE), ("three classes", three)):
                line = planned_line(queries, sizes, promise, way, layout.sizes() / rows.count)
                print(f"{name + ', ' + what:32}{line}", flush=True)


def planned_line(of: Planned, sizes: Ints, promise: tuple[float, int], factors: tuple[float, ...], share: F64) -> str:
    """What reaches a promise (recall@100, rows with exact scores) off its own price curve; share (B): of all rows."""
    goal, rerank = promise

    def reached(price: int) -> float:
        return float(of.found.recall(planned(of, sizes, price, factors).blocks, 100, rerank).mean())

    reads = planned(of, sizes, price_for(reached, goal) or 0, factors)
    recall, ms = of.found.recall(reads.blocks, 100, rerank).mean(), reads.ms
    read = 100 * (reads.blocks * share).sum(1).mean()
    return (
        f"{goal:8.2f}{rerank:7}{recall:8.4f}{reads.gets:7.2f}{reads.nbytes / 1e6:8.3f}{read:8.3f}"
        f"{ms.mean():8.1f}{np.median(ms):8.1f}{np.quantile(ms, 0.99):8.1f}"
    )


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--blocks", type=int, default=1024)
    parser.add_argument("--planned", action="store_true", help="a price by query in what is built, and nothing else")
    options = parser.parse_args()
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks", flush=True)
            read = read_queries(options.data / name / "queries.parquet", None)
            assert read.neighbors is not None
            if options.planned:
                other = options.data / name / "queries-ood.parquet"
                more = {"out of distr.": read_queries(other, None)} if other.exists() else {}
                compare_planned(rows, {"held out": read, **more}, options.blocks)
                continue
            section = index_section(rows, 1, rows.count)
            queries = np.array([prepare(v.tolist(), section).vector for v in read.vectors], np.float32)
            compare(rows, Asked(queries, read.neighbors[:, :100]), options.blocks)


if __name__ == "__main__":
    main()
