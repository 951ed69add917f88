"""Measures candidates and picks: blocks, copies, router, code bytes and prices, under the recall asked for.

Parameters are tuned on one set of held-out rows, prices come from another that serves nothing else. Every figure is in
the kernels' own arithmetic, against exact neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.format import (
    BLOCKS_MAX,
    PROMISED_RERANK_MAX,
    PROMISED_VECTORS_MAX,
    VECTOR_BYTES,
    Contract,
    Promises,
    TwoLevelSection,
    block_planes,
)
from vantage.search.plan import SMALL_BYTES

from ..blocks import PARTITIONS
from ..blocks.copies import COPY_RULES, Copies, misses
from ..blocks.graph_cut import VOTERS
from ..blocks.layout import Layout
from ..blocks.partition import Partition
from ..codecs import CODECS
from ..codecs.kept import KeptCodes
from ..codecs.planes import Codec, section_over
from ..codecs.rotations import fit, name_of
from ..ingest.rows import F32, Ints, Rows, temper
from ..neighbours.graph import Graph, neighbour_graph
from ..neighbours.truth import HeldOut, hold_out, nearness, truth_of
from ..progress import SILENT, Progress
from ..routers import ROUTERS, lse
from ..simulate.edge import HeldOutQueries, P, prepare_rows
from ..simulate.measure import KEPT, Candidates, Reads, Scanned, block_bytes, blocks_needed, full_scans, plans
from . import few, renditions
from .contract import PricedRecall, calibrate, depths_beyond, price_at, target_point, with_pages, with_reads
from .fit import Task, fit_router, opening_ms, pages_of, plan_routing, probabilities_of
from .options import TRAINING_BYTES_MIN, Options
from .promises import Deep, ScannedQueries, ScansAt, gather_of, make_promises

BLOCK_ROWS = 112  # small blocks read less once the planner joins them; what was tried stands in the manifest
FINER_SHARE = 0.5  # of the bytes that twice as large blocks read: then still smaller ones are tried
ROWS_LEAST = 32  # a block
SHARES = (0.0, 0.35, 0.6, 1.0, 1.5, 2.0)  # of rows copied, as candidates
GRAPH_K = 10  # measured on WordNet: 15% fewer rows than k-means at recall@10, 10% more at recall@100
MANY_ROWS = 2_000_000  # of more, one number of blocks is tried
CODE_QUERIES = 500  # for the code length, which is compared on the same ones
DEEP_QUERIES, DEEP_QUERIES_MIN = 300, 100  # for k above the contract's: their neighbours take longer to find
DEEP_PAIRS = 600_000_000  # of a row and one of these: of more than two million rows there are fewer
DEEP_KEPT = 4096  # copies: a thousand rows, and twice as many for exact scores, have each a copy or two
EXACT_PLACES = 4 << 20  # kept for the number of exact scores, of the tuning rows and of the others
SCAN_LOSES, TRIAL_LOSES = 0.002, 0.02  # of the loss that the target allows: of prices, and of codes that are compared
CODE_BITS = (3, 4, 5, 6, 7, 8)  # a dimension, as candidates
CODED_SHARE = 0.5  # of the loss that the target allows: of codes that lose more, longer ones are tried too
TRAINING_QUERIES = 100_000  # rows that routers learn from, as queries: from 30,000 they read 2% more on WordNet, mlp 7%
NEAR = 100  # of their neighbours
SAMPLE_ROW_BYTES = 32  # of a row that trains: its number, its home, and its place among the rows of a block
MOMENT_ROWS = 60_000
RESIDUAL_ROWS = 20_000  # that tables are fitted to
RESIDUAL_BYTES = 64 << 20  # of them, at most
MISSES_QUERIES = 10_000  # whose misses copies are made by
TRAINED_ROWS_MIN = 5000  # of fewer, too few neighbours are left to learn from


@dataclass
class Choice:
    """The index to write, and what was tried for it (for the manifest)."""

    layout: Layout
    codec: Codec
    contract: Contract
    promises: Promises
    tried: list[dict[str, Any]]
    modelled_ms: tuple[float, float]  # p50 and p99 of a query at the target, nothing cached
    rotation: str | None  # its name; None where the codec has directions of its own
    longer: Codec | None = None  # of a second rendition of the blocks
    inline: bool = False  # the root holds the blocks
    codes: tuple[KeptCodes, ...] = ()  # of the blocks, as far as they are known
    near: float = float("inf")  # how far a row's neighbours are, in the scale of the index: see truth.nearness


def choose(rows: Rows, id_bytes: float, options: Options, progress: Progress = SILENT) -> Choice:
    """Picks everything. Where nothing keeps the recall that was asked for, the contract's target is what is kept."""
    if rows.count <= few.FEW_ROWS:
        choice = replace(_exact(rows, id_bytes, options, []), near=few.near(rows))
    else:
        choice = _measured(rows, id_bytes, options, progress)
    return replace(choice, inline=_is_small(rows, id_bytes, choice.layout, choice.codec))


