"""What is written to an index, once it is compacted: every row as it was written last, and no other."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_writes import write_rows
from small import Ran, clustered, vantage
from test_empty import ATTRIBUTES, begun, made
from test_fresh import Row

from build_index import compact as compaction
from build_index.bucket.generations import publish, rollback
from build_index.bucket.open import open_index
from build_index.bucket.store import store_at
from build_index.compact import Rebuilding, compact
from build_index.successor import open_live
from build_index.write.reopen import options_of
from build_index.write.vectors import stored_values
from build_index.writes import create_index
from vantage.errors import DamagedError, ExistsError, InputError
from vantage.format.log import RowShape
from vantage.log.create import new_of
from vantage.search.query import Query

ROWS, DIMENSION = 600, 16
SHAPE = RowShape(DIMENSION, "bytes", "f16")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows with ids and two attributes, built."""
    folder = tmp_path_factory.mktemp("plain")
    x, names = clustered(ROWS, DIMENSION, 1), [f"r{i}" for i in range(ROWS)]
    columns = {"id": names, "vector": list(x), "n": list(range(ROWS)), "word": [f"w{i % 7}" for i in range(ROWS)]}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    assert vantage("build", folder / "rows.parquet", "--out", folder / "index", "--fast", "--metric", "l2").code == 0
    return folder / "index"


@pytest.fixture
def index(plain: Path, tmp_path: Path) -> Path:
    """A copy of `plain`, to write to."""
    return shutil.copytree(plain, tmp_path / "bucket" / "index")


def write(index: Path, **parts: Any) -> None:
    """One request, committed to the log."""
    write_rows(store_at(str(index)), SHAPE, **parts)


def rows_of(index: Path) -> dict[str, dict[str, Any]]:
    """The attributes of every row by its id."""
    listed = vantage("rows", index, "--limit", 5000, "--json").json()
    return {row["id"]: row["attributes"] for row in listed["rows"]}


def best(index: Path, vector: np.ndarray) -> tuple[bytes, float]:
    """(id, squared distance) of the nearest row."""
    answer = asyncio.run(open_index(index).query(Query(vector.tolist(), 1, rerank=20)))
    return answer.matches[0].id, answer.matches[0].score


def test_rows_are_as_they_were_written_last(index: Path) -> None:
    draw, oracle = np.random.default_rng(5), {f"r{i}": {"n": i, "word": f"w{i % 7}"} for i in range(ROWS)}
    vectors = dict(zip(oracle, clustered(ROWS, DIMENSION, 1).astype(np.float16), strict=True))
    for step in range(12):
        names = [f"r{i}" for i in draw.choice(ROWS + 100, 30, replace=False)]
        put, change, gone = names[:12], names[12:20], names[20:]
        new = draw.normal(size=(12, DIMENSION)).astype(np.float16)
        write(
            index, upserts=[n.encode() for n in put], vectors=new.tobytes(),
            attributes=[json.dumps({"n": step, "word": f"v{step}"}).encode()] * 12,
            patches=[n.encode() for n in change], changes=[json.dumps({"n": -step}).encode()] * 8,
            deletes=[n.encode() for n in gone],
        )  # fmt: skip
        oracle |= dict.fromkeys(put, {"n": step, "word": f"v{step}"})
        vectors |= dict(zip(put, new, strict=True))
        oracle |= {n: oracle[n] | {"n": -step} for n in change if n in oracle}
        oracle = {n: row for n, row in oracle.items() if n not in gone}
        if step % 5 == 4:
            compact(store_at(str(index)))
    folded = vantage("compact", index, "--json").json()
    assert (folded["seq"], folded["rows"]) == (12, len(oracle))
    assert rows_of(index) == oracle
    for name in [*oracle][::40]:
        found, score = best(index, vectors[name].astype(np.float32))
        assert (found.decode(), score) == (name, 0.0)
    assert vantage("verify", index, "--deep").code == 0


