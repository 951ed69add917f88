"""Rows of any shape: none is refused for its recall, what is promised is kept, and what it costs is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles import Built
from small import RowsOf, clustered, vantage

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.evaluate.evaluate import evaluate
from build_index.ingest.open import open_source
from build_index.ingest.queries import Queries
from build_index.ingest.rows import LENGTH_MAX, origin_of, temper
from build_index.neighbours.exact import exact_scores
from build_index.tune.options import Options
from build_index.write.vectors import stored_kind
from vantage.errors import DamagedError
from vantage.format import PROMISED_RERANK_MAX, RERANK_MAX, Root
from vantage.search.prepare import prepare
from vantage.search.rank import exact_score

K, RECALL = 10, 0.9
DRAW = np.random.default_rng(0)


def tight(rows: int, dimension: int, clusters: int, spread: float) -> np.ndarray:
    centres = DRAW.normal(size=(clusters, dimension))
    return centres[DRAW.integers(clusters, size=rows)] + spread * DRAW.normal(size=(rows, dimension))


SHAPES = {  # (rows and as many more as queries, metric)
    "far from zero": (clustered(1200, 16, 1) + 1e4, "l2"),
    "a city": (np.array([48.85, 2.35]) + 0.05 * DRAW.normal(size=(1200, 2)), "l2"),
    "near copies": (tight(1200, 16, 4, 1e-5), "l2"),
    "near copies, cosine": (tight(1200, 16, 4, 1e-4), "cosine"),
    "heavy tails": (DRAW.standard_cauchy(size=(1200, 12)), "l2"),
    "one far away": (np.concatenate([clustered(499, 12, 2), np.full((1, 12), 1e5), clustered(700, 12, 2)]), "l2"),
    "inner products far from zero": (clustered(1200, 12, 3) + 1e3, "dot"),
    "numbers": (1e6 + 10 * DRAW.normal(size=(1200, 1)), "l2"),
}
ROWS = 1000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SHAPES)
def test_any_shape_builds_and_keeps_its_promise(name: str, tmp_path: Path) -> None:
    x, metric = SHAPES[name][0].astype(np.float32), SHAPES[name][1]
    np.save(tmp_path / "x.npy", x[:ROWS])
    told = list[str]()
    report = build(
        open_source([tmp_path / "x.npy"]),
        BuildContext(tmp_path / "b" / "x", metric, Options(RECALL, K, fast=True), note=told.append),
    )
    assert report.choice.contract.target == RECALL
    found = evaluate(tmp_path / "b" / "x", Queries(x[ROWS:], None), k=K)
    assert found["recall"] >= RECALL - 0.05 and found["incomplete"] == 0  # of 200 queries; 50 rows held out
    promise = next(p for p in report.choice.promises.by_recall if p.recall >= RECALL)
    assert any("exact scores of" in sentence for sentence in told) == (promise.rerank > RERANK_MAX)
    index = open_index(tmp_path / "b" / "x")
    assert any("kept as f32" in sentence for sentence in told) == (index.root.index.vector_kind == "f32")


def test_near_copies_keep_what_is_promised_at_each_k(tmp_path: Path) -> None:
    """Codes put rows of one cluster in any order: ten answers take exact scores where a hundred need none."""
    draw = np.random.default_rng(11)
    x = (draw.normal(size=(60, 64))[draw.integers(60, size=3200)] + 0.02 * draw.normal(size=(3200, 64))).astype("f4")
    np.save(tmp_path / "x.npy", x[:3000])
    out = tmp_path / "b" / "x"
    report = build(open_source([tmp_path / "x.npy"]), BuildContext(out, "cosine", Options(RECALL, 100, fast=True)))
    assert {ladder.k for ladder in report.choice.promises.others} >= {1, 10, 1000}
    for k in (1, 10, 30, 100, 300, 1000):
        found = evaluate(out, Queries(x[3000:], None), k=k)
        assert found["recall"] >= RECALL - 0.04 and found["incomplete"] == 0, k
    assert evaluate(out, Queries(x[3000:], None), k=10)["scan_cost"] < 0.25


def test_a_recall_that_nothing_keeps_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the vectors of few rows were all that a query may read."""
    monkeypatch.setattr("build_index.tune.choose.PROMISED_RERANK_MAX", 20)
    x = tight(600, 16, 2, 1e-5).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = vantage("build", tmp_path / "x.npy", "--out", tmp_path / "b" / "x", "--fast", "--metric", "l2", "--k", K)
    assert ran.code == 0 and "of the 0.95 that was asked for, a recall of 0." in " ".join(ran.err.split())
    assert 0 < open_index(tmp_path / "b" / "x").root.contract.target < 0.95


