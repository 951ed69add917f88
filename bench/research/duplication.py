"""Duplication by training, as arXiv 2501.16375 does it, next to k-means, SPANN's closure and SOAR: rows read on SIFT.

    python -m bench.research.duplication DATA [--epochs 150] [--rows N] [--seed 0] [--out PREFIX]

DATA holds sift/ (Parquet with vectors and exact neighbours). --rows takes the first N rows and finds their neighbours
again. --out writes the table to PREFIX.txt and the curves to PREFIX.svg. All methods have 1,024 blocks. Queries of the
set are asked once, at the end; everything that is fitted or tuned sees rows of the base alone.

Rows read are in percent of all rows, copies counted each time, recall@1 is the mean over the queries. "probes": the
best P blocks of each query, between two whole P by a straight line. "variable": one threshold for all queries, for
networks and lse on probability over rows, for the nearest centroid on its distance over the least (SPANN's rule).

What the paper leaves open, and what is done here:
- Its queries are vectors of the same source that are not in the base, with noise. Here they are base rows with Gaussian
  noise, new in each epoch, of 0.3 of the mean distance to the nearest row. The row itself is left out of the answers:
  in 128 dimensions it would nearly always be its own noisy query's nearest row, and the network would learn only in
  which block a row lies.
- The label is the block of the nearest of the row's 16 nearest rows to the noisy query (inverted lists; the table says
  how often that is the true nearest). After copying, the loss is -log of the summed probability of the row's blocks.
- d-256-256-1024 with ReLU, AdamW, batches of 4,096; the rate falls as a cosine over each third of the epochs.
- After each third all training queries are asked once. Where the block of highest probability does not hold the
  nearest row, the pair (nearest row, that block) is marked. Marked pairs are ranked by the probability that their
  queries gave to the block, summed; the top 20% are copied. After the last third nothing is trained on the copies.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from build_index.blocks.copies import closure, soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.blocks.partition import Partition
from build_index.evaluate.picture import Axis, curves
from build_index.ingest.open import open_source
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import F32, Ints, Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.graph import Graph, neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.progress import SILENT
from build_index.routers import lse
from build_index.routers.training import TrainingSet
from build_index.simulate.edge import prepare_rows, probabilities
from vantage.format import RouterSection
from vantage.search.prepare import Prepared, prepare

BLOCKS = 1024
KMEANS_ROUNDS = 20
HIDDEN = 256
BATCH = 4096
RATE = 1e-3
DECAY = 1e-2
WARM_UP = 0.02  # of the steps of a third
NOISE = 0.3  # of the mean distance to the nearest row
CANDIDATES = 16  # near rows among which a noisy query finds its nearest
THIRDS = 3
MARKED_SHARE = 0.2  # of the marked pairs, copied
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
RECALLS = (0.70, 0.80, 0.85, 0.90, 0.95, 0.98)
GOAL = 0.90
CLAIM = 0.42  # of the rows that k-means reads, at GOAL
MEMORY = 2 << 30

I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
Curve = tuple[F64, F64]  # rising (rows read as a share of all, recall@1)
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """Blocks and how they are ranked. places i32 (N, 1 + E): the blocks of a row, -1 for none.

    order (Q, B): blocks of more come first. value (Q, B): what the threshold is put on.
    """

    name: str
    places: I32
    order: F64
    value: F64

    @property
    def sizes(self) -> Ints:
        return sizes_of(self.places)

    @property
    def copies(self) -> float:
        """A row, on average."""
        return float((self.places[:, 1:] >= 0).sum() / len(self.places))

    def probes(self, nearest: I32) -> Curve:
        """By the number of blocks read, 1 to B. nearest (Q): the row looked for."""
        order = np.argsort(-self.order, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], 1)
        first = np.where(self.places[nearest] >= 0, np.take_along_axis(rank, self.places[nearest], 1), BLOCKS).min(1)
        recall = np.cumsum(np.bincount(first, minlength=BLOCKS)) / len(first)
        return np.cumsum(self.sizes[order], 1).mean(0) / len(self.places), recall

    def variable(self, nearest: I32) -> Curve:
        """By the threshold, at each one that finds one more query's row."""
        held = self.places[nearest]
        best = np.sort(np.where(held >= 0, np.take_along_axis(self.value, held, 1), -np.inf).max(1))[::-1]
        order = np.argsort(-self.value, axis=None, kind="stable")
        rows = np.cumsum(np.broadcast_to(self.sizes, self.value.shape).ravel()[order])
        last = np.searchsorted(-self.value.ravel()[order], -best, side="right") - 1  # ties are read together
        return rows[last] / (len(best) * len(self.places)), np.arange(1, len(best) + 1) / len(best)