def test_attributes_keep_their_types(tmp_path: Path) -> None:
    """Of those that Parquet parts keep as texts too, so that they can be written to as before."""
    at = pa.array([datetime(2024, 5, 1, i % 24, tzinfo=UTC) for i in range(200)], pa.timestamp("s", "UTC"))
    day = pa.array([date(2024, 5, 1 + i % 28) for i in range(200)])
    columns = {
        "vector": list(clustered(200, DIMENSION, 1)), "words": [["a", f"b{i}"] for i in range(200)],
        "at": at, "day": day, "small": pa.array([i % 100 for i in range(200)], pa.int8()),
        "marks": [[i / 2] for i in range(200)],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    index = tmp_path / "bucket" / "index"
    assert vantage("build", tmp_path / "rows.parquet", "--out", index, "--fast", "--filter", "at,words").code == 0
    before = open_index(index).root.schema
    row = {"id": 7, "vector": [0.5] * DIMENSION, "attributes": {"words": ["c"], "at": "2024-05-02T00:00:00Z",
           "day": "2024-05-02", "small": 3, "marks": [1.5]}}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for _ in range(2):
        assert vantage("upsert", tmp_path / "rows.jsonl", index).code == 0
        assert compact(store_at(str(index))).rows == 200
        assert open_index(index).root.schema == before
    rows = rows_of(index)
    assert compact(store_at(str(index)), rebuilding=Rebuilding(rebuild=True)).rows == 200
    assert open_index(index).root.schema == before and rows_of(index) == rows
    assert vantage("verify", index, "--deep").code == 0


def test_rows_are_built_anew_beside_the_log(index: Path) -> None:
    where, before = store_at(str(index)), open_index(index)
    oracle = rows_of(index)
    gone, changed, *_ = oracle
    write(index, deletes=[gone.encode()], patches=[changed.encode()], changes=[b'{"n": 77}'])
    write(index, upserts=[b"new"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b'{"word": "x"}'])
    del oracle[gone]
    oracle |= {changed: oracle[changed] | {"n": 77}, "new": {"n": None, "word": "x"}}
    folded = compact(where, rebuilding=Rebuilding(rebuild=True))
    assert (folded.how, folded.rows, folded.dead) == ("build", len(oracle), 0) and rows_of(index) == oracle
    after = open_index(index)
    assert after.root.schema == before.root.schema and after.root.contract.target == before.root.contract.target
    again = compact(where, rebuilding=Rebuilding(recall=0.9, rebuild=True))  # of an empty log
    assert again.generation != folded.generation and open_index(index).root.contract.target == 0.9
    assert rows_of(index) == oracle and vantage("verify", index, "--deep").code == 0


def test_an_index_of_a_few_rows_is_built_anew_as_it_grows(tmp_path: Path) -> None:
    """What was trained by one row, and what it promises, is no good for thousands."""
    path, x = tmp_path / "bucket" / "index", clustered(2000, DIMENSION, 1).astype(np.float16)
    assert create_index(str(path), {"dimension": DIMENSION})
    hows = []
    for low, high in (0, 1), (1, 150), (150, 2000):
        for first in range(low, high, 1000):
            some = range(first, min(high, first + 1000))
            ids = [f"{i}".encode() for i in some]
            write(path, upserts=ids, vectors=x[some.start : some.stop].tobytes(), attributes=[b""] * len(ids))
        folded = compact(store_at(str(path)), rebuilding=Rebuilding(fast=True))
        hows.append(folded.how)
    assert hows == ["build", "rewrite", "build"] and folded.why == "it was built of much fewer rows"
    opened, found = open_index(path), 0
    assert opened.root.index.blocks > 10 and (opened.root.contract.k, opened.root.contract.target) == (100, 0.95)
    unit = x.astype(np.float32) / np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True)
    for row in unit[::100]:
        answer = asyncio.run(opened.query(Query(row.tolist(), 10)))
        found += len({int(m.id) for m in answer.matches} & set(np.argsort(-unit @ row)[:10].tolist()))
    assert found > 0.93 * 200


