"""The choice: a contract that was measured, on rows that trained nothing, and the same for the same input."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
from doubles import Built
from small import RowsOf, clustered

from build_index.blocks import PARTITIONS
from build_index.bucket.open import open_index
from build_index.ingest.rows import Rows
from build_index.neighbours.truth import hold_out
from build_index.routers import mlp
from build_index.simulate.measure import block_bytes
from build_index.tune import choose as choosing
from build_index.tune import codes, draft
from build_index.tune import contract as contracts
from build_index.tune.choose import choose
from build_index.tune.options import Options
from build_index.tune.promises import SHARPNESS
from vantage.format import BLOCKS_MAX, Contract
from vantage.search.estimate import promise_of
from vantage.search.plan import GETS_MAX


def contract(built: Built) -> Contract:
    return open_index(built.bucket / built.name).root.contract


def manifest(built: Built) -> dict[str, Any]:
    current = json.loads((built.bucket / built.name / "CURRENT").read_bytes())
    found: dict[str, Any] = json.loads((built.bucket / built.name / current["manifest"]["key"]).read_bytes())
    return found


@pytest.mark.parametrize("name", ["words", "points", "dots"])
def test_points_go_from_cheap_to_dear(name: str, request: pytest.FixtureRequest) -> None:
    promised = contract(request.getfixturevalue(name))
    assert {p.k for p in promised.points} == {1, 10}
    for k in (1, 10):
        points = [p for p in promised.points if p.k == k]
        assert points[-1].price == 0
        for a, b in pairwise(points):
            assert a.price > b.price
            assert a.nbytes <= b.nbytes
        assert all(0 <= p.recall < 1 and 0 <= p.gets <= promised.gets for p in points)
    ours = [p.recall for p in promised.points if p.k == 10]
    assert ours == sorted(ours)


@pytest.mark.parametrize("name", ["words", "points", "dots"])
def test_a_point_at_the_target_reaches_it(name: str, request: pytest.FixtureRequest) -> None:
    """And not by far: the price is the highest that does, but where even one block holds all."""
    promised = contract(request.getfixturevalue(name))
    assert (promised.k, promised.target, promised.gets) == (10, 0.9, GETS_MAX)
    at = min((p for p in promised.points if p.k == 10 and p.recall >= 0.9), key=lambda p: p.recall)
    assert at.recall < 0.93 or at.gets <= 1.1


@pytest.mark.parametrize("name", ["words", "points", "dots"])
def test_what_was_tried_is_in_the_manifest(name: str, request: pytest.FixtureRequest) -> None:
    told = manifest(request.getfixturevalue(name))
    shapes = [t for t in told["tried"] if "copies" in t]
    routers = [t for t in told["tried"] if "router_bytes" in t]
    codes = [t for t in told["tried"] if "code_bytes" in t]
    assert len(shapes) + len(routers) + len(codes) == len(told["tried"]) and shapes and routers and codes
    assert told["blocks"] in {t["blocks"] for t in shapes}
    expected, encoded = ([t for t in codes if name in t] for name in ("expected_ms", "modelled_ms"))
    assert len(encoded) == 1 and len(expected) >= 2
    assert told["codec"]["code_bytes"] == encoded[0]["code_bytes"]
    assert told["codec"]["code_bytes"] == min(expected, key=lambda t: t["expected_ms"])["code_bytes"]
    assert encoded[0]["all_blocks_recall"] >= 0.9 and encoded[0]["gets"] <= 6
    assert told["contract"]["target"] == 0.9
    promised = contract(request.getfixturevalue(name))
    assert told["contract"]["points"] == [vars(p) for p in promised.points]


@pytest.mark.parametrize(
    ("rows", "count"), [(20, 4), (21, 4), (39, 7), (500, 100), (2000, 250), (5040, 252), (50_000, 2000)]
)
def test_held_out_rows_are_apart(rows: int, count: int) -> None:
    held = hold_out(rows, 3)
    assert not np.intersect1d(held.tuning, held.calibration).size
    assert (np.diff(held.all) > 0).all() and held.all.max() < rows
    assert len(held.tuning) == len(held.calibration) == count
    assert (hold_out(rows, 3).all == held.all).all()


def small(rows_of: RowsOf, metric: str = "l2") -> Rows:
    return rows_of(clustered(600, 12, 8), metric, scale=None)


def test_nothing_is_trained_on_held_out_rows(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means sees neither set, and the prices come from the second one alone."""
    rows, held = small(rows_of), hold_out(600, 0)
    trained, scanned = [], []
    real_partition, real_scan = PARTITIONS["kmeans"], codes.full_scans

    def partition(rows: Rows, sample: np.ndarray, *rest: Any) -> Any:
        trained.append(sample)
        return real_partition(rows, sample, *rest)

    def full_scans(*args: Any) -> Any:
        scanned.extend(wanted.held.rows for wanted in args[3])
        return real_scan(*args)

    monkeypatch.setitem(PARTITIONS, "kmeans", partition)
    monkeypatch.setattr(codes, "full_scans", full_scans)
    choose(rows, 8.0, Options(0.9, 10))
    assert trained and not any(np.intersect1d(sample, held.all).size for sample in trained)
    first = next(i for i, asked in enumerate(scanned) if not np.isin(asked, held.tuning).all())
    assert first and all((asked == held.tuning).all() for asked in scanned[:first])
    assert (scanned[first] == held.calibration).all()
    assert all(np.isin(asked, held.calibration).all() for asked in scanned[first:])


