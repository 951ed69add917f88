"""A query's own recall: the estimate, the promise it reads by, and the second wave that follows from both."""

from __future__ import annotations

import asyncio
import math
from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from doubles import Built, Recorder, explained

from build_index.neighbours.truth import untied
from build_index.simulate.measure import judge
from build_index.tune import promises as stopping
from build_index.tune.promises import ScannedQueries, between, estimate_recall
from build_index.tune.promises import features as numpy_features
from vantage.cost import Budget
from vantage.errors import LimitError
from vantage.format import Contract, Estimator, Ladder, Point, Promise, Promises
from vantage.http.bodies import describe
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.estimate import estimated_recall, features, promise_of, second_price
from vantage.search.prepare import prepare
from vantage.search.query import Answer, Query
from vantage.search.route.common import Routed

FLAT = (0.0, 1.0, 0.0, 0.0, 0.0)  # the log odds of the probability read, as they are
LITTLE, MUCH = 1 << 28, 1 << 22  # prices by what they read in the small indexes


def promise(recall: float, price: int, **more: Any) -> Promise:
    return replace(Promise(recall, price, 0, 0.0, 1e6, 6.0, 1.0, 50.0), **more)


def stop(*promises: Promise, k: int = 10, ceiling: float = 1.0) -> Promises:
    return Promises((Estimator(k, 0, ceiling, 1.0, FLAT), Estimator(k, 20, 1.0, 1.0, FLAT)), promises)


# The estimate


def test_features_and_estimates_are_those_of_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    queries, blocks, places, k = 40, 30, 64, 8
    p = draw.integers(0, 1 << 15, (queries, blocks)).astype(np.uint32)
    p[draw.random(p.shape) < 0.2] = 0
    read = draw.random(p.shape) < 0.4
    read[0], read[1] = True, False
    score = -np.sort(-draw.normal(size=(queries, places)), 1).astype(np.float32)
    base = draw.normal(-1, 1, (queries, blocks)).astype(np.float32)
    block = draw.integers(0, blocks, (queries, places)).astype(np.int32)
    row = np.tile(np.arange(places, dtype=np.int32), (queries, 1))
    row[:, 50:] = row[:, :14]  # copies
    found = replace(judge(block, row, untied(row[:, :k].copy())), score=score, base=base)
    rows = draw.integers(1, 200, blocks).astype(np.int64)
    held, price = ScannedQueries(found, p, rows * 100, rows), 12345
    estimator = Estimator(k, 0, 0.97, 0.05, (0.3, 0.8, -0.2, -0.5, 0.01))
    monkeypatch.setattr(stopping, "FEATURE_BYTES", 8 * 7 * len(rows))  # seven queries at a time
    ours = numpy_features(held, read, price, k)
    told, answered = estimate_recall(estimator, held, read, price), found.answered(read, k)
    assert answered[0].sum() == k and not answered[1].any() and not ours[1].any()
    for i in [i for i in range(queries) if i != 1]:
        answers = [(float(score[i, j]), int(block[i, j])) for j in np.flatnonzero(answered[i])]
        done = set(np.flatnonzero(read[i]).tolist())
        theirs = features(
            Routed(array("I", p[i].tolist())), done, rows.tolist(), base[i].tolist().__getitem__, answers, price
        )
        assert theirs == pytest.approx(ours[i], abs=1e-5)
        unread = 1 - sum(rows[b] for b in done) / rows.sum()
        estimate = estimated_recall(Promises((estimator,), ()), 0, k, 0, theirs, unread)
        assert estimate == pytest.approx(told[i], abs=1e-5)
        listed = array("I", np.flatnonzero(p[i]).tolist())  # as a router that names few blocks
        few = Routed(array("I", p[i][p[i] > 0].tolist()), listed)
        assert features(few, done, rows.tolist(), base[i].tolist().__getitem__, answers, price) == pytest.approx(theirs)


def test_more_probability_read_is_a_higher_estimate() -> None:
    routed, last = Routed(array("I", [400, 300, 200, 100])), 0.0
    for read in ({3}, {2}, {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}):
        seen = features(routed, read, [1] * 4, lambda b: 0.0, [(1.0, min(read))], 5)
        now = estimated_recall(stop(promise(0.5, 5)), 0, 10, 0, seen, 1 - len(read) / 4)
        assert now is not None and last < now <= 1
        last = now
    assert last == 1.0  # nothing was left out


