"""What choose.py believes is what the edge does: the same blocks, the same answers, the same recall, at any price."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Recorder, first_plan
from small import clustered

from build_index.blocks.layout import index_section
from build_index.build import Report, build
from build_index.context import BuildContext
from build_index.evaluate.stored import source_rows
from build_index.ingest.open import open_source
from build_index.ingest.rows import Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.truth import Truth, truth_of, untied
from build_index.simulate.edge import HeldOutQueries, prepare_rows, probabilities
from build_index.simulate.measure import (
    Candidates,
    Scanned,
    block_bytes,
    blocks_needed,
    chunks,
    full_scan,
    full_scans,
    judge,
    plans,
    price_for,
)
from build_index.tune.options import Options
from build_index.tune.pilot import pilot_of, score_error
from build_index.tune.promises import ScannedQueries, estimate_recall
from vantage.format import Contract, Point, Promise
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.prepare import Prepared, prepare
from vantage.search.query import Query

K = 10
ROWS = 1200
ASKED = np.arange(7, ROWS, 20)


@dataclass(frozen=True)
class Case:
    """A built index, its rows, and ASKED of them as queries, scanned by the builder: found; p u32 (Q, B)."""

    rows: Rows
    report: Report
    queries: list[Prepared]
    found: Candidates
    p: np.ndarray
    truth: Truth

    def opened(self, price: int) -> tuple[Index, Recorder]:
        """The index with this price as the only one of its contract."""
        bucket = Recorder(Folder(self.report.index.parent))
        index = asyncio.run(Index.open(bucket, self.report.index.name, Cache(0), Receipt()))
        contract = Contract(K, index.root.contract.gets, 0.5, (Point(K, price, 0.5, 0.0, 0.0),))
        bucket.forget()
        return Index(
            index.name, bucket, Cache(0), index.current, replace(index.root, contract=contract, promises=None)
        ), bucket


@pytest.fixture(scope="module", params=["cosine", "l2", "dot"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("measure")
    np.save(folder / "rows.npy", clustered(ROWS, 24, 5))
    source = open_source([folder / "rows.npy"])
    with patch("build_index.tune.draft.BLOCK_ROWS", 24), patch("build_index.tune.renditions.INLINE_BYTES", 0):
        report = build(source, BuildContext(folder / "bucket" / "small", request.param, Options(0.9, K, vectors="f32")))
    with stage(source, folder / "staging", metric=request.param) as staging:
        rows = scale_rows(staging, request.param)
        layout, queries = report.choice.layout, prepare_rows(rows, ASKED)
        truth = truth_of(rows, ASKED, K)
        found = full_scan(rows, layout, report.choice.codec, HeldOutQueries(queries, ASKED, truth))
        section = index_section(rows, layout.blocks, int(layout.sizes().sum()))
        p = probabilities(layout.router, layout.section, section, queries)
        yield Case(rows, report, queries, found, p, truth)


def prices(case: Case) -> list[int]:
    points = case.report.choice.contract.points
    return sorted({p.price for p in points} | {0, 1 << 20, (1 << 32) - 1})


def test_there_is_something_to_plan(case: Case) -> None:
    assert case.report.choice.layout.blocks >= 32
    assert case.report.choice.layout.copies > 100


def sizes_of(case: Case) -> np.ndarray:
    return block_bytes(case.report.choice.layout.sizes(), case.report.choice.codec.code_bytes, 8.0, case.rows.dimension)


def test_block_bytes_are_those_of_the_index(case: Case) -> None:
    index, _ = case.opened(0)
    assert sizes_of(case).tolist() == list(index.root.directory.places[0].whole)
    assert (case.p == [index.segment.router.probabilities(query).p for query in case.queries]).all()


def test_plans_are_what_the_edge_plans(case: Case) -> None:
    """The same ranges and bytes, at the price that the edge goes by: it lowers one that buys fewer rows than asked."""
    kept = 0
    for price in prices(case):
        index, _ = case.opened(price)
        for i, query in enumerate(case.queries):
            plan = first_plan(index, Query(query.source, K))
            reads = plans(case.p[i : i + 1], sizes_of(case), plan.price)
            assert np.flatnonzero(reads.blocks[0]).tolist() == [b for r in plan.ranges for b in range(r.first, r.last)]
            assert reads.ranges[0] == [r.size for r in plan.ranges]
            kept += plan.price == price
    assert kept > 5 * len(ASKED)


def test_a_pilot_expects_what_a_scan_finds(case: Case) -> None:
    """As far as scores are off, and the recall that any plan has with that; of eight times the error, less."""
    choice, held = case.report.choice, HeldOutQueries(case.queries, ASKED, case.truth)
    pilot = pilot_of(case.rows, held, K)
    assert (pilot.near[:, :K] == case.truth.rows).mean() > 0.99 and (np.diff(pilot.score) <= 0).all()
    error = score_error(case.rows, choice.layout, choice.codec, held)
    of, place = np.nonzero((case.found.rank >= 0) & (case.found.block == choice.layout.partition.home[case.found.row]))
    row = case.found.row[of, place]
    at = np.array([np.flatnonzero(near == r)[0] for near, r in zip(pilot.near[of], row, strict=True)])
    exact, scanned = pilot.score[of, at], case.found.score[of, place]
    if case.rows.metric == "l2":
        exact = exact + 0.5 * np.array([np.dot(q.vector, q.vector) for q in case.queries])[of]
    assert len(row) > 400 and np.sqrt(np.mean((scanned - exact) ** 2)) == pytest.approx(error, rel=0.3)
    expected, worse = (pilot.candidates(choice.layout, times * error, 0) for times in (1, 8))
    for price in prices(case):
        read = plans(case.p, sizes_of(case), price).blocks
        assert expected.recall(read, K).mean() == pytest.approx(case.found.recall(read, K).mean(), abs=0.02)
    everything = np.ones_like(case.p, bool)
    assert worse.recall(everything, K).mean() < expected.recall(everything, K).mean() - 0.01
    assert (pilot.candidates(choice.layout, 0.0, 0).recall(everything, K) == 1).all()


def test_few_blocks_are_scanned_as_all_are(case: Case) -> None:
    """Of the blocks of largest p, a scan keeps what one of all does; they hold the share of neighbours asked for."""
    layout, held = case.report.choice.layout, HeldOutQueries(case.queries, ASKED, case.truth)
    needed = blocks_needed(case.p, layout, case.truth.rows, 0.05)
    some = Scanned(held, case.p, most=needed, all_read=True)
    read = some.blocks(layout.blocks)
    assert (read.sum(1) == needed).all() and layout.holds(case.truth.rows, read).mean() >= 0.95
    (few,) = full_scans(case.rows, layout, case.report.choice.codec, [some])
    for i, mine in enumerate(read):
        kept = mine[case.found.block[i]] & (case.found.block[i] >= 0)
        n = min(int(kept.sum()), int((few.block[i] >= 0).sum()), 100)
        assert n > 20 and (case.found.row[i][kept][:n] == few.row[i][:n]).all()
    assert blocks_needed(case.p, layout, case.truth.rows, 0.02) == layout.blocks > needed


def test_recall_is_that_of_the_edge_s_answers(case: Case) -> None:
    """For every query and price: the same GETs and bytes, the same answers, so the same recall."""
    seen = set()
    for price in prices(case):
        index, bucket = case.opened(price)
        source = source_rows(case.report.index, index)
        number = np.empty(ROWS, np.int64)
        number[source] = np.arange(ROWS)
        reads = plans(case.p, sizes_of(case), price)
        predicted = case.found.recall(reads.blocks, K)
        found = []
        for i, row in enumerate(ASKED):
            question = Query(case.queries[i].source, K, without=int(number[row]))
            bucket.forget()
            answer = asyncio.run(index.query(question))
            mine = source[[m.row for m in answer.matches]].astype(np.int32)
            found.append(len(np.intersect1d(mine, case.truth.rows[i])) / K)
            if first_plan(index, question).price == price:
                assert found[-1] == pytest.approx(predicted[i])
                assert (len(bucket.gets), bucket.bytes) == (len(reads.ranges[i]), sum(reads.ranges[i]))
                again = judge(case.found.block, case.found.row, untied(np.tile(mine, (len(ASKED), 1))))
                assert len(mine) == K and again.recall(reads.blocks, K)[i] == 1  # the very rows that were foreseen
            else:  # the edge read more
                assert found[-1] >= predicted[i]
        seen.update(found)
    assert len(seen) > 1 and max(seen) > 0.9


def test_estimates_are_those_of_the_edge(case: Case) -> None:
    """What promises and thresholds were calibrated with is what a query computes, with exact scores and without."""
    promises, rows = case.report.choice.promises, case.report.choice.layout.sizes()
    held = ScannedQueries(case.found, case.p, sizes_of(case), rows)
    checked = 0
    for price in prices(case)[::3]:
        reads = plans(case.p, sizes_of(case), price)
        plain, _ = case.opened(price)
        promise = Promise(0.5, price, 0, 0.0, 0.0, 0.0, 1.0, 0.0)
        index = Index(
            plain.name,
            plain.bucket,
            Cache(0),
            plain.current,
            replace(plain.root, promises=replace(promises, by_recall=(promise,))),
        )
        number = np.argsort(source_rows(case.report.index, index))
        for rerank in (0, 2 * K):
            known = next(e for e in promises.estimators if (e.rendition, e.k, e.rerank) == (0, K, rerank))
            told = estimate_recall(known, held, reads.blocks, price)
            for i in range(0, len(ASKED), 6):
                question = Query(case.queries[i].source, K, 0.5, rerank, without=int(number[ASKED[i]]))
                if first_plan(index, question).price == price:
                    answer = asyncio.run(index.query(question))
                    assert answer.recall_estimate == pytest.approx(told[i], abs=1e-5)
                    checked += 1
    assert checked > 20


def test_a_lower_price_reads_more(case: Case) -> None:
    every = [plans(case.p, sizes_of(case), price) for price in prices(case)]
    nbytes = [reads.nbytes for reads in every]
    assert nbytes == sorted(nbytes, reverse=True)
    assert (every[0].blocks | (case.p == 0)).all()  # price 0: all that is worth anything
    assert every[-1].gets < 1
    assert all(len(r) <= 6 for reads in every for r in reads.ranges)


def test_recall_counts_a_row_once_and_stops_at_k() -> None:
    """Places best first; the third is another place of the row of the first, the fifth another of the fourth's."""
    block, row = np.array([[0, 1, 2, 1, 2, 0, -1]], np.int32), np.array([[7, 8, 7, 9, 9, 5, -1]], np.int32)
    found = judge(block, row, untied(np.array([[7, 9, 5]], np.int32)))
    assert found.twin.tolist() == [[-1, -1, 0, -1, 3, -1, -1]]
    assert found.rank.tolist() == [[0, -1, 0, 1, 1, 2, -1]]

    def recall(blocks: list[int], k: int) -> float:
        read = np.zeros((1, 3), bool)
        read[0, blocks] = True
        return float(found.recall(read, k)[0])

    assert recall([0, 1, 2], 3) == pytest.approx(2 / 3)  # 7, 8, 9
    assert recall([0, 2], 3) == 1.0  # 7, 9, 5: the copies answer for what is not read
    assert recall([2], 3) == pytest.approx(2 / 3)
    assert recall([0], 1) == recall([2], 1) == 1.0
    assert recall([1], 1) == 0.0
    assert recall([], 3) == 0.0
    short = judge(block, row, untied(np.array([[7, -1, -1]], np.int32)))
    assert short.recall(np.ones((1, 3), bool), 3).tolist() == [1.0]  # of the one neighbour there is


