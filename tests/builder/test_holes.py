"""Where all rows near a query are gone: it looks farther, until it has what it asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from log_writes import write_rows
from small import vantage

from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.compact import compact
from vantage.format.log import RowShape
from vantage.search.query import Query

ROWS, DIMENSION, CLUSTERS = 8000, 48, 60


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """(an index of rows in clusters far apart, one of which was deleted; rows; numbers of those that went)."""
    folder, draw = tmp_path_factory.mktemp("clusters"), np.random.default_rng(3)
    own = draw.integers(CLUSTERS, size=ROWS)
    x = (8 * draw.normal(size=(CLUSTERS, DIMENSION))[own] + 0.3 * draw.normal(size=(ROWS, DIMENSION))).astype("f4")
    np.save(folder / "rows.npy", x)
    path, gone = folder / "bucket" / "index", np.flatnonzero(own == 0)
    assert vantage("build", folder / "rows.npy", "--out", path, "--fast", "--metric", "l2").code == 0
    store, index = FolderStore(path), open_index(path).root.index
    write_rows(store, RowShape(DIMENSION, "i64", index.vector_kind), deletes=gone.tolist())
    assert compact(store).how == "flush"
    return path, x, gone


@pytest.mark.parametrize("k", [1, 10, 100])
def test_rows_are_found_behind_those_that_are_gone(clusters: tuple[Path, np.ndarray, np.ndarray], k: int) -> None:
    path, x, gone = clusters
    index = open_index(path)
    for row in gone[:5]:
        answer = asyncio.run(index.query(Query(x[row].tolist(), k)))
        ids = [m.id for m in answer.matches]
        assert len(set(ids)) == k and not set(ids) & set(gone.tolist()) and answer.complete
        apart = ((x - x[row]) ** 2).sum(1)
        apart[gone] = np.inf
        assert apart[ids].mean() < 0.95 * apart[np.isfinite(apart)].mean()  # the router knows little of what is farther
        assert answer.recall_estimate is None and answer.receipt.gets < 20


def test_others_read_no_more(clusters: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, x, gone = clusters
    index, others = open_index(path), np.setdiff1d(np.arange(ROWS), gone)[:40]
    answers = [asyncio.run(index.query(Query(x[row].tolist(), 10))) for row in others]
    assert all(answer.receipt.waves <= 2 and answer.recall_estimate is not None for answer in answers)  # exact scores
