"""Files and folders as other tools write them: every kind is read right, refused by name, or left out with a word."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from build_index.ingest.formats import parquet, sizes
from build_index.ingest.formats.batch import Skipped
from build_index.ingest.json_rows import json_rows
from build_index.ingest.open import open_source, source_metric
from build_index.ingest.queries import read_queries
from build_index.ingest.source import Source
from vantage.errors import InputError

X = np.arange(1, 401, dtype=np.float32).reshape(100, 4)


def table(ids: range | list[Any], **columns: Any) -> pa.Table:
    """Ids, vectors of 4 values that follow from integer ids, and `columns`, added or replaced."""
    rows = X[[one if isinstance(one, int) else i for i, one in enumerate(ids)]]
    return pa.table({"id": list(ids), "vector": pa.FixedSizeListArray.from_arrays(rows.ravel(), 4)} | columns)


def save(path: Path, content: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".arrow":
        with pa.ipc.new_file(path, content.schema) as writer:
            writer.write_table(content, **options)
    else:
        with path.open("wb") as file:  # pyarrow opens no name that is no UTF-8
            pq.write_table(content, file, **options)
    return path


def read(source: Source, **options: Any) -> tuple[list[Any], np.ndarray, list[Any]]:
    """Ids, vectors and attributes, the same whatever the size of the batches."""
    found = []
    for rows_max in (1, 100):
        parts = list(source.batches(rows_max, **options))
        rows = [row for part in parts for row in json_rows(part.attributes, len(part.rows))]
        ids = [one if isinstance(one, bytes) else int(one) for part in parts for one in part.ids]
        found.append((ids, np.concatenate([part.vectors for part in parts]), [json.loads(row) for row in rows]))
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2] and (found[0][1] == found[1][1]).all()
    return found[0]


@contextmanager
def refused(text: str) -> Iterator[None]:
    with pytest.raises(InputError, match=re.escape(text)):
        yield


def ids_in(*paths: Path, **options: Any) -> list[Any]:
    return sorted(read(open_source(paths, **options))[0])


# Delta


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, of which one was rewritten without a row, a checkpoint, and a file more after it."""
    folder = tmp_path_factory.mktemp("delta") / "t"
    for ids in (range(3), range(3, 6)):
        write_deltalake(str(folder), table(ids), mode="append")
    DeltaTable(str(folder)).delete("id = 1")
    DeltaTable(str(folder)).create_checkpoint()
    write_deltalake(str(folder), table(range(6, 8)), mode="append")
    return folder


def copied(delta: Path, to: Path) -> Path:
    for path in delta.rglob("*"):
        if path.is_file():
            (to / path.relative_to(delta)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(delta)).write_bytes(path.read_bytes())
    return to


def test_delta(delta: Path, tmp_path: Path) -> None:
    assert ids_in(delta) == [0, 2, 3, 4, 5, 6, 7] and len(list(delta.glob("*.parquet"))) == 4
    assert any("version 3 is read, 3 files" in note for note in open_source([delta]).notes)
    with refused("a Delta table, whose log says which of its files count"):
        open_source([next(delta.glob("*.parquet"))])
    old = copied(delta, tmp_path / "cleaned")
    for version in range(3):  # as a table's own cleaning leaves it
        (old / "_delta_log" / f"{version:020}.json").unlink()
    assert ids_in(old) == ids_in(delta)


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        (["1.json", "2.checkpoint.parquet", "3.json"], "lacks version 1"),
        (["2.json", "2.checkpoint.parquet", "3.json"], "lacks version 2"),  # an older version would be whole
        (["0.json", "1.json", "2.json", "2.checkpoint.parquet"], "lacks version 0"),
    ],
)
def test_delta_log_that_is_not_whole(delta: Path, tmp_path: Path, lost: list[str], text: str) -> None:
    folder = copied(delta, tmp_path / "t")
    for name in lost:
        (folder / "_delta_log" / f"{int(name[0]):020}{name[1:]}").unlink()
    with refused(text):
        open_source([folder])


