"""two-level: its pages hold the same router as one table, in file order, and a resident table finds the right one."""

from __future__ import annotations

from array import array
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from small import RowsOf, clustered, in_one_object

from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.ingest.rows import Rows
from build_index.routers import lse, two_level
from build_index.routers.training import TrainingSet
from build_index.simulate.edge import page_bytes, prepare_rows, probabilities
from vantage.errors import DamagedError, InputError
from vantage.format import PAGE_BYTES_MAX, Cursor, LseSection, RouterSection, TwoLevelSection
from vantage.search.prepare import Prepared
from vantage.search.route.two_level import TwoLevelRouter

BLOCKS = 64
Case = tuple[Rows, LseSection, np.ndarray, TrainingSet]


@pytest.fixture(scope="module", params=["cosine", "l2", "dot"])
def case(request: pytest.FixtureRequest, lasting_rows_of: RowsOf) -> Case:
    """(rows, a flat router, an order of the blocks, what pages are learned from, in that order)."""
    rows = lasting_rows_of(clustered(4000, 40, 3), request.param, scale=None)
    every, nothing = np.arange(4000), np.empty(0, np.int64)
    base = partition(rows, every, BLOCKS, 0)
    subs = lse.sub_centroids(rows.take(every), base.home, BLOCKS, 0)
    order = np.argsort(base.centres[:, 0], kind="stable")
    copy = np.empty((4000, 0), np.int32)
    training = TrainingSet(rows, every, base.reordered(order), copy, nothing, np.empty((0, 1), np.int32), 0)
    return rows, lse.section(subs, rows.metric, 20.0, 0.65, 4), order, training


def by_size(section: RouterSection) -> float:
    assert isinstance(section, TwoLevelSection)
    return sum(map(len, section.pages))


def paged(case: Case) -> TwoLevelSection:
    """With the smallest pages."""
    _, flat, order, training = case
    return two_level.tune(two_level.reorder(two_level._one_page(flat), order), training, by_size)


def held_out(rows: Rows) -> list[Prepared]:
    return prepare_rows(rows, np.arange(0, 4000, 20))


def test_a_page_is_of_the_blocks_that_queries_want_however_many_have_no_probability(case: Case) -> None:
    """Of a sharp router most blocks have none; the ones that are left out of the lists must be those."""
    rows, flat, order, training = case
    sharp = replace(flat, beta=flat.beta * 30, weight=memoryview(np.asarray(flat.weight, np.float32) * np.float32(30)))
    index, queries = index_section(rows, BLOCKS, rows.count, "two-level"), held_out(rows)
    with patch.object(two_level, "PAGE_BLOCKS_MAX", 16):
        section = two_level.tune(two_level.reorder(two_level._one_page(sharp), order), training, lambda s: -by_size(s))
    p = probabilities("lse", lse.reorder(sharp, order), index_section(rows, BLOCKS, rows.count), queries)
    assert np.median((p == 0).sum(1)) > BLOCKS - 16 and len(section.size) > 8
    named = probabilities("two-level", section, index, queries) > 0
    assert (named & (p > 0)).sum() / (p > 0).sum() > 0.9


def test_one_page_says_what_one_table_says(case: Case) -> None:
    rows, flat, order, _ = case
    index, queries = index_section(rows, BLOCKS, rows.count), held_out(rows)
    one = two_level.reorder(two_level._one_page(flat), order)
    assert len(one.size) == 1
    wanted = probabilities("lse", lse.reorder(flat, order), index, queries)
    assert (probabilities("two-level", one, index, queries) == wanted).all()


def test_a_page_tells_its_blocks_apart_as_the_table_does(case: Case) -> None:
    """The same order of the same blocks; its best block is nearly always the best of all."""
    rows, flat, order, _ = case
    found, index, queries = paged(case), index_section(rows, BLOCKS, rows.count), held_out(rows)
    table = probabilities("lse", lse.reorder(flat, order), index, queries)
    router, same, named = TwoLevelRouter(found, index), [], []
    for query, p in zip(queries, table, strict=True):
        routed = router.probabilities(query)
        assert routed.blocks is not None
        own = np.array(routed.p)
        assert (np.diff(own[np.argsort(p[routed.blocks], kind="stable")].astype(np.int64)) >= -1).all()
        same.append(routed.blocks[int(own.argmax())] == p.argmax())
        named.append(len(own))
    assert np.mean(same) > 0.95
    assert np.mean(named) < 0.75 * BLOCKS


def test_every_block_lies_in_a_page(case: Case) -> None:
    found, index = paged(case), index_section(case[0], BLOCKS, case[0].count)
    named = set()
    for page in found.pages:
        named |= set(found.columns(Cursor(memoryview(page), "page"), index)[0])
    assert named == set(range(BLOCKS))