def sizes_of(places: I32) -> Ints:
    return np.bincount(places[places >= 0], minlength=BLOCKS)


def rows_at(curve: Curve, recall: float) -> float:
    """Share of rows read where the curve first reaches this recall."""
    rows, found = curve
    at = min(int(np.searchsorted(found, recall)), len(found) - 1)
    if at == 0:
        return float(rows[0])
    share = (recall - found[at - 1]) / (found[at] - found[at - 1])
    return float(rows[at - 1] + min(1.0, share) * (rows[at] - rows[at - 1]))


def by_centroid(name: str, base: Partition, copy: I32, queries: F32) -> Method:
    """The nearest centroids first."""
    square = ((queries**2).sum(1)[:, None] - 2 * queries @ base.centres.T + (base.centres**2).sum(1)).astype(np.float64)
    distance = np.sqrt(np.maximum(square, 0))
    ratio = distance / np.maximum(distance.min(1, keepdims=True), 1e-9)
    return Method(name, np.concatenate([base.home[:, None], copy], 1), -distance, -ratio)


def by_probability(name: str, places: I32, p: F64) -> Method:
    """The most probable blocks first; a threshold on probability over rows."""
    return Method(name, places, p, p / np.maximum(sizes_of(places), 1))


def kmeans(rows: Rows, seed: int) -> Partition:
    """Plain k-means by faiss, without balance."""
    x = rows.slice(0, rows.count)
    found = faiss.Kmeans(rows.dimension, BLOCKS, niter=KMEANS_ROUNDS, seed=seed + 1)
    found.train(x)
    return Partition(found.centroids, found.assign(x)[1].astype(np.int32))


# The network. Weights in float32; queries are rows less their mean, over their deviation.


def scores(now: Parameters, q: Any) -> Any:
    """(n, B) logits of queries (n, d)."""
    h = jax.nn.relu(q @ now["w0"] + now["b0"])
    h = jax.nn.relu(h @ now["w1"] + now["b1"])
    return h @ now["w2"] + now["b2"]


def first_parameters(dimension: int, seed: int) -> Parameters:
    """He's start for the two hidden layers, a tenth of it for the last."""
    rng, widths = np.random.default_rng([seed, 8]), (dimension, HIDDEN, HIDDEN, BLOCKS)
    out: Parameters = {}
    for i in range(3):
        gain = 2**0.5 if i < 2 else 0.1
        out[f"w{i}"] = jnp.asarray(rng.normal(size=widths[i : i + 2]) * gain / widths[i] ** 0.5, jnp.float32)
        out[f"b{i}"] = jnp.zeros(widths[i + 1], jnp.float32)
    return out


@dataclass(frozen=True)
class Pupil:
    """What a network learns from: x f32 (N, d) in its own scale, near i32 (N, 16), asked: rows that are queries."""

    x: Any
    half: Any  # (N): |x|^2 / 2
    near: Any
    asked: Ints
    noise: float  # deviation of each coordinate


def noisy(pupil: Pupil, part: Any, key: Any) -> tuple[Any, Any]:
    """(queries (n, d), their nearest rows (n)) of rows part (n), with noise of this key."""
    q = pupil.x[part] + pupil.noise * jax.random.normal(key, (len(part), pupil.x.shape[1]))
    ids = pupil.near[part]
    closeness = jnp.einsum("nd,nkd->nk", q, pupil.x[ids]) - pupil.half[ids]
    return q, jnp.take_along_axis(ids, closeness.argmax(1)[:, None], 1)[:, 0]


