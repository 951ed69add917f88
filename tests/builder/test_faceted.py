"""Facets of whole indexes, against plain Python: exact counts are right, and others lie within their bounds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from filters import HASHED, KINDS, key_of, matching, random_filter
from test_filtered import NAMES, ROWS, made_up, table_of
from typer.testing import CliRunner

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.cli.main import app
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from build_index.vector_index import VectorIndex
from vantage.errors import DamagedError, InputError, LimitError
from vantage.filter.facet import value_of
from vantage.index import Index
from vantage.read.deadline import Deadline
from vantage.receipt import Receipt
from vantage.search import facets
from vantage.search.facets import FacetAnswer, FacetQuery
from vantage.search.query import Query
from vantage.search.tally import Counted

Made = tuple[Path, np.ndarray, list[dict[str, Any]]]


@pytest.fixture(scope="module", params=["inline", "apart"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Blocks in the root, or in objects of their own beside projections."""
    folder = tmp_path_factory.mktemp(request.param)
    x, rows = made_up(7)
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    with patch.object(renditions, "INLINE_BYTES", 0 if request.param == "apart" else 1 << 20):
        options = Options(0.9, 10, fast=True, filters=NAMES)
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "bucket" / "index", "cosine", options))
    return folder / "bucket" / "index", x, rows


def ask(index: Index, asked: FacetQuery) -> FacetAnswer:
    return asyncio.run(index.facets(index.plan_facets(asked), Receipt()))


