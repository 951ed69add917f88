"""tree: nodes of 32 rectified units that split blocks three ways, trained together on where neighbours lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vantage.format import NO_CHILD, TREE_UNITS, TREE_WAYS, TreeSection

from ..hashing.products import times
from ..ingest.rows import F32, Ints
from ..kernels import matmul
from ..progress import Progress
from . import learn, lse
from .packing import quantize, round_through
from .training import Cost, TrainingSet, cheapest

BETA = 14.0  # over the spread of the rows; to start from, as in trained
BEAM = 48
RATES = {"first": 1e-3, "bias": 1e-3, "second": 0.02, "weight": 0.02}
STEPS = 240
BATCH = 1024
TEMPERATURES = (1.0, 0.7, 0.85)
BITS = 4
ROUNDS = 10


def fit(training: TrainingSet, cost: Cost, progress: Progress) -> TreeSection:
    """Groups the blocks' centres by threes, trains all nodes at once, then the temperature by cost."""
    import jax
    import jax.numpy as jnp

    subs = lse.sub_centroids_of(training, [1])[0]
    centres, count = subs.table[:, 0], np.maximum(subs.count[:, 0], 1)
    child, middle, mass = group_blocks(centres, count, training.seed)
    path = paths(child, training.blocks)
    nodes, d = len(child), training.rows.dimension
    there = child != NO_CHILD
    beta = BETA / training.spread
    # A pair of units for each child, + and - its direction: together the child's inner product. The rest is noise.
    rng = np.random.default_rng([training.seed, 9])
    apart = np.where(there[..., None], middle - middle.sum(1, keepdims=True) / there.sum(1)[:, None, None], 0)
    length = np.maximum(np.linalg.norm(apart, axis=2, keepdims=True), 1e-6)
    first = rng.standard_normal((nodes, TREE_UNITS, d), np.float32) / np.float32(d**0.5)
    second = 0.1 * rng.standard_normal((nodes, TREE_WAYS, TREE_UNITS), np.float32)
    for way in range(TREE_WAYS):
        first[:, 2 * way], first[:, 2 * way + 1] = apart[:, way] / length[:, way], -apart[:, way] / length[:, way]
        second[:, way, 2 * way] = beta * length[:, way, 0]
        second[:, way, 2 * way + 1] = -beta * length[:, way, 0]
    weight = np.where(there, np.log(mass), 0)
    if training.rows.metric == "l2":
        weight = weight - np.where(there, beta * 0.5 * np.einsum("nwd,nwd->nw", middle, middle), 0)
    start = {
        "first": first.reshape(-1, d),
        "bias": np.zeros(nodes * TREE_UNITS, np.float32),
        "second": second,
        "weight": weight.astype(np.float32),
    }

    def scores(now: dict[str, Any], q: Any) -> Any:
        units = jnp.clip(
            times(q, round_through(now["first"], BITS)) + now["bias"], 0, jnp.linalg.norm(q, axis=1)[:, None]
        )
        logit = jnp.einsum("qnu,nwu->qnw", units.reshape(len(q), nodes, TREE_UNITS), now["second"]) + now["weight"]
        log_p = jax.nn.log_softmax(jnp.where(there, logit, -1e9)).reshape(len(q), -1)
        log_p = jnp.concatenate([log_p, jnp.zeros((len(q), 1))], 1)
        return sum(log_p[:, step] for step in path)

    learnt = learn.train(start, RATES, scores, training, STEPS, BATCH, progress.part(0, 0.9))
    network = section(learnt, child)
    return cheapest([network], TEMPERATURES, cost)


def group_blocks(centres: F32, count: F32, seed: int) -> tuple[Ints, F32, F32]:
    """(child i64 (n, 3) as TreeSection has it, the mean of each child f32 (n, 3, d), its rows f32 (n, 3))."""
    child: list[list[int]] = []
    middle: list[list[F32]] = []
    mass: list[list[float]] = []

    def add(blocks: Ints) -> int:
        number = len(child)
        child.append([NO_CHILD] * TREE_WAYS)
        middle.append([np.zeros(centres.shape[1], np.float32)] * TREE_WAYS)
        mass.append([1.0] * TREE_WAYS)
        for way, part in enumerate(_parts(centres, blocks, seed)):
            middle[number][way] = np.average(centres[part], axis=0, weights=count[part]).astype(np.float32)
            mass[number][way] = float(count[part].sum())
            child[number][way] = -1 - int(part[0]) if len(part) == 1 else add(part)
        return number

    add(np.arange(len(centres)))
    return np.array(child), np.array(middle), np.array(mass, np.float32)


def _parts(centres: F32, blocks: Ints, seed: int) -> list[Ints]:
    """At most three parts of the blocks, none empty and none over half of them where there are more than three."""
    if len(blocks) <= TREE_WAYS:
        return [blocks[i : i + 1] for i in range(len(blocks))]
    x, rng = centres[blocks], np.random.default_rng([seed, 10, len(blocks), int(blocks[0])])
    c = x[rng.choice(len(x), TREE_WAYS, replace=False)]
    room = -(-len(x) // 2)
    tag = np.zeros(len(x), np.int64)
    for _ in range(ROUNDS):
        far = np.einsum("ij,ij->i", c, c) - 2 * matmul(x, c)
        left = [room] * TREE_WAYS
        for i in np.argsort(np.diff(np.sort(far, 1)[:, :2], axis=1)[:, 0])[::-1]:  # the surest first
            tag[i] = next(way for way in np.argsort(far[i]) if left[way])
            left[tag[i]] -= 1
        c = np.stack([x[tag == way].mean(0) if (tag == way).any() else x[rng.integers(len(x))] for way in range(3)])
    return [blocks[tag == way] for way in range(TREE_WAYS) if (tag == way).any()]


def paths(child: Ints, blocks: int) -> Ints:
    """i64 (depth, B): places in child.ravel() from the root down to each block; child.size where it has ended."""
    parent = {int(c): at for at, c in enumerate(child.ravel()) if c != NO_CHILD}
    ways = []
    for b in range(blocks):
        steps, at = [], parent[-1 - b]
        while True:
            steps.append(at)
            if at < TREE_WAYS:
                break
            at = parent[at // TREE_WAYS]
        ways.append(steps[::-1])
    depth = max(map(len, ways))
    return np.array([steps + [child.size] * (depth - len(steps)) for steps in ways]).T


def section(learnt: dict[str, F32], child: Ints) -> TreeSection:
    """The tree as stored."""
    table, scale = quantize(learnt["first"], BITS)
    out, out_scale = quantize(learnt["second"].reshape(-1, TREE_UNITS), 8)
    weight = np.where(child != NO_CHILD, learnt["weight"], -np.inf).astype(np.float32)
    return TreeSection(
        BITS, min(BEAM, int((child < 0).sum() - (child == NO_CHILD).sum())), TEMPERATURES[0],
        memoryview(child.astype(np.int32).reshape(-1)), memoryview(scale),
        memoryview(np.asarray(learnt["bias"], np.float32)), memoryview(out_scale), memoryview(weight.reshape(-1)),
        memoryview(table), memoryview(out),
    )  # fmt: skip


def reorder(section: TreeSection, order: Ints) -> TreeSection:
    """Block order[i] as number i."""
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    child = np.array(section.child, np.int32)
    block = (child < 0) & (child != NO_CHILD)
    child[block] = -1 - number[-1 - child[block]]
    return replace(section, child=memoryview(child))