@pytest.mark.parametrize("shift", [0.0, 1.0, 1000.0, -1e5])
def test_a_shift_of_all_rows_changes_nothing_under_l2(rows_of: RowsOf, shift: float) -> None:
    """Of numbers that float32 holds exactly before and after."""
    x = np.round(clustered(300, 8, 5) * 16) / 16
    still, moved = (rows_of(x + s, "l2", None) for s in (0.0, shift))
    assert np.allclose(moved.origin, still.origin + shift, rtol=1e-6)
    assert moved.scale == pytest.approx(still.scale, rel=1e-3)
    assert np.allclose(moved.slice(0, 300), still.slice(0, 300), atol=2e-2)


def test_the_origin_is_amid_the_rows_whatever_some_of_them_are() -> None:
    x = clustered(400, 6, 7) + 50
    plain = origin_of(x)
    assert np.abs(plain - x.mean(0)).max() < 1
    x[::5] = 1e12
    assert np.abs(origin_of(x) - plain).max() < 2
    for few in (x[:1], x[1:3], x[1:4]):
        assert np.isfinite(origin_of(few)).all() and (origin_of(few) >= few.min(0)).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_rows_stay_within_what_scores_hold(rows_of: RowsOf, scale: float) -> None:
    x = np.concatenate([clustered(300, 8, 5), np.full((1, 8), 3e3)]) * scale + 3 * scale
    rows = rows_of(x.astype(np.float32), "l2", None)
    norms = np.linalg.norm(rows.slice(0, 301), axis=1)
    assert norms.max() <= LENGTH_MAX["l2"] and np.median(norms) == pytest.approx(1, rel=0.2)


def test_exact_scores_are_of_the_vectors_as_given(words: Built, points: Built) -> None:
    for built in (words, points):
        index = open_index(built.bucket / built.name)
        section = index.root.index
        draw = np.random.default_rng(1)
        q, x = draw.integers(0, 200, (2, 5, section.dimension))
        for query, row in zip(q, x, strict=True):
            stored = row.astype({"f16": "<f2", "f32": "<f4", "u8": "u1", "i8": "i1"}[section.vector_kind])
            score = exact_score(stored.tobytes(), prepare(query.tolist(), section), section)
            want = exact_scores(query[None].astype(np.float32), row[None, None].astype(np.float32), section.metric)[0]
            assert score == pytest.approx(-float(want[0, 0]) if section.metric == "l2" else float(want[0, 0]), rel=1e-5)


@pytest.mark.parametrize(
    ("x", "vectors", "kind"),
    [
        (clustered(300, 16, 1), None, "f16"),
        (clustered(300, 16, 1), "f32", "f32"),
        (clustered(300, 16, 1) + 300, None, "f32"),
        (clustered(300, 16, 1) + 300, "f16", "f16"),
        (clustered(300, 16, 1) * 1e5, None, "f32"),
        (clustered(300, 16, 1).astype(np.float16), None, "f16"),
        (DRAW.integers(0, 200, (300, 16)).astype(np.uint8), None, "u8"),
        (DRAW.integers(0, 200, (300, 16)).astype(np.uint8), "f32", "u8"),
    ],
)
def test_full_vectors_are_kept_as_f16_where_that_loses_nothing(
    rows_of: RowsOf, x: np.ndarray, vectors: str | None, kind: str
) -> None:
    rows = rows_of(x, "l2", None)
    each = rows.slice(0, 300)
    near = float(np.median(np.sort(np.linalg.norm(each[:, None] - each, axis=2), 1)[:, 10]))
    assert stored_kind(rows, near, vectors) == kind


def test_promises_of_more_exact_scores_are_bounded(points: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, and by bytes."""
    root = open_index(points.bucket / points.name).root
    assert root.promises is not None

    def promising(rerank: int) -> bytes:
        assert root.promises is not None
        promises = tuple(replace(p, rerank=rerank) for p in root.promises.by_recall)
        return replace(root, promises=replace(root.promises, by_recall=promises)).pack()

    assert Root.unpack(promising(PROMISED_RERANK_MAX), "x").promises is not None
    with pytest.raises(DamagedError, match="a promise is out of range"):
        Root.unpack(promising(PROMISED_RERANK_MAX + 1), "x")
    monkeypatch.setattr("vantage.format.root.PROMISED_VECTORS_MAX", 1000 * root.index.dimension)
    assert Root.unpack(promising(1000), "x").promises is not None
    with pytest.raises(DamagedError, match="a promise reads 1001 full vectors"):
        Root.unpack(promising(1001), "x")


def test_far_rows_do_not_outweigh_the_rest() -> None:
    x = clustered(400, 6, 7)
    assert temper(x) is x
    far = x.copy()
    far[::50] *= 1e6
    cut = temper(far)
    assert np.array_equal(np.delete(cut, np.s_[::50], 0), np.delete(x, np.s_[::50], 0))
    lengths = np.linalg.norm(cut, axis=1)
    assert lengths.max() <= 4.01 * np.median(lengths)
    assert np.allclose(
        cut[::50] / lengths[::50, None], far[::50] / np.linalg.norm(far[::50], axis=1)[:, None], rtol=1e-5
    )
    assert not temper(np.zeros((3, 2), np.float32)).any()