@pytest.mark.parametrize(
    ("action", "change", "text"),
    [
        ("add", {"deletionVector": {"storageType": "u", "pathOrInlineDv": "a", "cardinality": 1}}, "deleted rows"),
        ("add", {"path": "..%2Fx.parquet"}, "outside of its folder"),
        ("add", {"path": "file:///etc/x.parquet"}, "outside of its folder"),
        ("metaData", {"configuration": {"delta.columnMapping.mode": "name"}}, "maps its columns"),
        ("protocol", {"minReaderVersion": 4}, "a newer reader"),
        ("protocol", {"minReaderVersion": 3, "readerFeatures": ["typeWidening"]}, "typeWidening"),
    ],
)
def test_delta_features_refused(
    delta: Path, tmp_path: Path, action: str, change: dict[str, Any], text: str
) -> None:  # fmt: skip
    folder = copied(delta, tmp_path / "t")
    log = folder / "_delta_log" / f"{3:020}.json"
    before = [json.loads(line) for line in (delta / "_delta_log" / f"{0:020}.json").read_text().splitlines()]
    newest = [json.loads(line) for line in log.read_text().splitlines()]
    found = next(one[action] for one in (*newest, *before) if action in one)
    log.write_text(log.read_text() + "\n" + json.dumps({action: found | change}))
    with refused(text):
        open_source([folder])


def test_delta_partitions(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a b", "ü/é=", None]),
        "day": pa.array([1, None, 3], pa.int32()).cast(pa.date32()),
        "time": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
        "raw": pa.array([b"a", b"b", b"c"]),
    }
    write_deltalake(str(tmp_path / "t"), table(range(3), **columns), partition_by=list(columns))
    source = open_source([tmp_path / "t"])
    ids, _, rows = read(source)
    assert sorted(source.attributes.names) == ["day", "text", "time"] and "'raw' (binary)" in source.notes[-1]
    named = {one: dict(zip(source.attributes.names, row, strict=True)) for one, row in zip(ids, rows, strict=True)}
    assert named[0] == {"text": "a b", "day": "1970-01-02", "time": "1970-01-01T00:00:00.000000Z"}
    assert (named[1]["text"], named[1]["day"], named[2]["time"]) == ("ü/é=", None, None)


# Folders


def folder_of(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        save(folder / name, table([number]))
    return folder


@pytest.mark.parametrize(
    ("names", "ids", "note"),
    [
        (["a-00000-of-00002.parquet", "a-00001-of-00002.parquet"], [0, 1], ""),
        (["b.PARQUET", "a.Parquet"], [0, 1], ""),
        (["a.parquet", ".b.parquet", "_c.parquet"], [0], "_c.parquet"),
        (["a.parquet", "_old/b.parquet"], [0], "_old"),
        (["train.parquet", "test.parquet"], [0], "The split train"),
        (["en-train.parquet", "en-test.parquet"], [0], "The split train"),
        (["train_vectors.parquet", "test_vectors.parquet"], [0], "The split train"),
        (["x.train.parquet", "x.validation.parquet"], [0], "The split train"),
        (["en-train-0-of-1.parquet", "en-test-0-of-1.parquet"], [0], "The split en-train"),
        (["data/train/0.parquet", "data/test/0.parquet"], [0], "The split train"),
        (["default/train/0.parquet", "de/train/0.parquet"], [0], "The config default"),
        (["train.parquet", "more.parquet"], [0, 1], "those called train too"),
        (["latest.parquet", "contest.parquet"], [0, 1], ""),
    ],
)
def test_folders(tmp_path: Path, names: list[str], ids: list[int], note: str) -> None:
    source = open_source([folder_of(tmp_path / "f", *names)])
    assert sorted(read(source)[0]) == ids
    assert note in " ".join(source.notes) and bool(note) == bool(source.notes)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a-00000-of-00002.parquet"], "1 of 2 parts"),
        (["part_002_of_002.parquet"], "missing: "),
        (["a 1 of 3.parquet", "a 3 of 3.parquet"], "missing: 2"),
        (["a-0-of-2.parquet", "a-1-of-2.parquet", "a-0-of-1.parquet"], "a set of another count"),
        (["a-0-of-1-aaaaaa.parquet", "a-0-of-1-bbbbbb.parquet"], "the same part of a set"),
        (["a.parquet", "more/b.parquet"], "holds files and, below them, folders"),
        (["en/a.parquet", "de/a.parquet"], "several folders of rows: de, en"),
        (["validation.parquet", "test.parquet"], "none is train"),
        (["a-train-0-of-1.parquet", "b-train-0-of-1.parquet"], "several are train"),
        (["a=1/x.parquet", "b=1/x.parquet"], "has not the partitions"),
        (["a=1/x.parquet", "other/x.parquet"], "several folders of rows"),
        (["a=%FF/x.parquet"], "is no text"),
        (["a=\udcff/x.parquet"], "is no text"),
        (["t.lance/data/x.parquet"], "a Lance table"),
        (["_versions/1.manifest", "data/x.parquet"], "a Lance table"),
        (["metadata/v1.metadata.json", "data/x.parquet"], "an Iceberg table"),
        ([".hoodie/x", "a.parquet"], "a Hudi table"),
        ([".zarray", "a.parquet"], "a zarr array"),
        (["_spark_metadata/0", "a.parquet"], "the output of a Spark stream"),
    ],
)
def test_folders_refused(tmp_path: Path, names: list[str], text: str) -> None:
    with refused(text):
        open_source([folder_of(tmp_path / "f", *names)])
    inner = next((name for name in names if name.startswith(("data/", "t.lance/data"))), None)
    if inner:
        with refused("belongs to"):
            open_source([tmp_path / "f" / inner])