def values_of(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row[name]
    own = [] if value is None else value if isinstance(value, list) else [value]
    return sorted({key_of(v, KINDS[name]) for v in own})


def random_facets(draw: Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in draw.sample([name for name in NAMES if name not in HASHED], draw.randrange(1, 4)):
        if KINDS[name] in ("integer", "number", "time") and draw.random() < 0.7:
            edges = {"year": [1940, 1950.5, 1955, 1960, 1990], "price": [-50, -1.5, 0, 0.5, 1e300],
                     "at": ["1960-01-01", 0, "2024-05-01", "2030-01-01"]}[name]  # fmt: skip
            out[name] = {"buckets": draw.randrange(1, 13)} if draw.random() < 0.6 else {"edges": edges}
        else:
            out[name] = {"top": draw.choice((1, 3, 1000))}
    return out


def check(got: Counted, rows: Sequence[Mapping[str, Any]], index: Index) -> None:
    """Against the rows that count."""
    name, field = got.facet.name, index.root.filters[got.facet.field]
    some = [values_of(row, name) for row in rows]
    counts = Counter(key for own in some for key in own)
    if field.kind == "text":
        counts = Counter({field.key(field.rank(key, after=False)): n for key, n in counts.items()})
    if not got.facet.top:
        counts = Counter([got.facet.bucket(key) for own in some for key in own])
    elif got.exact:
        want = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: got.facet.top]
        assert [(key, count.rows) for key, count in got.values] == want
    for key, count in got.values:
        assert count.low <= counts[key] <= count.high, (name, key, count, counts[key])
        assert count.low <= count.rows <= count.high
        assert value_of(field, key) is not None or not got.facet.top
    rest = sum(counts.values()) - sum(counts[key] for key, _ in got.values)
    assert got.other.low <= rest <= got.other.high, (name, got.other, rest)
    assert got.missing.low <= sum(not own for own in some) <= got.missing.high


@pytest.mark.parametrize("free", [8 << 20, 0])
def test_counts_are_right_or_within_their_bounds(made: Made, free: int) -> None:
    path, _, rows = made
    index, draw, exact, seen = open_index(path), Random(free), 0, 0
    with patch.object(facets, "FREE_BYTES", free):
        for turn in range(24):
            value = random_filter(draw) if turn % 4 else None
            taken = list(compress(rows, matching(value or {}, rows)))
            asked = FacetQuery(random_facets(draw), value)
            got = ask(index, asked)
            for one in got.facets:
                check(one, taken, index)
                exact, seen = exact + one.exact, seen + 1
            assert got.complete and (not got.matched.exact or got.matched.rows == len(taken)), (value, got.matched)
            assert got.receipt.bytes <= free and got.receipt.waves <= 1
            if value is not None:
                assert got.receipt.gets or not free or not index.root.projections or got.matched.exact
    inline = not index.root.projections
    assert exact == seen if free or inline else 0 < exact < seen


def test_exact_is_priced_first(made: Made) -> None:
    path, _, rows = made
    index = open_index(path)
    value = {"stock": True, "year": {"$gte": 1955}}
    with patch.object(facets, "FREE_BYTES", 0):
        got = ask(index, FacetQuery({"lang": {"top": 5}}, value, exact=True))
        assert got.facets[0].exact and got.matched.exact
        check(got.facets[0], list(compress(rows, matching(value, rows))), index)
        if index.root.projections:
            with pytest.raises(LimitError, match=r"what counting lang reads is \d+ bytes in \d+ GETs"):
                ask(index, FacetQuery({"lang": {"top": 5}}, value, exact=True, budget=facets.Budget(bytes=1000)))


def test_what_is_not_known_of_blocks_is_refused(made: Made) -> None:
    """An index of very many blocks has no counts: it counts as far as the budget goes, or as the root knows."""
    path, _, rows = made
    index, value = open_index(path), {"stock": True}
    segment, taken = index.segment, list(compress(rows, matching(value, rows)))
    segment.root = replace(segment.root, counts=None, projections=())
    got = ask(index, FacetQuery({"year": {"top": 7}, "lang": {"top": 9}}, value))
    for one in got.facets:
        assert one.exact
        check(one, taken, index)
    segment.resident = None
    for exact in (False, True):
        with pytest.raises(InputError, match="year cannot be counted in this index, which has too many blocks"):
            ask(index, FacetQuery({"year": {"top": 7}}, value, exact=exact))
    got = ask(index, FacetQuery({"lang": {"top": 9}, "tags": {"top": 3}, "at": {"buckets": 4}}))
    assert [one.exact for one in got.facets] == [True, True, False] and got.matched.rows == ROWS
    for one in got.facets:
        check(one, rows, index)


def test_time_may_be_up(made: Made) -> None:
    path, _, rows = made
    index, value = open_index(path), {"stock": True}
    if not index.root.projections:
        return
    over = Deadline()
    over.end()
    plan = index.plan_facets(FacetQuery({"lang": {"top": 9}}, value))
    got = asyncio.run(index.facets(plan, Receipt(), over))
    assert not got.complete and not got.facets[0].exact
    check(got.facets[0], list(compress(rows, matching(value, rows))), index)


def test_what_no_value_can_be_is_damage(made: Made) -> None:
    index = open_index(made[0])
    root = index.root
    wrong = {"lang": {"distinct": 1, "ends": (0, 1)}, "at": {"low": -(1 << 62)}, "price": {"high": (1 << 63) - 1}}
    fields = [replace(f, **wrong.get(root.names[f.attribute], {})) for f in root.filters]
    index.segment.root = replace(root, filters=tuple(fields))
    for name, facet in (("lang", {"top": 3}), ("at", {"buckets": 3}), ("price", {"buckets": 3})):
        with pytest.raises(DamagedError, match="a text that is none of 1" if name == "lang" else "has key"):
            ask(index, FacetQuery({name: facet}, {"stock": True}))


def test_the_command_line_and_the_library(made: Made) -> None:
    path, _, rows = made
    args = ["facets", str(path), "lang", "year", "tags", "--filter", '{"stock": true}', "--top", "3"]
    done = CliRunner().invoke(app, [*args, "--json"])
    body = json.loads(done.stdout)
    taken = [row for row in rows if row["stock"]]
    assert done.exit_code == 0 and body["matched"] == len(taken) and body["complete"]
    best = Counter(row["lang"] for row in taken if row["lang"] is not None).most_common(1)[0]
    assert tuple(body["facets"]["lang"]["values"][0].values()) == best
    assert sum(one["count"] for one in body["facets"]["year"]["buckets"]) == sum(
        row["year"] is not None for row in taken
    )
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0 and f"of {len(taken)} rows" in shown.stdout and "(missing)" in shown.stdout
    near = CliRunner().invoke(app, [*args, "--id", "5", "--top-k", "50", "--json"])
    assert near.exit_code == 0 and json.loads(near.stdout)["matched"] == 50
    library = VectorIndex.load(path)
    got = library.facets({"lang": {"top": 3}}, filter={"stock": True}, exact=True)
    assert got["facets"]["lang"] == body["facets"]["lang"]
    near_too = library.facets({"lang": {"top": 3}}, nearest=np.ones(16), k=7)
    assert near_too["matched"] == 7 and near_too["facets"]["lang"]["exact"]


def test_of_the_nearest_rows(made: Made) -> None:
    path, x, rows = made
    index, draw = open_index(path), Random(3)
    for _ in range(20):
        value = random_filter(draw)
        query = Query(x[draw.randrange(ROWS)].tolist(), 100, attributes=True, filter=value)
        got = ask(index, FacetQuery(random_facets(draw), value, within=query))
        found = asyncio.run(index.query(query))
        assert got.complete and got.matched.exact and got.matched.rows == len(found.matches)
        for one in got.facets:
            assert one.exact
            check(one, [rows[int(m.id)] for m in found.matches], index)
    assert json.dumps(got.receipt.as_dict())
