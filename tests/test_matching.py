"""Plans under filters: the share of the answers that a promise takes, and the dearest plan that holds it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

import pytest
from fixtures.damage import load

from vantage.cost import Budget
from vantage.errors import LimitError
from vantage.format import Directory, FilterPromise, Places, Root
from vantage.search.matching import (
    STEP_MAX,
    STEP_MIN,
    Pricing,
    expected_recall,
    held,
    least_share,
    least_step,
    plan_share,
    promise_under_filter,
    share_for,
)
from vantage.search.plan import READ_ALL
from vantage.search.route.common import Routed

FIXTURES = Path(__file__).parent / "fixtures"
LOW = FilterPromise(True, 10, 0.9, 0.91, 0, 0.97, 1.5, 0.05, -9.0, 0.4, 4.0, 1e6, 50.0)
HIGH = FilterPromise(True, 100, 0.9, 0.93, 0, 0.98, 1.3, 0.03, -7.0, 0.8, 6.0, 3e6, 70.0)


@pytest.mark.parametrize("matches", [1.0, 80.0, 5000.0, 1e6])
def test_the_share_is_what_the_aim_takes(matches: float) -> None:
    for promise in (LOW, HIGH):
        assert expected_recall(promise, matches, share_for(promise, matches)) == pytest.approx(promise.aim, abs=1e-5)
        assert expected_recall(promise, matches, 1.0) == pytest.approx(promise.ceiling, abs=1e-5)
        assert expected_recall(promise, matches, 0.0) == 0


def test_rarer_answers_take_more() -> None:
    shares = [share_for(LOW, matches) for matches in (10, 100, 1000, 10_000)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    steps = [least_step(LOW, matches) for matches in (10, 1000, 1e9)]
    assert steps == [-9, -6, 2]
    assert least_step(LOW, 1e300) == STEP_MAX


def test_aims_above_the_ceiling_take_all() -> None:
    beyond = FilterPromise(True, 10, 0.99, 0.99, 0, 0.97, 1.5, 0.05, -9.0, 0.4, 4.0, 1e6, 50.0)
    assert share_for(beyond, 1000) == 1.0


def root_with(*promises: FilterPromise) -> Root:
    from dataclasses import replace

    objects = load("filters")
    [name] = [key for key in objects if key.endswith("root.bin")]
    return replace(Root.unpack(objects[name], "root.bin"), filter_promises=promises)


def test_promises_between_two_k() -> None:
    root = root_with(LOW, HIGH)
    middle = promise_under_filter(root, True, 32, 0.9)
    assert LOW.aim < middle.aim < HIGH.aim and LOW.ceiling < middle.ceiling < HIGH.ceiling and middle.k == 32
    assert promise_under_filter(root, True, 1, 0.9) == LOW
    assert promise_under_filter(root, True, 1000, 0.9) == HIGH
    assert promise_under_filter(root, True, 100, 0.8) == HIGH  # the least that keeps it
    with pytest.raises(LimitError, match="recall"):
        promise_under_filter(root, True, 10, 0.95)
    assert promise_under_filter(root, True, 10, None) == LOW  # the best there is, of the target


def test_nothing_was_measured_by_blocks() -> None:
    promise = promise_under_filter(root_with(LOW, HIGH), False, 10, 0.9)
    assert (promise.aim, promise.ceiling, promise.rerank) == (0.95, 1.0, 0)


def pricings(seed: int) -> Iterator[Pricing]:
    draw = Random(seed)
    for _ in range(12):
        n = draw.choice((1, 7, 60, 400))
        sizes = [draw.randrange(1000, 30_000) for _ in range(n)]
        offsets = [sum(sizes[:i]) for i in range(n)]
        zeros = array("I", bytes(4 * n))
        places = Places(zeros, array("Q", offsets), array("I", sizes), array("I", sizes), zeros)
        ones = array("I", [10]) * n
        directory = Directory(array("I", range(n)), ones, ones, (places,))
        p = [draw.randrange(1 << 14) if draw.random() < 0.7 else 0 for _ in range(n)]
        flags = bytearray(n)
        flags[0] = 1
        if draw.random() < 0.5:
            routed = Routed(array("I", p))
        else:
            some = [i for i in range(n) if p[i]]
            routed = Routed(array("I", [p[i] for i in some]), array("I", some))
        yield Pricing(routed, flags, directory, (0, 0), 12, Budget())


@pytest.mark.parametrize("seed", range(6))
def test_the_dearest_plan_that_holds_the_share(seed: int) -> None:
    """As if all prices had been tried, from the dearest on; shares rise as prices fall in all but a few plans."""
    for pricing in pricings(seed):
        shares = [pricing.plan(pricing.price(step))[1] for step in range(STEP_MAX, STEP_MIN - 1, -1)]
        if shares != sorted(shares):
            continue
        assert plan_share(pricing, 1.0, STEP_MAX, 0.0) == pricing.plan(READ_ALL)[0]
        by_step = dict(zip(range(STEP_MAX, STEP_MIN - 1, -1), shares, strict=True))
        for share, enough in product((0.1, 0.5, 0.9, 0.99), (0.0, 0.3, 0.8)):
            for least in (STEP_MIN, -3, STEP_MAX):
                plan = plan_share(pricing, share, least, enough)
                some = (s for s, own in by_step.items() if own >= share or (s <= least and own >= enough))
                best = next(some, STEP_MIN)
                assert plan == pricing.plan(pricing.price(best))[0], (share, least, enough)


def test_no_query_misses_more_than_four_times_what_a_promise_may() -> None:
    for promise, matches in product((LOW, HIGH), (80.0, 1e6)):
        assert expected_recall(promise, matches, least_share(promise, matches)) == pytest.approx(0.6, abs=1e-5)
        assert least_share(promise, matches) < share_for(promise, matches)


def test_what_plans_hold() -> None:
    assert held(Routed(array("I", [1, 0, 3])), [2]) == 0.75
    assert held(Routed(array("I", [1, 3]), array("I", [4, 9])), {9, 5}) == 0.75
    assert held(Routed(array("I", [0, 0])), []) == 1.0