def test_a_part_named_alone_and_caches(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "f", "a-00000-of-00002.parquet")
    assert "missing: 1." in open_source([folder / "a-00000-of-00002.parquet"]).notes[0]
    saved = folder_of(tmp_path / "s", "data-00000-of-00001.arrow", "cache-0a1b.arrow")
    (saved / "state.json").write_text("{}")
    source = open_source([saved])
    assert read(source)[0] == [0] and "cache-0a1b.arrow" in source.notes[0]
    os.link(folder / "a-00000-of-00002.parquet", tmp_path / "x.parquet")
    with refused("are one file"):
        open_source([folder / "a-00000-of-00002.parquet", tmp_path / "x.parquet"])


def test_partitions(tmp_path: Path) -> None:
    names = ["y=007/k=a%20b", "y=1/k=__HIVE_DEFAULT_PARTITION__", "y=10/k=ü%2F=", "y=2/k="]
    folder = folder_of(tmp_path / "f", *(f"{name}/x.parquet" for name in names))
    source = open_source([folder])
    ids, _, rows = read(source)
    assert source.attributes.names == ["y", "k"]
    assert dict(zip(ids, rows, strict=True)) == {0: ["007", "a b"], 1: ["1", None], 2: ["10", "ü/="], 3: ["2", ""]}
    one = open_source([folder / names[0]])
    assert one.attributes.names == [] and "without y=007/k=a%20b" in one.notes[0]
    save(folder / names[3] / "x.parquet", table([3], y=["9"]))
    source = open_source([folder])
    assert [3, ["9", ""]] in [list(row) for row in zip(*read(source)[::2], strict=True)]
    assert any("The column 'y' of" in note for note in source.notes)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npy", ".h5"])
def test_names_that_are_no_utf8(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".parquet", ".arrow"):
        save(path, table(range(4)))
    elif suffix == ".npy":
        np.save(path, X[:4])
    else:
        hdf5(path, train=X[:4])
    os.rename(path, os.fsencode(tmp_path) + b"/\xff\xe9" + suffix.encode())
    assert (read(open_source([tmp_path]))[1] == X[:4]).all()


# Files that differ


def differ(tmp_path: Path, one: Any, other: Any) -> tuple[Source, list[Any]]:
    """Source and attributes of two files that differ in a column, both ways round."""
    content = [table(range(2), x=one), table(range(10, 12), x=other)]
    found = []
    for order in (content, content[::-1]):
        for name, part in zip("ab", order, strict=True):
            save(tmp_path / f"{name}.arrow", part)
        source = open_source([tmp_path])
        ids, _, rows = read(source)
        found.append(sorted(zip(ids, rows, strict=True)))
    assert found[0] == found[1]
    return source, [row[0] if row else None for _, row in found[0]]


def typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