def train(pupil: Pupil, now: Parameters, places: I32, epochs: int, key: Any, tell: Callable[[str], None]) -> Parameters:
    """Some epochs over all asked rows, with a new optimiser; places as in Method."""
    steps = max(1, len(pupil.asked) // BATCH)
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, max(1, int(WARM_UP * steps * epochs)), steps * epochs)
    optimiser = optax.adamw(rate, weight_decay=DECAY)

    def loss(now: Parameters, q: Any, held: Any) -> Any:
        logits = scores(now, q)
        each = jnp.where(held >= 0, jnp.take_along_axis(logits, jnp.maximum(held, 0), 1), -jnp.inf)
        return (jax.nn.logsumexp(logits, axis=1) - jax.nn.logsumexp(each, axis=1)).mean()

    @jax.jit
    def step(now: Parameters, state: Any, part: Any, key: Any, x: Any, half: Any, near: Any, places: Any) -> Any:
        q, found = noisy(Pupil(x, half, near, part, pupil.noise), part, key)
        value, slope = jax.value_and_grad(loss)(now, q, places[found])
        change, state = optimiser.update(slope, state, now)
        return optax.apply_updates(now, change), state, value

    state, table = optimiser.init(now), jnp.asarray(places)
    for epoch in range(epochs):
        key, mixing, drawing = jax.random.split(key, 3)
        order = np.asarray(jax.random.permutation(mixing, pupil.asked))
        total, began = 0.0, time.monotonic()
        for i, one in enumerate(jax.random.split(drawing, steps)):
            part = jnp.asarray(order[i * BATCH : (i + 1) * BATCH])
            now, state, value = step(now, state, part, one, pupil.x, pupil.half, pupil.near, table)
            total += float(value)
        tell(f"epoch {epoch + 1}: loss {total / steps:.4f}, {time.monotonic() - began:.1f} s")
    return now


def duplicated(pupil: Pupil, now: Parameters, places: I32, key: Any) -> tuple[I32, float]:
    """(places with one more column for each copy that a row gains, share of queries that missed)."""

    @jax.jit
    def asked(now: Parameters, part: Any, key: Any, x: Any, half: Any, near: Any) -> Any:
        q, found = noisy(Pupil(x, half, near, part, pupil.noise), part, key)
        p = jax.nn.softmax(scores(now, q))
        return found, p.argmax(1), p.max(1)

    answers = []
    for i, low in enumerate(range(0, len(pupil.asked), BATCH)):
        part = jnp.asarray(pupil.asked[low : low + BATCH])
        answers.append(asked(now, part, jax.random.fold_in(key, i), pupil.x, pupil.half, pupil.near))
    found, block, p = (np.concatenate([np.asarray(a[i]) for a in answers]) for i in range(3))
    missed = ~(places[found] == block[:, None]).any(1)
    pairs, at = np.unique(found[missed].astype(np.int64) * BLOCKS + block[missed], return_inverse=True)
    worth = np.bincount(at, p[missed])
    chosen = np.sort(pairs[np.argsort(-worth, kind="stable")[: round(MARKED_SHARE * len(pairs))]])
    row, to = chosen // BLOCKS, (chosen % BLOCKS).astype(np.int32)
    turn = np.arange(len(row)) - np.searchsorted(row, row)  # a row may gain several copies
    added = np.full((len(places), int(turn.max(initial=0)) + 1), -1, np.int32)
    added[row, turn] = to
    return np.concatenate([places, added], 1), float(missed.mean())


