"""Grown indexes: dead rows, blocks of several extents, ids in segments. Answers are those of the live rows alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Built
from fixtures.grown import grown_folder

from vantage.cost import Budget
from vantage.errors import NotFoundError
from vantage.index import Index, Wanted
from vantage.read.deadline import Deadline
from vantage.receipt import Receipt
from vantage.search.listing import Listing, prepare_listing
from vantage.search.prepare import prepare
from vantage.search.query import TOP_K_MAX, Answer, Query
from vantage.search.rank import decode
from vantage.search.scan import Contender, LrsqScan


class Grown:
    """A plain index, and the same grown; rows: of both by number, (id, whether it is dead)."""

    def __init__(self, built: Built, folder: Path) -> None:
        self.plain = built.open()
        dead = grown_folder(built.bucket / built.name, folder / built.name)
        self.built = replace(built, bucket=folder)
        self.rows = {c.row: (c.id, c.row in dead) for c in every_row(self.plain, built.queries[0])}
        self.dead, self.live = ({i for i, gone in self.rows.values() if gone == own} for own in (True, False))
        assert len(self.dead) == len(dead) > 100

    def best(self, query: np.ndarray) -> list[Contender]:
        """The live rows, best first."""
        return [c for c in every_row(self.plain, query) if c.id in self.live]


def every_row(index: Index, query: np.ndarray) -> list[Contender]:
    """Each row that answers, best first, by all extents."""
    root, prepared = index.root, prepare(query.tolist(), index.root.index)
    directory = index.segment.resident
    assert directory is not None
    scan = LrsqScan(root, directory, 0, prepared, root.index.rows, index.segment.keys)
    for i in range(len(directory)):
        extent = directory.extent(i, 0)
        body = asyncio.run(index.bucket.get(index.segment.keys[extent.object], extent.offset, extent.whole, None))
        data = bytearray(extent.whole)
        assert body is not None
        body.into(memoryview(data))
        scan.block(i, data, keep=True)
    assert scan.rows == root.index.slots
    return scan.contenders(root.index.rows)


@pytest.fixture(scope="module", params=["words", "points", "dots"])
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return Grown(request.getfixturevalue(request.param), tmp_path_factory.mktemp("grown"))


def ask(index: Index, query: np.ndarray, k: int, **more: Any) -> Answer:
    return asyncio.run(index.query(Query(query.tolist(), k, **more)))


def test_a_scan_gives_live_rows_their_scores(grown: Grown) -> None:
    index = grown.built.open()
    directory = index.segment.resident
    assert directory is not None and not directory.single and len(index.root.id_pages) == 3
    assert index.live_rows == index.root.live_rows == len(grown.live)
    for query in grown.built.queries[:5]:
        want = [(c.row, c.id, c.score, c.check) for c in grown.best(query)]
        assert [(c.row, c.id, c.score, c.check) for c in every_row(index, query)] == want


def test_answers_are_of_live_rows(grown: Grown) -> None:
    index, right, asked = grown.built.open(), 0, 0
    for query in grown.built.queries[:12]:
        for k in (1, 10, 200):
            got = ask(index, query, k)
            assert got.complete and len(got.matches) == k and {m.id for m in got.matches} <= grown.live
            right += len({m.id for m in got.matches} & set(nearest(grown, query, k)))
            asked += k
        attached = ask(index, query, 5, attributes=True, vectors=True)
        for m in attached.matches:
            at = grown.built.ids.index(m.id)
            assert np.allclose(np.array(decode(m.stored, m.kind)), grown.built.vectors[at], atol=1e-2)
            assert m.attributes == grown.built.attributes[at]
    assert right >= 0.88 * asked


def nearest(grown: Grown, query: np.ndarray, k: int) -> list[Any]:
    """Ids of the exact k best live rows."""
    return [i for i in grown.built.nearest(query, len(grown.built.ids)) if i in grown.live][:k]


def test_an_answer_of_all_rows(grown: Grown) -> None:
    """As many as there are, or as an answer may have."""
    k = min(TOP_K_MAX, len(grown.live))
    got = ask(grown.built.open(), grown.built.queries[0], TOP_K_MAX)
    assert got.complete and len(got.matches) == k and {m.id for m in got.matches} <= grown.live


def test_rows_by_their_ids(grown: Grown) -> None:
    index = grown.built.open()
    wanted = Wanted(attributes=True, vectors=True, budget=Budget(1000, 1 << 30))
    live, dead = sorted(grown.live)[:40], sorted(grown.dead)[:40]
    found = asyncio.run(index.rows([*dead, *live], wanted, receipt := Receipt(), Deadline()))
    assert [row.id for row in found.rows] == live and found.missing == dead and found.complete
    assert receipt.waves <= 3 and len(receipt.wave_sizes[0]) == 3  # a page of each segment, in one wave
    for row in found.rows:
        at = grown.built.ids.index(row.id)
        assert np.allclose(row.vector, grown.built.vectors[at], atol=1e-2)
        assert row.attributes == grown.built.attributes[at]
    base = asyncio.run(index.base_rows([dead[0], live[0]], Receipt(), {}))
    assert base[dead[0]] is None and base[live[0]] is not None
    with pytest.raises(NotFoundError):
        asyncio.run(index.row(dead[0], Receipt()))
    with pytest.raises(NotFoundError):
        asyncio.run(index.query(Query(None, 3, id=dead[0])))
    own = asyncio.run(index.query(Query(None, 3, id=live[0])))
    assert len(own.matches) == 3 and live[0] not in {m.id for m in own.matches}


def test_a_budget_cuts_lookups_of_segments(grown: Grown) -> None:
    """What no page was read for is not known to be missing."""
    index, ids = grown.built.open(), sorted(grown.live)[:30]
    found = asyncio.run(index.rows(ids, Wanted(False, False, Budget(1, 1 << 30)), Receipt(), Deadline()))
    assert not found.complete and not found.missing and 0 < len(found.rows) < 30


def test_rows_are_listed(grown: Grown) -> None:
    index, got, cursor = grown.built.open(), list[Any](), None
    while True:
        listing = Listing(limit=333, cursor=cursor, attributes=False)
        page = asyncio.run(index.list_rows(prepare_listing(index.segment, listing)))
        got += [row.id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(got) == len(set(got)) and set(got) == grown.live


def test_a_generation_of_the_same_objects_keeps_what_is_cached(grown: Grown) -> None:
    """Parts are kept by whole keys: an index of another generation that names these objects reads nothing again."""
    index = grown.built.open(1 << 26)
    query = grown.built.queries[0]
    before = ask(index, query, 10)
    objects = replace(
        index.root.objects,
        keys=tuple(f"../{index.current.generation}/{key}" if key[0] != "." else key for key in index.root.objects.keys),
    )
    later = Index(
        index.name,
        index.bucket,
        index.cache,
        replace(index.current, generation="0" * 16),
        replace(index.root, objects=objects),
    )
    assert later.segment.keys == index.segment.keys
    after = ask(later, query, 10)
    assert before.receipt.gets > 0 and after.receipt.gets == 0
    assert [m.id for m in after.matches] == [m.id for m in before.matches]