ZONED = [typed([0, 1], pa.timestamp("us", zone)) for zone in ("UTC", "Europe/Berlin")]


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [
        (pa.nulls(2), pa.array(["a", None]), [None, None, "a", None]),
        (pa.array(["a", "b"]), typed(["c", "d"], pa.large_string()), ["a", "b", "c", "d"]),
        (pa.array(["a", "b"]), pa.array(["c", "c"]).dictionary_encode(), ["a", "b", "c", "c"]),
        (typed([1, 2], pa.int8()), typed([2**40, None], pa.int64()), [1, 2, 2**40, None]),
        (typed([1, 2], pa.uint64()), typed([-1, None], pa.int64()), [1, 2, -1, None]),
        (typed([1, 2], pa.int32()), typed([0.5, 2], pa.float32()), [1.0, 2.0, 0.5, 2.0]),
        (ZONED[0], ZONED[1], [f"1970-01-01T00:00:00.00000{i % 2}Z" for i in range(4)]),
        (pa.array([[1], []]), typed([[2], None], pa.large_list(pa.int8())), [[1], [], [2], None]),
        (typed([[], []], pa.list_(pa.null())), pa.array([["a"], []]), [[], [], ["a"], []]),
        (pa.array([{"a": 1}] * 2), pa.array([{"b": "x"}] * 2), [{"a": 1, "b": None}] * 2 + [{"a": None, "b": "x"}] * 2),
    ],
)
def test_files_that_differ(tmp_path: Path, one: pa.Array, other: pa.Array, rows: list[Any]) -> None:
    assert differ(tmp_path, one, other)[1] == rows


@pytest.mark.parametrize("other", [pa.nulls(2), pa.array(["a", "b"])])
def test_binary_in_one_file_is_left_out_of_all(tmp_path: Path, other: pa.Array) -> None:
    source, rows = differ(tmp_path, pa.array([b"a", b"b"]), other)
    assert rows == [None] * 4 and source.attributes.names == [] and "'x' (binary)" in source.notes[-1]
    with refused("is binary, which JSON cannot carry"):
        open_source([tmp_path], attributes=["x"])
    save(tmp_path / "a.arrow", table(range(2)))  # and where the others lack it
    save(tmp_path / "b.arrow", table(range(2, 4), x=pa.array([b"a", b"b"])))
    assert open_source([tmp_path]).attributes.names == []


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (pa.array(["a", "b"]), pa.array([1, 2]), "column 'x' is "),
        (pa.array([True, False]), pa.array([1, 2]), "column 'x' is "),
        (ZONED[0], typed([0, 1], pa.timestamp("us")), "column 'x' is "),
        (typed([2**64 - 1, 0], pa.uint64()), pa.array([-1, 0]), "'x' that does not fit int64"),
        (pa.array([2**53 + 1, 0]), pa.array([0.5, 1]), "'x' that does not fit double"),
    ],
)
def test_files_that_cannot_be_brought_together(tmp_path: Path, one: pa.Array, other: pa.Array, text: str) -> None:
    with refused(text):
        differ(tmp_path, one, other)


@pytest.mark.parametrize("kind", [pa.float64(), pa.int8(), pa.bool_(), pa.timestamp("us")])
def test_a_column_without_values_is_of_any_type(tmp_path: Path, kind: pa.DataType) -> None:
    """As pandas writes it, and where the statistics lie."""
    save(tmp_path / "a.parquet", table(range(2), x=pa.nulls(2, kind)))
    save(tmp_path / "b.parquet", table(range(2, 4), x=["a", None]))
    source = open_source([tmp_path])
    assert source.attributes.types == [pa.string()] and read(source)[2] == [[None], [None], ["a"], [None]]
    assert open_source([tmp_path / "a.parquet"]).attributes.types == [kind]
    save(tmp_path / "a.parquet", table(range(2), x=pa.array([None, 1]).cast(kind)))
    with refused("column 'x' is "):
        open_source([tmp_path])
    with pytest.MonkeyPatch.context() as patched, refused("that does not fit string, the type for all files"):
        patched.setattr(parquet, "has_only_nulls", lambda path, column: path.name == "a.parquet")
        read(open_source([tmp_path]))


def test_arrays_that_differ(tmp_path: Path) -> None:
    """Of several types, byte orders and layouts, and empty ones among them."""
    parts = [X[:2], X[2:4].astype(">f8"), np.asfortranarray(X[4:8].astype("i4")), np.zeros((0, 7), "f2"), X[8:9] + 0.5]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    source = open_source([tmp_path])
    assert source.kind == "f32" and (read(source)[1] == np.concatenate([X[:8], parts[-1]])).all()
    np.save(tmp_path / "9.npy", X[:2, :3])
    with refused("9.npy holds vectors of 3 values, "):
        open_source([tmp_path])


