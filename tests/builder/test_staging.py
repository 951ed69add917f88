"""The staging gives back what the source held, and refuses what no index may hold."""

import json
import re
import resource
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from build_index.ingest import staging as staging_module
from build_index.ingest.open import open_source
from build_index.ingest.staging import Staging, stage
from build_index.progress import Progress
from vantage.errors import InputError

KINDS = {"f32": np.float32, "f16": np.float16, "u8": np.uint8, "i8": np.int8}


def vectors(rows: int, dimension: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(2).integers(1, 100, (rows, dimension)).astype(dtype)


def make(tmp_path: Path, given: np.ndarray, metric: str = "l2", **columns: Any) -> Staging:
    """A staging of `given` and `columns`, in files of about a third of the rows each."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(given.ravel()), given.shape[1])
    content = pa.table({"vector": flat, **columns})
    part = max(1, -(-len(given) // 3))
    for at in range(0, len(given), part):
        pq.write_table(content.slice(at, part), tmp_path / f"{at:06d}.parquet")
    return stage(open_source([tmp_path]), tmp_path / "scratch", metric=metric)


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "scratch").iterdir()]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes small enough that these few rows are written, read and looked through in many pieces."""
    monkeypatch.setattr(staging_module, "BATCH_ROWS_MAX", 7)
    monkeypatch.setattr(staging_module, "GAP_BYTES", 40)
    monkeypatch.setattr(staging_module, "SPAN_BYTES", 100)
    monkeypatch.setattr(staging_module, "HASH_CHUNK", 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 3, 97])
@pytest.mark.parametrize("text_ids", [False, True])
def test_rows_come_back(tmp_path: Path, kind: str, dimension: int, text_ids: bool) -> None:
    rows = 50
    given = vectors(rows, dimension, KINDS[kind])
    ids: list[Any] = [f"id{row * row}" for row in range(rows)] if text_ids else [row * 3 - 7 for row in range(rows)]
    words = ["" if row % 5 == 0 else "ä" * row for row in range(rows)]
    with make(tmp_path, given, id=ids, word=words) as made:
        assert (made.rows, made.dimension, made.kind) == (rows, dimension, kind)
        assert made.id_kind == ("bytes" if text_ids else "i64")
        assert made.vectors(0, rows).dtype == KINDS[kind]
        assert (made.vectors(3, 20) == given[3:20]).all()
        assert made.floats(3, 20).dtype == np.float32 and (made.floats(3, 20) == given[3:20]).all()
        assert made.vectors(5, 5).shape == (0, dimension)
        for wanted in ([], [rows - 1, 0], [4, 4, 3], np.random.default_rng(3).permutation(rows), [1, 2, 30, 31, 49]):
            at = np.asarray(wanted, np.int32)
            assert made.gather(at).dtype == np.float32 and (made.gather(at) == given[at]).all()
            expected = [ids[row].encode() if text_ids else ids[row] for row in at]
            assert list(made.ids(at)) == expected
            assert made.attributes(at) == [f'["{words[row]}"]'.encode() for row in at]
    assert left_over(tmp_path) == []


def test_npy_has_row_numbers_and_no_attributes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(20, 3))
    with stage(open_source([tmp_path / "a.npy"]), tmp_path / "scratch", metric="dot") as made:
        assert made.ids(np.array([19, 0])).tolist() == [19, 0]
        assert made.attributes(np.array([19, 0])) == [b"[]", b"[]"]


def test_chunks(tmp_path: Path) -> None:
    with make(tmp_path, vectors(10, 4, np.float16), id=list(range(10))) as made:
        assert list(made.chunks(4)) == [(0, 4), (4, 8), (8, 10)]


def test_progress(tmp_path: Path) -> None:
    given = vectors(30, 5, np.uint8)
    np.save(tmp_path / "a.npy", given)
    seen: list[float] = []
    with stage(
        open_source([tmp_path / "a.npy"]),
        tmp_path / "scratch",
        metric="cosine",
        progress=Progress(lambda _, share: seen.append(share)),
    ):
        pass
    assert seen == [7 / 30, 14 / 30, 21 / 30, 28 / 30, 1]


