"""two-level-ecvh: regions are codewords of signs, in few bytes; pages as of two-level."""

from __future__ import annotations

from array import array
from dataclasses import replace

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.hashing.codewords import factor_centres, signs
from build_index.ingest.rows import Rows
from build_index.routers import ROUTERS, lse, two_level
from build_index.routers.training import TrainingSet
from build_index.simulate.edge import prepare_rows, probabilities
from vantage.errors import DamagedError
from vantage.format import Cursor, EcvhSection, IndexSection, RouterSection, TwoLevelSection
from vantage.search.prepare import Prepared
from vantage.search.route.two_level import TwoLevelRouter

ROWS, BLOCKS = 1500, 48
Case = tuple[TwoLevelSection, IndexSection, list[Prepared], TrainingSet]


def by_size(section: RouterSection) -> float:
    assert isinstance(section, TwoLevelSection)
    return sum(map(len, section.pages))


def lesson_of(rows: Rows) -> TrainingSet:
    every, nothing = np.arange(ROWS), np.empty(0, np.int64)
    copy, near = np.empty((ROWS, 0), np.int32), np.empty((0, 1), np.int32)
    return TrainingSet(rows, every, partition(rows, every, BLOCKS, 0), copy, nothing, near, 0)


def built(router: str, training: TrainingSet) -> TwoLevelSection:
    """With the smallest pages."""
    subs = lse.sub_centroids(training.rows.take(training.sample), training.partition.home, BLOCKS, 0)
    flat = lse.section(subs, training.rows.metric, 20.0 / training.spread, 0.65, 4)
    tuned = ROUTERS[router].tune
    assert tuned is not None
    found = tuned(two_level._one_page(flat), training, by_size)
    assert isinstance(found, TwoLevelSection)
    return found


@pytest.fixture(scope="module", params=["cosine", "l2"])
def case(request: pytest.FixtureRequest, lasting_rows_of: RowsOf) -> Case:
    rows = lasting_rows_of(clustered(ROWS, 40, 3), request.param, scale=None)
    training = lesson_of(rows)
    index = index_section(rows, BLOCKS, ROWS, "two-level-ecvh")
    return built("two-level-ecvh", training), index, prepare_rows(rows, np.arange(0, ROWS, 20)), training


def test_words_stand_for_centres() -> None:
    """Rows around sums of signed directions get their codewords, all and no more, from centres off by a little."""
    draw = np.random.default_rng(0)
    directions = 3 * np.linalg.qr(draw.normal(size=(20, 6)))[0].T
    word = np.where(np.arange(64)[:, None] >> np.arange(6) & 1, -1.0, 1.0)
    centres = (word @ directions + 5).astype(np.float32)
    own = draw.integers(64, size=4000)
    x = (centres[own] + 0.3 * draw.normal(size=(4000, 20))).astype(np.float32)
    found = factor_centres(x, (centres + 0.2 * draw.normal(size=centres.shape)).astype(np.float32), 0, 6)
    assert len(found.message) == 64
    scores = (x @ found.directions.T - found.threshold) @ signs(found.generator, found.message).T
    same = scores.argmax(1)[:, None] == scores.argmax(1)
    assert (same == (own[:, None] == own)).mean() > 0.999


def test_words_that_nothing_agrees_with_are_left_out() -> None:
    x = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    found = factor_centres(x, np.concatenate([x[:20], x[:20], x[:20] + 1e-4]), 0, 8)
    assert len(found.message) == len(np.unique(found.message)) <= 20
    scores = (x @ found.directions.T - found.threshold) @ signs(found.generator, found.message).T
    assert set(scores.argmax(1)) == set(range(len(found.message)))


def test_every_query_gets_a_page_and_every_block_lies_in_one(case: Case) -> None:
    found, index, queries, _ = case
    router = TwoLevelRouter(found, index)
    for query in queries:
        routed = router.probabilities(query)
        assert routed.blocks is not None and len(routed.blocks)
        assert sum(routed.p) == pytest.approx(1 << 20, abs=len(routed.p))
    named = [b for page in found.pages for b in found.columns(Cursor(memoryview(page), "page"), index)[0]]
    assert set(named) == set(range(BLOCKS))


def test_the_edge_picks_the_region_that_the_builder_meant(case: Case) -> None:
    """As often as four bits a number allow; and most of what a table of all blocks wants stands in the page."""
    found, index, queries, training = case
    assert isinstance(found.regions, EcvhSection)
    router = TwoLevelRouter(found, index)
    x = np.array([query.vector for query in queries], np.float32)
    centres = x[:: len(x) // 32][:32].copy()
    section, regions, nearest = two_level.by_codewords(x, centres, training.spread, 0)
    one_page = replace(found, regions=section, size=array("I", [0] * regions))
    other = TwoLevelRouter(one_page, index)
    assert np.mean([other.pages(q) == [r] for q, r in zip(queries, nearest(x, 1)[:, 0], strict=True)]) > 0.8
    held = [training.partition.home[20 * i] in set(router.probabilities(q).blocks or ()) for i, q in enumerate(queries)]
    assert np.mean(held) > 0.95


def test_words_are_a_small_part_of_a_table() -> None:
    x = np.random.default_rng(2).normal(size=(1000, 384)).astype(np.float32)
    codewords, regions, _ = two_level.by_codewords(x, x[:800], 1.0, 0)
    table = two_level.by_centres(x, x[:regions], 1.0, 0)[0]
    assert 14 * len(codewords.pack()) < len(table.pack())


def test_the_section_comes_back_the_same(case: Case) -> None:
    found, index, queries, _ = case
    back = TwoLevelSection.unpack(memoryview(found.pack()), index, "router")
    assert back.pack() == found.pack() and isinstance(back.regions, EcvhSection)
    ours, theirs = TwoLevelRouter(found, index), TwoLevelRouter(back, index)
    pages = [ours.pages(q) for q in queries]
    assert pages == [theirs.pages(q) for q in queries] and len({page for [page] in pages}) > 5
    assert probabilities("two-level-ecvh", found, index, queries).any(1).all()


def test_a_damaged_first_level_is_refused(case: Case) -> None:
    found, index, _, _ = case
    first = found.regions
    assert isinstance(first, EcvhSection)
    wrong = memoryview(array("I", [0, *list(first.generator)[1:]]))
    lost = memoryview(array("f", [np.nan, *list(first.bias)[1:]]))
    for bad in (
        replace(first, messages=first.messages[:-1]),
        replace(first, generator=wrong),
        replace(first, bias=lost),
        replace(first, bits=5),
        replace(first, beta=0.0),
    ):
        with pytest.raises(DamagedError):
            TwoLevelSection.unpack(memoryview(replace(found, regions=bad).pack()), index, "router")
    with pytest.raises(DamagedError):  # a table of centres, as the router two-level would have it
        TwoLevelSection.unpack(memoryview(found.pack()), replace(index, router="two-level"), "router")