def test_training_stays_in_the_memory_budget(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample, when not all rows fit; every row still has its block."""
    rows, trained = rows_of(clustered(2500, 12, 8)), []
    real = PARTITIONS["kmeans"]

    def partition(rows: Rows, sample: np.ndarray, *rest: Any) -> Any:
        trained.append(sample)
        return real(rows, sample, *rest)

    monkeypatch.setitem(PARTITIONS, "kmeans", partition)
    choice = choose(rows, 8.0, Options(0.9, 10, memory_bytes=1))
    assert len(trained[0]) == 1000 and (np.diff(trained[0]) > 0).all()
    assert np.bincount(choice.layout.partition.home).sum() == 2500


def test_a_recall_that_few_held_out_rows_cannot_show_takes_exact_scores_of_all(rows_of: RowsOf) -> None:
    choice = choose(small(rows_of), 8.0, Options(0.9999, 10))
    promise = choice.promises.by_recall[-1]
    assert (choice.layout.blocks, choice.contract.target, promise.recall, promise.rerank) == (1, 0.9999, 1, 600)
    assert choice.tried and choice.rotation == "hadamard"


@pytest.mark.parametrize(("budget", "most"), [(600, 300), (150, 150), (0, 0)])
def test_a_recall_out_of_reach_is_the_best_that_the_budget_of_a_query_keeps(
    rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, budget: int, most: int
) -> None:
    """Where a promise may take the exact scores of half of the rows, and a query read those of so many."""
    monkeypatch.setattr(choosing, "PROMISED_RERANK_MAX", 300)
    monkeypatch.setattr(choosing, "gather_of", lambda *_: lambda rows: [1] if len(rows) <= budget else None)
    with patch("build_index.tune.codes.CODE_BITS", (3,)):
        choice = choose(small(rows_of), 8.0, Options(0.9999, 10))
    promise = choice.promises.by_recall[-1]
    assert choice.layout.blocks > 1 and choice.rotation == "pca"
    assert (0.8 if most == 0 else 0.95) < choice.contract.target <= promise.recall < 0.9999
    assert promise.rerank <= most and (promise.rerank > 0) == (most > 0)


def test_the_same_input_gives_the_same_choice(rows_of: RowsOf) -> None:
    rows = small(rows_of)
    one, two = (choose(rows, 8.0, Options(0.9, 10, seed=4)) for _ in range(2))
    other = choose(rows, 8.0, Options(0.9, 10, seed=5))
    assert one.tried == two.tried
    assert one.contract == two.contract
    assert one.codec.section.pack() == two.codec.section.pack()
    assert one.layout.section.pack() == two.layout.section.pack()
    assert (one.layout.partition.home == two.layout.partition.home).all() and (one.layout.copy == two.layout.copy).all()
    assert other.layout.section.pack() != one.layout.section.pack()


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize(("rows", "dimension", "k"), [(20, 1, 100), (21, 3, 1), (90, 97, 100)])
def test_few_rows(rows_of: RowsOf, rows: int, dimension: int, k: int, metric: str) -> None:
    x = np.random.default_rng(1).normal(size=(rows, dimension)).astype(np.float32) + 0.1
    choice = choose(rows_of(x, metric, scale=None), 8.0, Options(0.8, k))
    assert choice.contract.k == min(k, rows)
    assert choice.layout.sizes().sum() >= rows


def test_a_small_cache_leaves_out_copies(rows_of: RowsOf) -> None:
    """Copies are made where the cache named holds them; an index that fits no cache is made for the reads alone."""
    rows = rows_of(clustered(2000, 16, 9))
    for cache, most in ((1 << 20, 4000), (60_000, 200)):
        choice = choose(rows, 8.0, Options(0.9, 10, cache_bytes=cache))
        total = sum(block_bytes(choice.layout.sizes(), choice.codec.code_bytes, 8.0, rows.dimension))
        assert choice.layout.copies <= most
        assert total <= cache


def test_a_promise_is_kept_nineteen_times_in_twenty() -> None:
    """Of draws of queries whose recall has a mean of 0.95: many at any k, or few at k = 1, whose recall is 0 or 1."""
    draw = np.random.default_rng(3)
    assert np.mean([contracts.promise_recall(draw.beta(19, 1, 2000)) > 0.95 for _ in range(500)]) < 0.05
    for few in (40, 60, 100, 150, 250):
        broken = np.mean(
            [contracts.promise_recall((draw.random(few) < 0.95).astype(float)) > 0.95 for _ in range(2000)]
        )
        assert broken < 0.08  # 0.064 of 250, as recall comes in steps


def test_few_perfect_queries_promise_less_than_many() -> None:
    less, few, many = (contracts.promise_recall(np.ones(n)) for n in (54, 55, 2000))
    assert less < 0.95 < few < 0.951 and 0.999 < many < 1


def test_what_is_measured_by_default(rows_of: RowsOf) -> None:
    """A cut of the neighbour graph where k is small, two levels where a table would not stay resident."""
    rows = rows_of(clustered(5200, 8, 3), "l2", scale=None)
    assert draft._partitions(rows, Options()) == ["kmeans"]
    assert draft._partitions(rows, Options(k=10)) == ["kmeans", "graph"]
    assert draft._partitions(rows, Options(k=10, fast=True)) == ["kmeans"]
    assert draft._partitions(rows, Options(k=10, partition="votes")) == ["votes"]
    assert draft._routers(rows, 64, Options()) == ["lse", "mlp"]
    assert draft._routers(rows, 64, Options(fast=True)) == ["lse"]
    assert draft._routers(rows, 1 << 19, Options()) == ["lse"]
    with patch("build_index.routers.lse.ONE_BYTES_MAX", 1 << 20):
        assert draft._routers(rows, 1 << 19, Options()) == ["two-level"]
        assert draft._routers(rows, 1 << 19, Options(router="lse")) == ["lse"]
    for dimension in (128, 384, 1024, 4096):  # of 10^8 rows, in 16 MiB and in 1.4 MB
        blocks = draft.block_counts(10**8)[-1]
        assert mlp.fits(dimension, blocks) and not mlp.fits(dimension, 2 * blocks)
        wide = SimpleNamespace(count=5200, dimension=dimension)
        assert draft._routers(cast(Rows, wide), blocks, Options()) == (["lse", "mlp"] if dimension < 4096 else ["mlp"])
        assert draft._routers(cast(Rows, wide), blocks, Options(fast=True)) == (
            ["lse"] if dimension < 4096 else ["two-level"]
        )


def test_numbers_of_blocks_grow_with_the_rows() -> None:
    """By no more than the rows do, in whole eights from 64 on; never more than a sixteenth of the rows."""
    assert draft.block_counts(1) == [1]
    assert draft.block_counts(5000) == [45]
    assert draft.block_counts(115_659) == [1032, 516]
    assert draft.block_counts(2_000_000) == [17_856, 8_928]
    assert [draft.block_counts(n * 2_000_000) for n in (2, 8, 64)] == [[10_616], [15_008], [25_248]]
    assert draft.block_counts(1 << 50) == [BLOCKS_MAX]
    for rows in range(100, 300_000, 777):
        counts = draft.block_counts(rows)
        assert abs(counts[0] - rows / 112) < 8 and all(b * 2 == counts[0] for b in counts[1:])
        assert draft.block_counts(rows + 500)[0] - counts[0] <= 16
    with patch("build_index.tune.draft.BLOCK_ROWS", 8):
        assert draft.block_counts(2000) == [120, 60]  # 125 in whole eights, not 250


def test_many_rows_train_a_network_on_some_of_them(rows_of: RowsOf) -> None:
    """One number of blocks, and one network, which learns from a bounded sample: as above two million rows."""
    rows = rows_of(clustered(1600, 24, 3), "cosine")
    small = {"MANY_ROWS": 1000, "TRAINED_ROWS_MIN": 1000, "TRAINING_QUERIES": 300, "BLOCK_ROWS": 16}
    with ExitStack() as stack:
        for name, value in small.items():
            stack.enter_context(patch.object(draft, name, value))
        stack.enter_context(patch.object(mlp, "STEPS", 30))
        stack.enter_context(patch.object(mlp, "PART_BYTES", 1 << 14))
        choice = choose(rows, 8.0, Options(0.9, 10))
    routers = [t["router"] for t in choice.tried if "router_bytes" in t]
    assert routers == ["lse", "mlp"] and len({t["blocks"] for t in choice.tried}) == 1
    costs = {t["router"]: t["modelled_ms"] for t in choice.tried if "router_bytes" in t}
    assert choice.layout.router in routers and costs["mlp"] < 1.2 * costs["lse"]


def test_blocks_are_no_larger_than_what_lies_together(rows_of: RowsOf) -> None:
    """Forty neighbours of 150 tight clusters lie in two of them: blocks that hold two clusters each read too much."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(150, 48))[draw.integers(150, size=3000)] + 0.02 * draw.normal(size=(3000, 48))
    with patch("build_index.tune.draft.BLOCK_ROWS", 45), patch("build_index.tune.draft.ROWS_LEAST", 16):
        choice = choose(rows_of(x.astype(np.float32), "cosine"), 8.0, Options(0.9, 40, fast=True, copies="none"))
    read = {t["blocks"]: t["bytes"] for t in choice.tried if "router_bytes" in t}
    assert sorted(read) == [32, 64, 128] and choice.layout.blocks == 128
    assert read[128] < read[64] < 0.5 * read[32]


def test_smaller_blocks_are_tried_where_few_hold_the_answers(rows_of: RowsOf) -> None:
    """Sixty neighbours among evenly spread rows lie in more blocks of fifty than six; three of them do not."""
    rows = rows_of(np.random.default_rng(6).normal(size=(3000, 12)).astype(np.float32), "l2", scale=None)
    with patch("build_index.tune.draft.BLOCK_ROWS", 24):
        few, many = (choose(rows, 8.0, Options(0.8, k, fast=True, copies="none")) for k in (3, 60))
    assert {t["blocks"] for t in few.tried} >= {120, 60}
    assert {t["blocks"] for t in many.tried} == {60}


@pytest.mark.parametrize("second_wave", [False, True])
def test_promises_are_kept_at_every_goal(rows_of: RowsOf, second_wave: bool) -> None:
    """On the rows that they were measured on; 0.99 too, where codes alone lose more than a hundredth."""
    rows = rows_of(clustered(3000, 16, 9), "l2", scale=None)
    with (
        patch("build_index.tune.codes.CODE_BITS", (3,)), patch("build_index.tune.draft.BLOCK_ROWS", 24),
        patch("build_index.tune.renditions.INLINE_BYTES", 0),
    ):  # fmt: skip
        choice = choose(rows, 8.0, Options(0.8, 20, second_wave=second_wave, fast=True))
    kept, k = choice.promises.by_recall, choice.contract.k
    assert {p.sharpness for p in kept} == {1.0}
    assert {p.sharpness for ladder in choice.promises.others for p in ladder.by_recall} <= set(SHARPNESS)
    assert [p.recall for p in kept] == sorted({p.recall for p in kept})
    assert any(0.8 <= p.recall < 0.82 for p in kept) and kept[-1].recall >= 0.99
    ceiling = max(p.recall for p in choice.contract.points if p.k == k)
    assert ceiling < 0.99  # so exact scores are what keeps it
    for p in kept:
        assert p.rerank == 0 or p.recall > 0.8 and k <= p.rerank <= 2 * k
        assert p.rerank > 0 or p.recall <= ceiling + 1e-9
        assert p.threshold == 0 or second_wave
        assert p.waves > 1.5 if p.rerank else p.waves <= 2  # a plan that is empty at a price is no wave
    two = [p for p in kept if p.threshold]
    assert two if second_wave else not two
    reranks = {1: (0, 1, 2, 25, 40), 10: (0, 12, 20, 25, 40), 20: (0, 25, 40)}
    assert [(e.k, e.rerank) for e in choice.promises.estimators] == [(d, r) for d, rs in reranks.items() for r in rs]
    reranks |= {100: (0, 125, 200), 1000: (0, 1250, 2000)}
    ladders, nine = choice.promises.ladders(k), {}
    for ladder in ladders:
        recalls = [p.recall for p in ladder.by_recall]
        assert recalls == sorted(set(recalls)) and recalls[-1] >= 0.98
        amid = (0, ladder.k * 5 // 4, 2 * ladder.k)  # where the line between two others misses
        assert all(p.rerank in reranks.get(ladder.k, amid) for p in ladder.by_recall)
        nine[ladder.k] = next(p for p in ladder.by_recall if p.recall >= 0.9)
    assert max(nine[1].ms, nine[10].ms) < 1.05 * nine[20].ms
    assert nine[1000].nbytes > 3 * max(nine[20].nbytes, nine[100].nbytes)
    assert set(nine) >= {1, 10, 20, 100, 1000} and min(nine) == 1 and max(nine) == 1000


def test_more_answers_than_rows_take_all_others(rows_of: RowsOf) -> None:
    """Of 400 rows a query has 399 others at the most: the last k that is promised for."""
    choice = choose(rows_of(clustered(400, 16, 9), "cosine"), 8.0, Options(0.9, 10, fast=True))
    ladders = {ladder.k: ladder.by_recall for ladder in choice.promises.ladders(10)}
    assert set(ladders) >= {1, 10, 100, 399} and max(ladders) == 399
    assert ladders[399][-1].recall >= 0.95  # as much as 80 rows held out can promise
    for k in (399, 400, 1000):
        assert promise_of(choice.contract, choice.promises, k, 0.95) == promise_of(
            choice.contract, choice.promises, 399, 0.95
        )
    between = [promise_of(choice.contract, choice.promises, k, 0.9).nbytes for k in (10, 100, 200, 399)]
    assert between == sorted(between)