def _is_small(rows: Rows, id_bytes: float, layout: Layout, codec: Codec) -> bool:
    """Whether the root holds the blocks; never where routing pages say where they are."""
    sizes = block_bytes(layout.sizes(), codec.code_bytes, id_bytes, rows.dimension)
    return not isinstance(layout.section, TwoLevelSection) and renditions.are_small(rows, sizes)


def _measured(rows: Rows, id_bytes: float, options: Options, progress: Progress) -> Choice:
    """Of more rows than a query may read the full vectors of."""
    held = hold_out(rows.count, options.seed)
    k = min(options.k, rows.count - 1)
    phase = progress.phase("truth")
    phase(0.0)
    truth = truth_of(rows, held.all, min(max(k, 10), rows.count - 1), phase)
    where = np.searchsorted(held.all, held.tuning), np.searchsorted(held.all, held.calibration)
    tune, calibration = (
        HeldOutQueries(prepare_rows(rows, of), of, truth[at])
        for of, at in zip((held.tuning, held.calibration), where, strict=True)
    )
    sample = _sample(rows, held, options)
    queries, neighbours = _training_queries(rows, sample, options, progress)
    near_by = nearness(rows, tune.rows, tune.truth.rows[:, : few.NEAR_BY][:, -1])
    task = Task(rows, sample, tune, queries, neighbours, id_bytes, k, options, [], progress)
    drawn, p_tune = _choose_router(task, _drafts(task))
    p = probabilities_of(rows, drawn.layout, calibration.queries)
    some = tune.spread(CODE_QUERIES)
    scanned = blocks_needed(p_tune, drawn.layout, tune.truth.rows[:, :k], SCAN_LOSES * (1 - options.recall))
    task = replace(task, tune=tune.take(some), deep=_deep(rows, k, calibration, p), scanned=scanned)
    for coded in _code(task, drawn, p_tune[some]):
        candidates, deep = _scan_prices(task, coded.layout, coded.codec, calibration, "prices", p, codes=coded.codes)
        # Where few rows were held out, the tuning ones may have flattered a code.
        choice = _promise(task, coded, p_tune[some], calibration, p, candidates, deep, options.recall)
        if choice is not None:
            if not options.fast and not _is_small(rows, id_bytes, coded.layout, coded.codec):
                choice = _with_longer_codes(task, drawn, coded, choice, p_tune[some], calibration, p)
            return replace(choice, near=near_by)
    return replace(_by_exact_scores(task, drawn, p_tune[some], calibration, p), near=near_by)


def _exact(rows: Rows, id_bytes: float, options: Options, tried: list[dict[str, Any]]) -> Choice:
    """One block, and exact scores of all its rows."""
    layout, codec = few.layout_of(rows, options.seed), few.codec_of(rows, options)
    inline = _is_small(rows, id_bytes, layout, codec)
    contract, promises = few.promise_exact(rows, layout, codec, id_bytes, options, inline)
    wait = promises.by_recall[0].ms
    return Choice(layout, codec, contract, promises, tried, (wait, wait), options.rotation or few.ROTATION)