# Types


IDS = [UUID(int=5), UUID(int=2**127)]
UUIDS = pa.array([one.bytes for one in IDS], pa.uuid())
NULL_IN_DICTIONARY = pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["a", None]))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize(
    ("column", "rows"),
    [
        (UUIDS, [str(one) for one in IDS]),
        (pa.ListArray.from_arrays([0, 2, 2], UUIDS), [[str(one) for one in IDS], []]),
        (pa.ListArray.from_arrays([0, 1, 3], pa.array(["a", "b", "a"]).dictionary_encode()), [["a"], ["b", "a"]]),
        (pa.StructArray.from_arrays([pa.array(["a", "b"]).dictionary_encode()], ["k"]), [{"k": "a"}, {"k": "b"}]),
        (pa.MapArray.from_arrays([0, 1, 2], ["k", "l"], [1, None]), [{"k": 1}, {"l": None}]),
        (typed([2**63 - 1, -(2**63)], pa.int64()).cast(pa.timestamp("us")), [None, None]),
        (typed([[2**63 - 1], [0]], pa.list_(pa.timestamp("us"))), [[None], ["1970-01-01T00:00:00.000000"]]),
        (typed([2**31 - 1, 0], pa.int32()).cast(pa.date32()), [None, "1970-01-01"]),
        (typed([-(2**63), 1500], pa.duration("ms")), [None, "PT1.5S"]),
        (typed([np.inf, 0.1], pa.float32()), [None, 0.1]),
        (typed([Decimal("1.50"), None], pa.decimal256(60, 2)), ["1.50", None]),
        (typed([0, None], pa.timestamp("ns", "Not/AZone")), ["1970-01-01T00:00:00.000000000Z", None]),
        (typed([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(X[:2].reshape(2, 2, 2)), X[:2].tolist()),
        (typed([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
    ],
)
def test_attribute_types(tmp_path: Path, suffix: str, column: pa.Array, rows: list[Any]) -> None:
    source = open_source([save(tmp_path / f"a{suffix}", table(range(2), x=column))])
    assert [row[0] for row in read(source)[2]] == rows


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a", b"b"]),
        pa.array([{"a": b"x"}] * 2),
        typed([(1, 2, 3)] * 2, pa.month_day_nano_interval()),
        typed([[(1, 2)]] * 2, pa.map_(pa.int64(), pa.int64())),
        pa.StructArray.from_arrays([pa.array([1, 2])] * 2, ["a", "a"]),
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    ],
)
def test_columns_left_out(tmp_path: Path, column: pa.Array) -> None:
    source = open_source([save(tmp_path / "a.arrow", table(range(2), x=column))])
    assert source.attributes.names == [] and "Columns left out, JSON cannot carry them: 'x'" in source.notes[0]


def test_dictionaries_that_differ(tmp_path: Path) -> None:
    """From batch to batch, with nulls in them, of string views, and empty in the first."""
    views = pa.DictionaryArray.from_arrays(pa.array([1, None], pa.uint32()), pa.array(["a", "b"], pa.string_view()))
    assert [row[0] for row in read(open_source([save(tmp_path / "a.arrow", table(range(2), x=views))]))[2]] == [
        "b",
        None,
    ]
    kind = pa.dictionary(pa.int8(), pa.string())
    nothing = pa.DictionaryArray.from_arrays(typed([None] * 2, pa.int8()), typed([], pa.string()))
    parts = [nothing, NULL_IN_DICTIONARY.cast(kind), pa.array(["c", "a"]).dictionary_encode().cast(kind)]
    content = [table(range(2 * i, 2 * i + 2), x=part) for i, part in enumerate(parts)]
    with pa.ipc.new_stream(tmp_path / "b.arrow", content[0].schema) as writer:
        for part in content:
            writer.write_table(part)
    rows = read(open_source([tmp_path / "b.arrow"]))[2]
    assert [row[0] for row in rows] == [None, None, None, "a", "c", "a"]


@pytest.mark.parametrize(
    ("ending", "views"),
    [("parquet", pa.large_string()), ("arrow", pa.large_string()), ("arrow", pa.string_view()), ("arrow", pa.string())],
)
def test_categoricals(tmp_path: Path, ending: str, views: pa.DataType) -> None:
    """As Polars writes them: categoricals and enums, lists of them, and arrays for vectors."""

    def coded(values: list[str | None], width: pa.DataType) -> pa.Array:
        words = sorted({v for v in values if v is not None})
        numbers = pa.array([None if v is None else words.index(v) for v in values], width)
        return pa.DictionaryArray.from_arrays(numbers, pa.array(words).cast(views))

    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), coded(["p", "q", "p"], pa.uint32()))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X[:2].ravel(), pa.float32()), 4)
    frame = pa.table({
        "id": coded(["a", "b"], pa.uint8()), "vector": vectors, "c": coded(["x", None], pa.uint32()), "l": lists,
    })  # fmt: skip
    ids, found, rows = read(open_source([save(tmp_path / f"a.{ending}", frame)]))
    assert (ids, rows) == ([b"a", b"b"], [["x", ["p"]], [None, ["q", "p"]]]) and (found == X[:2]).all()


