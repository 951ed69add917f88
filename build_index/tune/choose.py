"""Measures candidates and picks: blocks, copies, router, code bytes and prices, under the recall asked for.

Parameters are tuned on one set of held-out rows, prices come from another that serves nothing else. Every figure is in
the kernels' own arithmetic, against exact neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from vantage.format import (
    PROMISED_RERANK_MAX,
    PROMISED_VECTORS_MAX,
    VECTOR_BYTES,
    Contract,
    Promises,
    TwoLevelSection,
)

from ..blocks.layout import Layout
from ..codecs.kept import KeptCodes
from ..codecs.planes import Codec, section_over
from ..codecs.rotations import name_of
from ..ingest.rows import Ints, Rows
from ..neighbours.exact import I32
from ..neighbours.truth import hold_out, nearness, truth_of
from ..progress import SILENT, Progress
from ..simulate.edge import HeldOutQueries, P, prepare_rows
from ..simulate.measure import Candidates, Scanned, block_bytes, blocks_needed, plans
from . import few, renditions
from .codes import Coded, Coder, choose_codes, coder_of, fit_copies, keep_codes, scan, sizes_of
from .contract import PricedRecall, calibrate, depths_beyond, price_at, target_point, with_pages, with_reads
from .draft import Draft, choose_router, draft_blocks, draw_sample, with_neighbours
from .fit import Task, pages_of, probabilities_of
from .options import Options
from .pilot import Pilot, pilot_of, score_error
from .promises import Deep, ScannedQueries, ScansAt, gather_of, make_promises

CODE_QUERIES = 500  # for the code length, which is compared on the same ones
DEEP_QUERIES, DEEP_QUERIES_MIN = 300, 100  # for k above the contract's: their neighbours take longer to find
DEEP_PAIRS = 600_000_000  # of a row and one of these: of more than two million rows there are fewer
DEEP_KEPT = 4096  # copies: a thousand rows, and twice as many for exact scores, have each a copy or two
EXACT_PLACES = 4 << 20  # kept for the number of exact scores, of the tuning rows and of the others
LISTED = 144  # neighbours that are known of rows held out: more than `Held` keeps
SCAN_LOSES = 0.002  # of the loss that the target allows, by blocks that prices leave out


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
    asked: tuple[Ints, I32] | None = None  # rows that prices were measured on (H), and those near each (H, n)


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
    truth = truth_of(rows, held.all, min(max(k, LISTED), rows.count - 1), phase)
    where = np.searchsorted(held.all, held.tuning), np.searchsorted(held.all, held.calibration)
    tune, calibration = (
        HeldOutQueries(prepare_rows(rows, of), of, truth[at])
        for of, at in zip((held.tuning, held.calibration), where, strict=True)
    )
    sample = draw_sample(rows, held, options)
    asked = calibration.rows, calibration.truth.rows[:, :LISTED]
    near_by = nearness(rows, tune.rows, tune.truth.rows[:, : few.NEAR_BY][:, -1])
    nobody, none = np.empty(0, np.int64), np.empty((0, k), np.int32)
    task = Task(rows, sample, tune, nobody, none, id_bytes, k, options, [], progress)
    if options.copies == "misses":
        task = with_neighbours(task, None)
    drawn, p_tune = choose_router(task, draft_blocks(task))
    p = probabilities_of(rows, drawn.layout, calibration.queries)
    some = tune.spread(CODE_QUERIES)
    scanned = blocks_needed(p_tune, drawn.layout, tune.truth.rows[:, :k], SCAN_LOSES * (1 - options.recall))
    task = replace(task, tune=tune.take(some), deep=_deep(rows, k, calibration, p), scanned=scanned)
    coder, pilot, p_tune = coder_of(task, drawn), pilot_of(rows, task.tune, k), p_tune[some]
    for coded in choose_codes(task, drawn, coder, pilot, p_tune, calibration, p):
        # Where few rows were held out, the tuning ones may have flattered a code.
        choice = _promise(task, coded, p_tune, calibration, p, options.recall)
        if choice is not None:
            if not options.fast and not _is_small(rows, id_bytes, coded.layout, coded.codec):
                choice = _with_longer_codes(task, coder, pilot, coded, choice, p_tune, calibration, p)
            return replace(choice, near=near_by, asked=asked)
    choice = _by_exact_scores(task, drawn, coder, p_tune, calibration, p)
    return replace(choice, near=near_by, asked=asked)


def _exact(rows: Rows, id_bytes: float, options: Options, tried: list[dict[str, Any]]) -> Choice:
    """One block, and exact scores of all its rows."""
    layout, codec = few.layout_of(rows, options.seed), few.codec_of(rows, options)
    inline = _is_small(rows, id_bytes, layout, codec)
    contract, promises = few.promise_exact(rows, layout, codec, id_bytes, options, inline)
    wait = promises.by_recall[0].ms
    return Choice(layout, codec, contract, promises, tried, (wait, wait), options.rotation or few.ROTATION)


def _promise(
    task: Task,
    coded: Coded,
    p_tune: P,
    calibration: HeldOutQueries,
    p: P,
    target: float,
    rerank: int = 0,
) -> Choice | None:
    """The index with these codes and promises, measured on calibration rows; None where they keep no such target."""
    rows, options, layout, found = task.rows, task.options, coded.layout, coded.found
    sizes = block_bytes(layout.sizes(), coded.codec.code_bytes, task.id_bytes, task.rows.dimension)
    inline = _is_small(rows, task.id_bytes, layout, coded.codec)
    recall_at, pages = PricedRecall(found.held, p, sizes, inline), pages_of(rows, layout, calibration.queries)
    phase = task.progress.phase("prices")
    phase(0.0)
    contract = calibrate(recall_at, task.k, target, rerank)
    phase(1.0)
    if contract is None:
        return None
    contract = with_pages(contract, pages)
    if inline:  # opening the index has read them
        contract = replace(contract, points=tuple(replace(p, nbytes=0.0, gets=0.0) for p in contract.points))
    phase = task.progress.phase("promises")
    phase(0.0)
    tune, held = (
        ScannedQueries(found.tune, p_tune, sizes, layout.sizes(), inline=inline),
        ScannedQueries(found.held, p, sizes, layout.sizes(), pages, inline),
    )
    promises = make_promises(
        _sharpened(task, layout, tune, task.tune), coded.price,
        _sharpened(task, layout, held, calibration), recall_at, contract, rows.count,
        options.second_wave, gather_of(layout.partition.home, rows), rerank,
        deep=_deep_of(task, layout, sizes, found.deep, inline),
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
    return Choice(layout, coded.codec, contract, promises, task.tried, waits, rotation, codes=(coded.codes,))


def _with_longer_codes(
    task: Task, coder: Coder, pilot: Pilot, coded: Coded, choice: Choice, p_tune: P, calibration: HeldOutQueries, p: P
) -> Choice:
    """The same with a second rendition of longer codes, where that keeps high recalls sooner.

    Their length is the one of which the pilot expects that.
    """
    rows, layout, tried = task.rows, coded.layout, list[tuple[float, Codec]]()
    for code_bytes in renditions.lengths(coded.codec.code_bytes, coder.axes):
        codec = coder.train(code_bytes)
        if section_over(coded.codec, codec) is None:
            continue  # they share the rotation of the longer one
        expected = pilot.candidates(layout, score_error(rows, layout, codec, task.tune), task.options.seed)
        recall_at = PricedRecall(expected, p_tune, sizes_of(task, layout, codec))
        prices = [price_at(recall_at, task.k, goal) for goal in renditions.GOALS]
        waits = [
            renditions.NEVER_MS if price is None else float(recall_at.reads(price, slice(None)).ms.mean())
            for price in prices
        ]
        task.tried.append({
            "blocks": layout.blocks, "code_bytes": code_bytes, "rendition": 1,
            **{f"expected_ms_{goal}": round(ms, 3) for goal, ms in zip(renditions.GOALS, waits, strict=True)},
        })  # fmt: skip
        tried.append((sum(waits), codec))
    if not tried:
        return choice
    codec = min(tried, key=lambda one: one[0])[1]
    codes = keep_codes(task, layout, codec)
    wanted = [Scanned(queries, of, most=task.scanned) for queries, of in ((task.tune, p_tune), (calibration, p))]
    found = scan(task, codes, layout, f"longer codes of {codec.code_bytes} bytes", wanted, deep=False)
    recall_at = PricedRecall(found.tune, p_tune, sizes_of(task, layout, codec))
    sizes, pages = sizes_of(task, layout, codec), pages_of(rows, layout, calibration.queries)
    target = price_at(recall_at, task.k, renditions.LONGER_RECALL)
    if target is None:
        return choice
    phase = task.progress.phase("longer codes, promises")
    phase(0.0)
    tune_scans = ScannedQueries(found.tune, p_tune, sizes, layout.sizes())
    held_scans = ScannedQueries(found.held, p, sizes, layout.sizes(), pages)
    promises = make_promises(
        _sharpened(task, layout, tune_scans, task.tune), target,
        _sharpened(task, layout, held_scans, calibration), PricedRecall(found.held, p, sizes), choice.contract,
        rows.count, task.options.second_wave, gather_of(layout.partition.home, rows), least=renditions.LONGER_RECALL,
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


def _by_exact_scores(task: Task, draft: Draft, coder: Coder, p_tune: P, calibration: HeldOutQueries, p: P) -> Choice:
    """The longest codes, with as few exact scores more than a query may ask for as keep the target.

    Where none do, exact scores of all rows; where those are more than a promise may take, the best recall that is kept
    by as many as the budget of a query reads.
    """
    rows, k, target = task.rows, task.k, task.options.recall
    most = _rerank_max(rows)
    few, many = (held.spread(EXACT_PLACES // (2 * most)) for held in (task.tune, calibration))
    tune, calibration, p_tune, p = task.tune.take(few), calibration.take(many), p_tune[few], p[many]
    code_bytes = coder.lengths[-1][0]
    layout, codec = fit_copies(task, draft, code_bytes), coder.train(code_bytes)
    codes = keep_codes(task, layout, codec)
    wanted = [Scanned(queries, of, 2 * most, task.scanned) for queries, of in ((tune, p_tune), (calibration, p))]
    found = scan(task, codes, layout, "exact scores", wanted)
    sizes = block_bytes(layout.sizes(), code_bytes, task.id_bytes, task.rows.dimension)
    recall_at, kept_at = PricedRecall(found.tune, p_tune, sizes), PricedRecall(found.held, p, sizes)
    depths = sorted({most, *(k << n for n in range(1, 13) if k << n < most)})
    for rerank in depths:
        reached = price_at(recall_at, k, target, rerank)
        task.tried.append({
            "blocks": layout.blocks, "copies_share": round(layout.copies / rows.count, 4), "code_bytes": code_bytes,
            "exact_scores": rerank, "all_blocks_recall": round(recall_at(0, k, rerank), 4),
        })  # fmt: skip
        if reached is not None:
            coded = Coded(layout, codec, found, reached, codes)
            choice = _promise(task, coded, p_tune, calibration, p, target, rerank)
            if choice is not None:
                return choice
    if rows.count <= most:  # exact scores of all rows need no rows held out to be sure
        return _exact(rows, task.id_bytes, task.options, task.tried)
    coded = Coded(layout, codec, found, 0, codes)
    choices = (
        _promise(task, coded, p_tune, calibration, p, min(target, kept_at(0, k, rerank)), rerank)
        for rerank in (*reversed(depths), 0)  # without exact scores there is always one
    )
    return next(choice for choice in choices if choice is not None)
