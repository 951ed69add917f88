"""Filters of an index that grows by flushes: answers, lists, facets and estimates are those of the rows that live."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from filters import HASHED, KINDS, key_of, matching, random_filter, random_row, table_of
from log_writes import write_rows
from test_faceted import ask as count
from test_faceted import check as check_facet
from test_faceted import random_facets
from test_filtered import DIMENSION, NAMES, ask, made_up, scores
from test_listing import SCALARS, walked

from build_index.audit.verify import verify_deep
from build_index.bucket.open import open_index, open_written
from build_index.bucket.store import ObjectStore, store_at
from build_index.build import build
from build_index.compact import Folded, compact
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import InputError
from vantage.filter.schema import describe_attributes
from vantage.format.log import RowShape
from vantage.index import Index
from vantage.search import facets
from vantage.search.facets import FacetQuery
from vantage.search.filtered import select
from vantage.search.query import Query

SHAPE = RowShape(DIMENSION, "i64", "f16")
Row = tuple[np.ndarray, dict[str, Any]]  # vector f16 (d) as it is stored, attributes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Row]]:
    """An index with projections, none of whose texts has a key beside it, and its rows by id."""
    folder = tmp_path_factory.mktemp("grown")
    x, rows = made_up(11)
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    with patch.object(renditions, "INLINE_BYTES", 0):
        options = Options(0.9, 10, fast=True, filters=NAMES)
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "bucket" / "index", "cosine", options))
    stored = x.astype(np.float16)
    return folder / "bucket" / "index", {i: (stored[i], row | {"note": {"x": 1}}) for i, row in enumerate(rows)}


def write(store: ObjectStore, **parts: Any) -> None:
    """One request, committed to the log."""
    write_rows(store, SHAPE, **parts)


def change(store: ObjectStore, oracle: dict[int, Row], draw: Random, step: int, size: int = 160) -> None:
    """Upserts of new rows and old ones, patches and deletes, with values that no row had."""
    names = draw.sample([*oracle], size)
    put, patched, gone = names[: size // 4], names[size // 4 : size // 2], names[size // 2 : 3 * size // 4]
    put = [*put, *range(10_000 * step, 10_000 * step + size // 2)]
    rng = np.random.default_rng(step)
    near = [*oracle.values()]
    new = np.array([draw.choice(near)[0] + 0.2 * rng.normal(size=DIMENSION) for _ in put]).astype(np.float16)
    rows = [random_row(draw) | {"note": {"x": 1}} for _ in put]
    for i, row in enumerate(rows):
        row["year"] = draw.choice((row["year"], 1960, 2100 + step))
        row["at"] = draw.choice((row["at"], f"20{30 + step}-01-02T03:04:{i % 60:02}Z"))
        row["lang"] = draw.choice((row["lang"], "de", f"n{step}", f"{step}"))
        row["tags"] = draw.choice((row["tags"], ["a", f"t{step}"]))
        row["code"] = draw.choice((row["code"], f"new {step}"))
    changes = [{"lang": draw.choice(("fr", f"n{step}")), "stock": True} for _ in patched]
    write(
        store, upserts=put, vectors=new.tobytes(), attributes=[json.dumps(row).encode() for row in rows],
        patches=patched, changes=[json.dumps(own).encode() for own in changes], deletes=gone,
    )  # fmt: skip
    for i, vector, row in zip(put, new, rows, strict=True):
        oracle[i] = vector, row
    for i, own in zip(patched, changes, strict=True):
        oracle[i] = oracle[i][0], oracle[i][1] | own
    for i in gone:
        del oracle[i]


def check(index: Index, oracle: dict[int, Row], draw: Random, turns: int = 24) -> None:
    """Everything that asks filters of a generation, against the rows by plain Python."""
    rows = [row for _, row in oracle.values()]
    assert index.root.live_rows == len(rows)
    check_fields(index, rows)
    for value in (
        {"lang": "de"},
        {"year": {"$gte": 1960}},
        {"stock": True},
        {"tags": {"$ne": "a"}},
    ):
        about, count_of = select(value, index.root, index.segment.homes), sum(matching(value, rows))
        assert about is not None and abs(sum(about.rows) - count_of) < 10 + 0.3 * count_of, (value, sum(about.rows))
    check_answers(index, oracle, draw, turns)
    for free in (8 << 20, 0):
        with patch.object(facets, "FREE_BYTES", free):
            for turn in range(turns // 4):
                value = random_filter(draw) if turn % 4 else None
                taken = [*compress(rows, matching(value or {}, rows))]
                try:
                    counted = count(index, FacetQuery(random_facets(draw), value))
                except InputError:  # pages tell of no chunk here
                    assert index.root.paged
                    continue
                for one in counted.facets:
                    check_facet(one, taken, index)
                assert counted.complete and (not counted.matched.exact or counted.matched.rows == len(taken))


def check_answers(index: Index, oracle: dict[int, Row], draw: Random, turns: int) -> None:
    """Answers and lists, of rows in the log too."""
    ids, rows = [*oracle], [row for _, row in oracle.values()]
    x = np.array([vector for vector, _ in oracle.values()], np.float32)
    recalls = list[float]()
    for _ in range(turns):
        value, q = random_filter(draw), x[draw.randrange(len(x))]
        match = np.array(matching(value, rows))
        got = ask(index, Query(q.tolist(), 10, filter=value))
        places = [ids.index(int(m.id)) for m in got.matches]
        assert match[places].all() and len(set(places)) == len(places)
        assert got.complete and len(places) == min(10, match.sum()), (value, len(places), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        want = set(np.argsort(-np.where(match, scores(x, q, "cosine"), -np.inf))[: min(10, match.sum())].tolist())
        recalls += [len(want & set(places)) / len(want)] if want else []
    assert np.mean(recalls) > 0.85, np.mean(recalls)
    check_lists(index, ids, rows, draw)


def check_fields(index: Index, rows: list[dict[str, Any]]) -> None:
    """What the root says of each field; and that no block is said to have none of a value that a row of it has."""
    for told, field in zip(
        (d for d in describe_attributes(index.root) if d["filter"]), index.root.filters, strict=True
    ):
        values = [row[told["name"]] for row in rows]
        own = [v if isinstance(v, list) else [] if v is None else [v] for v in values]
        keys = {key_of(v, KINDS[told["name"]]) for some in own for v in some}
        assert field.rows == sum(map(bool, own)), told
        if field.ranked:
            texts = {field.text_at(i): n for i, n in enumerate(field.totals) if n}
            assert texts == {key: sum(key.decode() in some for some in own) for key in keys}
        elif not field.hashed:
            assert field.low <= min(keys) and max(keys) <= field.high


def check_lists(index: Index, ids: list[int], rows: list[dict[str, Any]], draw: Random) -> None:
    fields = [] if index.root.known_projections else index.root.filters
    lacking = [index.root.names[f.attribute] for f in fields if not f.in_blocks]  # nothing that is known has them
    for _ in range(12):
        asked: dict[str, Any] = {"attributes": False}
        if draw.random() < 0.8:
            asked["filter"] = random_filter(draw)
        name = draw.choice(SCALARS)
        if draw.random() < 0.6 and name not in HASHED:
            asked["order_by"] = {name: draw.choice(("asc", "desc"))}
        if draw.random() < 0.3:
            asked["distinct"] = name
        if any(repr(name) in str(asked) for name in lacking):
            continue
        got = walked(index, draw, Budget(gets=8, bytes=200_000 if index.root.known_projections else 4 << 20), **asked)
        want = [*compress(ids, matching(asked.get("filter", {}), rows))]
        of = {i: None if row[name] is None else key_of(row[name], KINDS[name])
              for i, row in zip(ids, rows, strict=True)}  # fmt: skip
        if asked.get("distinct"):
            assert {of[i] for i in got} == {of[i] for i in want} and len(got) == len({of[i] for i in want})
        else:
            assert sorted(got) == sorted(want)
        if asked.get("order_by"):
            keys = [of[i] for i in got]
            known = [k for k in keys if k is not None]
            falling = asked["order_by"][name] == "desc"
            assert keys == sorted(known, reverse=falling) + [None] * (len(keys) - len(known))


def grown(made: tuple[Path, dict[int, Row]], to: Path) -> tuple[Path, dict[int, Row], ObjectStore]:
    """A copy, whose texts have had a rewrite that leaves room between their keys."""
    index, oracle = Path(shutil.copytree(made[0], to / "bucket" / "index")), dict(made[1])
    store = store_at(str(index))
    with patch.object(renditions, "INLINE_BYTES", 0):
        change(store, oracle, Random(0), 1)
        folded = compact(store)
    assert folded.how == "rewrite" and "no key between two texts" in folded.why, folded
    return index, oracle, store


def flushed(store: ObjectStore) -> Folded:
    folded = compact(store)
    assert folded.how == "flush", folded
    return folded


@contextmanager
def in_pages() -> Iterator[None]:
    """Small indexes are written as large ones are: what filters take of them is in pages."""
    with (
        patch("build_index.write.index.CENTRE_BYTES_MAX", 0),
        patch("build_index.filters.projections.PAGE_CHUNKS", 3),
    ):
        yield


def test_grown_indexes_answer_as_their_rows_do(made: tuple[Path, dict[int, Row]], tmp_path: Path) -> None:
    index, oracle, store = grown(made, tmp_path)
    check(open_index(index), oracle, Random(1), 8)
    segments = list[int]()
    for step in range(2, 5):
        draw = Random(step)
        change(store, oracle, draw, step, 160 if step == 2 else 20)
        check_answers(open_written(index), oracle, draw, 10)
        flushed(store)
        opened = open_index(index)
        segments += [len(p.first) for p in opened.root.projections]
        check(opened, oracle, draw)
    assert not verify_deep(store)["damage"]
    assert max(segments) > 1


def test_grown_large_indexes_answer_as_their_rows_do(made: tuple[Path, dict[int, Row]], tmp_path: Path) -> None:
    with in_pages():
        index, oracle, store = grown(made, tmp_path)
        segments = list[int]()
        for step, size, merged in (2, 160, 8), (3, 40, 1), (4, 20, 8), (5, 0, 8):
            draw = Random(step)
            if size:
                change(store, oracle, draw, step, size)
            else:  # rows go, and none comes
                gone = draw.sample([*oracle], 12)
                write(store, deletes=gone)
                for i in gone:
                    del oracle[i]
            check_answers(open_written(index), oracle, draw, 6)
            with patch("build_index.flush.MERGED_TIMES", merged):
                flushed(store)
            opened = open_index(index)
            segments.append(max(len(p.first) for p in opened.root.projections))
            assert opened.root.paged and (segments[-1] < 3 or not verify_deep(store)["damage"])
            check(opened, oracle, draw, 8)
            query, few = [1.0] * DIMENSION, sum(row["year"] == 2100 + step for _, row in oracle.values())
            got, none = (ask(opened, Query(query, 50, filter={"year": year})) for year in (2100 + step, 3000))
            assert got.matched and got.complete and (got.matched.rows, got.matched.exact) == (few, True)
            assert got.receipt.waves == 2 * bool(size) and got.receipt.gets <= 2 * segments[-1]
            assert none.complete and none.receipt.gets == 0 and none.matched and none.matched.exact
        change(store, oracle, Random(7), 7, 20)
        with patch("build_index.fold.PENDING_SHARE", 0.0):
            assert compact(store).how == "fold"
        check_answers(open_index(index), oracle, Random(8), 8)
    assert segments == [2, 3, 2, 2], segments