def test_names_of_columns(tmp_path: Path) -> None:
    names = ["a.b", " x y ", "ü日本", "", '"', "new\nline", *map(str, range(300))]
    content = table(range(2), a=[{"b": 1}] * 2, **{name: [i] * 2 for i, name in enumerate(names)})
    source = open_source([save(tmp_path / "a.parquet", content)])
    assert source.attributes.names == ["a", *names]
    assert read(source)[2][0] == [{"b": 1}, *range(len(names))]
    with refused("is there 2 times"):
        open_source([save(tmp_path / "b.parquet", table(range(2)).append_column("id", [[1, 2]]))])
    renamed = table(range(2), other=[[1.0, 2.0]] * 2).rename_columns(["id", "e.v", "vector"])
    source = open_source([save(tmp_path / "c.parquet", renamed)], vector_column="e.v")
    assert (source.dimension, source.attributes.names) == (4, ["vector"])
    with refused("its columns are id, e.v, vector; name one with --vector-column"):
        open_source([tmp_path / "c.parquet"], vector_column="embedding")


# Vectors and ids


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.int16(), pa.uint32(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(9, 2),
        pa.decimal256(40, 0),
    ],
)  # fmt: skip
def test_values_of_vectors(tmp_path: Path, suffix: str, kind: pa.DataType) -> None:
    values = [
        [Decimal(int(v)) if pa.types.is_decimal(kind) else kind.to_pandas_dtype()(v) for v in row] for row in X[:3]
    ]
    for column in (pa.array(values, pa.list_(kind)), pa.array(values, pa.large_list(kind))):
        source = open_source([save(tmp_path / f"a{suffix}", table(range(3), vector=column))])
        assert source.kind == ("f16" if kind == pa.float16() else "f32") and (read(source)[1] == X[:3]).all()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("fixed", [True, False])
def test_vectors_after_null_ones(tmp_path: Path, suffix: str, fixed: bool) -> None:
    """A null takes room in a list of fixed length and none in another, in slices and row groups too."""
    rows = [None if i % 3 == 0 else row.tolist() for i, row in enumerate(X[:20])]
    column = pa.array(rows, pa.list_(pa.float32(), 4) if fixed else pa.list_(pa.float32()))
    options = {"row_group_size": 7, "use_byte_stream_split": ["vector"], "use_dictionary": False}
    content = table(range(20), vector=column)[2:]
    path = save(tmp_path / f"a{suffix}", content, **(options if suffix == ".parquet" else {"max_chunksize": 7}))
    skipped = Skipped()
    ids, found, _ = read(open_source([path], skip_bad_rows=True), skipped=skipped)
    assert ids == [i for i in range(2, 20) if i % 3] and (found == X[ids]).all()
    assert skipped.counts == {"vectors that are null": 2 * 6}
    with refused("vectors that are null"):
        read(open_source([path]))


