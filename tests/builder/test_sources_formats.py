"""Formats beside Parquet and .npy: read whole, queried, and refused when they are damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from build_index.ingest.open import open_source, source_metric
from build_index.ingest.queries import read_queries
from build_index.ingest.source import Source
from build_index.ingest.staging import stage
from build_index.write.vectors import _column_field, column_array
from vantage.errors import InputError

X = np.random.default_rng(3).integers(0, 100, (11, 6))


def vecs(path: Path, values: np.ndarray) -> Path:
    path.write_bytes(b"".join(len(row).to_bytes(4, "little") + row.tobytes() for row in values))
    return path


def hdf5(path: Path, distance: str = "euclidean", **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = distance
        for name, values in datasets.items():
            file[name] = values
    return path


def vectors(source: Source) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in source.batches(4)])


def refused(text: str, path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        vectors(open_source([path]))


@pytest.mark.parametrize(("suffix", "dtype", "kind"), [(".fvecs", "<f4", "f32"), (".bvecs", "u1", "u8")])
def test_vecs(tmp_path: Path, suffix: str, dtype: str, kind: str) -> None:
    path = vecs(tmp_path / f"a{suffix}", X.astype(dtype))
    source = open_source([path])
    assert (source.rows, source.dimension, source.kind, source.id_kind) == (11, 6, kind, "i64")
    assert (vectors(source) == X).all()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused("is cut short, or its rows differ in length", path)
    width = len(whole) // 11
    path.write_bytes(whole[: 7 * width] + (5).to_bytes(4, "little") + whole[7 * width + 4 :])
    refused(f"{path} row 7 has 5 values, the first row 6", path)
    path.write_bytes((-1).to_bytes(4, "little", signed=True) + whole[4:])
    refused("its first row has -1 values", path)
    path.write_bytes(b"")
    refused("the source is empty", path)


def test_vecs_as_queries(tmp_path: Path) -> None:
    path = vecs(tmp_path / "set_query.fvecs", X.astype("<f4"))
    assert read_queries(path, None).neighbors is None
    vecs(tmp_path / "set_groundtruth.ivecs", X.astype("<i4"))
    found = read_queries(path, 5)
    assert found.neighbors is not None
    assert (found.vectors == X[:5]).all() and (found.neighbors == X[:5]).all()
    vecs(tmp_path / "set_groundtruth.ivecs", X[:3].astype("<i4"))
    with pytest.raises(InputError, match="has neighbors of 3 queries, there are 11"):
        read_queries(path, None)


def test_hdf5(tmp_path: Path) -> None:
    given = X.astype("f4")
    path = hdf5(tmp_path / "a.hdf5", train=given, test=given[:3] + 1, neighbors=X[:3].astype("i4"))
    source = open_source([path])
    assert source.metric == "l2" and any("metric is l2" in note for note in source.notes)
    assert (vectors(source) == X).all()
    assert source_metric(source, None) == source_metric(source, "l2") == "l2"
    with pytest.raises(InputError, match="--metric is cosine, but .* says l2"):
        source_metric(source, "cosine")
    asked = read_queries(path, None)
    assert asked.neighbors is not None
    assert (asked.vectors == X[:3] + 1).all() and (asked.neighbors == X[:3]).all()
    refused("has no dataset 'train'", hdf5(tmp_path / "b.hdf5", test=given))
    refused("has the shape (6,)", hdf5(tmp_path / "c.hdf5", train=given[0]))
    refused("values of type bool", hdf5(tmp_path / "d.hdf5", train=X > 50))
    refused("the source is empty", hdf5(tmp_path / "f.hdf5", train=given[:0]))
    path.write_bytes(path.read_bytes()[:600])
    refused("cannot be read as HDF5", path)


def content(rows: int = 11) -> pa.Table:
    column = pa.FixedSizeListArray.from_arrays(pa.array(X[:rows].astype("f4").ravel()), 6)
    return pa.table({"id": list(range(rows)), "vector": column, "meta": [{"page": i} for i in range(rows)]})


@pytest.mark.parametrize("suffix", [".arrow", ".feather", ".ipc"])
@pytest.mark.parametrize("opened", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow(tmp_path: Path, suffix: str, opened: object) -> None:
    path = tmp_path / f"a{suffix}"
    given = content()
    with opened(path, given.schema) as writer:  # type: ignore[operator]
        writer.write_table(given, max_chunksize=5)
    source = open_source([path])
    assert (source.rows, source.dimension, source.attributes.names) == (11, 6, ["meta"])
    parts = list(source.batches(4))
    assert (np.concatenate([part.vectors for part in parts]) == X).all()
    assert parts[0].attributes["meta"].to_pylist() == [{"page": i} for i in range(4)]
    path.write_bytes(path.read_bytes()[:-200])
    refused("cannot be read", path)


def json_column(*texts: str | None) -> pa.Array:
    return pa.array(texts, pa.string()).cast(pa.json_())


@pytest.mark.parametrize("store_schema", [True, False])
def test_json_columns_come_back_as_values(tmp_path: Path, store_schema: bool) -> None:
    """By way of staging, and of the column that the index keeps in Parquet; a string stays one."""
    values: list[Any] = [
        {"a": [1, 2.5, None], "ü": {}},
        None,
        [],
        "text",
        3,
        False,
        {"n": 10**30},
        None,
        1e-7,
        "[1]",
        [],
    ]
    texts = [json.dumps(v, ensure_ascii=i % 2 == 0) for i, v in enumerate(values)]
    told = json_column(*texts[:7], None, *texts[8:])
    given = content().append_column("told", told).append_column("plain", pa.array(texts))
    pq.write_table(given, tmp_path / "a.parquet", store_schema=store_schema)
    source = open_source([tmp_path / "a.parquet"], attributes=["told", "plain"])
    with stage(source, tmp_path / "staging", metric="l2") as rows:
        found = [json.loads(record) for record in rows.attributes(np.arange(11))]
    assert found == [[value, text] for value, text in zip(values, texts, strict=True)]
    assert [type(one[0]) for one in found] == [type(value) for value in values]

    saved = json_column(*texts)
    assert _column_field(pa.field("told", saved.type)).type == pa.json_()
    again = column_array([one[0] for one in found], pa.json_())
    assert [None if t is None else json.loads(t) for t in again.storage.to_pylist()] == values


@pytest.mark.parametrize(
    "text", ["", "{", "{'a': 1}", "NaN", "1e999", '"\\ud800"', "[" * 65 + "]" * 65, "[" * 10**5, "1" * 5000]
)
def test_bad_json_names_row_and_column(tmp_path: Path, text: str) -> None:
    good = "[" * 64 + "1" + "]" * 64
    path = tmp_path / "a.parquet"
    pq.write_table(content(4).append_column("told", json_column(None, good, text, good)), path)
    refused(f"attribute 'told' that is not JSON, or nested over 64 deep: {path} row 2", path)


def test_json_in_lists_is_left_out(tmp_path: Path) -> None:
    column = pa.array([["1"]] * 4).cast(pa.list_(pa.json_()))
    pq.write_table(content(4).append_column("told", column), tmp_path / "a.parquet")
    source = open_source([tmp_path / "a.parquet"])
    assert source.attributes.names == ["meta"] and "'told'" in source.notes[0]


def test_hugging_face_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "README.md").write_text("a card")
    for name, rows in (("train-00001-of-00002", slice(6, 11)), ("train-00000-of-00002", slice(0, 6))):
        pq.write_table(content()[rows], data / f"{name}.parquet")
    assert open_source([tmp_path]).notes == ()
    pq.write_table(content(3), data / "test-00000-of-00001.parquet")
    source = open_source([tmp_path])
    assert source.notes == (f"The split train of {data} is read, not test.",)
    assert (vectors(source) == X).all()
    for path in data.glob("train*"):
        path.rename(path.with_name(path.name.replace("train", "validation")))
    refused("holds the splits test, validation, and none is train", tmp_path)


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a store on this machine, as R2 is: an endpoint, a key and a secret from the environment."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, ip_address="127.0.0.1")
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "hidden")):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.delenv("CLOUDFLARE_ACCOUNT_ID", raising=False)
        with pytest.raises(InputError, match="set CLOUDFLARE_ACCOUNT_ID"):
            open_source(["r2://docs/a.parquet"])
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        store = pa.fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        store.create_dir("docs")
        for name, rows in (("b", slice(6, 11)), ("a", slice(0, 6))):
            pq.write_table(content()[rows], f"docs/set/{name}.parquet", filesystem=store)
        source = open_source(["r2://docs/set"])
        assert (vectors(source) == X).all() and source.where(6) == "r2://docs/set/b.parquet row 0"
        assert open_source(["s3://docs/set/a.parquet"]).rows == 6
        for url, text in (("s3://docs/none.parquet", "no such object"), ("gs://x/a.parquet", "gs:// is not a source")):
            with pytest.raises(InputError, match=text) as caught:
                open_source([url])
            assert "hidden" not in str(caught.value)
    finally:
        server.stop()