@pytest.mark.parametrize(
    "column",
    [
        pa.array([time_of_day(i % 24) for i in range(200)], pa.time32("s")),
        pa.array([timedelta(seconds=i) for i in range(200)]),
        pa.array([{"a": i} if i % 3 else None for i in range(200)]),
        pa.array([[("a", i)] for i in range(200)], pa.map_(pa.string(), pa.int64())),
        pa.array([[{"a": i}] for i in range(200)]),
    ],
    ids=lambda column: str(column.type).partition("<")[0],
)
def test_values_of_any_type_are_built_anew(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"id": list(range(200)), "vector": list(clustered(200, DIMENSION, 1)), "it": column})
    pq.write_table(table, tmp_path / "rows.parquet")
    index = tmp_path / "bucket" / "index"
    assert vantage("build", tmp_path / "rows.parquet", "--out", index, "--fast").code == 0
    before = rows_of(index)
    assert compact(store_at(str(index)), rebuilding=Rebuilding(rebuild=True)).rows == 200
    assert rows_of(index) == before and any(row["it"] is not None for row in before.values())


def test_what_does_not_fit_into_memory_is_built_anew(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an index that takes no flush: its blocks lie in its root."""
    live = open_live(store_at(str(index)), open_index(index).current)
    vector, text = 2 * DIMENSION, live.stored.root.index.attribute_bytes
    for free in (0, -1):
        manifest = live.manifest | {"memory_bytes": ROWS * (vector + text) + free}
        assert compaction._fits(live._replace(manifest=manifest)) == (not free)
    oracle = rows_of(index)
    monkeypatch.setattr(compaction, "_fits", lambda _: False)
    write(index, deletes=[b"r0"])
    folded = compact(store_at(str(index)))
    assert (folded.how, folded.rows, folded.deleted) == ("build", ROWS - 1, 1), folded
    assert folded.why == "it is so small that its root holds the blocks; rows are too many for memory"
    del oracle["r0"]
    assert rows_of(index) == oracle and vantage("verify", index, "--deep").code == 0


def test_rows_that_are_damaged_are_not_built_anew(index: Path) -> None:
    write(index, deletes=[b"r0"])
    before = (index / "CURRENT").read_bytes()
    [part] = index.glob("*/vectors/part-00000.parquet")
    data = bytearray(part.read_bytes())
    root = open_index(index).root
    data[root.rows.vector_offset[0] + 5] ^= 1
    part.write_bytes(data)
    with pytest.raises(DamagedError, match="part-00000.parquet: rows 0 to"):
        compact(store_at(str(index)), rebuilding=Rebuilding(rebuild=True))
    assert (index / "CURRENT").read_bytes() == before


def test_a_row_that_is_too_long_is_named_and_built_anew(tmp_path: Path) -> None:
    """It keeps no other from being compacted for longer than it takes to read the error."""
    x = clustered(400, DIMENSION, 1).astype(np.float32)
    pq.write_table(pa.table({"id": [f"{i}" for i in range(400)], "vector": list(x)}), tmp_path / "rows.parquet")
    index = tmp_path / "bucket" / "index"
    assert vantage("build", tmp_path / "rows.parquet", "--out", index, "--fast", "--metric", "dot").code == 0
    long = {"id": "long", "vector": (x[0] * 40).tolist()}
    (tmp_path / "rows.jsonl").write_text(json.dumps(long) + "\n" + json.dumps({"id": "b", "vector": x[1].tolist()}))
    refused = vantage("upsert", tmp_path / "rows.jsonl", index)
    assert refused.code == 2 and "upsert[0].vector is 3" in refused.err and "at most 32 times" in refused.err
    vectors = np.array([x[0] * 40, x[1]], np.float32)  # by a writer that does not look
    write(index, upserts=[b"long", b"b"], vectors=vectors.astype(np.float16).tobytes(), attributes=[b"", b""])
    ran = vantage("compact", index)
    assert ran.code == 2 and "row 'long', 1 in all" in ran.err and "--rebuild" in ran.err
    ran = vantage("compact", index, "--rebuild", "--json")
    assert ran.code == 0 and json.loads(ran.out)["rows"] == 402, ran.err
    assert vantage("verify", index, "--deep").code == 0 and {"long", "b"} <= set(rows_of(index))


def test_an_emptied_index_is_built_as_it_was(tmp_path: Path) -> None:
    path, x = tmp_path / "bucket" / "index", clustered(400, DIMENSION, 1)
    np.save(tmp_path / "rows.npy", x)
    asked = ("--recall", 0.9, "--k", 20, "--fast", "--copies", "misses", "--seed", 7, "--error-norms", "--metric", "l2")
    assert vantage("build", tmp_path / "rows.npy", "--out", path, *asked).code == 0
    built = open_live(store_at(str(path)), open_index(path).current)
    where, kind = store_at(str(path)), built.stored.root.index.vector_kind
    shape = RowShape(DIMENSION, "i64", kind)
    for _ in range(2):  # an index that is empty already keeps it too
        write_rows(where, shape, deletes=[*range(400)])
        assert compact(where).rows == 0
    rows = stored_values(x, kind, np.arange(400)).tobytes()
    write_rows(where, shape, upserts=[*range(400)], vectors=rows, attributes=[b""] * 400)
    assert compact(where).how == "build"
    again = open_live(where, open_index(path).current)
    assert options_of(again.stored.root, again.manifest) == options_of(built.stored.root, built.manifest)
    assert options_of(again.stored.root, again.manifest).seed == 7


def test_nothing_written_is_nothing_to_do(index: Path) -> None:
    before = (index / "CURRENT").read_bytes()
    assert compact(store_at(str(index))).written_bytes == 0
    assert (index / "CURRENT").read_bytes() == before


def test_an_index_without_its_last_row_is_empty_and_takes_new_ones(index: Path) -> None:
    where, built = store_at(str(index)), open_index(index)
    for _ in range(2):
        write(index, deletes=[name.encode() for name in rows_of(index)])
        folded = compact(where)
        assert (folded.rows, folded.upserted, folded.patched) == (0, 0, 0)
        emptied = open_index(index)
        assert emptied.root.is_empty and new_of(emptied.root) == new_of(built.root) and rows_of(index) == {}
        again = compact(where)  # of an empty log
        assert (again.generation, again.rows, again.written_bytes) == (folded.generation, 0, 0)
        assert vantage("verify", index, "--deep").code == 0
        write(index, upserts=[b"gone"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b""])
        write(index, deletes=[b"gone"], patches=[b"never"], changes=[b'{"n": 1}'])
        assert compact(where).rows == 0 and open_index(index).current.generation != emptied.current.generation
        write(index, upserts=[b"a"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b'{"n": 3}'])
        assert rows_of(index) == {"a": {"n": 3, "word": None}}
        assert compact(where).rows == 1
        assert new_of(open_index(index).root) == new_of(built.root)
        assert rows_of(index) == {"a": {"n": 3, "word": None}}
        assert vantage("verify", index, "--deep").code == 0


@pytest.mark.parametrize(
    ("rows", "vectors", "ids", "metric"),
    [
        (1, "f16", "text", "cosine"),
        (2, "u8", "integer", "l2"),
        (30, "f32", "text", "dot"),
        (600, "i8", "integer", "l2"),
    ],
)
def test_an_empty_index_is_built_from_its_log(tmp_path: Path, rows: int, vectors: str, ids: str, metric: str) -> None:
    columns = [*ATTRIBUTES, {"name": "id", "type": "json"}, {"name": "vector", "type": "text"}]
    fields = {"dimension": 12, "metric": metric, "vectors": vectors, "ids": ids, "attributes": columns, "model": "m"}
    draw, it = Random(rows), made(tmp_path, fields)
    begun(draw, it, rows)
    gone: list[Any] = [b"gone"] if ids == "text" else [-1]
    it.write({gone[0]: Row([1.0] * 12, {"id": {"a": [1]}, "vector": "v"})})
    it.write(patches={gone[0]: {"year": 4}})
    it.read_on()
    if rows > 1:
        it.write(deletes=gone)
    folded = vantage("compact", tmp_path / "new", "--fast", "--json").json()
    assert (folded["rows"], folded["upserted"]) == (len(it.rows), len(it.rows))
    built = open_index(tmp_path / "new")
    assert not built.root.is_empty and new_of(built.root) == new_of(it.index.root)
    vector = next(iter(it.rows.values())).vector
    found = asyncio.run(built.query(Query(vector, 1000, attributes=True, vectors=True))).matches
    assert {m.id: (m.vector, m.attributes) for m in found} == {
        i: (row.vector, row.attributes) for i, row in it.rows.items()
    }
    assert vantage("verify", tmp_path / "new", "--deep").code == 0
    assert create_index(str(tmp_path / "new"), fields) is False
    with pytest.raises(ExistsError, match="attributes"):
        create_index(str(tmp_path / "new"), fields | {"attributes": []})


def test_what_was_compacted_is_published_with_a_log_of_its_own(index: Path, tmp_path: Path) -> None:
    built, other = tmp_path / "built" / "index", tmp_path / "other" / "index"
    publish(index, store_at(str(built)))
    write(index, upserts=[b"new"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b'{"n": 9}'])
    compact(store_at(str(index)))
    for target in (built, other):  # where a generation without a log is live, and where none is
        publish(index, store_at(str(target)))
        write(target, deletes=[b"new"])
        assert compact(store_at(str(target))).rows == ROWS and "new" not in rows_of(target)
        assert vantage("verify", target, "--deep").code == 0
    assert "new" in rows_of(index)


def test_a_publish_or_rollback_keeps_every_write(index: Path, tmp_path: Path) -> None:
    where, other = store_at(str(index)), tmp_path / "other" / "index"
    columns = {"id": ["a", "b"] * 50, "vector": list(clustered(100, DIMENSION, 3)), "n": [0] * 100, "word": ["x"] * 100}
    columns["id"] = [f"o{i}" for i in range(100)]
    pq.write_table(pa.table(columns), tmp_path / "other.parquet")
    assert vantage("build", tmp_path / "other.parquet", "--out", other, "--fast", "--metric", "l2").code == 0
    built = json.loads((index / "CURRENT").read_bytes())["generation"]
    write(index, upserts=[b"new"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b'{"n": 9}'])
    with pytest.raises(InputError, match="the log has writes to 1 rows that no generation has"):
        publish(other, where)
    assert built_into(index, tmp_path).refusal().startswith("the log has writes to 1 rows that no generation has")
    assert compact(where).rows == ROWS + 1
    compacted = json.loads((index / "CURRENT").read_bytes())
    assert compacted["previous"] == built
    assert rollback(where)["generation"] == built
    assert "new" not in rows_of(index)
    assert publish(other, where)["previous"] == built
    assert len(rows_of(index)) == 100
    write(index, upserts=[b"later"], vectors=np.ones(DIMENSION, np.float16).tobytes(), attributes=[b""])
    assert compact(where).rows == 101
    assert rollback(where, compacted["generation"])["swapped"]
    assert rows_of(index)["new"] == {"n": 9, "word": None}
    assert built_into(index, tmp_path).code == 0
    assert len(rows_of(index)) == 100
    write(index, deletes=[b"o1"])
    assert compact(where).rows == 99


def built_into(index: Path, tmp_path: Path) -> Ran:
    """The other rows, built into the folder of an index that is written to."""
    return vantage("build", tmp_path / "other.parquet", "--out", index, "--fast", "--metric", "l2")