def test_recall_counts_a_row_of_many_copies_once() -> None:
    """Of three copies the first and the last are read: it is one answer, and takes the place of no other."""
    block, row = np.array([[0, 1, 2, 3, 0]], np.int32), np.array([[7, 7, 7, 7, 9]], np.int32)
    found = judge(block, row, untied(np.array([[7, 9]], np.int32)))
    for blocks in range(16):
        read = np.array([[bool(blocks >> b & 1) for b in range(4)]])
        assert found.answered(read, 9).sum() == (1 if blocks else 0) + (blocks & 1)
        assert found.recall(read, 2).tolist() == [((1 if blocks else 0) + (blocks & 1)) / 2]


def test_chunks_hold_all_blocks_in_order() -> None:
    members = [np.arange(n) for n in (5, 0, 9, 30, 1, 1)]
    assert chunks(members, 14) == [(0, 3), (3, 4), (4, 6)]
    assert chunks(members, 1000) == [(0, 6)]
    assert chunks(members, 1)[-1][1] == 6


@pytest.mark.parametrize("steep", [1e-3, 1e-6, 1e-9])
def test_a_price_reaches_its_target_and_is_nearly_the_highest(steep: float) -> None:
    def recall(price: int) -> float:
        return 0.99 * float(np.exp(-steep * price))

    found = [price_for(recall, target) for target in (0.5, 0.8, 0.9, 0.95, 0.98)]
    assert all(p is not None for p in found)
    assert found == sorted(found, reverse=True)
    for price, target in zip(found, (0.5, 0.8, 0.9, 0.95, 0.98), strict=True):
        assert recall(price) >= target
        assert price > 1 << 31 or recall(int(price * 1.01) + 1) < target
    assert price_for(recall, 0.991) is None
    assert price_for(lambda price: 1.0, 0.9) < 1 << 32
    for known in ([1, 1700, 1701, 4095], list(range(0, 4096, 97))):  # asked first, with the same outcome
        assert [price_for(recall, target, known) for target in (0.5, 0.8, 0.9, 0.95, 0.98)] == found


