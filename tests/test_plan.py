"""Plans: the best ranges against all subsets of blocks, budgets, prices, and the model of time by hand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vantage.cost import LANES, Budget, wave_ms
from vantage.errors import LimitError
from vantage.format import Contract, Directory, Places, Point, aligned
from vantage.read import gather
from vantage.read.gather import NEAR_GAP, RANGE_BYTES_MAX, plan_gather, plan_near
from vantage.search import plan as plan_module
from vantage.search.estimate import price_of, recall_estimate
from vantage.search.plan import (
    GETS_MAX,
    LONGEST_SHARE,
    PRICE_BITS,
    Plan,
    plan_scan,
    range_of,
    ranges_in,
    spread,
)
from vantage.search.route.common import Routed

CACHED = 2


def places(sizes: Sequence[int], starts: Sequence[int]) -> Places:
    """Extents of these sizes; an object begins at each of `starts`, the first of which is 0."""
    offset, number, at = array("Q"), array("I"), 128
    for b, size in enumerate(sizes):
        at = 128 if b in starts else at
        offset.append(at)
        number.append(sum(b >= start for start in starts) - 1)
        at += aligned(size)
    own = array("I", sizes)
    return Places(number, offset, own, own, own)


def directory(sizes: Sequence[int], starts: Sequence[int], *others: Places) -> Directory:
    """Blocks of one extent each; others: of further renditions."""
    numbers = array("I", range(len(sizes)))
    return Directory(numbers, numbers, numbers, (places(sizes, starts), *others))


def flags(blocks: int, starts: Sequence[int], cached: Sequence[int] = ()) -> bytearray:
    return bytearray((b in starts) | CACHED * (b in cached) for b in range(blocks))


def covered(plan: Plan) -> list[int]:
    return [b for r in plan.ranges for b in range(r.first, r.last)]


def runs(blocks: Sequence[int], starts: Sequence[int]) -> int:
    """Ranges that these blocks are: no range passes into another shard."""
    return sum(1 for i, b in enumerate(blocks) if i == 0 or blocks[i - 1] != b - 1 or b in starts)


Case = tuple[list[int], list[int], list[int], list[int], int, int]  # p, sizes, starts, cached, price, gets


@st.composite
def cases(draw: st.DrawFn, blocks_max: int = 9) -> Case:
    blocks = draw(st.integers(1, blocks_max))
    sizes = draw(st.lists(st.integers(100, 5000), min_size=blocks, max_size=blocks))
    p = draw(st.lists(st.integers(0, 1 << 18), min_size=blocks, max_size=blocks))
    starts = sorted({0, *draw(st.lists(st.integers(0, blocks - 1), max_size=3))})
    cached = sorted(set(draw(st.lists(st.integers(0, blocks - 1), max_size=4))))
    price = draw(st.one_of(st.just(0), st.integers(0, 1 << 31)))
    return p, sizes, starts, cached, price, draw(st.integers(1, 4))


def plan_of(case: Case, budget: Budget | None = None) -> Plan:
    p, sizes, starts, cached, price, gets = case
    routed, where, at = Routed(array("I", p)), directory(sizes, starts), flags(len(p), starts, cached)
    return plan_scan(routed, at, where, (0, 0), price, gets, budget or Budget())


@given(cases(40), st.integers(1, 1 << 17))
def test_a_plan_over_some_candidates_is_the_plan_over_all_with_the_others_worth_nothing(case: Case, least: int) -> None:
    """Gaps between candidates cost their bytes; it is a plan of the same worth, though another of equal ones."""
    p, sizes, starts, cached, price, gets = case
    sizes = [aligned(size) for size in sizes]  # else a gap costs its padding too
    kept = [b for b in range(len(p)) if p[b] >= least]
    assume(kept)
    routed = Routed(array("I", [p[b] for b in kept]), array("I", kept))
    where, at = directory(sizes, starts), flags(len(p), starts, cached)
    sparse = plan_scan(routed, at, where, (0, 0), price, gets, Budget())
    clear = [v if v >= least else 0 for v in p]
    dense = plan_scan(Routed(array("I", clear)), at, where, (0, 0), price, gets, Budget())
    only = (clear, sizes, starts, cached, price, gets)
    assert worth(only, covered(sparse)) == worth(only, covered(dense))
    assert [b for b in dense.cached if b in kept] == sparse.cached


def worth(case: Case, blocks: Sequence[int]) -> int:
    p, sizes, _, cached, price, _ = case
    return sum((0 if b in cached else p[b] << PRICE_BITS) - price * sizes[b] for b in blocks)


@given(cases())
def test_no_other_ranges_are_worth_more(case: Case) -> None:
    p, _, starts, _, _, gets = case
    plan = plan_of(case)
    every = ([b for b in range(len(p)) if subset >> b & 1] for subset in range(1 << len(p)))
    best = max(worth(case, blocks) for blocks in every if runs(blocks, starts) <= gets)
    assert worth(case, covered(plan)) == best
    assert len(plan.ranges) <= gets
    assert plan.complete


@given(cases())
def test_ranges_are_where_the_directory_says(case: Case) -> None:
    _, sizes, starts, _, _, _ = case
    where = directory(sizes, starts)
    ranges = plan_of(case).ranges
    for r in ranges:
        assert starts[r.object] <= r.first < r.last <= [*starts, len(sizes)][r.object + 1]
        offset = where.places[0].offset
        assert r.offset == offset[r.first]
        assert r.offset + r.size == offset[r.last - 1] + sizes[r.last - 1]
    assert all(a.last <= b.first for a, b in pairwise(ranges))
    assert plan_of(case).bytes == sum(r.size for r in ranges)


@given(cases())
def test_cached_blocks_are_scanned_where_they_are_worth_it(case: Case) -> None:
    p, sizes, _, cached, price, _ = case
    assert plan_of(case).cached == [b for b in cached if p[b] << PRICE_BITS >= price * sizes[b]]


@given(cases(), st.integers(0, 6), st.integers(0, 20_000), st.integers(0, 2))
def test_a_budget_is_respected_and_its_cuts_are_told(case: Case, gets: int, nbytes: int, waves: int) -> None:
    free, plan = plan_of(case), plan_of(case, Budget(gets, nbytes, waves))
    assert len(plan.ranges) <= gets
    assert plan.bytes <= nbytes
    assert waves or not plan.ranges
    fits = not free.ranges or (len(free.ranges) <= gets and free.bytes <= nbytes and waves > 0)
    if fits and plan.complete:
        assert plan == free
    assert plan.complete == fits or not free.ranges


@given(cases(20), st.data())
def test_another_rendition_is_read_as_the_one_that_prices_are_for(case: Case, data: st.DataObject) -> None:
    """The same extents, wherever its objects end; more GETs only where a range lies in two of them."""
    p, sizes, starts, cached, price, gets = case
    longer = [3 * size + 7 for size in sizes]
    ends = sorted({0, *data.draw(st.lists(st.integers(0, len(p) - 1), max_size=3))})
    where = directory(sizes, starts, places(longer, ends))
    routed, at = Routed(array("I", p)), flags(len(p), starts, cached)
    one, other = (plan_scan(routed, at, where, (0, read), price, gets, Budget()) for read in (0, 1))
    assert covered(one) == covered(other) and one.cached == other.cached and one.complete == other.complete
    assert len(one.ranges) <= len(other.ranges) <= len(one.ranges) + len(ends) - 1
    assert other.ranges == ranges_in(where, 1, [(r.first, r.last) for r in one.ranges])
    for r in other.ranges:
        assert len({where.places[1].object[i] for i in range(r.first, r.last)}) == 1
        assert (r.object, r.offset) == (where.places[1].object[r.first], where.places[1].offset[r.first])
        assert r.offset + r.size == where.places[1].offset[r.last - 1] + longer[r.last - 1]
    small = Budget(gets=data.draw(st.integers(0, 4)), bytes=data.draw(st.integers(0, 30_000)))
    cut = plan_scan(routed, at, where, (0, 1), price, gets, small)
    assert len(cut.ranges) <= small.gets and cut.bytes <= small.bytes


@given(st.lists(st.integers(100, 5000), min_size=1, max_size=30), st.data())
def test_ranges_in_an_object_are_no_longer_than_a_read(sizes: list[int], data: st.DataObject) -> None:
    starts = sorted({0, *data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=3))})
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sizes)), max_size=8)))
    wanted, most, where = (
        list(zip(cuts[::2], cuts[1::2], strict=False)),
        data.draw(st.integers(100, 20_000)),
        directory(sizes, starts),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "RANGE_BYTES_MAX", most)
        ranges = ranges_in(where, 0, wanted)
    assert [i for r in ranges for i in range(r.first, r.last)] == [i for a, b in wanted for i in range(a, b)]
    for r in ranges:
        assert r == range_of(where, 0, r.first, r.last)
        assert {where.places[0].object[i] for i in range(r.first, r.last)} == {r.object}
        assert r.size <= most or r.last == r.first + 1


@st.composite
def split_blocks(draw: st.DrawFn) -> tuple[Directory, list[int]]:
    """Extents of some blocks, in any order of the file, and the blocks."""
    blocks = draw(st.lists(st.integers(0, 6), min_size=1, max_size=14))
    rows = [draw(st.integers(1, 200)) for _ in blocks]
    own = places([500] * len(blocks), [0])
    return Directory(array("I", blocks), array("I", rows), array("I", rows), (own,)), sorted(set(blocks))


@given(split_blocks(), st.booleans(), st.data())
def test_probability_is_spread_over_extents_by_their_rows(
    drawn: tuple[Directory, list[int]], named: bool, data: st.DataObject
) -> None:
    where, some = drawn
    numbers = some if named else list(range(max(some) + 1))
    p = {b: data.draw(st.integers(0, 1 << 20)) for b in numbers}
    routed = Routed(array("I", p.values()), array("I", numbers) if named else None, where)
    out = spread(routed, where)
    assert out.directory is where and out.complete
    values = (
        list(out.p)
        if out.blocks is None
        else [dict(zip(out.blocks, out.p, strict=True)).get(i, 0) for i in range(len(where))]
    )
    assert values == [shared_out(p, where, i) for i in range(len(where))]


def test_what_came_later_to_the_blocks_that_are_read_gets_a_range() -> None:
    """Of eight likely blocks apart from each other, in each of which one row of a hundred came later: by its rows alone
    each of six ranges would be one of the blocks.
    """
    n, likely = 200, range(10, 200, 24)
    own = places([100_000] * n + [1_000] * n, [0, n])
    rows = array("I", [99] * n + [1] * n)
    where = Directory(array("I", [*range(n)] * 2), rows, rows, (own,))
    p = array("I", [(1 << 17) - 600 * b if b in likely else 10 for b in range(n)])
    flags = bytearray(2 * n)
    flags[0] = flags[n] = 1
    plan = plan_scan(spread(Routed(p), where), flags, where, (0, 0), 1 << 20, LANES, Budget())
    assert len(plan.ranges) == LANES
    assert {b for r in plan.ranges for b in range(r.first, r.last)} >= {n + b for b in list(likely)[:5]}


def shared_out(p: dict[int, int], where: Directory, i: int) -> int:
    """The probability of extent i as docs/format.md has it (9.6), of those of blocks."""
    block, same = where.block[i], [j for j, b in enumerate(where.block) if b == where.block[i]]
    share = Fraction(where.rows[i], sum(where.rows[j] for j in same)) + (Fraction(1, 10) if i != same[0] else 0)
    return max(1, floor(p[block] * share)) if p[block] else 0


def test_a_budget_of_gets_is_a_cut() -> None:
    """Two far blocks in one range, or one of them: either way not what the contract measured."""
    case = ([1 << 18, 0, 1 << 18], [1000, 1000, 1000], [0], [], 1 << 20, 6)
    assert len(plan_of(case).ranges) == 2
    cut = plan_of(case, Budget(gets=1))
    assert [(r.first, r.last) for r in cut.ranges] == [(0, 3)]
    assert not cut.complete
    assert plan_of(case, Budget(gets=2)).complete


def test_a_budget_too_small_for_any_block() -> None:
    """700 MB of blocks, one of them sure: the price that would leave it out is past what the kernel takes."""
    blocks = 70_000
    case = ([1 << 20, *[0] * (blocks - 1)], [10_000] * blocks, [0], [], 1000, 6)
    assert plan_of(case).complete
    for budget in (Budget(bytes=1), Budget(gets=0), Budget(waves=0), Budget(bytes=0)):
        plan = plan_of(case, budget)
        assert (plan.ranges, plan.complete) == ([], False)


def test_nothing_wanted_is_complete() -> None:
    case = ([0, 0], [1000, 1000], [0], [], 1 << 20, 6)
    for budget in (Budget(), Budget(gets=0), Budget(waves=0), Budget(bytes=0)):
        assert plan_of(case, budget).ranges == []
        assert plan_of(case, budget).complete


@given(cases(), st.integers(200, 12_000))
@example(([0, 0, 1, 0, 0, 0, 0, 1], [100, 100, 100, 257, 149, 317, 100, 100], [0], [3], 0, 3), 532)
@example(([1, 1, 0, 1, 1], [100, 100, 100, 100, 277], [0, 1, 2], [], 0, 3), 404)
def test_long_ranges_are_cut_at_blocks(case: Case, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "RANGE_BYTES_MAX", most)
        patch.setattr(gather, "RANGE_BYTES_MAX", most)
        cut = plan_of(case)
    assert all(r.size <= most or r.last == r.first + 1 for r in cut.ranges)
    assert all(a.last <= b.first for a, b in pairwise(cut.ranges))
    free = plan_of(case)
    if all(r.size <= most for r in free.ranges):
        assert cut == free
        assert len(cut.ranges) <= case[5]


@given(cases(40), st.integers(200, 3000))
def test_idle_lanes_take_halves_and_a_long_lane_has_its_price(case: Case, split: int) -> None:
    """Never worth less than the plain plan of most ranges once the wait for the longest lane is counted."""
    p, sizes, starts, cached, price, gets = case
    sizes = [aligned(size) for size in sizes]  # else a range costs its padding too
    case = p, sizes, starts, cached, price, gets
    plain = plan_of(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "SPLIT_BYTES", split)
        patch.setattr(gather, "SPLIT_BYTES", split)
        patch.setattr(plan_module, "SHORT_BYTES", split)
        even = plan_of(case)

    def weighed(plan: Plan) -> int:
        longest = max((r.size for r in plan.ranges), default=0)
        return worth(case, covered(plan)) - price * (LANES * longest // LONGEST_SHARE)

    assert len(even.ranges) <= gets
    assert all(a.last <= b.first for a, b in pairwise(even.ranges))
    assert weighed(even) >= weighed(plain)
    if plain.ranges and len(even.ranges) < gets:  # nothing long was left to split
        assert all(r.size <= split or r.last == r.first + 1 for r in even.ranges)


def pairs(count: int, gap: int) -> Case:
    """Pairs of wanted blocks of 100 kB, so many bytes apart and far from other pairs, worth more than any gap."""
    p, sizes = [1 << 16, 0, 1 << 16, 0] * count, [100_000, gap, 100_000, 3 * RANGE_BYTES_MAX // 4] * count
    return p, sizes, [0], [], 1 << 8, GETS_MAX


@pytest.mark.parametrize(("gap", "gets"), [(100_000, 6), (2_100_000, 6), (2_500_000, 12)])
def test_a_second_round_is_taken_where_it_saves_its_time(gap: int, gets: int) -> None:
    """Six ranges hold a pair each, and the gap between, which takes longer than a round where a lane reads 2.4 MB."""
    case = pairs(6, gap)
    plan, one_round = plan_of(case), plan_of((*case[:5], LANES))
    assert (len(plan.ranges), len(one_round.ranges)) == (gets, LANES)
    assert [b for b in covered(plan) if case[0][b]] == [b for b in covered(one_round) if case[0][b]]
    assert wave_ms([r.size for r in plan.ranges]) <= wave_ms([r.size for r in one_round.ranges])


def test_gets_are_planned_and_no_result_of_cutting() -> None:
    """Six ranges of 36 blocks are longer than a read may be: in as many GETs as their pieces, gaps are left out."""
    plan = plan_of(pairs(18, 900_000))
    assert plan.bytes < 18 * 1_200_000
    assert len(plan.ranges) == 18
    assert all(r.size <= RANGE_BYTES_MAX for r in plan.ranges)


def test_a_budget_of_one_round_cuts_a_plan_of_two_and_no_plan_of_one() -> None:
    assert not plan_of(pairs(6, 2_500_000), Budget(gets=LANES)).complete
    assert plan_of(pairs(6, 2_500_000), Budget(gets=2 * LANES)).complete
    assert plan_of(pairs(6, 100_000), Budget(gets=LANES)).complete


@pytest.mark.parametrize(
    ("sizes", "ms"),
    [
        ([], 0),
        ([0], 40),
        ([60_000], 41),
        ([60_000] * 6, 41),
        ([60_000] * 7, 82),  # two rounds, and a lane with two
        ([600_000, *[60_000] * 5], 50),
        ([300_000, 120_000, 120_000, 120_000, 120_000, 120_000, 60_000, 60_000], 80 + 5),
        ([1_200_000, 600_000, 600_000, 600_000, 600_000, 600_000, 600_000], 80 + 20),
        ([60_000] * 12, 82),
        ([60_000] * 13, 123),
    ],
)
def test_wave_ms_by_hand(sizes: list[int], ms: float) -> None:
    assert wave_ms(sizes) == pytest.approx(ms)
    assert wave_ms(sizes[::-1]) == pytest.approx(ms)


POINTS = (
    Point(1, 900, 0.80, 1000, 1), Point(10, 900, 0.70, 1000, 1), Point(100, 900, 0.60, 1000, 1),
    Point(1, 300, 0.99, 4000, 6), Point(10, 300, 0.95, 4000, 6), Point(100, 300, 0.90, 4000, 6),
    Point(1, 500, 0.90, 2000, 4), Point(10, 500, 0.85, 2000, 4), Point(100, 500, 0.80, 2000, 4),
)  # fmt: skip
CONTRACT = Contract(100, 6, 0.80, POINTS)


@pytest.mark.parametrize(
    ("recall", "price"), [(None, 500), (0.80, 500), (0.90, 300), (0.85, 400), (0.70, 700), (0.60, 900), (0.01, 900)]
)
def test_price_of_a_recall(recall: float | None, price: int) -> None:
    assert price_of(CONTRACT, recall) == price


def test_a_recall_above_the_best_point_is_refused() -> None:
    with pytest.raises(LimitError) as caught:
        price_of(CONTRACT, 0.901)
    assert (caught.value.param, caught.value.value, caught.value.limit) == ("recall", 0.901, 0.9)
    with pytest.raises(LimitError) as caught:
        price_of(Contract(10, 6, 0.5, (Point(10, 0, 0.98765, 0, 0),)), 0.99)
    assert caught.value.limit == 0.987  # rounded down: asking for it is answered
    assert price_of(Contract(10, 6, 0.5, (Point(10, 0, 0.98765, 0, 0),)), 0.987) == 0


@pytest.mark.parametrize(
    ("price", "k", "recall"),
    [
        (500, 100, 0.80), (400, 100, 0.85), (700, 10, 0.775), (300, 1, 0.99), (900, 1, 0.80),
        (500, 55, 0.825),  # halfway between k = 10 and k = 100
        (400, 4, 0.945 - 0.045 * 3 / 9),
        (299, 10, None), (901, 10, None), (500, 101, None), (0, 1, None),
    ],
)  # fmt: skip
def test_recall_estimate(price: int, k: int, recall: float | None) -> None:
    assert recall_estimate(CONTRACT, price, k) == (None if recall is None else pytest.approx(recall))


def test_recall_estimate_below_the_least_k() -> None:
    assert recall_estimate(Contract(10, 6, 0.5, (Point(10, 0, 0.9, 0, 0),)), 0, 3) == 0.9


Items = list[tuple[str, int, int]]


@st.composite
def item_lists(draw: st.DrawFn) -> Items:
    """Items of up to 9 objects, apart from each other."""
    items = []
    for key in range(draw(st.integers(1, 9))):
        at = draw(st.integers(0, 1000))
        for _ in range(draw(st.integers(1, 12))):
            size = draw(st.integers(1, 3000))
            items.append((f"part-{key}", at, size))
            at += size + draw(st.sampled_from([0, 1, 500, 50_000, 5_000_000]))
    return draw(st.permutations(items))


@given(item_lists(), st.integers(1, 50), st.sampled_from([1 << 12, 1 << 20, 1 << 40]))
def test_gather_holds_every_item_within_the_budget(items: Items, gets: int, nbytes: int) -> None:
    spans = plan_gather(items, gets, nbytes)
    if spans is None:
        objects, least = len({key for key, _, _ in items}), sum(size for _, _, size in items)
        reach = max(offset + size for _, offset, size in items)
        assert objects > gets or reach > RANGE_BYTES_MAX or nbytes < 1 << 40 and (gets < len(items) or least > nbytes)
        return
    assert sorted(i for s in spans for i in s.items) == list(range(len(items)))
    for s in spans:
        for i in s.items:
            key, offset, size = items[i]
            assert key == s.key
            assert s.offset <= offset and offset + size <= s.offset + s.size
        assert s.size <= max(items[i][1] + items[i][2] for i in s.items) - min(items[i][1] for i in s.items)
    assert len(spans) <= gets
    assert sum(s.size for s in spans) <= nbytes


@given(item_lists())
def test_gather_takes_the_quickest_number_of_rounds(items: Items) -> None:
    """With more GETs allowed, it is never slower."""
    best = None
    for gets in (6, 12, 24, 48):
        spans = plan_gather(items, gets, 1 << 40)
        if spans is not None:
            ms = wave_ms([s.size for s in spans])
            assert best is None or ms <= best + 1e-9
            best = ms


@given(item_lists(), st.integers(1, 50), st.sampled_from([1 << 12, 1 << 20, 1 << 40]))
def test_items_that_lie_near_each_other_are_read_together(items: Items, gets: int, nbytes: int) -> None:
    spans = plan_near(items, gets, nbytes)
    if spans is None:
        assert gets < len(items) or nbytes < 1 << 40
        return
    assert sorted(i for s in spans for i in s.items) == list(range(len(items)))
    assert len(spans) <= gets and sum(s.size for s in spans) <= nbytes
    for s in spans:
        own = sorted(items[i] for i in s.items)
        assert {key for key, _, _ in own} == {s.key} and s.size <= RANGE_BYTES_MAX
        assert (s.offset, s.size) == (own[0][1], max(o + n for _, o, n in own) - own[0][1])
    if gets >= len(items):
        assert all(s.size <= sum(items[i][2] for i in s.items) + (len(s.items) - 1) * NEAR_GAP for s in spans)


def test_what_lies_farther_is_read_together_where_gets_are_few() -> None:
    items = [("a", at * (NEAR_GAP + 101), 100) for at in range(9)]
    assert [s.size for s in plan_near(items, 9, 900) or []] == [100] * 9
    assert len(plan_near([("a", at * (NEAR_GAP + 100), 100) for at in range(9)], 9, 1 << 30) or []) == 1
    assert [len(s.items) for s in plan_near(items, 8, 1 << 30) or []] == [9]
    assert plan_near(items, 8, 1 << 20) is None and plan_near([], 0, 0) == []
    far = [("a", at * RANGE_BYTES_MAX, 100) for at in range(9)]
    assert plan_near(far, 8, 1 << 40) is None


def test_gather_by_hand() -> None:
    near = [("a", 0, 100), ("a", 200, 100), ("a", 300, 50)]
    assert plan_gather(near, 1, 1 << 20) is not None
    (one,) = plan_gather(near, 1, 1 << 20) or []
    assert (one.key, one.offset, one.size, one.items) == ("a", 0, 350, [0, 1, 2])
    assert len(plan_gather(near, 48, 1 << 20) or []) == 2  # touching items are one read
    assert plan_gather(near, 1, 349) is None
    assert plan_gather([("a", 0, 1), ("b", 0, 1)], 1, 1 << 20) is None
    far = [("a", 10_000_000 * i, 100) for i in range(12)]
    assert len(plan_gather(far, 48, 1 << 40) or []) == 12  # a second round is quicker than bridging 10 MB
    assert plan_gather(far, LANES, 1 << 40) is None  # six spans would be longer than the buffer may grow
    assert len(plan_gather([(k, o // 100, n) for k, o, n in far], LANES, 1 << 40) or []) == LANES
    objects = [(f"part-{i}", 0, 10) for i in range(8)]
    assert len(plan_gather(objects, 8, 1 << 20) or []) == 8