def test_codes_lose_the_less_the_more_is_missed() -> None:
    known = stop(promise(0.5, 5), ceiling=0.9)
    lost = []
    for odds in (0.0, 2.0, 20.0):
        whole = estimated_recall(known, 0, 10, 20, (odds, 0, 0, 0), 1.0)
        codes = estimated_recall(known, 0, 10, 0, (odds, 0, 0, 0), 1.0)
        assert whole == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-6) and codes is not None
        lost.append(1 - codes / whole)
    assert lost == sorted(lost) and lost[-1] == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.9), (5, 0.9), (10, 0.9), (55, 0.7), (100, 0.5), (101, None)])
def test_between_depths_it_is_linear(k: int, expected: float | None) -> None:
    two = Promises((Estimator(10, 0, 0.9, 5.0, FLAT), Estimator(100, 0, 0.5, 5.0, FLAT)), ())
    found = estimated_recall(two, 0, k, 0, (60.0, 0, 0, 0), 1.0)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-5))
    assert estimated_recall(two, 1, k, 0, (60.0, 0, 0, 0), 1.0) is None  # of that rendition nothing was measured


# The promise


def test_a_promise_between_two_of_a_kind_and_of_two_kinds() -> None:
    contract = Contract(10, 6, 0.9, (Point(10, 400, 0.8, 1e5, 3.0), Point(10, 100, 0.95, 1e6, 6.0)))
    kept = stop(promise(0.8, 400), promise(0.9, 200), promise(0.97, 300, rerank=20), promise(0.99, 100, rerank=20))
    assert promise_of(contract, kept, 10, None) == kept.by_recall[1]
    assert promise_of(contract, kept, 10, 0.1) == kept.by_recall[0]
    assert (promise_of(contract, kept, 10, 0.85).price, promise_of(contract, kept, 10, 0.85).rerank) == (283, 0)
    assert promise_of(contract, kept, 10, 0.91) == kept.by_recall[2]
    assert (promise_of(contract, kept, 10, 0.98).price, promise_of(contract, kept, 10, 0.98).rerank) == (173, 20)
    with pytest.raises(LimitError, match=r"0\.99"):
        promise_of(contract, kept, 10, 0.995)
    assert promise_of(contract, None, 10, 0.875).price == 250  # an index of an earlier builder


def test_no_price_lies_between_one_and_none() -> None:
    """The price 0 also reads blocks that the router gives nothing: what it keeps, no lower price but 0 nearly keeps."""
    contract = Contract(10, 6, 0.9, (Point(10, 400, 0.8, 1e5, 3.0),))
    kept = stop(promise(0.8, 400), promise(0.99, 0))
    assert promise_of(contract, kept, 10, 0.8) == kept.by_recall[0]
    assert promise_of(contract, kept, 10, 0.81) == promise_of(contract, kept, 10, 0.99) == kept.by_recall[1]
    more = replace(stop(promise(0.9, 100)), others=(Ladder(1000, kept.by_recall),))
    assert promise_of(contract, more, 100, 0.9).price == 0


