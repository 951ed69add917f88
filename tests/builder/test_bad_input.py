"""What a build refuses: one clear error that names the rows, nothing that looks like an index, the old one live."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import Ran, clustered, vantage

from build_index.bucket.open import open_index

ROWS, DIMENSION = 240, 4  # more than are simply exact
HINT = "mend these rows, or leave them out with --skip-bad-rows (rows count from 0)"


def good() -> np.ndarray:
    return clustered(ROWS, DIMENSION, 2)


def save(path: Path, x: Any, **columns: Any) -> Path:
    """Parquet with vectors x, an array or lists of differing lengths, and ids from 0."""
    vectors = pa.array([None if v is None else list(v) for v in x], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": list(range(len(x))), "vector": vectors} | columns), path)
    return path


def built(source: Path, out: Path, *more: object) -> Ran:
    return vantage("build", source, "--out", out, "--recall", 0.8, "--k", 5, *more)


def nothing_left(out: Path) -> bool:
    return not out.exists() or not list(out.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "index"


def with_rows(bad: list[int], value: Any) -> list[Any]:
    x: list[Any] = list(good())
    for row in bad:
        x[row] = value
    return x


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2, 3], "vectors that have not 4 values, the dimension of the first one"),
        ([1, np.nan, 2, 3], "vectors with NaN, infinite or too large values"),
        ([1, -np.inf, 2, 3], "vectors with NaN, infinite or too large values"),
        ([0, 0, 0, 0], "zero vectors, which have no direction under the metric cosine"),
        (None, "vectors that are null"),
    ],
    ids=["dimension", "NaN", "infinite", "zero", "null"],
)
def test_bad_rows_are_named(tmp_path: Path, out: Path, value: Any, reason: str) -> None:
    """The first five, and that there are more."""
    source = save(tmp_path / "bad.parquet", with_rows([7, 8, 20, 33, 40, 41, 59], value))
    said = built(source, out).refusal()
    named = ", ".join(f"{source} row {row}" for row in (7, 8, 20, 33, 40))
    assert said == f"{reason}: {named}, and more; {HINT}"
    assert nothing_left(out)
    few = built(save(tmp_path / "few.parquet", with_rows([9], value)), out).refusal()
    assert few == f"{reason}: {tmp_path / 'few.parquet'} row 9; {HINT}"


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_zero_vectors_have_a_place_under_other_metrics(tmp_path: Path, out: Path, metric: str) -> None:
    ran = built(save(tmp_path / "zero.parquet", with_rows([7, 20], [0, 0, 0, 0])), out, "--metric", metric, "--json")
    assert ran.json()["duplicate_vectors"] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_all_rows_zero(tmp_path: Path, out: Path, metric: str) -> None:
    told = built(save(tmp_path / "zero.parquet", np.zeros((ROWS, 4))), out, "--metric", metric, "--json").json()
    assert told["duplicate_vectors"] == ROWS - 1
    assert len(vantage("query", out, "--id", 3, "--json").json()["matches"]) == 10


def test_duplicate_ids(tmp_path: Path, out: Path) -> None:
    names = [f"name {i % (ROWS - 3)}" for i in range(ROWS)]
    source = save(tmp_path / "a.parquet", good(), id=names)
    said = built(source, out).refusal()
    pairs = ", ".join(f"'name {i}' in {source} row {i} and {source} row {ROWS - 3 + i}" for i in range(3))
    assert said == f"duplicate ids: {pairs}; give every row an id of its own"
    source = save(tmp_path / "b.parquet", good(), id=[i // 2 for i in range(ROWS)])
    said = built(source, out).refusal()
    assert said.count(" and ") == 5 and said.startswith(f"duplicate ids: '0' in {source} row 0 and {source} row 1")
    assert nothing_left(out)


def test_duplicate_vectors_only_warn(tmp_path: Path, out: Path) -> None:
    """They are all kept, and tie."""
    x = good()
    x[30:40] = x[3]
    ran = built(save(tmp_path / "a.parquet", x), out, "--json")
    assert ran.json()["duplicate_vectors"] == 10
    assert "note: 10 vectors repeat another one; they are kept, and tie" in " ".join(ran.err.split())
    np.save(tmp_path / "q.npy", x[3:4])
    found = vantage("query", out, "--vector", tmp_path / "q.npy", "--top-k", 11, "--rerank", 20, "--json").json()
    assert {m["id"] for m in found["matches"]} == {3, *range(30, 40)}


def test_every_row_the_same(tmp_path: Path, out: Path) -> None:
    told = built(save(tmp_path / "a.parquet", np.ones((ROWS, 4))), out, "--json").json()
    assert told["duplicate_vectors"] == ROWS - 1
    assert len(vantage("query", out, "--id", 3, "--json").json()["matches"]) == 10


def test_every_row_many_times(tmp_path: Path, out: Path) -> None:
    """In more blocks than there are different rows, all are written, and found."""
    x = np.repeat(clustered(6, 4, 3), 200, axis=0)
    source = save(tmp_path / "a.parquet", x)
    made = built(source, out, "--recall", 0.95, "--json").json()
    assert made["blocks"] >= 8 and made["recall"] >= 0.95  # which of the equal rows an answer names is all the same
    found = vantage("query", out, "--id", 3, "--rerank", 60, "--json").json()["matches"]
    assert all(m["id"] < 200 for m in found)


def test_long_ids(tmp_path: Path, out: Path) -> None:
    names = ["i" * 512 + ("x" if i in (4, 50) else "") if i == 9 or i in (4, 50) else f"id {i}" for i in range(ROWS)]
    names[50] += "y"
    source = save(tmp_path / "a.parquet", good(), id=names)
    said = built(source, out).refusal()
    assert said.startswith(f"ids over 512 bytes: {source} row 4, {source} row 50; ")
    names[4], names[50] = "é" * 256, "z"
    assert built(save(tmp_path / "b.parquet", good(), id=names), out, "--json").json()["rows"] == ROWS
    assert vantage("query", out, "--id", "é" * 256, "--json").code == 0


def test_empty(tmp_path: Path, out: Path) -> None:
    said = built(save(tmp_path / "a.parquet", good()[:0]), out).refusal()
    assert said.startswith(f"the source is empty: {tmp_path / 'a.parquet'} has no rows")
    assert nothing_left(out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--metric", "euclid"), "there is no metric 'euclid'; known are: cosine, l2, dot"),
        (("--recall", "0"), "--recall is 0.0, the limit is between 0 and 1"),
        (("--recall", "1"), "--recall is 1.0, the limit is between 0 and 1"),
        (("--recall", "nan"), "--recall is nan, the limit is between 0 and 1"),
        (("--k", "0"), "--k is 0, the limit is 1 to 100"),
        (("--k", "101"), "--k is 101, the limit is 1 to 100"),
        (("--memory-budget", "512MiB"), "--memory-budget is 536870912, the limit is at least 671088640 bytes"),
        (
            ("--router", "oracle"),
            "--router is 'oracle'; known are: centroids, lse, trained, two-level, mlp, tree, ecvh, two-level-ecvh",
        ),
        (("--partition", "random"), "--partition is 'random'; known are: kmeans, votes, graph, ecvh"),
        (("--copies", "all"), "--copies is 'all'; known are: none, soar, closure, misses"),
        (("--copies-share", "2.5"), "--copies-share is 2.5, the limit is 0 to 2"),
        (("--copies", "none", "--copies-share", "1"), "--copies none, and --copies-share 1.0; leave one of them out"),
        (("--copies", "soar", "--copies-share", "0"), "--copies soar, and --copies-share 0; leave one of them out"),
        (("--router", "trained", "--fast"), "--fast trains nothing, and --router trained is trained; leave one out"),
        (
            ("--router", "trained", "--memory-budget", "800MiB"),
            "--memory-budget is 838860800, the limit is at least 1073741824 bytes to train a router; allow 1GiB",
        ),
        (("--memory-budget", "plenty"), "'plenty' is not a size; write 40MiB, 1GiB or a number of bytes"),
        (("--cache", "-1"), "'-1' is not a size"),
        (("--seed", "-1"), "--seed is -1, the limit is 0 to 2147483646"),
        (("--seed", str((1 << 31) - 1)), "--seed is 2147483647, the limit is 0 to 2147483646"),
        (("--vectors", "f64"), "--vectors is 'f64'; f16 or f32"),
        (("--vector-column", "values"), "vector column 'values' is missing in "),
        (("--id-column", "key"), "id column 'key' is missing in "),
        (("--attributes", "color"), "attribute column 'color' is missing in "),
        (("--out", "s3://bucket"), "that is not the address of an index"),
        (("--out", "bucket/no spaces"), "'no spaces' is not a name for an index"),
        (("--out", "bucket/.hidden"), "'.hidden' is not a name for an index"),
        (("--out", f"bucket/{'n' * 65}"), f"'{'n' * 65}' is not a name for an index"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_options(tmp_path: Path, out: Path, options: tuple[str, str], sentence: str) -> None:
    said = built(save(tmp_path / "a.parquet", good()), out, *options).refusal()
    assert said.startswith(sentence) and "\n" not in said
    assert nothing_left(out)


def test_dimension_limit(tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((30, 4097), np.uint8))
    assert built(tmp_path / "wide.npy", out).refusal().startswith("the dimension is 4097, the limit is 4096")


def test_values_beyond_float16(tmp_path: Path, out: Path) -> None:
    x = good() * 20_000
    source = save(tmp_path / "a.parquet", x)
    said = built(source, out, "--metric", "l2", "--vectors", "f16").refusal()
    row = re.fullmatch(
        rf"{source} row (\d+) holds a value over 65,504, which float16 cannot; build with --vectors f32", said
    )
    assert row is not None and np.abs(x[int(row[1])]).max() > 65_504
    assert nothing_left(out)
    for more in (("--vectors", "f32"), ()):
        assert built(source, out, "--metric", "l2", *more, "--json").json()["rows"] == ROWS
        assert open_index(out).root.index.vector_kind == "f32"


@pytest.mark.parametrize("where", ["a.parquet/index", "a.parquet"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, where: str) -> None:
    """A file is in the way."""
    source = save(tmp_path / "a.parquet", good())
    before = source.read_bytes()
    said = built(source, tmp_path / where).refusal()
    assert said.startswith(f"cannot write {tmp_path / where}: ") and said.endswith("name another --out")
    assert source.read_bytes() == before


def test_a_refused_build_leaves_the_old_index(tmp_path: Path, out: Path) -> None:
    assert built(save(tmp_path / "a.parquet", good()), out).code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for source, more in (
        (save(tmp_path / "bad.parquet", with_rows([50], [0, 0, 0, 0])), ()),
        (save(tmp_path / "twice.parquet", good(), id=[1] * ROWS), ()),
        (save(tmp_path / "c.parquet", good()), ("--router", "ecvh", "--partition", "kmeans")),
        (save(tmp_path / "d.parquet", good() * 1e6), ("--metric", "l2", "--vectors", "f16")),
    ):
        assert built(source, out, *more).refusal()
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert json.loads((out / "CURRENT").read_bytes())
    assert vantage("query", out, "--id", 3, "--json").json()["complete"]


@pytest.mark.parametrize(
    ("scale", "metric", "reason"),
    [
        (1e-32, "l2", "all vectors are shorter than 1e-30, {source} row {longest} too, which is the longest"),
        (1e-44, "dot", "all vectors are shorter than 1e-30, {source} row {longest} too, which is the longest"),
        (1e-44, "cosine", "zero vectors, which have no direction under the metric cosine: {source} row 0"),
        (1e30, "l2", "vectors with a norm over 1e+18, whose scores float32 cannot hold: {source} row 0"),
        (3e-8, "l2", "{source} row {small} is too small for float16 to keep; build with --vectors f32"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_vectors_out_of_range_are_refused_while_reading(
    tmp_path: Path, out: Path, scale: float, metric: str, reason: str
) -> None:
    with np.errstate(all="ignore"):
        x = (good() * np.float64(scale)).astype(np.float32)
    source = save(tmp_path / "a.parquet", x)
    ran = built(source, out, "--metric", metric, "--vectors", "f16")
    half = np.clip(x, -65504, 65504).astype(np.float16)
    lengths, lost = (
        np.linalg.norm(x.astype(float), axis=1),
        np.linalg.norm(half - x.astype(float), axis=1),
    )
    small = int(np.argmax(lost > 0.01 * lengths))
    assert ran.refusal().startswith(reason.format(source=source, longest=int(lengths.argmax()), small=small))
    assert "truth ..." not in ran.err
    assert nothing_left(out)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_one_row_that_is_far_longer_than_all_others(tmp_path: Path, out: Path, metric: str) -> None:
    source = save(tmp_path / "a.parquet", with_rows([33], [1e9, 0, 0, 1e9]))
    ran = built(source, out, "--metric", metric, "--vectors", "f32")
    assert re.match(rf"{source} row 33 is \d\.\de\+0[89] times as long as most of the others", ran.refusal())
    assert "truth ..." not in ran.err
    assert built(source, out, "--vectors", "f32", "--json").json()["rows"] == ROWS  # its direction is like any other


def test_options_that_do_not_fit_are_told_before_a_row_is_read(tmp_path: Path, out: Path) -> None:
    ran = built(save(tmp_path / "a.parquet", good()), out, "--router", "bec-tree", "--partition", "kmeans")
    assert ran.refusal() == "the router bec-tree on the partition kmeans; it takes --partition bec-tree"
    assert "read ..." not in ran.err


def test_no_room_is_told_before_a_row_is_read(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "a.parquet", good())
    needed = ROWS * DIMENSION * (4 + 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    ran = built(source, out)
    assert ran.refusal().startswith(f"{out} has {needed - 1:,} bytes of room, and the vectors alone take {needed:,}")
    assert "read ..." not in ran.err


def test_an_index_that_does_not_fit_is_told_before_it_is_written(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "a.parquet", good())
    free = ROWS * DIMENSION * (4 + 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    ran = built(source, out)
    assert ran.refusal().startswith(f"{out} has {free:,} bytes of room, and the objects of the index take about ")
    assert "note: the index may take " in ran.err
    assert nothing_left(out)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    assert built(source, out, "--json").json()["rows"] == ROWS
