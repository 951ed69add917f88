"""Indexes with the routers mlp, tree, ecvh and bec-tree, built, opened and asked in-process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from build_index.build import build
from build_index.context import BuildContext
from build_index.hashing import codewords
from build_index.ingest.open import open_source
from build_index.routers import ecvh, mlp, tree
from build_index.tune.options import Options
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.query import Query
from vantage.search.route import ROUTERS


@pytest.mark.parametrize("router", ["mlp", "tree", "ecvh", "bec-tree"])
def test_an_index_with_a_network_keeps_its_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, router: str
) -> None:
    for module in (mlp, tree, ecvh, codewords):
        monkeypatch.setattr(module, "STEPS", 40)
        monkeypatch.setattr(module, "BATCH", 128)
    draw = np.random.default_rng(5)
    centres = draw.normal(size=(60, 32)) * np.linspace(2, 0.3, 32)
    x = (centres[draw.integers(60, size=2040)] + 0.6 * draw.normal(size=(2040, 32))).astype(np.float32)
    np.save(tmp_path / "rows.npy", x[:2000])
    options = Options(0.9, 10, copies="none", router=router)
    source = open_source([tmp_path / "rows.npy"])
    build(source, BuildContext(tmp_path / "index", "l2", options))
    index = asyncio.run(Index.open(Folder(tmp_path), "index", Cache(1 << 20), Receipt()))
    assert isinstance(index.segment.router, ROUTERS[router])
    hits = 0
    for q in x[2000:]:
        answer = asyncio.run(index.query(Query(q.tolist(), 10)))
        assert len(answer.matches) == 10
        truth = np.argsort(((x[:2000] - q) ** 2).sum(1))[:10]
        hits += len({m.id for m in answer.matches} & set(truth.tolist()))
    assert hits / 400 > 0.85
