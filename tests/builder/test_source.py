"""Sources: every type of file, vector, id and attribute that is read, and every one that is refused."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from build_index.ingest.formats.batch import Batch
from build_index.ingest.open import open_source
from build_index.ingest.source import Source
from vantage.errors import InputError

VALUES = {
    "f16": (pa.float16(), np.float16),
    "f32": (pa.float32(), np.float32),
    "f64": (pa.float64(), np.float64),
    "u8": (pa.uint8(), np.uint8),
    "i8": (pa.int8(), np.int8),
}
LISTS: dict[str, Callable[[pa.DataType, int], pa.DataType]] = {
    "fixed": lambda value, d: pa.list_(value, d),
    "list": lambda value, d: pa.list_(value),
    "large": lambda value, d: pa.large_list(value),
}


def vectors(rows: int, dimension: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, (rows, dimension)).astype(dtype)


def table(rows: int, dimension: int = 3, **columns: Any) -> pa.Table:
    """Ids from 0 and f32 vectors, with `columns` added or replaced."""
    made = {"id": list(range(rows)), "vector": pa.array(vectors(rows, dimension).tolist(), pa.list_(pa.float32()))}
    return pa.table(made | columns)


def save(path: Path, content: pa.Table, **options: Any) -> Path:
    pq.write_table(content, path, **options)
    return path


def read(source: Source, rows_max: int = 4) -> Batch:
    """All batches as one, after checking that they follow each other."""
    batches = list(source.batches(rows_max))
    counts = [len(batch.vectors) for batch in batches]
    assert all(0 < count <= rows_max for count in counts)
    rows = np.concatenate([batch.rows for batch in batches])
    assert rows.tolist() == list(range(sum(counts)))
    assert all(batch.attributes.schema == source.attributes for batch in batches)
    ids = [batch.ids for batch in batches]
    return Batch(
        rows,
        np.concatenate([batch.vectors for batch in batches]),
        np.concatenate(ids) if source.id_kind == "i64" else [one for part in ids for one in part],
        pa.concat_tables([batch.attributes for batch in batches]),
    )


def refused(text: str, path: Path | list[Path], **options: Any) -> None:
    """Opening or reading raises an InputError with `text` in it, whatever the size of the batches."""
    for rows_max in (1, 3, 100):
        with pytest.raises(InputError, match=re.escape(text)):
            read(open_source(path if isinstance(path, list) else [path], **options), rows_max)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("shape", LISTS)
def test_vector_lists(tmp_path: Path, value: str, shape: str) -> None:
    kind, dtype = VALUES[value]
    given = vectors(11, 5, dtype)
    flat = pa.array(given.ravel(), kind)
    offsets = np.arange(0, 56, 5, dtype=np.int32 if shape == "list" else np.int64)
    column = {
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, 5),
        "list": lambda: pa.ListArray.from_arrays(offsets, flat),
        "large": lambda: pa.LargeListArray.from_arrays(offsets, flat),
    }[shape]()
    assert column.type == LISTS[shape](kind, 5)
    source = open_source([save(tmp_path / "a.parquet", table(11, vector=column), row_group_size=6)])
    assert (source.rows, source.dimension, source.kind) == (11, 5, "f32" if value == "f64" else value)
    found = read(source).vectors
    assert found.dtype == (np.float32 if value == "f64" else dtype)
    assert found.flags.c_contiguous
    assert (found == given).all()


def test_vector_binary(tmp_path: Path) -> None:
    given = vectors(11, 5, np.uint8)
    column = pa.array([row.tobytes() for row in given], pa.binary(5))
    source = open_source([save(tmp_path / "a.parquet", table(11, vector=column))])
    assert (source.dimension, source.kind) == (5, "u8")
    assert (read(source).vectors == given).all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_npy(tmp_path: Path, value: str, order: str) -> None:
    given = vectors(11, 5).astype(np.dtype(VALUES[value][1]).newbyteorder(order))
    for part, rows in enumerate((slice(0, 6), slice(6, 6), slice(6, 11))):
        np.save(tmp_path / f"{part}.npy", given[rows])
    source = open_source([tmp_path])
    assert (source.rows, source.dimension, source.kind) == (11, 5, "f32" if value == "f64" else value)
    assert source.id_kind == "i64" and len(source.notes) == 1
    found = read(source)
    assert (found.vectors == given).all() and found.vectors.dtype.isnative
    assert found.ids.tolist() == list(range(11))
    assert source.where(6) == f"{tmp_path / '2.npy'} row 0"


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (vectors(4, 2, np.int32) + 2**24, None, "whole numbers beyond 2^24, which float32 cannot hold: {} row 0, "),
        (vectors(4, 2, bool), None, "values of type bool"),
        (vectors(4, 2, np.longdouble), None, "values of type"),
        (vectors(4, 2, np.complex64), None, "values of type complex64"),
        (np.array([["a"]], object), None, "values of type object"),
        (vectors(4, 2)[0], None, "shape (2,)"),
        (vectors(4, 2)[None], None, "shape (1, 4, 2)"),
        (np.zeros((0, 3), np.float32), None, "the source is empty"),
        (np.zeros((3, 0), np.float32), None, "have no values"),
        (np.array([[0, np.nan], [1, 2], [np.inf, 0]], np.float32), None, "a.npy row 0, "),
        (vectors(4, 2), "id_column", "no columns"),
        (vectors(4, 2), "vector_column", "no columns"),
        (vectors(4, 2), "attributes", "no columns"),
    ],
)
def test_npy_refused(tmp_path: Path, given: np.ndarray, kind: str | None, text: str) -> None:
    np.save(tmp_path / "a.npy", given)
    named: Any = ["x"] if kind == "attributes" else "x"
    refused(text.format(tmp_path / "a.npy"), tmp_path / "a.npy", **({kind: named} if kind else {}))


def test_npy_files_disagree_or_are_damaged(tmp_path: Path) -> None:
    for name, given in (("a", vectors(2, 3)), ("b", vectors(2, 4))):
        np.save(tmp_path / f"{name}.npy", given)
    refused("b.npy holds vectors of 4 values, ", tmp_path)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(whole[:-1])
    refused("b.npy is cut short", tmp_path)
    (tmp_path / "b.npy").write_bytes(b"not an array")
    refused("b.npy cannot be read", tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
def test_integer_ids(tmp_path: Path, kind: pa.DataType) -> None:
    ids = [0, 1, 2, 100, 127]
    source = open_source([save(tmp_path / "a.parquet", table(5, id=pa.array(ids, kind)))])
    found = read(source).ids
    assert source.id_kind == "i64" and isinstance(found, np.ndarray)
    assert found.dtype == np.int64 and found.tolist() == ids


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.binary(),
        pa.large_binary(),
        pa.binary(2),
    ],
)
def test_text_and_binary_ids(tmp_path: Path, kind: pa.DataType) -> None:
    ids = ["ab", "ä", "zz", "a1", "b2"]
    column = pa.array(ids).cast(pa.binary()).cast(kind) if pa.types.is_fixed_size_binary(kind) else None
    column = pa.array(ids).cast(kind) if column is None else column
    source = open_source([save(tmp_path / "a.parquet", table(5, id=column))])
    assert source.id_kind == "bytes"
    assert read(source, 2).ids == [one.encode() for one in ids]


def test_id_column_absent(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", table(5).rename_columns(["key", "vector"]))
    source = open_source([path], attributes=[])
    assert source.notes == ("Ids are row numbers: there is no column 'id'.",)
    assert read(source, 2).ids.tolist() == [0, 1, 2, 3, 4]
    assert open_source([path], id_column="key", attributes=[]).notes == ()
    refused("id column 'name' is missing in", path, id_column="name")
    refused("its columns are key, vector", path, id_column="name")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (pa.array([1, None, 3, None], pa.int64()), "ids that are null: {0} row 1, {0} row 3"),
        (pa.array(["a", "", "c", ""]), "ids that are empty: {0} row 1, {0} row 3;"),
        (pa.array(["x" * 512, "x" * 513, "ä" * 257, "y"]), "ids over 512 bytes: {0} row 1, {0} row 2;"),
        (pa.array([1, 2**63, 2**63 - 1, 4], pa.uint64()), "ids over 2^63 - 1: {0} row 1;"),
        (pa.array([b"a", b"b", b"\xff", b"d"]).view(pa.string()), "ids that are not UTF-8: {0} row 2;"),
        (pa.array([1.0, 2.0, 3.0, 4.0]), "id column 'id' of {0} is double"),
    ],
)
def test_ids_refused(tmp_path: Path, ids: pa.Array, text: str) -> None:
    path = save(tmp_path / "a.parquet", table(4, id=ids))
    refused(text.format(path), path)


BAD = [0, 2, 5, 6, 7, 8, 9]


FAULTS: dict[str, list[list[float | None] | None]] = {
    "vectors with NaN, infinite or too large values": [[1.0, float("nan")], [1.0, float("inf")], [1.0, 1e300]],
    "vectors with values that are null": [[1.0, None]],
    "vectors that have not 2 values, the dimension of the first one": [[1.0, 2.0, 3.0], []],
    "vectors that are null": [None],
}


@pytest.mark.parametrize(
    ("text", "bad", "shape"),
    [
        (text, bad, shape)
        for text, vectors_of in FAULTS.items()
        for bad in vectors_of
        for shape in LISTS
        if shape != "fixed" or bad is None or len(bad) == 2  # a fixed-size list cannot hold another length
    ],
)
def test_bad_rows_name_the_first_five(tmp_path: Path, text: str, bad: list[float] | None, shape: str) -> None:
    good = [1.0, 2.0]
    faulty = BAD if bad is None or len(bad) == 2 else [row + 1 for row in BAD]  # the first vector sets the dimension
    rows = [bad if row in faulty else good for row in range(12)]
    files = []
    for name, part in (("a", rows[:6]), ("b", rows[6:])):
        column = pa.array(part, LISTS[shape](pa.float64(), 2))
        files.append(save(tmp_path / f"{name}.parquet", table(6, vector=column)))
    places = [f"{files[row // 6]} row {row % 6}" for row in faulty]
    refused(f"{text}: {', '.join(places[:5])}, and more", files)


def test_null_binary_vector(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", table(3, vector=pa.array([b"ab", None, b"cd"], pa.binary(2))))
    refused(f"vectors that are null: {path} row 1", path)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([[[1.0]]] * 3), "column 'vector' of {} is list<"),
        (pa.array([[True]] * 3), "column 'vector' of {} is list<"),
        (pa.array([[2**24 + 1, 2]] * 3), "beyond 2^24, which float32 cannot hold: {0} row 0, {0} row 1"),
        (pa.array([1.0, 2.0, 3.0]), "column 'vector' of {} is double"),
        (pa.array(["a", "b", "c"]), "column 'vector' of {} is string"),
        (pa.array([None] * 3, pa.list_(pa.float32())), "holds no vector, only nulls"),
        (pa.array([[], [1.0], [2.0]], pa.list_(pa.float32())), "have no values"),
    ],
)
def test_vector_columns_refused(tmp_path: Path, column: pa.Array, text: str) -> None:
    path = save(tmp_path / "a.parquet", table(3, vector=column))
    refused(text.format(path), path)


def test_other_names(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", table(3, word=["a", "b", "c"]).rename_columns(["key", "embedding", "word"]))
    source = open_source([path], vector_column="embedding", id_column="word")
    assert source.attributes.names == ["key"] and source.dimension == 3
    refused("vector column 'vector' is missing in", path)
    refused("its columns are key, embedding, word", path)


def test_attributes(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", None, "c"]),
        "tag": pa.array(["x", "y", "x"]).dictionary_encode(),
        "count": pa.array([1, None, 3], pa.uint16()),
        "price": pa.array([Decimal("1.50"), None, Decimal("2.00")]),
        "when": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
        "words": pa.array([["a"], None, []]),
        "nested": pa.array([{"x": [1.5]}, None, {"x": None}]),
        "nothing": pa.nulls(3),
    }
    odd = {"raw": pa.array([b"a", b"b", b"c"]), "pair": pa.array([[(2, 1)]] * 3, pa.map_(pa.int8(), pa.int64()))}
    path = save(tmp_path / "a.parquet", table(3, **columns, **odd))
    source = open_source([path])
    assert source.attributes.names == list(columns)
    assert source.attributes.field("tag").type == pa.string()
    assert len(source.notes) == 1 and "'raw' (binary), 'pair' (map<" in source.notes[0]
    found = read(source, 2).attributes
    for name, column in columns.items():
        assert found[name].to_pylist() == column.to_pylist()
    chosen = open_source([path], attributes=["words", "text"])
    assert chosen.attributes.names == ["words", "text"] and chosen.notes == ()
    assert read(chosen).attributes.num_columns == 2
    assert open_source([path], attributes=[]).attributes.names == []
    refused("attribute 'raw' of", path, attributes=["raw"])
    refused("attribute column 'x' is missing in", path, attributes=["x"])
    refused("attribute 'text' is named twice", path, attributes=["text", "text"])
    refused("attribute 'id' is named twice, or is the vector or id column", path, attributes=["id"])
    refused("attribute 'vector' is named twice, or is the vector or id column", path, attributes=["vector"])


def test_attribute_not_utf8(tmp_path: Path) -> None:
    text = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    for column in (text, pa.ListArray.from_arrays([0, 1, 2, 3], text)):
        path = save(tmp_path / "a.parquet", table(3, text=column))
        refused(f"attribute 'text' that is not UTF-8: {path} row 1", path)


def test_folder_and_order(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, ids in (("b", [4, 5]), ("a", [1, 2, 3]), ("_c", [9]), (".d", [9]), ("aa", [])):
        content = table(len(ids), id=pa.array(ids, pa.int64()))
        save(folder / f"{name}.parquet", content)
    (folder / "LICENSE").write_text("not data")
    last = save(tmp_path / "last.parquet", table(1, id=[6]))
    source = open_source([folder, last])
    assert source.rows == 6 and read(source, 2).ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert source.where(3) == f"{folder / 'b.parquet'} row 0"
    assert open_source([last, folder]).where(0) == f"{last} row 0"


def test_paths_refused(tmp_path: Path) -> None:
    refused("no source is named", [])
    refused("no such file or folder", tmp_path / "a.parquet")
    refused("no file of a known kind in folder", tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    refused("unknown kind of file", tmp_path / "a.csv")
    refused("the source is empty", save(tmp_path / "a.parquet", table(0)))
    np.save(tmp_path / "b.npy", vectors(2, 3))
    refused("mixes .parquet and .npy", tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing else")
    refused("c.parquet cannot be read as Parquet", tmp_path / "c.parquet")


def test_damaged_pages(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", table(2000, 16), compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) * 3 // 4] = bytes(len(data) // 2)
    path.write_bytes(data)
    refused(f"{path} cannot be read", path)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"vector": pa.array(["[1, 2, 3]"] * 2)}, "column 'vector' of"),
        ({"id": ["a", "b"]}, "column 'id' is string in"),
        ({"word": [1, 2]}, "column 'word' is int64 in"),
    ],
)
def test_schemas_disagree(tmp_path: Path, other: dict[str, Any], text: str) -> None:
    save(tmp_path / "a.parquet", table(2, word=["a", "b"]))
    save(tmp_path / "b.parquet", table(2, **{"word": ["a", "b"], **other}))
    refused(text, tmp_path)
    save(tmp_path / "b.parquet", table(2))
    refused("column 'word' is missing in", tmp_path)


def test_column_twice(tmp_path: Path) -> None:
    content = table(2).append_column("id", pa.array([1, 2]))
    refused("column 'id' is there 2 times", save(tmp_path / "a.parquet", content))


def test_sample() -> None:
    """The committed sample is small, its queries are not in it, and their neighbors are exact."""
    folder = Path(__file__).parents[2] / "sample"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 10_000_000
    base, queries = (open_source([folder / f"{name}.parquet"]) for name in ("wordnet", "queries"))
    assert (base.rows, base.dimension, base.kind, base.notes) == (12_288, 384, "f16", ())
    assert (queries.rows, queries.dimension, queries.kind) == (600, 384, "f16")
    rows, asked = read(base, 4096), next(queries.batches(20))
    assert not set(rows.ids) & set(read(queries, 600).ids)
    scores = asked.vectors.astype(np.float64) @ rows.vectors.astype(np.float64).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    assert asked.attributes["neighbors"].to_pylist() == best.tolist()


def test_memory_is_bounded(tmp_path: Path) -> None:
    """One row group of 24 MB is read through less than 4 MB."""
    given = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6_000_000, np.float32)), 1000)
    content = pa.table({"id": np.arange(6000), "vector": given})
    path = save(tmp_path / "a.parquet", content, use_dictionary=False, compression="none")
    usual = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counting)
    try:
        assert sum(len(batch.ids) for batch in open_source([path]).batches(64)) == 6000
    finally:
        pa.set_memory_pool(usual)
    assert 0 < counting.max_memory() < 4_000_000
