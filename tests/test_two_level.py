"""An index of two levels, in-process: one GET of a routing page when cold, none when warm."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from doubles import explained

from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import DamagedError
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.query import Query


@pytest.fixture(scope="module", params=["two-level", "two-level-ecvh"])
def bucket(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, np.ndarray, np.ndarray]:
    """(folder of the index `far`, its rows, queries of the same distribution)."""
    folder, draw = tmp_path_factory.mktemp("bucket"), np.random.default_rng(5)
    centres = draw.normal(size=(60, 32)) * np.linspace(2, 0.3, 32)
    x = (centres[draw.integers(60, size=6040)] + 0.6 * draw.normal(size=(6040, 32))).astype(np.float32)
    np.save(folder / "rows.npy", x[:6000])
    options = Options(0.9, 10, partition="kmeans", copies="none", router=request.param)
    build(open_source([folder / "rows.npy"]), BuildContext(folder / "far", "l2", options))
    return folder, x[:6000], x[6000:]


def opened(folder: Path) -> Index:
    return asyncio.run(Index.open(Folder(folder), "far", Cache(1 << 30), Receipt()))


def test_one_get_more_when_cold_and_none_when_warm(bucket: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, x, queries = bucket
    hits = 0
    for q in queries:
        index = opened(folder)
        cold, again = (asyncio.run(index.query(Query(q.tolist(), 10))) for _ in range(2))
        assert (cold.receipt.waves, len(cold.receipt.wave_sizes[0])) == (2, index.root.router.beam)
        assert (again.receipt.gets, again.receipt.waves) == (0, 0)
        assert [m.id for m in again.matches] == [m.id for m in cold.matches]
        truth = np.argsort(((x - q) ** 2).sum(1))[:10]
        hits += len({m.id for m in cold.matches} & set(truth.tolist()))
    assert hits / (10 * len(queries)) > 0.85


def test_explain_shows_the_page_that_is_read_first(bucket: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, _, queries = bucket
    index, query = opened(folder), Query(queries[0].tolist(), 10)
    shown = explained(index, query)
    answer = asyncio.run(index.query(query))
    pages, beam = shown["routing"], index.root.router.beam
    assert [page["bytes"] for page in pages] == answer.receipt.wave_sizes[0] and len(pages) == beam
    assert sum(page["bytes"] for page in pages) == shown["bytes"]
    for page in pages:
        assert index.root.objects.keys[page["object"]] == "routing.bin"
        assert (page["offset"], page["bytes"]) == tuple(
            getattr(index.root.router, name)[page["page"]] for name in ("offset", "size")
        )
    assert (shown["ranges"], shown["gets"], shown["rounds"], shown["recall_estimate"]) == ([], beam, 1, None)
    warm = explained(index, query)
    assert (warm["routing"], warm["gets"]) == ([], len(warm["ranges"]))
    assert warm["rendition"] == {"number": 0, "codec": 0, "attributes": False}
    assert warm["recall_estimate"] is not None


def test_points_count_the_page(bucket: tuple[Path, np.ndarray, np.ndarray]) -> None:
    """Those of the contract are near what queries read, with the page and its GET."""
    folder, _, queries = bucket
    receipts = [asyncio.run(opened(folder).query(Query(q.tolist(), 10))).receipt for q in queries]
    contract = opened(folder).root.contract
    point = min((p for p in contract.points if p.recall >= contract.target and p.k == 10), key=lambda p: p.recall)
    assert point.gets == pytest.approx(np.mean([r.gets for r in receipts]), abs=0.5)
    assert point.nbytes == pytest.approx(np.mean([r.bytes for r in receipts]), rel=0.2)


def test_a_damaged_page_is_named(bucket: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, _, queries = bucket
    index = opened(folder)
    path = folder / "far" / index.current.generation / "routing.bin"
    whole = path.read_bytes()
    path.write_bytes(bytes(b ^ 1 for b in whole))
    try:
        with pytest.raises(DamagedError, match="routing.bin: checksum of routing page"):
            asyncio.run(index.query(Query(queries[0].tolist(), 10)))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("budget", "waves"),
    [
        (Budget(gets=1), 0),
        (Budget(waves=1), 0),
        (Budget(bytes=100), 0),
        (Budget(gets=2, waves=2), 2),
        (Budget(gets=0), 0),
    ],
)
def test_the_page_counts_in_the_budget(bucket: tuple[Path, np.ndarray, np.ndarray], budget: Budget, waves: int) -> None:
    folder, _, queries = bucket
    answer = asyncio.run(opened(folder).query(Query(queries[0].tolist(), 10, budget=budget)))
    assert answer.receipt.waves <= waves
    assert answer.receipt.gets <= budget.gets and answer.receipt.bytes <= budget.bytes
    if waves < 2:
        assert not answer.complete and answer.recall_estimate is None


def test_more_rows_than_the_page_names(bucket: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, _, queries = bucket
    answer = asyncio.run(opened(folder).query(Query(queries[0].tolist(), 1000)))
    assert len(answer.matches) == 1000 and answer.complete