def test_a_promise_says_how_sharp_probabilities_are(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised to that power, and between two k to one between: in plans that are explained as in those that read."""
    index = words.open()
    root, router, vector = index.root, index.segment.router, words.queries[0].tolist()
    prepared = prepare(vector, root.index)
    flat, sharp = (np.array(router.peek(replace(prepared, sharpness=s), index.segment)[0].p, float) for s in (1.0, 2.0))
    assert np.abs(sharp - (1 << 20) * flat**2 / (flat**2).sum()).max() < 2e-3 * (1 << 20)
    assert root.promises is not None
    ten = tuple(replace(p, sharpness=2.0) for p in root.promises.by_recall)
    hundred = tuple(replace(p, sharpness=1.0) for p in ten)
    index.segment.root = replace(root, promises=replace(root.promises, by_recall=ten, others=(Ladder(1000, hundred),)))
    seen, real = [], type(router).probabilities

    def probabilities(self: Any, query: Any) -> Routed:
        seen.append(query.sharpness)
        return real(self, query)

    monkeypatch.setattr(type(router), "probabilities", probabilities)
    assert root.contract.k == 10
    for k in (1, 10, 100, 1000):
        asyncio.run(index.explain([Query(vector, k)]))
        asyncio.run(index.query(Query(vector, k)))
    assert seen == pytest.approx([2.0, 2.0, 2.0, 2.0, 1.5, 1.5, 1.0, 1.0])


def test_a_promise_of_fewer_answers() -> None:
    """At its own k, between two, below the least and above the contract's; where it is kept in another way, by more."""
    contract = Contract(100, 6, 0.9, (Point(100, 100, 0.95, 1e6, 6.0),))
    few = Ladder(10, (promise(0.8, 1600), promise(0.9, 400, nbytes=4e5)))
    two = replace(stop(promise(0.9, 100), promise(0.99, 10, rerank=200), k=100), others=(few,))
    assert promise_of(contract, two, 10, None) == promise_of(contract, two, 1, 0.9) == few.by_recall[1]
    assert promise_of(contract, two, 100, None) == promise_of(contract, two, 1000, None) == two.by_recall[0]
    middle = promise_of(contract, two, 32, None)
    assert (middle.recall, middle.nbytes) == (0.9, pytest.approx(7e5, rel=0.02)) and 195 < middle.price < 205
    assert promise_of(contract, two, 10, 0.95) == two.by_recall[1]  # which the promises at ten do not reach
    exact = replace(two, others=(replace(few, by_recall=(promise(0.9, 400, rerank=20, nbytes=4e5),)),))
    between = promise_of(contract, exact, 50, None)  # the blocks of a hundred, and exact scores for five times ten
    assert (between.price, between.rerank, between.nbytes) == (100, 100, two.by_recall[0].nbytes)
    assert promise_of(contract, exact, 100, None) == two.by_recall[0]
    assert promise_of(contract, exact, 10, None).rerank == 20


def test_promises_at_more_k_where_the_line_between_two_misses() -> None:
    """Clusters of 50 rows: a hundred answers want two of them, a few more want a third and a far lower price."""
    contract = Contract(100, 6, 0.95, (Point(100, 1000, 0.95, 1e5, 3.0),))

    def price(k: int) -> int:
        return 1000 if k <= 100 else 20 if k < 900 else 10

    def measured(k: int, promise: Promise) -> float:
        return 0.96 if promise.price <= price(k) else 0.8

    def kept(k: int) -> tuple[Promise, ...]:
        return (promise(0.96, price(k), nbytes=1e9 / price(k)),)

    two = replace(stop(*kept(100), k=100), others=(Ladder(1000, kept(1000)),))
    asked = (100, 150, 178, 316, 562, 700, 1000)
    assert [measured(k, promise_of(contract, two, k, 0.95)) for k in asked[1:5]] == [0.8] * 4
    more = between(contract, two, measured, kept)
    assert [ladder.k for ladder in more.others] == [178, 316, 1000]  # and at 562 the line holds
    assert [measured(k, promise_of(contract, more, k, 0.95)) for k in asked if k != 150] == [0.96] * 6
    assert between(contract, more, measured, kept) == more
    assert between(contract, two, lambda *_: 0.95, kept) is two  # nothing to add where prices keep enough


@pytest.mark.parametrize(
    ("estimate", "halvings"), [(0.95, 0), (0.9, 0), (0.89, 1), (0.85, 1), (0.8, 2), (0.6, 3), (0.0, 3), (-1.0, 3)]
)
def test_a_second_price_by_what_is_missed(estimate: float, halvings: int) -> None:
    """The threshold is 0.9: to halve the misses takes one and a quarter halvings of the price, in whole ones."""
    price = second_price(promise(0.9, 1 << 20, threshold=0.9), 1 << 20, estimate)
    assert price == ((1 << 20) >> halvings if halvings else None)
    assert second_price(promise(0.9, 1 << 20), 1 << 20, 0.0) is None
    assert second_price(promise(0.9, 1 << 20, threshold=1.0), 1 << 20, 0.5) == 1 << 17


# The second wave


def opened(built: Built, section: Promises | None) -> tuple[Index, Recorder]:
    bucket = Recorder(Folder(built.bucket))
    index = asyncio.run(Index.open(bucket, built.name, Cache(0), Receipt()))
    bucket.forget()
    return Index(index.name, bucket, Cache(0), index.current, replace(index.root, promises=section)), bucket


def ask(index: Index, vector: np.ndarray, **options: Any) -> Answer:
    return asyncio.run(index.query(Query(vector.tolist(), 10, 0.9, **options)))


def twice(threshold: float, price: int = LITTLE) -> Promises:
    return stop(promise(0.9, price, threshold=threshold))


@pytest.mark.parametrize(("name", "price"), [("words", LITTLE), ("points", 1 << 24), ("dots", 1 << 26)])
def test_a_second_wave_reads_what_the_first_left(name: str, price: int, request: pytest.FixtureRequest) -> None:
    """No block is scanned twice, the answer is that of both waves' blocks, and the estimate rises.

    The price is one that leaves a second wave to some queries, also where one block holds the answers of most.
    """
    built: Built = request.getfixturevalue(name)
    always, _ = opened(built, twice(1.0, price))
    never, _ = opened(built, twice(0.0, price))
    sign = -1 if always.root.index.metric == "l2" else 1
    waves = 0
    for vector in built.queries[:40]:
        one, two = ask(never, vector), ask(always, vector)
        assert one.recall_estimate is not None and two.recall_estimate is not None
        if two.receipt.waves == 1:  # nothing more is worth its price was read
            assert two.matches == one.matches
            continue
        waves += 1
        assert (one.receipt.waves, two.receipt.waves) == (1, 2) and two.complete
        assert two.receipt.gets == sum(map(len, two.receipt.wave_sizes)) <= 12
        assert two.receipt.rows > one.receipt.rows and two.receipt.blocks <= built.open().root.index.blocks
        assert two.receipt.rows <= built.open().root.index.slots
        assert two.recall_estimate > one.recall_estimate
        best = {m.row: sign * m.score for m in one.matches}  # a copy that comes later may score better
        assert all(sign * m.score >= best[m.row] for m in two.matches if m.row in best)
        assert sign * two.matches[-1].score >= sign * one.matches[-1].score
    assert waves > 5


def test_the_scanned_blocks_of_two_waves_are_apart(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = opened(words, twice(1.0))
    scanned: list[int] = []
    plain = index.segment.scan_of.block
    monkeypatch.setattr(
        index.segment.scan_of,
        "block",
        lambda self, b, data, *, keep: (scanned.append(b), plain(self, b, data, keep=keep)),
    )
    for vector in words.queries[:10]:
        scanned.clear()
        answer = ask(index, vector)
        assert len(scanned) == len(set(scanned)) == answer.receipt.blocks


def test_only_a_query_below_the_threshold_reads_on(words: Built) -> None:
    never, _ = opened(words, twice(0.0))
    told = [ask(never, v).recall_estimate or 0.0 for v in words.queries[:20]]
    middle = float(np.median(told)) + 1e-9
    some, _ = opened(words, twice(middle))
    for vector, estimate in zip(words.queries[:20], told, strict=True):
        assert (ask(some, vector).receipt.rows == ask(never, vector).receipt.rows) or estimate < middle
        if estimate >= middle:
            assert ask(some, vector).receipt.waves == 1


def test_a_budget_of_one_wave_makes_no_second(words: Built) -> None:
    index, bucket = opened(words, twice(1.0))
    cut = 0
    for vector in words.queries[:10]:
        bucket.forget()
        answer = ask(index, vector, budget=Budget(waves=1))
        assert answer.receipt.waves == 1 and answer.receipt.gets == len(bucket.gets) <= 6
        cut += not answer.complete
        assert (answer.recall_estimate is None) == (not answer.complete)
    assert cut > 3


def test_a_promise_of_exact_scores(words: Built) -> None:
    """Rows are ranked by full vectors where the promise says so; a request's own number wins; a budget says no."""
    index, _ = opened(words, stop(promise(0.9, MUCH, rerank=20)))
    plain, _ = opened(words, stop(promise(0.9, MUCH)))
    vector = words.queries[0]
    kept, asked = ask(index, vector), ask(plain, vector, rerank=20)
    assert kept.exact and kept.matches == asked.matches and kept.receipt.rows_ranked == 20
    assert kept.recall_estimate == asked.recall_estimate
    assert ask(index, vector, rerank=40).receipt.rows_ranked == 40
    cut = ask(index, vector, budget=Budget(waves=1))
    assert not cut.exact and not cut.complete and cut.receipt.rows_ranked == 0
    more = asyncio.run(index.query(Query(vector.tolist(), 30, 0.9)))  # 20 rows cannot hold 30 answers
    assert not more.exact and more.complete and more.recall_estimate is None


def test_an_index_says_how_it_keeps_a_promise(words: Built) -> None:
    index, _ = opened(words, stop(promise(0.9, LITTLE, threshold=0.7, rerank=20)))
    (told,) = describe(index)["contract"]["promises"]
    assert (told["recall"], told["rerank"], told["second_below"]) == (0.9, 20, 0.7)
    plan = explained(index, Query(words.queries[0].tolist(), 10, 0.9))
    assert (plan["second_below"], plan["rerank"], plan["waves"]) == (0.7, 20, 1)
    old, _ = opened(words, None)
    assert describe(old)["contract"]["promises"] == []


def test_a_second_wave_leaves_room_for_the_exact_scores_that_were_asked_for(words: Built) -> None:
    index, _ = opened(words, twice(1.0))
    answer = ask(index, words.queries[0], rerank=20, budget=Budget(waves=2))
    assert answer.exact and answer.receipt.rows_ranked == 20 and answer.receipt.waves == 2
    assert not answer.complete  # the second wave was cut
    assert ask(index, words.queries[0], rerank=20, attributes=True).complete