@pytest.mark.parametrize(
    ("column", "dimension"),
    [
        (pa.FixedShapeTensorArray.from_numpy_ndarray(X[:2]), 4),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(X[:2].reshape(2, 1, 4)), 4),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(X[:2].reshape(2, 2, 2)), None),
        (pa.array([[[1.0, 2.0]]] * 2), None),
        (pa.array(["[1, 2]"] * 2), None),
        (pa.array([b"abcd"] * 2), None),
        (pa.array([[True, False]] * 2), None),
        (UUIDS, None),
    ],
)
def test_tensors_and_what_is_no_vector(tmp_path: Path, column: pa.Array, dimension: int | None) -> None:
    path = save(tmp_path / "a.parquet", table(range(2), vector=column))
    if dimension:
        assert open_source([path]).dimension == dimension and (read(open_source([path]))[1] == X[:2]).all()
    else:
        with refused("a vector is a list of numbers of one length"):
            open_source([path])


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (UUIDS, [str(one).encode() for one in IDS]),
        (pa.array(["a", "b"]).dictionary_encode(), [b"a", b"b"]),
        (pa.array([-(2**63), 0]), [-(2**63), 0]),
        (typed([2**63 - 1, 7], pa.uint64()), [2**63 - 1, 7]),
        (typed([2**63, 7], pa.uint64()), "ids over 2^63 - 1"),
        (pa.array([1, None]), "ids that are null"),
        (pa.array([True, False]), "ids are integers, strings, UUIDs or binary"),
        (pa.array([Decimal(1), Decimal(2)]), "ids are integers, strings, UUIDs or binary"),
    ],
)
def test_ids(tmp_path: Path, ids: pa.Array, text: str | list[Any]) -> None:
    path = save(tmp_path / "a.arrow", table(range(2), id=ids))
    if isinstance(text, list):
        assert read(open_source([path]))[0] == text
    else:
        with refused(text):
            read(open_source([path]))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i8"])
def test_one_query_in_npy(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "q.npy", X[0].astype(dtype))
    assert (read_queries(tmp_path / "q.npy", None).vectors == X[:1]).all()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (np.zeros(0), "holds no queries"),
        (np.array([1e300, 1]), "NaN or infinite"),
        (np.array([np.nan, 1]), "NaN or infinite"),
        (np.float32(1), "shape ()"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_one_query_in_npy_refused(tmp_path: Path, query: np.ndarray, text: str) -> None:
    np.save(tmp_path / "q.npy", query)
    with refused(text):
        read_queries(tmp_path / "q.npy", None)


@pytest.mark.parametrize("neighbor", [2**32 + 1, -1, 0.5])
def test_neighbors_that_are_no_rows(tmp_path: Path, neighbor: float) -> None:
    save(tmp_path / "q.parquet", table(range(2), neighbors=[[0, neighbor]] * 2))
    with refused("holds no row numbers"):
        read_queries(tmp_path / "q.parquet", None)
    if isinstance(neighbor, int):
        hdf5(tmp_path / "q.h5", test=X[:2], neighbors=np.full((2, 1), neighbor))
        with refused("no row number"):
            read_queries(tmp_path / "q.h5", None)


# HDF5, and metrics


def hdf5(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("names", "asked", "text"),
    [
        (["train", "other"], None, ""),
        (["vector"], None, ""),
        (["g/h/rows"], "g/h/rows", ""),
        (["g/h/rows"], "/g/h/rows/", ""),
        (["train", "vector"], "/vector", ""),
        (["train", "vector"], None, "has the datasets 'train' and 'vector'"),
        (["rows"], None, "has no dataset 'train'; name one with --vector-column; here are rows"),
        (["g/rows"], "g", "has no dataset 'g'"),
        (["g/rows"], "g/../g/rows", "has no dataset"),
    ],
)
def test_hdf5_names(tmp_path: Path, names: list[str], asked: str | None, text: str) -> None:
    path = hdf5(tmp_path / "a.h5", **{name: X[:3] + i for i, name in enumerate(names)})
    option = {"vector_column": asked} if asked else {}
    if text:
        with refused(text):
            open_source([path], **option)
    else:
        source = open_source([path], **option)
        assert (read(source)[1] == X[:3] + (asked == "/vector")).all()
        assert ("other" in source.notes[-1]) == ("other" in names)


def _external_storage(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(X[:3].tobytes())
    file.create_dataset("train", (3, 4), "f4", external=[(str(folder / "secret"), 0, 48)])


def _virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "g/secret", (3, 4))
    file.create_virtual_dataset("train", layout)


def _soft_to_external(file: Any, folder: Path) -> None:
    file["out"], file["train"] = h5py.ExternalLink("other.h5", "g"), h5py.SoftLink("/out/secret")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_external_storage, "is in other files"),
        (_virtual, "a view of other datasets"),
        (_soft_to_external, "a link to another file, other.h5"),
        (lambda file, _: file.update(train=h5py.ExternalLink("other.h5", "g/secret")), "a link to another file"),
        (lambda file, _: file.update(train=h5py.SoftLink("/train")), "more than 16 links"),
        (lambda file, _: file.update(train=h5py.SoftLink("/none")), "has no dataset"),
        (
            lambda file, _: file.create_dataset("train", (10**5, 1000), "f4", chunks=(10**5, 1000)),
            "chunks of 400,000,000 bytes",
        ),
    ],
)
def test_hdf5_leads_nowhere(tmp_path: Path, make: Callable[[Any, Path], None], text: str) -> None:
    hdf5(tmp_path / "other.h5", **{"g/secret": X[:3]})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, tmp_path)
    with refused(text):
        open_source([tmp_path / "a.h5"])
    with h5py.File(tmp_path / "b.h5", "w") as file:  # beside what is read, and never opened
        file["real"], file["train"], file["x"] = X[:3], h5py.SoftLink("real"), h5py.ExternalLink("other.h5", "g/secret")
    assert (read(open_source([tmp_path / "b.h5"]))[1] == X[:3]).all()