def test_blocks_that_hold_rows(case: Case) -> None:
    layout = case.report.choice.layout
    rows, read = np.where(case.truth.rows % 9, case.truth.rows, -1), np.random.default_rng(0).random(case.p.shape) < 0.2
    any_read = read[np.arange(len(read))[:, None], layout.holders(rows)].any(0) & (rows >= 0)
    assert (any_read == layout.holds(rows, read)).all() and any_read.any()


def test_a_price_that_nothing_but_zero_keeps() -> None:
    assert price_for(lambda price: 0.9 if price else 0.96, 0.95) == 0
    assert price_for(lambda price: 0.96 if price < 1000 else 0.9, 0.95) in range(980, 1000)
    assert price_for(lambda price: 0.9, 0.95) is None


def test_what_a_small_index_scans_is_what_was_measured(tmp_path: Path) -> None:
    """Blocks in the root, with attributes beside the codes: none is read, and prices are of the codes alone."""
    x = clustered(700, 12, 8)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 12)
    pq.write_table(pa.table({"vector": flat, "text": [f"{i} " * 20 for i in range(len(x))]}), tmp_path / "rows.parquet")
    with patch("build_index.tune.draft.BLOCK_ROWS", 24):
        options = Options(0.9, K, fast=True, filters=())
        report = build(open_source([tmp_path / "rows.parquet"]), BuildContext(tmp_path / "b" / "i", "cosine", options))
    index = asyncio.run(Index.open(Folder(tmp_path / "b"), "i", Cache(0), Receipt()))
    places, choice = index.root.directory.places[0], report.choice
    sizes = (
        block_bytes(choice.layout.sizes(), choice.codec.code_bytes, 8.0, 12) + 16
    )  # where its plane of attributes is
    assert choice.inline and sizes.tolist() == list(places.size)
    assert all(a > b for a, b in zip(places.whole, places.size, strict=True))
    queries = [Query(row.tolist(), 1) for row in x[::20]]
    p = np.array([index.segment.router.probabilities(prepare(query.vector, index.root.index)).p for query in queries])
    scanned = set[int]()
    for price in {point.price for point in choice.contract.points} | {0, 1 << 20}:
        contract = Contract(K, index.root.contract.gets, 0.5, (Point(K, price, 0.5, 0.0, 0.0),))
        root = replace(index.root, contract=contract, promises=None)
        priced = Index(index.name, index.bucket, Cache(0), index.current, root)
        for i, query in enumerate(queries):
            plan = first_plan(priced, query)
            reads = plans(p[i : i + 1], sizes, plan.price, inline=True)
            assert (plan.ranges, reads.ranges) == ([], [[]])
            assert np.flatnonzero(reads.blocks[0]).tolist() == plan.cached
            scanned.add(len(plan.cached))
    assert len(scanned) > 5