def test_the_section_comes_back_and_refuses_pages_that_do_not_fit(case: Case) -> None:
    index, found = index_section(case[0], BLOCKS, case[0].count), paged(case)
    back = TwoLevelSection.unpack(memoryview(found.pack()), index, "router")
    assert back.pack() == found.pack()
    assert len(back.pages) == 0
    query = held_out(case[0])[7]
    for beam in (1, 2, 6):
        ours, theirs = (TwoLevelRouter(replace(one, beam=beam), index) for one in (found, back))
        assert ours.pages(query) == theirs.pages(query) and len(set(ours.pages(query))) == beam
        assert ours.pages(query)[0] == TwoLevelRouter(found, index).pages(query)[0]
    assert not TwoLevelRouter(back, index).probabilities(query).p
    large = array("I", [PAGE_BYTES_MAX + 1, *found.size[1:]])
    for bad in (
        replace(found, size=large), replace(found, subs=0), replace(found, bits=5), replace(found, beam=0),
        replace(found, beam=7), replace(found, beta=0.0),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            TwoLevelSection.unpack(memoryview(bad.pack()), index, "router")
    placed, pages = in_one_object(found)
    placed.check((len(pages),), "router")
    for wrong, sizes in ((placed, (len(pages) - 1,)), (placed, ()), (replace(placed, object=array("I", [1] * len(
        placed.size))), (len(pages),))):  # fmt: skip
        with pytest.raises(DamagedError, match="router: a page is outside of its object"):
            wrong.check(sizes, "router")


def test_several_pages_are_one_table_of_their_blocks(case: Case) -> None:
    """A block that several pages name counts once, with what is its own; all pages say what the flat table says."""
    rows, flat, order, _ = case
    found, index, queries = paged(case), index_section(rows, BLOCKS, rows.count), held_out(rows)
    table = probabilities("lse", lse.reorder(flat, order), index, queries).astype(np.int64)
    router = TwoLevelRouter(replace(found, beam=3), index)
    shared = 0
    for query, p in zip(queries[:40], table, strict=False):
        numbers = [
            set(found.columns(Cursor(memoryview(found.pages[r]), "page"), index)[0]) for r in router.pages(query)
        ]
        shared += sum(map(len, numbers)) > len(set().union(*numbers))
        routed = router.probabilities(query)
        assert routed.blocks is not None and list(routed.blocks) == sorted(set().union(*numbers))
        own, wanted = np.array(routed.p, np.int64), p[routed.blocks]
        assert abs(own.sum() - 2**20) <= len(own)
        assert own / 2**20 == pytest.approx(wanted / wanted.sum(), abs=3e-3)
        every = {r: memoryview(page) for r, page in enumerate(found.pages)}
        whole = router.probabilities(query, every)
        assert list(whole.blocks or ()) == list(range(BLOCKS))
        assert np.array(whole.p) / 2**20 == pytest.approx(p / p.sum(), abs=3e-3)
    assert shared > 10


@pytest.mark.parametrize("numbers", [[1, 0], [0, 0], [0, BLOCKS]])
def test_a_page_with_wrong_blocks_is_refused(case: Case, numbers: list[int]) -> None:
    """Its checksum may be right: what wrote it was not."""
    rows, flat, _, _ = case
    index = index_section(rows, BLOCKS, rows.count)
    one = two_level._page(flat, two_level._one_page(flat).regions, [np.array([0, 1])])
    page = one.pages[0][:8] + np.array(numbers, "<u4").tobytes() + one.pages[0][16:]
    assert len(page) == len(one.pages[0])
    with pytest.raises(DamagedError, match="page 0: a page names its blocks out of order"):
        TwoLevelRouter(one, index).probabilities(held_out(rows)[0], {0: memoryview(page)})


def test_a_region_of_more_blocks_than_a_page_takes_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, flat, order, training = case
    one = two_level.reorder(two_level._one_page(flat), order)
    each = two_level.EXTENT_BYTES + TwoLevelSection.block_bytes(flat.bits, flat.subs, rows.dimension)
    monkeypatch.setattr(two_level, "PAGE_BYTES_MAX", each)
    with pytest.raises(InputError, match="blocks lie nearest to one region, a routing page takes 0"):
        two_level.tune(one, training, by_size)


def test_the_blocks_of_a_page_are_chosen_by_cost(case: Case) -> None:
    """Where all candidates cost the same, the largest pages stay."""
    rows, flat, order, training = case
    one = two_level.reorder(two_level._one_page(flat), order)
    small, large = (two_level.tune(one, training, cost) for cost in (by_size, lambda _: np.inf))
    assert by_size(small) < by_size(large)
    queries, index = held_out(rows), index_section(rows, BLOCKS, rows.count)
    few, many = (page_bytes("two-level", section, index, queries) for section in (small, large))
    assert few is not None and many is not None and np.mean(few) < np.mean(many)
    assert page_bytes("lse", flat, index, queries) is None


def test_a_query_reads_as_many_pages_as_cost_least(case: Case) -> None:
    _, flat, order, training = case
    one = two_level.reorder(two_level._one_page(flat), order)
    for beam in two_level.BEAMS:

        def cost(section: RouterSection, beam: int = beam) -> float:
            assert isinstance(section, TwoLevelSection)
            return abs(section.beam - beam)

        assert two_level.tune(one, training, cost).beam == beam
