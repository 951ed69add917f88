"""Blocks, copies and the router: what is tried of them, measured by routing alone, and what is taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vantage.format import (
    BLOCKS_MAX,
    block_planes,
)

from ..blocks import PARTITIONS
from ..blocks.copies import COPY_RULES, Copies, misses
from ..blocks.graph_cut import VOTERS
from ..blocks.layout import Layout
from ..blocks.partition import Partition
from ..ingest.rows import Ints, Rows
from ..neighbours.graph import Graph, neighbour_graph
from ..neighbours.truth import HeldOut
from ..progress import SILENT
from ..routers import ROUTERS, lse, mlp
from ..simulate.edge import P, prepare_rows
from ..simulate.measure import Reads
from .fit import Task, fit_router, opening_ms, plan_routing, probabilities_of
from .options import TRAINING_BYTES_MIN, Options

BLOCK_ROWS = 112  # small blocks read less once the planner joins them; what was tried stands in the manifest
FEW_HOLD = 6  # blocks, all neighbours: of more, half the rows a block were never sooner (WordNet, SIFT, Linux text)
FINER_SHARE = 0.5  # of the bytes that twice as large blocks read: then still smaller ones are tried
ROWS_LEAST = 32  # a block
SHARES = (0.0, 0.35, 0.6, 1.0, 1.5, 2.0)  # of rows copied, as candidates
GRAPH_K = 10  # measured on WordNet: 15% fewer rows than k-means at recall@10, 10% more at recall@100
MANY_ROWS = 2_000_000  # of more, one number of blocks is tried, which grows as the fourth root of the rows
TRAINING_QUERIES = 100_000  # rows that routers learn from, as queries: from 30,000 they read 2% more on WordNet, mlp 7%
NEAR = 100  # of their neighbours
SAMPLE_ROW_BYTES = 32  # of a row that trains: its number, its home, and its place among the rows of a block
MISSES_QUERIES = 10_000  # whose misses copies are made by
TRAINED_ROWS_MIN = 5000  # of fewer, too few neighbours are left to learn from


def draw_sample(rows: Rows, held: HeldOut, options: Options) -> Ints:
    """Rows to train on: all but the held-out ones, or as many as a fifth of the memory has room for what is kept of
    each; their vectors are read in pieces."""
    others = np.setdiff1d(np.arange(rows.count), held.all)
    most = max(1000, options.memory_bytes // 5 // SAMPLE_ROW_BYTES)
    if len(others) <= most:
        return others
    return np.sort(np.random.default_rng([options.seed, 3]).choice(others, most, replace=False))


def with_neighbours(task: Task, partition: Partition | None) -> Task:
    """The same with rows of the sample as queries and their neighbours, which routers and copies learn from.

    partition: k-means of the rows, in whose blocks neighbours are looked for; None: in lists of their own.
    """
    if len(task.queries):
        return task
    rows, options = task.rows, task.options
    most = min(TRAINING_QUERIES, len(task.sample))
    queries = np.sort(np.random.default_rng([options.seed, 5]).choice(task.sample, most, replace=False))
    phase = task.progress.phase("neighbours of rows to learn from")
    near = neighbour_graph(
        rows, queries, min(NEAR, rows.count - 1), seed=options.seed, memory_bytes=options.memory_bytes,
        partition=partition, progress=phase,
    )  # fmt: skip
    return replace(task, queries=queries, neighbours=near)


def _routers(rows: Rows, blocks: int, options: Options) -> list[str]:
    """Names of the routers to measure: a table that needs no training, and a network, which reads less in fewer bytes.

    Two-level where even those are too much to keep resident: the pages of a query's regions
    leave out more neighbours than a table of one centroid a block misses, of text many more.
    """
    if options.router is not None:
        return [options.router]
    trains = not options.fast and rows.count >= TRAINED_ROWS_MIN and options.memory_bytes >= TRAINING_BYTES_MIN
    networks = ["mlp"] if trains and mlp.fits(rows.dimension, blocks) else []
    if lse.table_bytes(rows.dimension, blocks, 1) > lse.ONE_BYTES_MAX:
        return networks or ["two-level"]
    return ["lse", *networks]


@dataclass(frozen=True)
class Draft:
    """Blocks in file order with a router, and all the copies that could be made. partition: its name.

    routed: p of the tuning queries and what they read, as far as it is known.
    """

    partition: str
    layout: Layout
    copies: Copies
    routed: tuple[P, Reads] | None = None

    def with_share(self, share: float) -> Layout:
        return replace(self.layout, copy=self.copies.best(share))


def draft_blocks(task: Task) -> list[Draft]:
    """For each partition and number of blocks, the copies that route in the least time, by lse with a middle code.

    Twice as many are tried too where few blocks hold a query's neighbours: these may lie in a corner of each. Where
    blocks of half the rows then halve what a query reads, they are larger than what lies together, as among tight
    clusters: twice as many again are tried, and so on.
    """
    names, graph = _partitions(task.rows, task.options), None
    if names != ["kmeans"]:
        graph = _graph(task)
    out = []
    for name in names:
        *finer, blocks = block_counts(task.rows.count)
        reads, draft = _draft(task, name, blocks, graph)
        out.append(draft)
        goes_on = bool(finer) and _holders(task, draft) <= FEW_HOLD
        while goes_on:
            blocks, before = 2 * blocks, reads
            reads, draft = _draft(task, name, blocks, graph)
            out.append(draft)
            goes_on = reads.nbytes < FINER_SHARE * before.nbytes and 2 * blocks <= task.rows.count // ROWS_LEAST
    return out


def _holders(task: Task, draft: Draft) -> float:
    """How many blocks hold the neighbours of a tuning query, copies left out; the mean."""
    near = task.tune.truth.rows[:, : task.k]
    held = np.sort(np.where(near >= 0, draft.layout.partition.home[near], -1), axis=1)
    starts = (held[:, 1:] > held[:, :-1]).sum(1) + (held[:, 0] >= 0)
    return float(starts.mean())


def _draft(task: Task, name: str, blocks: int, graph: Graph | None) -> tuple[Reads, Draft]:
    """What the tuning queries read, and of what; name: of the partition."""
    rows, options, rule = task.rows, task.options, task.options.copies or "soar"
    quick = next((name for name in _routers(rows, blocks, options) if not ROUTERS[name].trains), "lse")
    base = PARTITIONS[name](
        rows, task.sample, blocks, graph, options.seed, task.progress.phase(f"partition {name}, {blocks} blocks")
    )
    phase = task.progress.phase(f"copies and router, {name}, {blocks} blocks")
    phase(0.0)
    copies = (
        _copies_of_misses(task, base, quick) if rule == "misses" else COPY_RULES[rule](rows, base, phase.part(0, 0.5))
    )
    shares = [0.0] if rule == "none" or blocks == 1 else _shares(rows, blocks, task.id_bytes, options)
    layout, order = fit_router(task, base, copies.best(max(shares)), quick, phase.part(0.5, 1))
    draft = Draft(name, layout, copies.reordered(order))
    p, measured = probabilities_of(rows, layout, task.tune.queries), list[tuple[float, Layout, Reads]]()
    for share in reversed(shares):  # until fewer copies read for longer: those before them were enough
        tried = draft.with_share(share)
        reads = plan_routing(task, tried, p, task.tune)
        task.tried.append({
            "partition": name, "blocks": blocks, "copies": rule, "copies_share": round(share, 4), "router": quick,
            "routed_recall": round(task.routed_recall, 4), **cost_of(reads),
        })  # fmt: skip
        measured.append((float(reads.ms.mean()), tried, reads))
        if len(measured) > 1 and measured[-1][0] > measured[-2][0]:
            break
    _, best, reads = min(measured, key=lambda one: one[0])
    phase(1.0)
    return reads, replace(draft, layout=best, routed=(p, reads))


def _partitions(rows: Rows, options: Options) -> list[str]:
    """Names of the partitions to measure: a cut of the neighbour graph reads less than k-means where k is small."""
    own = options.router if options.router in PARTITIONS else None  # see check_options
    if options.partition is not None or own:
        return [options.partition or own or ""]
    cuts = options.k <= GRAPH_K and not options.fast and TRAINED_ROWS_MIN <= rows.count <= MANY_ROWS
    return ["kmeans", "graph"] if cuts else ["kmeans"]


def _copies_of_misses(task: Task, base: Partition, router: str) -> Copies:
    """Copies by what the training queries miss where they read as much as the routed recall takes without copies."""
    layout, order = fit_router(task, base, COPY_RULES["none"](task.rows, base).best(0), router, SILENT)
    few = slice(0, len(task.queries), max(1, len(task.queries) // MISSES_QUERIES))
    p = probabilities_of(task.rows, layout, [*task.tune.queries, *prepare_rows(task.rows, task.queries[few])])
    fair = p / np.maximum(layout.sizes(), 1) * (task.rows.count / layout.blocks)
    held, learners = fair[: len(task.tune.rows)], p[len(task.tune.rows) :]
    low, high = 0.0, float(held.max())
    for _ in range(16):
        middle = (low + high) / 2
        recall = layout.holds(task.tune.truth.rows[:, : task.k], held > middle).mean()
        low, high = (middle, high) if recall >= task.routed_recall else (low, middle)
    back = np.empty_like(learners)
    back[:, order] = learners  # numbers of the partition as it came
    return misses(task.rows, base, back, task.neighbours[few], low)


def _graph(task: Task) -> Graph:
    """i32 (N, 50): the rows near every row, for partitions by neighbours."""
    options, phase = task.options, task.progress.phase("neighbours of all rows")
    everything = np.arange(task.rows.count)
    near = min(VOTERS, task.rows.count - 1)
    return neighbour_graph(
        task.rows, everything, near, seed=options.seed, memory_bytes=options.memory_bytes, progress=phase
    )


def choose_router(task: Task, drafts: list[Draft]) -> tuple[Draft, P]:
    """The blocks and the router that answer in the least modelled time, openings counted; and p of the tuning queries.

    Blocks are compared by the router that each draft came with, and what has to be trained is trained on the best of
    them: a network for every number of blocks would take as long again, and change the order of few.
    """
    measured = [_routed(task, draft) for draft in drafts]
    best, draft, p = min(measured, key=lambda one: one[0])
    names = _routers(task.rows, draft.layout.blocks, task.options)
    for name in names:
        if name == draft.layout.router:
            continue
        if ROUTERS[name].trains:
            task = with_neighbours(task, draft.layout.partition if draft.partition == "kmeans" else None)
        phase = task.progress.phase(f"router {name}, {draft.layout.blocks} blocks")
        phase(0.0)
        layout, order = fit_router(task, draft.layout.partition, draft.layout.copy, name, phase)
        other = _routed(task, Draft(draft.partition, layout, draft.copies.reordered(order)))
        if other[0] < best or draft.layout.router not in names:
            best, draft, p = other
        phase(1.0)
    return draft, p


def _routed(task: Task, draft: Draft) -> tuple[float, Draft, P]:
    """Its modelled ms with what an opening costs, itself, and p of the tuning queries."""
    if draft.routed is None:
        p = probabilities_of(task.rows, draft.layout, task.tune.queries)
        draft = replace(draft, routed=(p, plan_routing(task, draft.layout, p, task.tune)))
    assert draft.routed is not None
    p, reads = draft.routed
    task.tried.append({
        "partition": draft.partition, "blocks": draft.layout.blocks, "router": draft.layout.router,
        "router_bytes": len(draft.layout.section.pack()),
        "routed_recall": round(task.routed_recall, 4), **cost_of(reads),
    })  # fmt: skip
    return float(reads.ms.mean()) + opening_ms(draft.layout.section), draft, p


def cost_of(reads: Reads) -> dict[str, float]:
    """Means over the queries, for the table of what was tried."""
    return {"gets": round(reads.gets, 3), "bytes": round(reads.nbytes), "modelled_ms": round(float(reads.ms.mean()), 3)}


def block_counts(rows: int) -> list[int]:
    """Rows / 112 and half of it, in whole eights; few blocks for few rows.

    Of many rows half of MANY_ROWS / 112, times the fourth root of rows / MANY_ROWS: of 4,096,000 sentences 9,144 blocks
    read less than 18,284, by a smaller network.
    """
    near = max(1, min(round(min(rows, MANY_ROWS) / BLOCK_ROWS), rows // 16))
    if near < 64:
        return [near]
    near = near // 8 * 8
    if rows <= MANY_ROWS:
        return [near, near // 2]
    return [min(BLOCKS_MAX, round(near / 2 * (rows / MANY_ROWS) ** 0.25) // 8 * 8)]


def fits_cache(rows: Rows, blocks: int, share: float, code_bytes: int, id_bytes: float, options: Options) -> bool:
    """Whether all blocks fit the cache: rows with copies, groups half full on average, alignment."""
    row = code_bytes + 2 + 4 + 4
    padding = blocks * (8 * row + block_planes(0, 0, rows.dimension).codes + 32)
    return rows.count * (1 + share) * (row + id_bytes) + padding <= options.cache_bytes


def _shares(rows: Rows, blocks: int, id_bytes: float, options: Options) -> list[float]:
    """Shares of rows to copy; where the cache holds the index, what it holds beside codes of 4 bits a dimension."""
    if options.copies_share is not None:
        return [options.copies_share]
    smallest = max(8, rows.dimension // 2)
    if not fits_cache(rows, blocks, 0.0, smallest, id_bytes, options):
        return list(SHARES)
    most = most_copies(rows, blocks, smallest, id_bytes, options)
    return sorted({share for share in SHARES if share < most} | {most})


def most_copies(rows: Rows, blocks: int, code_bytes: int, id_bytes: float, options: Options) -> float:
    """The largest share of copies that the cache holds beside codes of this length."""
    most = max(SHARES)
    while most > 0 and not fits_cache(rows, blocks, most, code_bytes, id_bytes, options):
        most = max(0.0, round(most - 0.01, 2))
    return most
