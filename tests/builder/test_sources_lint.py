"""Lint: each finding where it is due, none where it is not, and the notes of a build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small import clustered, vantage

from build_index.ingest.lint import Finding, lint
from build_index.ingest.open import open_source


def found(tmp_path: Path, x: np.ndarray, metric: str = "l2") -> dict[str, Finding]:
    np.save(tmp_path / "x.npy", x)
    return {finding.name: finding for finding in lint(open_source([tmp_path / "x.npy"]), metric)}


def test_nothing_odd(tmp_path: Path) -> None:
    assert set(found(tmp_path, clustered(1000, 8, 1))) == {"contrast"}
    assert found(tmp_path, clustered(50, 8, 1)) == {}  # too few rows to compare


def test_rows_that_a_build_refuses(tmp_path: Path) -> None:
    x = clustered(1000, 8, 2)
    x[[3, 500, 999], 2] = np.nan, np.inf, -np.inf
    x[[4, 998]] = 0
    told = found(tmp_path, x, "cosine")
    assert (told["not_finite"].rows, told["zero"].rows) == ([3, 500, 999], [4, 998])
    assert told["not_finite"].level == told["zero"].level == "error"
    assert "x.npy row 3, " in told["not_finite"].what
    assert found(tmp_path, x, "l2")["zero"].level == "note"
    ran = vantage("lint", tmp_path / "x.npy", "--json")
    assert ran.code == 1 and '"not_finite"' in ran.out
    assert set(found(tmp_path, np.full((30, 4), np.nan, np.float32))) == {"not_finite"}


def test_duplicates_constants_and_norms(tmp_path: Path) -> None:
    x = clustered(1000, 8, 3)
    x[10:15] = x[20]
    x[:, 6:] = 1.5, -2
    told = found(tmp_path, x, "dot")
    assert told["duplicates"].count == 5
    assert told["constant"].what == "2 of 8 dimensions never change: 6, 7"
    assert told["norms"].count == 1000 and "long rows win" in told["norms"].todo
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert "norms" not in found(tmp_path, unit.astype(np.float32), "dot")


def test_hubs(tmp_path: Path) -> None:
    """Rows on a sphere of many dimensions, and one in its middle: it is near all of them."""
    x = np.random.default_rng(4).normal(size=(1000, 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert "hubs" not in found(tmp_path, x)
    x[7] = 1e-3
    assert found(tmp_path, x)["hubs"].count == 1


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize(("spread", "told"), [(1e-4, True), (1e-3, True), (0.1, False), (0.0, False)])
def test_near_copies(tmp_path: Path, spread: float, told: bool, metric: str) -> None:
    draw = np.random.default_rng(4)
    x = draw.normal(size=(300, 16))[draw.integers(300, size=1500)] + spread * draw.normal(size=(1500, 16))
    x = x + (50 if metric == "l2" else 0)
    assert ("near_copies" in found(tmp_path, x.astype(np.float32), metric)) == told


@pytest.mark.parametrize(("spread", "word"), [(None, "hard"), (0.01, "easy")])
def test_contrast(tmp_path: Path, spread: float | None, word: str) -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(1500, 256))
    if spread:
        x = x[np.arange(1500) % 5] + spread * x
    assert found(tmp_path, x.astype(np.float32))["contrast"].what.startswith(word)


def test_a_build_says_it_and_keeps_the_model(tmp_path: Path) -> None:
    x = clustered(600, 8, 6)
    x[:, 7] = 3
    np.save(tmp_path / "x.npy", x)
    options = ("--metric", "l2", "--k", 5, "--fast", "--model", "words-2", "--memory-budget", "640MiB")
    ran = vantage("build", tmp_path / "x.npy", "--out", tmp_path / "bucket" / "x", *options)
    assert ran.code == 0 and "1 of 8 dimensions never change: 7" in ran.err
    assert vantage("info", tmp_path / "bucket" / "x", "--json").json()["model"] == "words-2"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("scale", "metric"), [(1e30, "cosine"), (1e25, "l2"), (1e-33, "dot"), (None, "l2"), (None, "dot")]
)
def test_lengths_that_a_build_refuses(tmp_path: Path, scale: float | None, metric: str) -> None:
    x = clustered(300, 8, 1).astype(np.float64)
    x[7] *= 1e9 if scale is None else 1.0
    np.save(tmp_path / "x.npy", (x * (scale or 1.0)).astype(np.float32))
    ran = vantage("lint", tmp_path / "x.npy", "--metric", metric, "--json")
    [found] = [f for f in json.loads(ran.out)["findings"] if f["name"] == "range"]
    assert (found["level"], ran.code) == ("error", 1)
    assert scale is not None or found["rows"] == [7]
    built = vantage("build", tmp_path / "x.npy", "--out", tmp_path / "b" / "x", "--metric", metric, "--vectors", "f32")
    assert built.code == 2 and "truth ..." not in built.err
