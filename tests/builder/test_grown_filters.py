"""Grown indexes with filters: what is found, listed, counted and proven is of the live rows alone, by plain Python."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import test_faceted
import test_filtered
import test_listing
from filters import HASHED, matching, random_filter
from fixtures.grown import grown_folder
from test_filtered import DIMENSION, NAMES, ROWS, made_up, scores, table_of

from build_index.audit.verify import verify_deep
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.search import facets
from vantage.search.facets import FacetQuery
from vantage.search.listing import Listing
from vantage.search.query import Query

# The folder; vectors and rows by id; which of them live; the metric.
Grown = tuple[Path, np.ndarray, list[dict[str, Any]], np.ndarray, str]


@pytest.fixture(scope="module", params=["l2"])
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Under cosine blocks say where the attributes of their rows are."""
    folder, metric = tmp_path_factory.mktemp(request.param), request.param
    x, rows = made_up(3)
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    long = patch("build_index.write.contents.are_long", return_value=metric == "cosine")
    with long, patch.object(renditions, "INLINE_BYTES", 0):
        options = Options(0.9, 10, fast=True, error_norms=True, filters=NAMES, copies_share=0.3)
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "plain", metric, options))
    dead = grown_folder(folder / "plain", folder / "grown", 4)
    root = open_index(folder / "grown").root
    assert root.projections and root.bounds and root.index.by_row == (metric == "cosine")
    parts = sorted(set(root.rows.vector_object))
    keys = [root.objects.resolve("", open_index(folder / "grown").current.generation)[number] for number in parts]
    ids = [i for key in keys for i in pq.read_table(folder / "grown" / key, columns=["id"])["id"].to_pylist()]
    live = np.ones(ROWS, bool)
    live[[ids[row] for row in dead]] = False
    return folder / "grown", x, rows, live, metric


def taken_of(grown: Grown, value: Any) -> np.ndarray:
    """bool (N): the live rows that a filter takes."""
    _, _, rows, live, _ = grown
    return live & np.array(matching(value or {}, rows))


def test_routed_answers_match_and_are_mostly_found(grown: Grown) -> None:
    path, x, _, _, metric = grown
    index, draw, rng, recalls = open_index(path), Random(2), np.random.default_rng(2), []
    for turn in range(40):
        value, q = random_filter(draw), x[draw.randrange(ROWS)] + 0.1 * rng.normal(size=DIMENSION).astype(np.float32)
        distinct = "year" if turn % 10 == 0 else None
        match = taken_of(grown, value)
        got = test_filtered.ask(index, Query(q.tolist(), 10, filter=value, distinct=distinct))
        ids = [int(m.id) for m in got.matches]
        assert match[ids].all() and len(set(ids)) == len(ids)
        if distinct:
            continue
        assert got.complete and len(ids) == min(10, match.sum()), (value, len(ids), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        best = np.where(match, scores(x, q, metric), -np.inf)
        want = set(np.argsort(-best)[: min(10, match.sum())].tolist())
        recalls += [len(want & set(ids)) / len(want)] if want else []
    assert np.mean(recalls) > 0.9, np.mean(recalls)


def test_exact_answers_are_the_best_live_rows(grown: Grown) -> None:
    path, x, _, live, metric = grown
    index, draw, rng = open_index(path), Random(1), np.random.default_rng(1)
    for turn in range(20):
        value, q = random_filter(draw), x[draw.randrange(ROWS)] + 0.1 * rng.normal(size=DIMENSION).astype(np.float32)
        value = value if turn % 2 else None
        match = taken_of(grown, value)
        got = test_filtered.ask(index, Query(q.tolist(), 20, filter=value, exact=True))
        best = np.where(match, scores(x.astype(np.float16), q, metric), -np.inf)
        want = np.argsort(-best, kind="stable")[: min(20, match.sum())]
        assert got.complete and got.recall_estimate == 1 and live[[int(m.id) for m in got.matches]].all()
        assert {m.id for m in got.matches} == set(want.tolist()) or np.allclose(
            np.sort(best[[m.id for m in got.matches]]), np.sort(best[want]), rtol=1e-3
        )
        proof = got.receipt.proof
        assert proof is not None and proof["vectors_read"] + proof["rows_excluded"] == live.sum()


def test_all_pages_are_the_live_rows(grown: Grown) -> None:
    path, _, rows, live, _ = grown
    index, draw = open_index(path), Random(3)
    for _ in range(15):
        value = random_filter(draw) if draw.random() < 0.8 else None
        asked: dict[str, Any] = {"attributes": False} | ({"filter": value} if value is not None else {})
        name = draw.choice(test_listing.SCALARS)
        if draw.random() < 0.5 and name not in HASHED:
            asked["order_by"] = {name: draw.choice(("asc", "desc"))}
        if draw.random() < 0.3:
            asked["distinct"] = name
        got = test_listing.walked(index, draw, **asked)
        assert live[got].all()
        # Dead rows are there as rows that no filter takes.
        number = {int(i): at for at, i in enumerate(np.flatnonzero(live))}
        test_listing.check([number[i] for i in got], [rows[i] for i in np.flatnonzero(live)], asked)
    page = test_listing.ask(index, Listing(limit=50, vectors=True, order_by={"at": "asc"}))
    for row in page.rows:
        assert row.attributes is not None and row.attributes["year"] == rows[int(row.id)]["year"]


@pytest.mark.parametrize("free", [8 << 20, 0])
def test_counts_are_right_or_within_their_bounds(grown: Grown, free: int) -> None:
    path, _, rows, live, _ = grown
    index, draw, exact, seen = open_index(path), Random(free), 0, 0
    with patch.object(facets, "FREE_BYTES", free):
        for turn in range(16):
            value = random_filter(draw) if turn % 4 else None
            taken = [rows[i] for i in np.flatnonzero(taken_of(grown, value))]
            got = test_faceted.ask(index, FacetQuery(test_faceted.random_facets(draw), value))
            for one in got.facets:
                test_faceted.check(one, taken, index)
                exact, seen = exact + one.exact, seen + 1
            assert got.complete and (not got.matched.exact or got.matched.rows == len(taken)), (value, got.matched)
    assert exact == seen if free else 0 < exact < seen
    assert index.root.live_rows == live.sum()


def test_it_is_verified(grown: Grown) -> None:
    path, _, _, live, _ = grown
    report = verify_deep(FolderStore(path))
    assert report["damage"] == [] and report["rows"] == live.sum() and report["codes"] > 0