@pytest.mark.parametrize("where", ["file", "dataset", "parquet"])
@pytest.mark.parametrize(
    ("word", "metric"),
    [
        ("Angular", "cosine"), (b"cosine similarity", "cosine"), ("L2-squared", "l2"), ("EUCLIDEAN", "l2"),
        ("inner_product", "dot"), ("IP", "dot"), ("hamming", None), ("jaccard", None), ("normalized", None), ("", ""),
    ],
)  # fmt: skip
def test_metric_of_the_file(tmp_path: Path, where: str, word: str | bytes, metric: str | None) -> None:
    if where == "parquet":
        path = save(tmp_path / "a.parquet", table(range(2)).replace_schema_metadata({"Distance": word}))
    else:
        path = hdf5(tmp_path / "a.h5", train=X[:2])
        with h5py.File(path, "a") as file:
            (file if where == "file" else file["train"]).attrs["distance" if where == "file" else "Metric"] = word
    source = open_source([path])
    if metric is None:
        with refused("which is not one of cosine, l2, dot"):
            source_metric(source, None)
        assert source_metric(source, "l2") == "l2"
    else:
        assert source_metric(source, None) == (metric or "cosine")
        with refused("--metric is") if metric and metric != "l2" else contextmanager(iter)([None]):
            source_metric(source, "l2")


# Memory


@pytest.mark.parametrize("nested", ["plain", "list", "struct", "list view"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_dictionaries_are_counted_as_what_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: str, suffix: str
) -> None:
    """A file of some kilobytes stands for 100 MB, and no piece of it for more than the limit."""
    monkeypatch.setattr(sizes, "PIECE_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1 << 20)
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array(["a" * 400_000]))
    column = {
        "plain": texts,
        "list": pa.ListArray.from_arrays(range(101), texts),
        "struct": pa.StructArray.from_arrays([texts], ["x"]),
        "list view": pa.ListViewArray.from_arrays(range(100), [1] * 100, texts),
    }[nested]
    path = save(tmp_path / f"a{suffix}", table(range(100), x=column))
    assert path.stat().st_size < 2 << 20
    counts = []
    for batch in open_source([path]).batches(100):
        counts.append(len(batch.rows))
        if len(counts) == 3:
            break
    assert max(counts) == 2


def test_json_texts_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1 << 20)
    texts = pa.array(["[" + "1," * 200_000 + "1]"] * 50).cast(pa.json_())
    path = save(tmp_path / "a.parquet", table(range(50), x=texts))
    assert len(next(parquet.batches(path, ["x"], 100))) <= 2


def test_a_page_that_may_unpack_to_all_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"compression": "zstd", "use_dictionary": False}
    path = save(tmp_path / "a.parquet", table(range(20), x=["a" * 500_000] * 20), **options)
    assert len(read(open_source([path]))[0]) == 20
    monkeypatch.setattr(parquet, "PAGE_BYTES_MAX", 1 << 20)
    with refused("write the file with smaller row groups"):
        read(open_source([path]))
    assert len(read(open_source([path], attributes=[]))[0]) == 20