def paper(
    rows: Rows, base: Partition, tune: Ints, tune_nearest: I32, queries: F32, epochs: int, seed: int,
    tell: Callable[[str], None],
) -> list[Method]:  # fmt: skip
    """A method before and after each copying. tune: rows that are not trained on, for the log alone."""
    x = rows.slice(0, rows.count)
    tell("neighbours of all rows")
    near: Graph = neighbour_graph(rows, np.arange(rows.count), CANDIDATES, seed=seed, memory_bytes=MEMORY)
    tell(f"{(near[tune, 0] == tune_nearest).mean():.3f} of nearest rows are right")
    near = np.where(near >= 0, near, near[:, :1])
    some = np.linspace(0, rows.count - 1, min(5000, rows.count)).astype(np.int64)
    apart = float(np.linalg.norm(x[some] - x[near[some, 0]], axis=1).mean())
    mean, deviation = x.mean(0), float(x.std(0).mean())
    own = ((x - mean) / deviation).astype(np.float32)
    learners = np.setdiff1d(np.arange(rows.count), tune)
    noise = NOISE * apart / deviation / rows.dimension**0.5
    pupil = Pupil(jnp.asarray(own), jnp.asarray((own**2).sum(1) / 2), jnp.asarray(near), learners, noise)
    asked = jnp.asarray((queries - mean) / deviation)
    now, places = first_parameters(rows.dimension, seed), base.home[:, None]
    out, done = [], 0

    def method(name: str) -> Method:
        p = np.asarray(jax.nn.softmax(scores(now, pupil.x[tune])), np.float64)
        seen = by_probability(name, places, p)
        ways = [100 * rows_at(way(tune_nearest), GOAL) for way in (seen.probes, seen.variable)]
        tell(f"{name}: base rows not trained on read {ways[0]:.3f} % by probes, {ways[1]:.3f} % variable")
        return by_probability(name, places, np.asarray(jax.nn.softmax(scores(now, asked)), np.float64))

    for third in range(THIRDS):
        more = epochs * (third + 1) // THIRDS - done
        done += more
        training, marking = jax.random.split(jax.random.fold_in(jax.random.key(seed), third))
        now = train(pupil, now, places, more, training, tell)
        out.append(method(f"paper, {done} epochs"))
        places, missed = duplicated(pupil, now, places, marking)
        tell(f"{100 * missed:.1f} % of training queries missed")
        out.append(method(f"paper, {done} epochs, then copied"))
    return out


def ours(rows: Rows, tune: Ints, tune_nearest: I32, queries: list[Prepared], seed: int) -> list[Method]:
    """Balanced blocks, SOAR's copies, lse tuned for recall@1 on base rows."""
    sample = np.setdiff1d(np.arange(rows.count), tune)
    base, asked = partition(rows, sample, BLOCKS, seed), prepare_rows(rows, tune)
    copies, index, out = soar(rows, base), index_section(rows, BLOCKS, rows.count), []
    for share in (0.2, 0.5):
        copy = copies.best(share)
        places = np.concatenate([base.home[:, None], copy], 1)

        def tuned(section: RouterSection, places: I32) -> float:
            p = probabilities("lse", section, index, asked).astype(np.float64)
            return rows_at(by_probability("", places, p).variable(tune_nearest), GOAL)

        training_set = TrainingSet(rows, sample, base, copy, np.empty(0, np.int64), np.empty((0, 1), np.int32), seed)
        router = lse.fit(training_set, partial(tuned, places=places), SILENT)
        p = probabilities("lse", router, index, queries).astype(np.float64)
        out.append(by_probability(f"lse, SOAR {100 * share:.0f} %", places, p))
    return out