def test_attributes_as_json(tmp_path: Path) -> None:
    nan = float("nan")
    moment = datetime(2020, 1, 2, 3, 4, 5, 678, UTC)
    columns = {
        "text": (pa.array(['a"\\\n\u2028é', None]), ['a"\\\n\u2028é', None]),
        "count": (pa.array([2**63, None], pa.uint64()), [2**63, None]),
        "yes": (pa.array([True, False]), [True, False]),
        "f64": (pa.array([0.1, nan]), [0.1, None]),
        "f32": (pa.array([0.1, float("-inf")], pa.float32()), [0.1, None]),
        "f16": (pa.array([0.5, None], pa.float16()), [0.5, None]),
        "price": (pa.array([Decimal("1.50"), None]), ["1.50", None]),
        "day": (pa.array([date(2020, 1, 2), None]), ["2020-01-02", None]),
        "local": (pa.array([moment.replace(tzinfo=None), None]), ["2020-01-02T03:04:05.000678", None]),
        "zoned": (
            pa.array([moment, None], pa.timestamp("ns", "Europe/Berlin")),
            ["2020-01-02T03:04:05.000678000Z", None],
        ),
        "nothing": (pa.nulls(2), [None, None]),
        "list": (pa.array([["x", None], []]), [["x", None], []]),
        "fixed": (pa.array([None, [1.0, nan]], pa.list_(pa.float32(), 2)), [None, [1.0, None]]),
        "large": (pa.array([[[1]], None], pa.large_list(pa.list_(pa.int8()))), [[[1]], None]),
        "struct": (
            pa.array([{"a": date(2020, 1, 2), "b": [{"c": nan}]}, None]),
            [{"a": "2020-01-02", "b": [{"c": None}]}, None],
        ),
        "tag": (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    }
    with make(tmp_path, vectors(2, 3), **{name: column for name, (column, _) in columns.items()}) as made:
        raw = made.attributes(np.arange(2))
    for row in range(2):
        found = dict(zip(columns, json.loads(raw[row]), strict=True))
        assert found == {name: expected[row] for name, (_, expected) in columns.items()}
    assert raw[0].startswith('["a\\"\\\\\\n\u2028é",9223372036854775808,true,0.1,0.1,'.encode())


def test_zero_vectors(tmp_path: Path) -> None:
    given = vectors(30, 3)
    given[[2, 9, 10, 11, 25, 29]] = 0
    with make(tmp_path, given) as made:
        assert made.duplicate_vectors == 5
    files = [tmp_path / f"{at:06d}.parquet" for at in (0, 10, 20)]
    places = [f"{files[row // 10]} row {row % 10}" for row in (2, 9, 10, 11, 25)]
    with pytest.raises(InputError, match=re.escape(f"metric cosine: {', '.join(places)}, and more")):
        make(tmp_path, given, metric="cosine")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_vectors_are_counted(tmp_path: Path, kind: str) -> None:
    """Whole numbers in f32 have many zero bits: their hashes must differ all the same."""
    spread = np.arange(3000)
    given = np.stack([spread % 100, spread // 100, spread % 7], axis=1).astype(KINDS[kind])
    np.save(tmp_path / "a.npy", np.concatenate([given, given[[5, 5, 70]]]))
    with stage(open_source([tmp_path / "a.npy"]), tmp_path / "scratch", metric="l2") as made:
        assert made.duplicate_vectors == 3


@pytest.mark.parametrize("text_ids", [False, True])
def test_duplicate_ids(tmp_path: Path, text_ids: bool) -> None:
    ids: list[Any] = [100 + row for row in range(30)]
    for row, earlier in ((9, 1), (10, 1), (11, 3), (20, 12), (28, 27), (29, 0)):
        ids[row] = ids[earlier]
    shown = {row: repr(f"k{ids[row]}" if text_ids else str(ids[row])) for row in range(30)}
    column = [f"k{one}" for one in ids] if text_ids else ids
    files = [tmp_path / f"{at:06d}.parquet" for at in (0, 10, 20)]
    named = [
        f"{shown[row]} in {files[earlier // 10]} row {earlier % 10} and {files[row // 10]} row {row % 10}"
        for row, earlier in ((9, 1), (10, 1), (11, 3), (20, 12), (28, 27))
    ]
    with pytest.raises(InputError, match=re.escape("duplicate ids: " + ", ".join(named) + ";")):
        make(tmp_path, vectors(30, 3), id=column)
    assert left_over(tmp_path) == []


def test_equal_hashes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "hash", len, raising=False)
    with make(tmp_path, vectors(20, 3), id=[f"{row:02d}" for row in range(20)]) as made:
        assert made.rows == 20
    with pytest.raises(InputError, match="duplicate ids: '00' in .*000000.parquet row 0 and .*000014.parquet row 5"):
        make(tmp_path, vectors(20, 3), id=[f"{row:02d}" for row in range(19)] + ["00"])


def test_nothing_is_left_when_stopped_or_full(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(5000, 16))
    source = open_source([tmp_path / "a.npy"])

    def stop(_: str, share: float) -> None:
        if share > 0.02:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(source, tmp_path / "scratch", metric="l2", progress=Progress(stop))
    assert left_over(tmp_path) == []

    # A limit on the size of files stands in for a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            stage(source, tmp_path / "scratch", metric="l2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_over(tmp_path) == []


def test_vectors_too_long_for_their_scores(tmp_path: Path) -> None:
    given = vectors(30, 4)
    given[[3, 7, 20]] *= np.float32(1e20)
    with pytest.raises(InputError, match="norm over 1e.18.*row 3, .*row 7, .*000020.parquet row 0"):
        make(tmp_path, given)
