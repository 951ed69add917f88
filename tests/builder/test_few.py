"""Few rows: an index of any size from one row answers, all it has, exactly, whatever is promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import clustered, vantage

from build_index import VectorIndex
from build_index.blocks import PARTITIONS
from build_index.routers import ROUTERS
from build_index.tune.few import FEW_ROWS


def brute(x: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """f64 (Q, N): scores as they are answered, of vectors kept as f16."""
    x, queries = x.astype(np.float16).astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return ((x - queries[:, None]) ** 2).sum(2)
    if metric == "cosine":
        x, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, queries))
    return queries @ x.T


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize(
    ("rows", "dimension"), [(1, 8), (2, 1), (3, 40), (19, 5), (20, 33), (50, 32), (199, 6), (200, 2)]
)
def test_every_answer_is_exact(metric: str, rows: int, dimension: int) -> None:
    """Of any k, for any recall; where there are fewer rows than are asked for, -1 and NaN follow them."""
    draw = np.random.default_rng(rows)
    x, queries = draw.normal(size=(rows, dimension)), draw.normal(size=(4, dimension)).astype(np.float32)
    made = VectorIndex(metric=metric, recall=0.99999, k=10, error_norms=True, seed=rows, vectors="f16").fit(x)
    best = np.sort(brute(x, queries, metric) * (1 if metric == "l2" else -1)) * (1 if metric == "l2" else -1)
    asked: list[dict[str, Any]] = [{}, {"recall": 0.5}, {"exact": True}]
    for k in {1, min(rows, 7), rows, rows + 5}:
        for more in asked:
            found = made.search(queries, k, **more)
            there = min(k, rows)
            assert np.allclose(found.scores[:, :there], best[:, :there], rtol=1e-4, atol=1e-5)
            assert all(len(set(ids)) == there for ids in found.ids[:, :there].tolist())
            assert (found.ids[:, there:] == -1).all() and np.isnan(found.scores[:, there:]).all()


@pytest.mark.parametrize("router", [None, *ROUTERS])
def test_routers_have_nothing_to_decide(router: str | None) -> None:
    x = clustered(30, 6, 1)
    made = VectorIndex(router=router, metric="l2", k=100).fit(x)
    assert (made.search(x, 1).ids[:, 0] == np.arange(30)).all() and made.recall_ == 1


@pytest.mark.parametrize(
    "options",
    [{"partition": name} for name in PARTITIONS]
    + [{"codec": name} for name in ("sign", "rabitq", "pq")]
    + [{"rotation": name} for name in ("pca", "bor", "dense")]
    + [{"second_wave": True}, {"vectors": "f32"}],
)
def test_options_that_change_little(options: dict[str, str]) -> None:
    x = clustered(7, 5, 2)
    made = VectorIndex(**options, metric="dot").fit(x)
    want = np.argsort(-brute(x, x, "dot"), axis=1)
    assert (made.search(x, 7).ids == want).all()


@pytest.mark.parametrize("rows", [1, 60])
def test_by_the_command_line(tmp_path: Path, rows: int) -> None:
    """Built, told, asked by vector and id, measured, verified."""
    x = clustered(rows, 6, 3)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "bucket" / "few"
    ran = vantage("build", tmp_path / "x.npy", "--out", out, "--metric", "l2", "--recall", 0.999, "--json")
    told = ran.json()
    assert (told["k"], told["recall"], told["blocks"]) == (rows, 1.0, 1)
    assert f"there are {rows} rows, so recall is promised at k = {rows}" in ran.err
    answer = vantage("query", out, "--id", 0, "--top-k", 100, "--json").json()
    assert answer["complete"] and answer["scores"] == "exact" and len(answer["matches"]) == rows - 1
    assert answer["recall_estimate"] == (1.0 if rows > 1 else None)  # of none but itself nothing can be said
    measured = vantage("eval", out, "--queries", tmp_path / "x.npy", "--json").json()
    assert (measured["k"], measured["recall"], measured["incomplete"]) == (rows, 1.0, 0)
    assert told["gets"] == measured["gets"] and told["bytes_read"] == measured["bytes"]
    curve = vantage("eval", out, "--queries", tmp_path / "x.npy", "--curve", "--json").json()
    assert [p["recall"] for p in curve["points"]] == [1.0]
    assert vantage("info", out, "--json").json()["recall"] == 1.0
    assert vantage("verify", out, "--deep").code == 0


def test_what_is_loaded_grows_and_shrinks(tmp_path: Path) -> None:
    """From one row to more than are few, and back to one."""
    x = clustered(FEW_ROWS + 60, 6, 4)
    made = VectorIndex(metric="l2", k=5, recall=0.8, fast=True).fit(x[:1])
    made.save(tmp_path / "few")
    again = VectorIndex.load(tmp_path / "few")
    assert again.rotation is None and again.recall_ == 1
    again.train_incremental((x[n : 2 * n], np.arange(n, 2 * n)) for n in (1, 2, 4, 8, 16, 32, 64, 128))
    points = again._index.choice.contract.points
    assert len(again) == 256 > FEW_ROWS and len(points) > 1 and points[0].price > 0  # measured by now, not exact
    again.remove(np.arange(1, 256))
    assert again.search(x[:2], 3).ids.tolist() == [[0, -1, -1]] * 2
    manifest = json.loads(next((tmp_path / "few").glob("*/manifest.json")).read_bytes())
    assert manifest["rotation"]["name"] == "hadamard"