def table(methods: list[Method], nearest: I32) -> str:
    """Rows read and recall at whole probes, rows read at recalls by a threshold, and the ratios to the first method."""
    lines = ["recall@1 % / rows read %, at P blocks", f"{'':30}" + "".join(f"{f'P={n}':>12}" for n in PROBES)]
    by_probes, by_value = [m.probes(nearest) for m in methods], [m.variable(nearest) for m in methods]
    for method, (read, found) in zip(methods, by_probes, strict=True):
        cells = (f"{100 * found[n - 1]:.1f}/{100 * read[n - 1]:.2f}" for n in PROBES)
        lines.append(f"{method.name:30}" + "".join(f"{c:>12}" for c in cells))
    lines += ["", "rows read % at recall@1, variable", f"{'':30}" + "".join(f"{r:>9.2f}" for r in RECALLS)]
    for method, curve in zip(methods, by_value, strict=True):
        lines.append(f"{method.name:30}" + "".join(f"{100 * rows_at(curve, r):9.3f}" for r in RECALLS))
    first = rows_at(by_probes[0], GOAL)
    lines += [
        "",
        f"rows read % at recall@1 {GOAL:.2f}; ratio to {methods[0].name} by probes (the paper claims {CLAIM})",
    ]
    lines.append(f"{'':30}   copies  largest/mean   probes  ratio  variable  ratio")
    for method, *both in zip(methods, by_probes, by_value, strict=True):
        a, b = (rows_at(curve, GOAL) for curve in both)
        lines.append(
            f"{method.name:30}{100 * method.copies:7.1f} %{method.sizes.max() / method.sizes.mean():14.2f}"
            f"{100 * a:9.3f}{a / first:7.2f}{100 * b:10.3f}{b / first:7.2f}"
        )
    return "\n".join(lines) + "\n"


def picture(methods: list[Method], nearest: I32, title: str) -> str:
    """Recall against rows read, each method by its better way at the goal."""
    series = {}
    for method in methods:
        ways = {"probes": method.probes(nearest), "variable": method.variable(nearest)}
        name = min(ways, key=lambda way: rows_at(ways[way], GOAL))
        recalls = np.arange(0.5, 0.991, 0.01)
        series[f"{method.name} ({name})"] = [(100 * rows_at(ways[name], r), float(r)) for r in recalls]
    ends = [points[0][0] for points in series.values()] + [points[-1][0] for points in series.values()]
    rows = Axis("rows read, % of all, copies counted", min(ends) / 1.1, max(ends) * 1.1, log=True)
    return curves(series, rows, Axis("recall@1", 0.5, 1.0), title)


def main() -> None:
    """Prints the tables, and writes them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    x = read_queries(options.data / "sift" / "base.parquet", options.rows).vectors.astype(np.uint8)
    asked = read_queries(options.data / "sift" / "queries.parquet", None)
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/rows.npy", x)
        with stage(open_source([Path(scratch) / "rows.npy"]), Path(scratch) / "staging", metric="l2") as staging:
            rows = scale_rows(staging, "l2")
            queries = rows.scaled(asked.vectors)
            index = index_section(rows, BLOCKS, rows.count)
            tune = hold_out(rows.count, options.seed).tuning
            tune_nearest = truth_of(rows, tune, 1).rows[:, 0]
            tell("k-means and closure")
            plain = kmeans(rows, options.seed)
            none = np.empty((rows.count, 0), np.int32)
            methods = [
                by_centroid("k-means", plain, none, queries),
                by_centroid("k-means, closure 20 %", plain, closure(rows, plain).best(0.2), queries),
            ]
            tell("lse and SOAR")
            ready = [prepare(v.tolist(), index) for v in asked.vectors]
            last = ours(rows, tune, tune_nearest, ready, options.seed)
            methods += paper(rows, plain, tune, tune_nearest, queries, options.epochs, options.seed, tell) + last
            if options.rows is None and asked.neighbors is not None:
                nearest = asked.neighbors[:, 0]
            else:
                nearest = exact_neighbours(queries, rows.chunks(32 << 20), 1, "l2")[:, 0]
    head = f"SIFT, {rows.count:,} rows, {BLOCKS:,} blocks, {len(nearest):,} held-out queries, {options.epochs} epochs\n"
    text = f"{head}\n{table(methods, nearest)}"
    print(text)
    if options.out:
        options.out.with_suffix(".txt").write_text(text)
        shown = [m for m in methods if not m.name.endswith("copied")]
        options.out.with_suffix(".svg").write_text(picture(shown, nearest, "SIFT: recall@1 against rows read"))
    tell("done")


if __name__ == "__main__":
    main()
