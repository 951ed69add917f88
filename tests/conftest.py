"""Small indexes for the tests, built once a session by the real builder: one a metric, in one bucket folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Read when numpy and faiss are loaded. A thread of theirs that waits for work keeps a core busy, which a worker beside
# this one has use for: all tests together take two thirds of the time so.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Built
from shared import once

from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.read import hedge, reader
from vantage.read.hedge import Hedging
from vantage.search.query import Query

SAMPLE = Path(__file__).parent.parent / "sample" / "wordnet.parquet"
RECALL = 0.9
HELD_OUT = 60
LONG = (  # beside edge/
    "test_wheel.py", "test_memory.py", "test_vector_index.py", "test_fuzz.py", "test_networks.py", "test_tasks.py",
    "test_publish.py", "test_format.py", "test_filtered.py", "test_flush.py", "test_choose.py",
)  # fmt: skip

# A shell ignores SIGINT for what it runs in the background, and processes inherit that: some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is busy with one when the others have nothing left."""
    items.sort(key=lambda item: "edge" not in item.path.parts and item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _new_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test's reads are hedged because of another test's latencies, or because the machine is busy."""
    monkeypatch.setattr(reader, "_HEDGING", Hedging())
    monkeypatch.setattr(hedge, "HEDGE_AFTER_S", 60.0)


def make(
    bucket: Path, scratch: Path, name: str, metric: str, x: np.ndarray, columns: dict[str, Any], seed: int = 0
) -> Built:
    """Builds `name` from all but HELD_OUT rows of x (N, d), which become the queries; evenly spread, so alike."""
    held = np.linspace(0, len(x) - 1, HELD_OUT).astype(int)
    kept = np.setdiff1d(np.arange(len(x)), held)
    flat = pa.array(np.ascontiguousarray(x[kept]).ravel())
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, x.shape[1])})
    for column, values in columns.items():
        table = table.append_column(column, pa.array(values).take(pa.array(kept)))
    pq.write_table(table, scratch / f"{name}.parquet")
    # Copies, so that there are rows in two blocks, pay or not.
    options = Options(RECALL, 10, seed, copies_share=0.35, fast=True)
    with patch.object(renditions, "INLINE_BYTES", 0):  # so that there are blocks to read
        build(open_source([scratch / f"{name}.parquet"]), BuildContext(bucket / name, metric, options))
    ids = table["id"].to_pylist()
    attributes = table.drop_columns(["vector", "id"]).to_pylist()
    stored = x[kept].astype(np.float32)
    return Built(
        bucket, name, metric, stored, [i.encode() if isinstance(i, str) else i for i in ids],
        x[held].astype(np.float32), attributes,
    )  # fmt: skip


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `words`, `points` and `dots`: whole only after these fixtures."""
    return tmp_path_factory.mktemp("bucket")


def kept(bucket: Path, tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Built]) -> Built:
    """A copy in this worker's bucket of what build(bucket) builds once a run."""
    built = once(tmp_path_factory, name, build)
    shutil.copytree(built.bucket / name, bucket / name)
    return replace(built, bucket=bucket)


@pytest.fixture(scope="session")
def words(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """About 3,000 synsets: cosine, 96 f16 (the first of 384, so not of norm 1), string ids, attributes."""

    def build(folder: Path) -> Built:
        table = pq.read_table(SAMPLE)
        table = table.take(pa.array(np.arange(0, len(table), 4)))
        x = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)[:, :96]
        columns = {name: table[name].combine_chunks() for name in ("id", "words", "pos", "gloss")}
        return make(folder, tmp_path_factory.mktemp("source"), "words", "cosine", x, columns)

    return kept(bucket, tmp_path_factory, "words", build)


@pytest.fixture(scope="session")
def widest(words: Built) -> list[np.ndarray]:
    """The queries of `words`, those first whose plans read the most ranges: six of them, down to one."""
    index = words.open()
    ranges = [len(asyncio.run(index.query(Query(q.tolist(), 10))).receipt.wave_sizes[0]) for q in words.queries]
    order = sorted(range(len(ranges)), key=lambda i: -ranges[i])
    assert ranges[order[0]] == 6 and ranges[order[-1]] == 1
    return [words.queries[i] for i in order]


def clustered(rows: int, dimension: int, seed: int) -> np.ndarray:
    """f64 (rows, dimension): Gaussian clusters in some of the directions, as embeddings have them."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(24, dimension)) * np.linspace(2.0, 0.2, dimension)
    return centres[draw.integers(24, size=rows)] + draw.normal(size=(rows, dimension)) * np.linspace(1, 0.1, dimension)


def points_of(bucket: Path, scratch: Path, name: str, seed: int) -> Built:
    x = np.clip(np.rint(128 + 24 * clustered(1500, 24, 1)), 0, 255).astype(np.uint8)
    return make(bucket, scratch, name, "l2", x, {"id": np.arange(1500) * 7 - 4000}, seed)


@pytest.fixture(scope="session")
def points(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """About 1,500 u8 points: l2, 24 dimensions, integer ids (negative ones too), no attributes."""
    scratch = tmp_path_factory.mktemp("source")
    return kept(bucket, tmp_path_factory, "points", lambda folder: points_of(folder, scratch, "points", 0))


@pytest.fixture(scope="session")
def generations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """Two generations of an index `live`, each alone in a bucket of its own: the points, built with two seeds."""

    def build(folder: Path) -> tuple[Built, Built]:
        scratch = tmp_path_factory.mktemp("source")
        first, second = (points_of(folder / str(seed), scratch, "live", seed) for seed in (0, 1))
        return first, second

    first, second = (
        replace(built, bucket=shutil.copytree(built.bucket, tmp_path_factory.mktemp("bucket"), dirs_exist_ok=True))
        for built in once(tmp_path_factory, "generations", build)
    )
    return first, second


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two generations of an index `live` of 300 rows (ids 0 to 299, l2), each alone in a folder; same rows."""
    scratch, out = tmp_path_factory.mktemp("source"), []
    np.save(scratch / "rows.npy", clustered(300, 8, 5).astype(np.float32))
    for seed in (0, 1):
        out.append(tmp_path_factory.mktemp("bucket") / "live")
        with patch.object(renditions, "INLINE_BYTES", 0):
            build(open_source([scratch / "rows.npy"]), BuildContext(out[-1], "l2", Options(0.8, 5, seed, fast=True)))
    return out[0], out[1]


@pytest.fixture(scope="session")
def dots(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """About 700 f16 rows of differing norms: dot, 33 dimensions, integer ids, one attribute."""

    def build(folder: Path) -> Built:
        x = clustered(750, 33, 2) * np.random.default_rng(3).uniform(0.5, 2, (750, 1))
        columns = {"id": np.arange(750), "label": [f"row {i}" for i in range(750)]}
        return make(folder, tmp_path_factory.mktemp("source"), "dots", "dot", x.astype(np.float16), columns)

    return kept(bucket, tmp_path_factory, "dots", build)
