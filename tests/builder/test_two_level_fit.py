"""two-level: its pages hold the same router as one table, in file order, and a resident table finds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.partition import partition
from build_index.routers import lse, two_level
from build_index.rows import Rows
from build_index.shape import index_section, page_bytes, prepared, probabilities
from vantage.errors import DamagedError
from vantage.format import RouterSection, TwoLevelSection
from vantage.route import TwoLevelRouter

BLOCKS = 64


@pytest.fixture(params=["cosine", "l2"])
def case(request: pytest.FixtureRequest, rows_of: RowsOf) -> tuple[Rows, lse.LseSection, np.ndarray]:
    """(rows, a flat router, an order of the blocks that keeps near ones together)."""
    rows = rows_of(clustered(4000, 40, 3), request.param, scale=None)
    base = partition(rows, np.arange(4000), BLOCKS, 0)
    subs = lse.sub_centroids(rows.take(np.arange(4000)), base.home, BLOCKS, 0)
    return rows, lse.section(subs, rows.metric, 20.0, 0.65, 4), np.argsort(base.centres[:, 0], kind="stable")


def sections(flat: lse.LseSection, order: np.ndarray) -> TwoLevelSection:
    one = two_level._paged(flat, np.array([0, BLOCKS]), 0)
    return two_level.ordered(one, order)


def test_all_pages_together_say_what_one_table_says(case: tuple[Rows, lse.LseSection, np.ndarray]) -> None:
    rows, flat, order = case
    found, index = sections(flat, order), index_section(rows, BLOCKS, rows.count)
    wanted = probabilities("lse", lse.ordered(flat, order), index, prepared(rows, np.arange(0, 4000, 200)))
    router = TwoLevelRouter(found, index)
    pages = {r: found.pages[a : a + n] for r, (a, n) in enumerate(zip(found.offset, found.size, strict=True))}
    assert len(pages) == 8
    for query, p in zip(prepared(rows, np.arange(0, 4000, 200)), wanted, strict=True):
        assert router.route(query, pages).p.tolist() == p.tolist()


def test_pages_hold_the_best_blocks_and_more_price_reads_less(case: tuple[Rows, lse.LseSection, np.ndarray]) -> None:
    rows, flat, order = case
    queries = prepared(rows, np.arange(0, 4000, 40))
    index, found = index_section(rows, BLOCKS, rows.count), sections(flat, order)
    best = probabilities("lse", lse.ordered(flat, order), index, queries).argmax(1)
    read, lengths = [], []
    for section in (found, replace(found, price=found.price * 64)):
        router = TwoLevelRouter(section, index)
        ranges = [router.pages(q) for q in queries]
        blocks = [range(section.first_block[r[0]], section.first_block[r[-1] + 1]) for r in ranges]
        read.append(np.mean([b in own for b, own in zip(best, blocks, strict=True)]))
        lengths.append(np.mean([len(r) for r in ranges]))
    assert read[0] > 0.95
    assert 1 <= lengths[1] < lengths[0]


def test_the_section_comes_back_and_refuses_pages_that_do_not_fit(
    case: tuple[Rows, lse.LseSection, np.ndarray],
) -> None:
    rows, flat, order = case
    index, found = index_section(rows, BLOCKS, rows.count), sections(flat, order)
    back = TwoLevelSection.unpack(memoryview(found.pack()), index, "router")
    assert back.pack() == found.pack()
    assert len(back.pages) == 0
    query = prepared(rows, np.array([7]))[0]
    assert TwoLevelRouter(back, index).pages(query) == TwoLevelRouter(found, index).pages(query)
    wrong = replace(found, first_block=[*found.first_block[:-1], BLOCKS - 1])
    for bad in (wrong, replace(found, nbytes=found.nbytes + 1), replace(found, subs=found.subs - 1)):
        with pytest.raises(DamagedError):
            TwoLevelSection.unpack(memoryview(bad.pack()), index, "router")


def test_what_a_page_is_worth_is_tuned(case: tuple[Rows, lse.LseSection, np.ndarray]) -> None:
    """By a cost of pages and of what they leave out; where all candidates cost the same, nothing changes."""
    rows, flat, order = case
    found, index, queries = (
        sections(flat, order),
        index_section(rows, BLOCKS, rows.count),
        prepared(rows, np.arange(50)),
    )
    best = probabilities("lse", lse.ordered(flat, order), index, queries).argmax(1)

    def cost(section: RouterSection) -> float:
        assert isinstance(section, TwoLevelSection)
        nbytes = page_bytes("two-level", section, index, queries)
        p = probabilities("two-level", section, index, queries)
        assert nbytes is not None
        return float(np.mean(nbytes)) / section.nbytes + 20 * float((p[np.arange(50), best] == 0).mean())

    assert cost(two_level.tuned(found, cost)) < cost(found)
    assert two_level.tuned(found, lambda _: np.inf) == found
    assert page_bytes("lse", flat, index, queries) is None