def _promise(
    task: Task,
    coded: _Coded,
    p_tune: P,
    calibration: HeldOutQueries,
    p: P,
    candidates: Candidates,
    deep: Candidates | None,
    target: float,
    rerank: int = 0,
) -> Choice | None:
    """The index with these codes and promises, measured on calibration rows; None where they keep no such target.

    deep: candidates of those of task.deep.
    """
    rows, options, layout = task.rows, task.options, coded.layout
    sizes = block_bytes(layout.sizes(), coded.codec.code_bytes, task.id_bytes, task.rows.dimension)
    inline = _is_small(rows, task.id_bytes, layout, coded.codec)
    recall_at, pages = PricedRecall(candidates, p, sizes, inline), pages_of(rows, layout, calibration.queries)
    contract = calibrate(recall_at, task.k, target, rerank)
    if contract is None:
        return None
    contract = with_pages(contract, pages)
    if inline:  # opening the index has read them
        contract = replace(contract, points=tuple(replace(p, nbytes=0.0, gets=0.0) for p in contract.points))
    phase = task.progress.phase("promises")
    phase(0.0)
    tune, held = (
        ScannedQueries(coded.candidates, p_tune, sizes, layout.sizes(), inline=inline),
        ScannedQueries(candidates, p, sizes, layout.sizes(), pages, inline),
    )
    promises = make_promises(
        _sharpened(task, layout, tune, task.tune), coded.price,
        _sharpened(task, layout, held, calibration), recall_at, contract, rows.count,
        options.second_wave, gather_of(layout.partition.home, rows), rerank,
        deep=_deep_of(task, layout, sizes, deep, inline),
    )  # fmt: skip
    phase(1.0)
    kept = next((promise for promise in promises.by_recall if promise.recall >= target), None)
    if kept is None:
        return None
    modelled = replace(plans(p, sizes, target_point(contract).price), pages=pages).ms * (not inline)
    waits = float(np.median(modelled)), float(np.quantile(modelled, 0.99))
    if rerank:
        point = target_point(contract)
        contract = with_reads(contract, max(0.0, kept.nbytes - point.nbytes), max(0.0, kept.gets - point.gets))
        more = kept.ms - float(modelled.mean())
        waits = waits[0] + more, waits[1] + more
    rotation = options.rotation or name_of(options.codec, coded.codec.rotation)
    codes = () if coded.codes is None else (coded.codes,)
    return Choice(layout, coded.codec, contract, promises, task.tried, waits, rotation, codes=codes)


def _with_longer_codes(
    task: Task, draft: _Draft, coded: _Coded, choice: Choice, p_tune: P, calibration: HeldOutQueries, p: P
) -> Choice:
    """The same with a second rendition of longer codes, where that keeps high recalls sooner."""
    rows, layout = task.rows, coded.layout
    axes, coder = _coder(task, draft)[1:]
    tried = list[tuple[float, KeptCodes, Candidates, PricedRecall]]()
    for code_bytes in renditions.lengths(coded.codec.code_bytes, axes):
        codec = coder(code_bytes)
        if section_over(coded.codec, codec) is None:
            continue  # they share the rotation of the longer one
        codes = _kept_codes(task, layout, codec)
        candidates = _scan(task, layout, codec, task.tune, f"longer codes of {code_bytes} bytes", p_tune, codes=codes)
        recall_at = PricedRecall(candidates, p_tune, _sizes(task, layout, codec))
        prices = [price_at(recall_at, task.k, goal) for goal in renditions.GOALS]
        waits = [
            renditions.NEVER_MS if price is None else float(recall_at.reads(price, slice(None)).ms.mean())
            for price in prices
        ]
        task.tried.append({
            "blocks": layout.blocks, "code_bytes": code_bytes, "rendition": 1,
            **{f"modelled_ms_{goal}": round(ms, 3) for goal, ms in zip(renditions.GOALS, waits, strict=True)},
        })  # fmt: skip
        tried = [min([*tried, (sum(waits), codes, candidates, recall_at)], key=lambda one: one[0])]
    if not tried:
        return choice
    _, codes, candidates, recall_at = tried[0]
    codec = codes.codec
    sizes, pages = _sizes(task, layout, codec), pages_of(rows, layout, calibration.queries)
    target = price_at(recall_at, task.k, renditions.LONGER_RECALL)
    if target is None:
        return choice
    held = _scan(task, layout, codec, calibration, "longer codes, prices", p, codes=codes)
    phase = task.progress.phase("longer codes, promises")
    phase(0.0)
    tune_scans = ScannedQueries(candidates, p_tune, sizes, layout.sizes())
    held_scans = ScannedQueries(held, p, sizes, layout.sizes(), pages)
    promises = make_promises(
        _sharpened(task, layout, tune_scans, task.tune), target,
        _sharpened(task, layout, held_scans, calibration), PricedRecall(held, p, sizes), choice.contract, rows.count,
        task.options.second_wave, gather_of(layout.partition.home, rows), least=renditions.LONGER_RECALL,
    )  # fmt: skip
    phase(1.0)
    both = renditions.better(choice.promises, promises)
    return choice if both is None else replace(choice, longer=codec, promises=both, codes=(*choice.codes, codes))


