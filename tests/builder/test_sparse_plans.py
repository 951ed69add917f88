"""Plans over few blocks are those over all of them, and full scans leave out only what no plan reads."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from one_by_one import plans_one_by_one

from build_index.neighbours.truth import hold_out
from build_index.simulate import measure
from build_index.simulate.measure import plans, spans
from vantage.cost import LANES, Budget, wave_ms
from vantage.format import Directory, Places, aligned
from vantage.read.cache import STARTS_OBJECT
from vantage.read.gather import RANGE_BYTES_MAX
from vantage.search import plan
from vantage.search.route.common import Routed

BLOCKS = 900


def case(seed: int, size: int = 9000) -> tuple[np.ndarray, np.ndarray]:
    """(p u32 (20, BLOCKS), most of them 0 and some in runs; bytes (BLOCKS))."""
    rng = np.random.default_rng(seed)
    p = np.zeros((20, BLOCKS), np.uint32)
    for row in p:
        for first in rng.integers(0, BLOCKS - 8, 6):
            row[first : first + 8] = rng.integers(0, 1 << 17, 8) * (rng.random(8) < 0.7)
    return p, rng.integers(size // 2, size, BLOCKS)


def worth(p: np.ndarray, reads: measure.Reads, price: int) -> list[int]:
    """What the planner maximises, before it cuts ranges: cuts between blocks change it by alignment alone."""
    return [
        (int(row[read].sum()) << 24) - price * sum(lengths)
        for row, read, lengths in zip(p, reads.blocks, reads.ranges, strict=True)
    ]


@pytest.mark.parametrize("price", [1 << 12, 1 << 20, 1 << 24])
def test_ranges_are_worth_what_those_over_all_blocks_are(price: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p, sizes = case(price)
    found = measure.plans(p, sizes, price)
    monkeypatch.setattr(plan, "SPARSE", BLOCKS + 1)
    wanted = plans_one_by_one(p, sizes, price)
    assert any(wanted.ranges) and all(len(r) <= LANES for r in found.ranges)
    for mine, theirs in zip(worth(p, found, price), worth(p, wanted, price), strict=True):
        assert mine == pytest.approx(theirs, rel=0.02, abs=price * 16 * LANES)


def test_no_range_spans_a_gap_that_is_too_long() -> None:
    p = np.zeros((2, BLOCKS), np.uint32)
    p[0, [3, 5, 800]] = 1 << 19, 1 << 18, 1 << 18
    reads = plans(p, np.full(BLOCKS, 20_000), 0, 2)
    assert aligned(20_000) * 790 > RANGE_BYTES_MAX
    assert [np.flatnonzero(row).tolist() for row in reads.blocks] == [[3, 4, 5, 800], []]


def test_the_edge_plans_as_the_builder_does() -> None:
    """From what a router names, blocks without a probability among it or not."""
    p, sizes = case(5)
    at = np.cumsum([0, *map(aligned, sizes.tolist())])[:-1]
    numbers, size = array("I", range(BLOCKS)), array("I", sizes.tolist())
    places = Places(array("I", bytes(4 * BLOCKS)), array("Q", at.tolist()), size, size, size)
    directory = Directory(numbers, numbers, numbers, (places,))
    wanted = plans(p, sizes, 1 << 18).ranges
    for row, lengths in zip(p, wanted, strict=True):
        flags = bytearray(BLOCKS)
        flags[0] = STARTS_OBJECT
        some = np.union1d(np.flatnonzero(row), [1, 2, 500])
        named = Routed(array("I", row[some].tolist()), array("I", some.tolist()))
        for routed in (Routed(array("I", row.tolist())), named):
            found = plan.plan_scan(routed, flags, directory, (0, 0), 1 << 18, LANES, Budget())
            assert [r.size for r in found.ranges] == lengths


def test_spans() -> None:
    p = np.zeros((3, 7), np.uint32)
    p[0, [2, 4]], p[1, 6] = 1, 9
    assert spans(p).tolist() == [[2, 5], [6, 7], [0, 0]]


def test_pages_count_as_a_read_and_a_wave_before() -> None:
    reads = measure.Reads(np.zeros((2, 3), bool), [[600_000], []])
    paged = measure.Reads(reads.blocks, reads.ranges, [[60_000], [70_000, 50_000]])
    assert (paged.gets, paged.nbytes) == (reads.gets + 1.5, reads.nbytes + 90_000)
    assert paged.ms.tolist() == [40 + 10 + 40 + 1, wave_ms([70_000, 50_000])]


def test_many_rows_hold_out_fewer() -> None:
    sizes = {n: len(hold_out(n, 0).calibration) for n in (100, 1_000_000, 2_000_000, 4_000_000, 20_000_000)}
    assert sizes == {100: 20, 1_000_000: 2000, 2_000_000: 1000, 4_000_000: 500, 20_000_000: 500}
