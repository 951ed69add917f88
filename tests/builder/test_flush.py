"""Compactions that add to the live generation: every row as it was written last, whatever else happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import clustered, vantage

from build_index.bucket import generations as g
from build_index.bucket.log_store import StoreLog
from build_index.bucket.open import open_index, open_written
from build_index.bucket.store import ObjectStore, store_at
from build_index.compact import compact
from build_index.tune import renditions
from vantage.errors import NotFoundError
from vantage.format.log import NO_KEY, Request, RowShape
from vantage.index import Index
from vantage.log.commit import commit
from vantage.log.conditions import Write
from vantage.log.state import read_log
from vantage.receipt import Receipt
from vantage.search.query import Query

ROWS, DIMENSION = 3000, 16
SHAPE = RowShape(DIMENSION, "bytes", "f16")
Row = tuple[np.ndarray, dict[str, Any]]  # vector f16 (d) as it is stored, attributes


def build(folder: Path, **columns: list[Any]) -> Path:
    """3,000 rows r0, r1, ... with these attributes, in an index whose root does not hold the blocks."""
    x = clustered(ROWS, DIMENSION, 1)
    table = {"id": [f"r{i}" for i in range(ROWS)], "vector": list(x)} | columns
    pq.write_table(pa.table(table), folder / "rows.parquet")
    out = folder / "bucket" / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renditions, "INLINE_BYTES", 0)
        built = vantage("build", folder / "rows.parquet", "--out", out, "--fast", "--metric", "l2", "--filter", "")
    assert built.code == 0, built
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of rows with two attributes, none to filter by."""
    words = [f"w{i % 7}" for i in range(ROWS)]
    return build(tmp_path_factory.mktemp("plain"), n=list(range(ROWS)), word=words)


def oracle_of() -> dict[str, Row]:
    """The rows of `plain`."""
    x = clustered(ROWS, DIMENSION, 1).astype(np.float16)
    return {f"r{i}": (x[i], {"n": i, "word": f"w{i % 7}"}) for i in range(ROWS)}


def write(store: ObjectStore, **parts: Any) -> None:
    """One request, committed to the log."""

    async def run() -> None:
        log = StoreLog(store)
        state = await read_log(log, time.monotonic)
        _, (outcome,) = await commit(log, state, [Write(Request(NO_KEY, 0, **parts))], SHAPE, nothing, time.monotonic)
        assert isinstance(outcome, int), outcome

    asyncio.run(run())


async def nothing(current: Any, ids: Any) -> Any:
    """No condition asks for a row."""
    raise AssertionError


def change(store: ObjectStore, oracle: dict[str, Row], draw: np.random.Generator, step: int, size: int = 30) -> None:
    """One request of upserts, patches and deletes of rows that are there or not, for the index and for the oracle."""
    names = [f"r{i}" for i in draw.choice(ROWS + 300, size, replace=False)]
    put, patch, gone = np.split(np.array(names), [size // 2, 3 * size // 4])
    new = draw.normal(size=(len(put), DIMENSION)).astype(np.float16)
    write(
        store, upserts=[n.encode() for n in put.tolist()], vectors=new.tobytes(),
        attributes=[json.dumps({"n": step, "word": f"v{step}"}).encode()] * len(put),
        patches=[n.encode() for n in patch.tolist()], changes=[json.dumps({"n": -step}).encode()] * len(patch),
        deletes=[n.encode() for n in gone.tolist()],
    )  # fmt: skip
    for name, vector in zip(put.tolist(), new, strict=True):
        oracle[name] = vector, {"n": step, "word": f"v{step}"}
    for name in patch.tolist():
        if name in oracle:
            oracle[name] = oracle[name][0], oracle[name][1] | {"n": -step}
    for name in gone.tolist():
        oracle.pop(name, None)


def check(index: Index, oracle: dict[str, Row], draw: np.random.Generator) -> None:
    """What queries, lookups and the list of all rows give are rows of the oracle, and of the nearest ones most."""
    names = [*oracle]
    x = np.array([oracle[name][0] for name in names], np.float64)
    best = index.root.promises.by_recall[-1].recall  # type: ignore[union-attr]

    async def run() -> None:
        found = 0
        for query in (*x[draw.integers(len(x), size=6)], *draw.normal(size=(2, DIMENSION))):
            q = query.astype(np.float32)
            want = np.sort(((x - q) ** 2).sum(1))[:10]
            answer = await index.query(Query(q.tolist(), 10, best, rerank=200, attributes=True))
            assert len({m.id for m in answer.matches}) == 10
            for match in answer.matches:
                vector, attributes = oracle[match.id.decode()]
                assert np.isclose(((vector.astype(np.float64) - q) ** 2).sum(), match.score, rtol=1e-4, atol=1e-4)
                assert match.attributes == attributes
                found += match.score <= want[-1] * (1 + 1e-4) + 1e-4
        assert found >= 76, found
        for name in draw.choice(names, 5):
            vector, attributes = await index.row(name.encode(), Receipt())
            assert vector == oracle[name][0].astype(float).tolist() and attributes == oracle[name][1]
        for name in {f"r{i}" for i in range(ROWS + 300)} - set(names):
            with pytest.raises(NotFoundError):
                await index.row(name.encode(), Receipt())
            break

    asyncio.run(run())


def listed(where: Path) -> dict[str, dict[str, Any]]:
    """The attributes of every row by its id."""
    return {r["id"]: r["attributes"] for r in vantage("rows", where, "--limit", 9999, "--json").json()["rows"]}


def test_flushes_keep_every_row_as_it_was_written_last(plain: Path, tmp_path: Path) -> None:
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(3)
    store = store_at(str(index))
    for step in range(1, 9):
        change(store, oracle, draw, step)
        check(open_written(index), oracle, draw)
        if step % 2:
            folded = compact(store)
            assert (folded.how, folded.rows, folded.seq) == ("flush", len(oracle), step), folded
            check(open_index(index), oracle, draw)
            assert listed(index) == {name: row[1] for name, row in oracle.items()}
            assert not g.verify(store)["damage"]


def copied(index: Path, to: Path) -> Path:
    """A copy of an index, of its own."""
    import shutil

    return Path(shutil.copytree(index, to / "bucket" / "index"))