def _sharpened(task: Task, layout: Layout, scanned: ScannedQueries, of: HeldOutQueries) -> ScansAt:
    """Of the same scans, with probabilities of any sharpness, which are found once."""

    @cache
    def at(sharpness: float) -> ScannedQueries:
        if sharpness == 1:
            return scanned
        return replace(scanned, p=probabilities_of(task.rows, layout, of.queries, sharpness))

    return at


def _sizes(task: Task, layout: Layout, codec: Codec) -> Ints:
    """(B) bytes of the blocks with these codes."""
    return block_bytes(layout.sizes(), codec.code_bytes, task.id_bytes, task.rows.dimension)


def _deep(rows: Rows, k: int, calibration: HeldOutQueries, p: P) -> Scanned | None:
    """Some of the calibration rows with neighbours for k above the contract's, where there are so many rows."""
    beyond = depths_beyond(k, rows.count)
    if not beyond:
        return None
    some = calibration.spread(max(DEEP_QUERIES_MIN, min(DEEP_QUERIES, DEEP_PAIRS // rows.count)))
    held = calibration.rows[some]
    return Scanned(
        HeldOutQueries(calibration.queries[some], held, truth_of(rows, held, beyond[-1])), p[some], DEEP_KEPT
    )  # fmt: skip


def _deep_of(task: Task, layout: Layout, sizes: Ints, candidates: Candidates | None, inline: bool) -> Deep | None:
    """What promises at k above the contract's are measured by."""
    if task.deep is None or candidates is None or task.deep.p is None:
        return None
    p, queries = task.deep.p, task.deep.held.queries
    pages = pages_of(task.rows, layout, queries)
    held = ScannedQueries(candidates, p, sizes, layout.sizes(), pages, inline)
    return Deep(
        held, PricedRecall(candidates, p, sizes, inline), depths_beyond(task.k, task.rows.count), _rerank_max(task.rows)
    )


def _rerank_max(rows: Rows) -> int:
    """Rows that a promise may take the exact scores of."""
    return min(PROMISED_RERANK_MAX, rows.count, PROMISED_VECTORS_MAX // (VECTOR_BYTES["f32"] * rows.dimension))


def _scan(
    task: Task, layout: Layout, codec: Codec, held: HeldOutQueries, phase: str, p: P, kept: int = KEPT,
    codes: KeptCodes | None = None,
) -> Candidates:  # fmt: skip
    """What the codes find for held-out rows, in blocks that a plan may read. codes: see full_scans."""
    return _scans(task, layout, codec, phase, [Scanned(held, p, kept, task.scanned)], codes)[0]


def _scan_prices(
    task: Task, layout: Layout, codec: Codec, held: HeldOutQueries, phase: str, p: P, kept: int = KEPT,
    codes: KeptCodes | None = None,
) -> tuple[Candidates, Candidates | None]:  # fmt: skip
    """The same for rows that prices are measured on, and for those of task.deep."""
    wanted = [Scanned(held, p, kept, task.scanned), *([] if task.deep is None else [task.deep])]
    candidates, *deep = _scans(task, layout, codec, phase, wanted, codes)
    return candidates, deep[0] if deep else None


def _scans(
    task: Task, layout: Layout, codec: Codec, phase: str, wanted: list[Scanned], codes: KeptCodes | None
) -> list[Candidates]:
    if _sizes(task, layout, codec).sum() <= SMALL_BYTES:  # a plan may read all of them
        wanted = [replace(one, all_read=True) for one in wanted]
    return full_scans(task.rows, layout, codec, wanted, task.progress.phase(phase), codes)


def _kept_codes(task: Task, layout: Layout, codec: Codec) -> KeptCodes:
    """Room for the codes of all blocks."""
    return KeptCodes(codec, layout.sizes(), task.options.memory_bytes, task.rows.stored.folder)


def _by_exact_scores(task: Task, draft: _Draft, p_tune: P, calibration: HeldOutQueries, p: P) -> Choice:
    """The longest codes, with as few exact scores more than a query may ask for as keep the target.

    Where none do, exact scores of all rows; where those are more than a promise may take, the best recall that is kept
    by as many as the budget of a query reads.
    """
    rows, k, target = task.rows, task.k, task.options.recall
    most = _rerank_max(rows)
    few, many = (held.spread(EXACT_PLACES // (2 * most)) for held in (task.tune, calibration))
    tune, calibration, p_tune, p = task.tune.take(few), calibration.take(many), p_tune[few], p[many]
    lengths, _, coder = _coder(task, draft)
    code_bytes = lengths[-1][0]
    layout, codec = _fitting(task, draft, code_bytes), coder(code_bytes)
    codes = _kept_codes(task, layout, codec)
    candidates = _scan(task, layout, codec, tune, "exact scores, tuning", p_tune, 2 * most, codes)
    held, deep = _scan_prices(task, layout, codec, calibration, "exact scores, prices", p, 2 * most, codes)
    sizes = block_bytes(layout.sizes(), code_bytes, task.id_bytes, task.rows.dimension)
    recall_at, kept_at = PricedRecall(candidates, p_tune, sizes), PricedRecall(held, p, sizes)
    depths = sorted({most, *(k << n for n in range(1, 13) if k << n < most)})
    for rerank in depths:
        reached = price_at(recall_at, k, target, rerank)
        task.tried.append({
            "blocks": layout.blocks, "copies_share": round(layout.copies / rows.count, 4), "code_bytes": code_bytes,
            "exact_scores": rerank, "all_blocks_recall": round(recall_at(0, k, rerank), 4),
        })  # fmt: skip
        if reached is not None:
            coded = _Coded(layout, codec, candidates, reached, codes)
            choice = _promise(task, coded, p_tune, calibration, p, held, deep, target, rerank)
            if choice is not None:
                return choice
    if rows.count <= most:  # exact scores of all rows need no rows held out to be sure
        return _exact(rows, task.id_bytes, task.options, task.tried)
    coded = _Coded(layout, codec, candidates, 0, codes)
    choices = (
        _promise(task, coded, p_tune, calibration, p, held, deep, min(target, kept_at(0, k, rerank)), rerank)
        for rerank in (*reversed(depths), 0)  # without exact scores there is always one
    )
    return next(choice for choice in choices if choice is not None)


def _sample(rows: Rows, held: HeldOut, options: Options) -> Ints:
    """Rows to train on: all but the held-out ones, or as many as a fifth of the memory has room for what is kept of
    each; their vectors are read in pieces."""
    others = np.setdiff1d(np.arange(rows.count), held.all)
    most = max(1000, options.memory_bytes // 5 // SAMPLE_ROW_BYTES)
    if len(others) <= most:
        return others
    return np.sort(np.random.default_rng([options.seed, 3]).choice(others, most, replace=False))


def _training_queries(rows: Rows, sample: Ints, options: Options, progress: Progress) -> tuple[Ints, Graph]:
    """Rows of the sample as queries and their neighbours, where a router or copies are to learn from them."""
    most = block_counts(rows.count)[-1]
    if not any(ROUTERS[name].trains for name in _routers(rows, most, options)) and options.copies != "misses":
        return np.empty(0, np.int64), np.empty((0, NEAR), np.int32)
    drawn = np.random.default_rng([options.seed, 5]).choice(sample, min(TRAINING_QUERIES, len(sample)), replace=False)
    queries = np.sort(drawn)
    phase = progress.phase("neighbours of rows to learn from")
    near = neighbour_graph(
        rows, queries, min(NEAR, rows.count - 1), seed=options.seed, memory_bytes=options.memory_bytes, progress=phase
    )
    return queries, near


def _routers(rows: Rows, blocks: int, options: Options) -> list[str]:
    """Names of the routers to measure: a table that needs no training, and a network, which reads less in fewer bytes.

    Two-level where a table of few sub-centroids is too much to keep resident.
    """
    if options.router is not None:
        return [options.router]
    if lse.table_bytes(rows.dimension, blocks, lse.FEW_SUBS) > lse.TABLE_BYTES_MAX:
        return ["two-level"]
    trains = not options.fast and rows.count >= TRAINED_ROWS_MIN and options.memory_bytes >= TRAINING_BYTES_MIN
    return ["lse", "mlp"] if trains else ["lse"]


@dataclass(frozen=True)
class _Draft:
    """Blocks in file order with a router, and all the copies that could be made. partition: its name."""

    partition: str
    layout: Layout
    copies: Copies

    def with_share(self, share: float) -> Layout:
        return replace(self.layout, copy=self.copies.best(share))


def _drafts(task: Task) -> list[_Draft]:
    """For each partition and number of blocks, the copies that route in the least time, by lse with a middle code.

    Where blocks of half the rows halve what a query reads, they are larger than what lies together, as among tight
    clusters: then twice as many are tried too, and so on.
    """
    names, graph = _partitions(task.rows, task.options), None
    if names != ["kmeans"]:
        graph = _graph(task)
    out = []
    for name in names:
        counts = block_counts(task.rows.count)
        read = [_draft(task, name, blocks, graph) for blocks in counts]
        while (
            len(read) > 1 and read[0][0] < FINER_SHARE * read[1][0] and 2 * counts[0] <= task.rows.count // ROWS_LEAST
        ):
            counts.insert(0, 2 * counts[0])
            read.insert(0, _draft(task, name, counts[0], graph))
        out += [draft for _, draft in read]
    return out


def _draft(task: Task, name: str, blocks: int, graph: Graph | None) -> tuple[float, _Draft]:
    """Mean bytes that a query reads, and what reads them; name: of the partition."""
    rows, options, rule = task.rows, task.options, task.options.copies or "soar"
    quick = next((name for name in _routers(rows, blocks, options) if not ROUTERS[name].trains), "lse")
    base = PARTITIONS[name](
        rows, task.sample, blocks, graph, options.seed, task.progress.phase(f"partition {name}, {blocks} blocks")
    )
    phase = task.progress.phase(f"copies and router, {name}, {blocks} blocks")
    phase(0.0)
    copies = _copies_of_misses(task, base, quick) if rule == "misses" else COPY_RULES[rule](rows, base)
    shares = [0.0] if rule == "none" or blocks == 1 else _shares(rows, blocks, task.id_bytes, options)
    layout, order = fit_router(task, base, copies.best(max(shares)), quick, phase)
    draft = _Draft(name, layout, copies.reordered(order))
    p, measured = probabilities_of(rows, layout, task.tune.queries), list[tuple[float, float, Layout]]()
    for share in shares:
        tried = draft.with_share(share)
        reads = plan_routing(task, tried, p, task.tune)
        task.tried.append({
            "partition": name, "blocks": blocks, "copies": rule, "copies_share": round(share, 4), "router": quick,
            "routed_recall": round(task.routed_recall, 4), **_cost(reads),
        })  # fmt: skip
        measured.append((float(reads.ms.mean()), reads.nbytes, tried))
    _, nbytes, best = min(measured, key=lambda one: one[0])
    phase(1.0)
    return nbytes, replace(draft, layout=best)


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


def _choose_router(task: Task, drafts: list[_Draft]) -> tuple[_Draft, P]:
    """The blocks and the router that answer in the least modelled time, openings counted; and p of the tuning queries.

    Blocks are compared by the router that each draft came with, and what has to be trained is trained on the best of
    them: a network for every number of blocks would take as long again, and change the order of few.
    """
    measured = [_routed(task, draft) for draft in drafts]
    best, draft, p = min(measured, key=lambda one: one[0])
    for name in _routers(task.rows, draft.layout.blocks, task.options):
        if name == draft.layout.router:
            continue
        phase = task.progress.phase(f"router {name}, {draft.layout.blocks} blocks")
        phase(0.0)
        layout, order = fit_router(task, draft.layout.partition, draft.layout.copy, name, phase)
        other = _routed(task, _Draft(draft.partition, layout, draft.copies.reordered(order)))
        if other[0] < best or task.options.router is not None:
            best, draft, p = other
        phase(1.0)
    return draft, p


def _routed(task: Task, draft: _Draft) -> tuple[float, _Draft, P]:
    """Its modelled ms with what an opening costs, itself, and p of the tuning queries."""
    p = probabilities_of(task.rows, draft.layout, task.tune.queries)
    reads = plan_routing(task, draft.layout, p, task.tune)
    task.tried.append({
        "partition": draft.partition, "blocks": draft.layout.blocks, "router": draft.layout.router,
        "router_bytes": len(draft.layout.section.pack()),
        "routed_recall": round(task.routed_recall, 4), **_cost(reads),
    })  # fmt: skip
    return float(reads.ms.mean()) + opening_ms(draft.layout.section), draft, p


@dataclass(frozen=True)
class _Coded:
    """Blocks with a code; what it found for the tuning rows, and the price that reaches the target on them."""

    layout: Layout
    codec: Codec
    candidates: Candidates
    price: int
    codes: KeptCodes | None  # of all blocks, where they are kept


def _coder(task: Task, draft: _Draft) -> tuple[list[tuple[int, bool]], int, Callable[[int], Codec]]:
    """The lengths that _code_lengths names; along how many axes there is anything; and codes of a length."""
    rows, options = task.rows, task.options
    moments = _second_moments(rows, task.sample, draft.layout)
    residuals = _residuals(rows, task.sample, draft.layout)
    own = options.rotation is None and options.codec != "lrsq"  # codecs with directions of their own
    basis = None if own else fit(options.rotation, moments[0], options.seed)
    axes = basis.live if basis else rows.dimension

    def coded(code_bytes: int) -> Codec:
        return CODECS[options.codec](*moments, code_bytes, residuals, basis)

    return _code_lengths(rows, axes, draft.layout.blocks, task.id_bytes, options), axes, coded


def _code(task: Task, draft: _Draft, p: P) -> list[_Coded]:
    """Codes that reach the target, by modelled time."""
    rows, tune, options = task.rows, task.tune, task.options
    reached: list[tuple[float, _Coded]] = []
    lengths, _, coder = _coder(task, draft)
    needed = blocks_needed(p, draft.layout, tune.truth.rows[:, : task.k], TRIAL_LOSES * (1 - options.recall))
    task = replace(task, scanned=needed)
    short = False  # whether the code loses so much that routing must find nearly everything
    for code_bytes, regular in lengths:
        fits = _fits(rows, draft.layout.blocks, 0.0, code_bytes, task.id_bytes, options)
        if reached and not regular and not (short and fits):
            break
        layout, codec = _fitting(task, draft, code_bytes), coder(code_bytes)
        codes = _kept_codes(task, layout, codec)
        candidates = _scan(task, layout, codec, tune, f"codes of {code_bytes} bytes", p, codes=codes)
        sizes = block_bytes(layout.sizes(), code_bytes, task.id_bytes, task.rows.dimension)
        at = price_at(PricedRecall(candidates, p, sizes), task.k, options.recall)
        ceiling = float(candidates.recall(np.ones_like(p, bool), task.k).mean())
        row: dict[str, Any] = {
            "blocks": layout.blocks, "copies_share": round(layout.copies / rows.count, 4), "code_bytes": code_bytes,
            "all_blocks_recall": round(ceiling, 4),
        }  # fmt: skip
        if at is None:
            task.tried.append(row | {"reaches_target": False})
            continue
        reads = replace(plans(p, sizes, at), pages=pages_of(rows, layout, tune.queries))
        task.tried.append(row | _cost(reads))
        ms = float(reads.ms.mean())
        if reached and ms < min(one for one, _ in reached):  # of one length, so that memory holds them
            reached = [(one, replace(coded, codes=None)) for one, coded in reached]
        best = all(one.codes is None for _, one in reached)
        reached.append((ms, _Coded(layout, codec, candidates, at, codes if best else None)))
        short = 1 - ceiling > CODED_SHARE * (1 - options.recall)
        if len(reached) > 1 and reached[-1][0] > reached[-2][0]:
            break  # what longer codes save in blocks no longer pays for their bytes
    return [coded for _, coded in sorted(reached, key=lambda r: r[0])]


def _fitting(task: Task, draft: _Draft, code_bytes: int) -> Layout:
    """As many copies, up to what routing chose or more, as the cache holds beside codes of this length, if it does."""
    rows, blocks, options = task.rows, draft.layout.blocks, task.options
    if options.copies_share is not None or not draft.layout.copies:
        return draft.layout
    if not _fits(rows, blocks, 0.0, code_bytes, task.id_bytes, options):
        return draft.layout
    return draft.with_share(_most(rows, blocks, code_bytes, task.id_bytes, options))


def _cost(reads: Reads) -> dict[str, float]:
    """Means over the queries, for the table of what was tried."""
    return {"gets": round(reads.gets, 3), "bytes": round(reads.nbytes), "modelled_ms": round(float(reads.ms.mean()), 3)}


def block_counts(rows: int) -> list[int]:
    """Rows / 112 and half of it, in whole eights; few blocks for few rows, and half alone of many."""
    near = max(1, min(round(rows / BLOCK_ROWS), rows // 16, BLOCKS_MAX))
    if near < 64:
        return [near]
    near = near // 8 * 8
    return [near // 2] if rows > MANY_ROWS else [near, near // 2]


def _fits(rows: Rows, blocks: int, share: float, code_bytes: int, id_bytes: float, options: Options) -> bool:
    """Whether all blocks fit the cache: rows with copies, groups half full on average, alignment."""
    row = code_bytes + 2 + 4 + 4
    padding = blocks * (8 * row + block_planes(0, 0, rows.dimension).codes + 32)
    return rows.count * (1 + share) * (row + id_bytes) + padding <= options.cache_bytes


def _shares(rows: Rows, blocks: int, id_bytes: float, options: Options) -> list[float]:
    """Shares of rows to copy; where the cache holds the index, what it holds beside codes of 4 bits a dimension."""
    if options.copies_share is not None:
        return [options.copies_share]
    smallest = max(8, rows.dimension // 2)
    if not _fits(rows, blocks, 0.0, smallest, id_bytes, options):
        return list(SHARES)
    most = _most(rows, blocks, smallest, id_bytes, options)
    return sorted({share for share in SHARES if share < most} | {most})


def _most(rows: Rows, blocks: int, code_bytes: int, id_bytes: float, options: Options) -> float:
    """The largest share of copies that the cache holds beside codes of this length."""
    most = max(SHARES)
    while most > 0 and not _fits(rows, blocks, most, code_bytes, id_bytes, options):
        most = max(0.0, round(most - 0.01, 2))
    return most


def _code_lengths(rows: Rows, axes: int, blocks: int, id_bytes: float, options: Options) -> list[tuple[int, bool]]:
    """Code lengths by rising bytes; whether each is regular, or there in case that no shorter one reaches the recall.

    axes: how many directions there is anything along. Regular are 3 to 6 bits each; where some of them let the index
    fit the cache, those and the longest that fits.
    """
    lengths = sorted({max(4, int(axes * bits / 8) // 4 * 4) for bits in CODE_BITS})
    fitting = [c for c in range(lengths[0], lengths[-1], 4) if _fits(rows, blocks, 0.0, c, id_bytes, options)]
    if not fitting:
        return [(c, i < 4) for i, c in enumerate(lengths)]
    longest = min(fitting[-1], lengths[min(3, len(lengths) - 1)])
    return [(c, c <= longest) for c in sorted({*lengths, longest})]


def _second_moments(
    rows: Rows, sample: Ints, layout: Layout
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(d, d) second moments of the sample's residuals to the stored centres, and of its rows."""
    used = sample[:: max(1, len(sample) // MOMENT_ROWS)]
    residual, whole = np.zeros((2, rows.dimension, rows.dimension))
    for low in range(0, len(used), 8192):
        part = used[low : low + 8192]
        x = rows.take(part)
        r = temper(x - layout.centres[layout.partition.home[part]]).astype(np.float64)
        residual += r.T @ r
        whole += x.T @ x
    return residual / len(used), whole / len(used)


def _residuals(rows: Rows, sample: Ints, layout: Layout) -> F32:
    """f32 (n, d): the sample's residuals to the stored centres, evenly some of them."""
    most = min(RESIDUAL_ROWS, RESIDUAL_BYTES // (4 * rows.dimension))
    used = sample[:: -(-len(sample) // most)]
    return temper(rows.take(used) - layout.centres[layout.partition.home[used]])
