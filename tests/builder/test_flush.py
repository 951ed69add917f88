"""Compactions that add to the live generation: every row as it was written last, whatever else happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import Killed
from log_writes import write_rows
from small import clustered, vantage
from test_publish import keys, server  # noqa: F401

from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.open import open_index, open_written
from build_index.bucket.store import ObjectStore, store_at
from build_index.compact import compact
from build_index.ingest.arrays import Arrays
from build_index.tune import renditions
from build_index.vector_index import VectorIndex
from build_index.write.reopen import reopen
from vantage.errors import NotFoundError, VantageError
from vantage.format.log import RowShape
from vantage.index import Index
from vantage.receipt import Receipt
from vantage.search.query import Query

ROWS, DIMENSION = 3000, 16
DAY = 86400.0
SHAPE = RowShape(DIMENSION, "bytes", "f16")
Row = tuple[np.ndarray, dict[str, Any]]  # vector f16 (d) as it is stored, attributes


def build(folder: Path, *more: str, **columns: list[Any]) -> Path:
    """3,000 rows r0, r1, ... with these attributes, in an index whose root does not hold the blocks; more: options
    in the place of --fast.
    """
    x = clustered(ROWS, DIMENSION, 1)
    table = {"id": [f"r{i}" for i in range(ROWS)], "vector": list(x)} | columns
    pq.write_table(pa.table(table), folder / "rows.parquet")
    out = folder / "bucket" / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renditions, "INLINE_BYTES", 0)
        built = vantage(
            "build", folder / "rows.parquet", "--out", out, "--metric", "l2", "--filter", "", *(more or ("--fast",))
        )  # fmt: skip
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
    write_rows(store, SHAPE, **parts)


def change(store: ObjectStore, oracle: dict[str, Row], draw: np.random.Generator, step: int, size: int = 30) -> None:
    """One request of upserts, patches and deletes of rows that are there or not, for the index and for the oracle."""
    names = [f"r{i}" for i in draw.choice(ROWS + 300, size, replace=False)]
    put, patch, gone = np.split(np.array(names), [size // 2, 3 * size // 4])
    near = np.array([row for row, _ in oracle.values()], np.float32)[draw.integers(len(oracle), size=len(put))]
    new = (near + draw.normal(size=near.shape) * np.linspace(0.5, 0.05, DIMENSION)).astype(np.float16)
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
        assert found >= 64, found
        for name in draw.choice(names, 5):
            vector, attributes = await index.row(name.encode(), Receipt())
            assert vector == oracle[name][0].astype(float).tolist() and attributes == oracle[name][1]
        for name in {f"r{i}" for i in range(ROWS + 300)} - set(names):
            with pytest.raises(NotFoundError):
                await index.row(name.encode(), Receipt())
            break

    asyncio.run(run())


def listed(where: str | Path) -> dict[str, dict[str, Any]]:
    """The attributes of every row by its id."""
    return {r["id"]: r["attributes"] for r in vantage("rows", where, "--limit", 9999, "--json").json()["rows"]}


def flushed(where: str | Path, steps: int) -> None:
    """Writes, and flushes every other time, checked in between."""
    store, oracle, draw = store_at(str(where)), oracle_of(), np.random.default_rng(3)
    for step in range(1, steps + 1):
        change(store, oracle, draw, step)
        check(open_written(where), oracle, draw)
        if step % 2:
            folded = compact(store)
            assert (folded.how, folded.rows, folded.seq) == ("flush", len(oracle), step), folded
            check(open_index(where), oracle, draw)
            assert listed(where) == {name: row[1] for name, row in oracle.items()}
            assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]


def test_flushes_keep_every_row_as_it_was_written_last(plain: Path, tmp_path: Path) -> None:
    flushed(copied(plain, tmp_path), 5)


@pytest.mark.usefixtures("keys")
def test_flushes_in_a_bucket(plain: Path) -> None:
    g.publish(plain, store_at("s3://bucket/flushed/index"))
    flushed("s3://bucket/flushed/index", 3)
    assert g.gc(store_at("s3://bucket/flushed/index"), 0)["bytes"] > 0
    assert not verify_deep(store_at("s3://bucket/flushed/index"))["damage"]


def test_answers_of_a_grown_index_are_proven(tmp_path: Path) -> None:
    index = build(tmp_path, "--fast", "--error-norms", n=list(range(ROWS)), word=[f"w{i % 7}" for i in range(ROWS)])
    store, oracle, draw = store_at(str(index)), oracle_of(), np.random.default_rng(6)
    for step in range(1, 3):
        change(store, oracle, draw, step, 60)
        assert compact(store).how == "flush"
        opened, x = open_index(index), np.array([vector for vector, _ in oracle.values()], np.float64)
        assert opened.root.proves and not verify_deep(store)["damage"]
        for q in (*x[[5, -1]], *(3 * draw.normal(size=(3, DIMENSION)))):
            found = asyncio.run(opened.query(Query(q.tolist(), 10, exact=True)))
            want = np.sort(((x - q) ** 2).sum(1))[:10]
            assert found.exact and np.allclose([m.score for m in found.matches], want, rtol=1e-4, atol=1e-4)


def copied(index: Path, to: Path) -> Path:
    """A copy of an index, of its own."""

    return Path(shutil.copytree(index, to / "bucket" / "index"))


def test_a_grown_index_is_read_back_whole(plain: Path, tmp_path: Path) -> None:
    """What a rewrite starts from: rows, attributes, homes and codes of what lives."""
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(4)
    store = store_at(str(index))
    for step in range(1, 6):
        change(store, oracle, draw, step, 60)
        assert compact(store).how == "flush"
    saved = reopen(index)
    rows = saved.rows.stored
    assert isinstance(rows, Arrays) and isinstance(rows.id_of, list)
    assert {i.decode() for i in rows.id_of} == set(oracle) and len(rows.id_of) == len(oracle)
    for i, vector, record in zip(rows.id_of, rows.held, rows.records, strict=True):
        want, attributes = oracle[i.decode()]
        assert np.array_equal(vector, want) and dict(zip(("n", "word"), json.loads(record), strict=True)) == attributes
    members = saved.choice.layout.members()
    known = [b for b, codes in enumerate(saved.codes) if codes is not None]
    assert all(len(saved.codes[b].codes) == len(members[b]) for b in known)  # type: ignore[union-attr]
    again = VectorIndex.load(index)
    again.save(tmp_path / "other" / "index")
    assert listed(tmp_path / "other" / "index") == {name: row[1] for name, row in oracle.items()}
    assert vantage("verify", tmp_path / "other" / "index", "--deep").code == 0


def test_few_objects_are_pending_whatever_comes(plain: Path, tmp_path: Path) -> None:
    """Rows of small flushes are written together: segments of ids and objects of extents stay few, and each live row
    of a flush is in one of them.
    """
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(5)
    store, most = store_at(str(index)), 0
    for step in range(1, 13):
        change(store, oracle, draw, step, 20 if step % 4 else 2)
        assert compact(store).how == "flush"
        root = open_index(index).root
        most = max(most, len(root.id_pages), len(set(root.directory.places[0].object)))  # type: ignore[union-attr]
    assert most <= 4
    write(store, deletes=[b"r7", b"r8"])
    before = {stored.key for stored in store.list()}
    assert compact(store).how == "flush"
    assert {key.rpartition("/")[2] for key in {s.key for s in store.list()} - before if "log" not in key} == {
        "root.bin", "manifest.json"
    }  # fmt: skip


def test_gc_keeps_what_the_live_generation_names(plain: Path, tmp_path: Path) -> None:
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(6)
    store = store_at(str(index))
    names = [g.live(store)[0].generation]
    for step in range(1, 4):
        change(store, oracle, draw, step)
        names.append(compact(store).generation)
    age(index)
    gone = g.gc(store, 7 * DAY, dry_run=True)
    assert g.gc(store, 7 * DAY) == gone | {"dry_run": False} and gone["deleted"] == sorted(names[:2])
    assert g.gc(store, 7 * DAY)["deleted"] == []
    assert not g.verify(store)["damage"]
    left = {s.key for s in store.list()}
    assert f"{names[0]}/root.bin" not in left and f"{names[0]}/ids.bin" in left
    assert {one["generation"]: one["whole"] for one in g.generations(store)}[names[0]] is False
    assert g.rollback(store)["generation"] == names[2] and not g.verify(store)["damage"]
    for name in names[:2]:
        with pytest.raises(NotFoundError, match="no whole generation"):
            g.rollback(store, name)


def test_a_grown_index_is_published_as_it_is(plain: Path, tmp_path: Path) -> None:
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(7)
    store, there = store_at(str(index)), tmp_path / "there" / "index"
    for step in (1, 2):
        change(store, oracle, draw, step)
        compact(store)
    assert g.publish(index, store_at(str(there)))["swapped"]
    assert not g.verify(store_at(str(there)))["damage"]
    assert listed(there) == {name: row[1] for name, row in oracle.items()}
    assert vantage("info", there, "--json").json()["rows"] == len(oracle)
    current, objects, _ = g.find_generation(store, folder_of(index))
    missing = next(o.key for o in objects if o.key.endswith("ids.bin") and not o.key.startswith(current.generation))
    store.delete(missing)
    with pytest.raises(VantageError, match=missing):
        g.publish(index, store_at(str(tmp_path / "third" / "index")))
    assert g.verify(store)["damage"] == [f"{missing}: is missing"]


class Writes:
    """A store before and after whose n-th write something happens; count: writes so far."""

    def __init__(self, inner: ObjectStore, at: int, before: Callable[[], Any], after: Callable[[], Any]) -> None:
        self.inner, self.at, self.count, self.lock = inner, at, 0, threading.Lock()
        self.before, self.after = before, after

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            if name not in ("upload", "put", "swap"):
                return getattr(self.inner, name)(*args)
            with self.lock:
                self.count += 1
                if self.count == self.at:
                    self.before()
                answer = getattr(self.inner, name)(*args)
                if self.count == self.at:
                    self.after()
                return answer

        return run


def rows_of(index: Path) -> dict[str, dict[str, Any]]:
    """The attributes of every row by its id, as a rewrite would have them."""
    rows = reopen(index).rows.stored
    assert isinstance(rows, Arrays) and isinstance(rows.id_of, list)
    return {
        i.decode(): dict(zip(("n", "word"), json.loads(record), strict=True))
        for i, record in zip(rows.id_of, rows.records, strict=True)
    }


def test_a_flush_that_is_killed_loses_nothing(plain: Path, tmp_path: Path) -> None:
    """Behind each of its writes, which is before the next one."""
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(8)
    change(store_at(str(index)), oracle, draw, 1)
    compact(store_at(str(index)))
    was = {name: row[1] for name, row in oracle.items()}
    change(store_at(str(index)), oracle, draw, 2)
    want, at = {name: row[1] for name, row in oracle.items()}, 0

    def end() -> None:
        raise Killed

    while True:
        at += 1
        there = Path(shutil.copytree(index, tmp_path / str(at) / "index"))
        store = store_at(str(there))
        try:
            compact(Writes(store, at, nothing_else, end))
            break
        except Killed:
            pass
        assert not g.verify(store)["damage"] and rows_of(there) in (was, want), at
        age(there)
        g.gc(store, 7 * DAY)
        assert compact(store).rows == len(oracle) and rows_of(there) == want, at
        shutil.rmtree(there.parent)
    assert at > 8


def nothing_else() -> None:
    """What happens where nothing does."""


def test_compactions_race(plain: Path, tmp_path: Path) -> None:
    """Another one, and a gc, come at each write of a compaction: one goes live, and the rows are those that were
    written, those too that come meanwhile.
    """
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(9)
    change(store_at(str(index)), oracle, draw, 1)
    compact(store_at(str(index)))
    age(index)
    change(store_at(str(index)), oracle, draw, 2)
    at = 0
    while True:
        at += 3
        there, also = Path(shutil.copytree(index, tmp_path / str(at) / "index")), dict(oracle)
        store = store_at(str(there))

        def others(store: ObjectStore = store, also: dict[str, Row] = also) -> None:
            compact(store)
            change(store, also, np.random.default_rng(10), 3)
            g.gc(store, 7 * DAY)

        racing = Writes(store, at, others, nothing_else)
        compact(racing)
        if racing.count < at:
            break
        compact(store)
        assert not g.verify(store)["damage"]
        assert rows_of(there) == {name: row[1] for name, row in also.items()}
    assert at > 8


def folder_of(index: Path) -> str:
    """The live generation."""
    return g.live(store_at(str(index)))[0].generation


def age(home: Path) -> None:
    """Makes everything a month old."""
    for path in (p for p in home.rglob("*") if p.is_file()):
        os.utime(path, (time.time() - 30 * DAY,) * 2)


def test_a_grown_index_is_measured_against_the_rows_that_live(plain: Path, tmp_path: Path) -> None:
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(11)
    x = np.array([row for row, _ in oracle.values()], np.float32)
    write(store_at(str(index)), deletes=[f"r{i}".encode() for i in range(0, 900, 2)])
    oracle = {name: row for i, (name, row) in enumerate(oracle.items()) if i >= 900 or i % 2}
    change(store_at(str(index)), oracle, draw, 1)
    assert compact(store_at(str(index))).how == "flush"
    np.save(tmp_path / "queries.npy", x[0:900:20])  # rows that are dead
    for more in ((), ("--curve",)):
        told = vantage("eval", index, "--queries", tmp_path / "queries.npy", "--k", 10, "--json", *more).json()
        assert told["rows"] == len(oracle)
        assert min(point["recall"] for point in told.get("points", [told])) > 0.8


def test_prices_are_measured_again_once_enough_has_changed(plain: Path, tmp_path: Path) -> None:
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(11)
    store = store_at(str(index))
    change(store, oracle, draw, 1)
    folded, before = compact(store), open_index(index).root.contract
    assert (folded.how, folded.measured) == ("flush", True)  # less than a fiftieth, but in one object more
    for step in range(2, 5):
        change(store, oracle, draw, step, 80)
    folded, root = compact(store), open_index(index).root
    assert (folded.how, folded.measured, folded.rebuild_pays) == ("flush", True, False), folded
    assert root.contract != before and "held.bin" in root.objects.keys
    check(open_index(index), oracle, draw)
    change(store, oracle, draw, 5)
    assert compact(store).measured  # it is too small to be written with those before it
    root = open_index(index).root
    change(store, oracle, draw, 6)
    folded, after = compact(store), open_index(index).root
    assert (folded.how, folded.measured) == ("flush", False)
    assert after.contract == root.contract and any(key.endswith("/held.bin") for key in after.objects.keys)
    write(store, deletes=[f"r{i}".encode() for i in range(800)])
    oracle = {name: row for name, row in oracle.items() if not (name[1:].isdigit() and int(name[1:]) < 800)}
    folded = compact(store)
    assert (folded.how, folded.measured) == ("fold", True)
    check(open_index(index), oracle, draw)
    assert not g.verify(store)["damage"]
