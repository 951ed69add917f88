"""Tasks of a build: the same index from one process, from several, and from a Ray cluster, whatever dies on the way."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pieces import _die, _die_once, _refuse, _refuse_oddly, _square
from worker_kills import POOL_WORKER, RAY_WORKER, Killer

from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest import rows as rows_module
from build_index.ingest.open import open_source
from build_index.ingest.staging import stage
from build_index.pinned import INSTRUCTIONS
from build_index.progress import SILENT, Progress
from build_index.tasks.digest import digest
from build_index.tasks.pickling import packed
from build_index.tasks.pool import DEATHS_MAX, Pool
from build_index.tasks.stage import Stage, pack, unpack
from build_index.tasks.tasks import HERE, Lazy, Tasks
from build_index.tune.options import Options
from vantage.errors import LimitError, StoreError, VantageError

STARTED_WITH = dict(os.environ)
CELL_ROWS = 2048
OPTIONS = {"recall": 0.9, "k": 10, "fast": True, "copies_share": 0.35}


# Names, stages


@dataclass(frozen=True)
class Point:
    place: np.ndarray
    name: str
    seen: list[int] = field(default_factory=list, compare=False)


def values() -> list[object]:
    x = np.arange(6, dtype=np.float32)
    return [
        None, True, 1, 1.0, -0.0, 0.0, "1", b"1", array("f", [1]), array("I", [1]), memoryview(b"12"), (1, 2), [1, 2],
        ((1,), 2), {"a": 1}, {"a": 2}, x, x.reshape(2, 3), x.astype(np.float64), np.float32(1), Point(x, "a"),
        Point(x, "b"), Point(x + 1, "a"), digest, packed,
    ]  # fmt: skip


def test_a_digest_is_that_of_type_and_content() -> None:
    names = [digest(value) for value in values()]
    assert names == [digest(value) for value in values()]
    assert len(set(names)) == len(names)
    x = np.arange(12).reshape(3, 4)
    assert digest(x[:, ::2]) == digest(x[:, ::2].copy())
    assert digest(Point(x, "a", [1])) == digest(Point(x, "a"))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(1, 2) != digest((1, 2))


def test_a_digest_of_what_has_no_content_is_refused() -> None:
    for value in (object(), open, {1, 2}, iter([])):
        if value is not open:
            with pytest.raises(TypeError, match="no name by its content"):
                digest(value)


@pytest.mark.parametrize("arrays", [
    (), (np.zeros(0, np.float32),), (np.arange(5), np.ones((2, 0, 3), np.uint8), np.float32([[1, 2]])),
])  # fmt: skip
def test_a_stage_gives_back_what_it_keeps(arrays: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    stage, made = Stage(str(tmp_path / "stage")), list[int]()

    def make() -> tuple[np.ndarray, ...]:
        made.append(1)
        return arrays

    for _ in range(3):
        found = stage.kept("some/key", make)
        assert len(found) == len(arrays)
        for one, own in zip(found, arrays, strict=True):
            assert one.dtype == own.dtype and one.shape == own.shape and np.array_equal(one, own)
            assert one.flags.writeable or not one.size
    assert made == [1]
    stage.clear()
    assert stage.get("some/key") is None and not (tmp_path / "stage").exists()


def test_what_is_not_whole_counts_as_missing(tmp_path: Path) -> None:
    data = pack((np.arange(100), np.ones(3, np.float32)))
    assert unpack(data) is not None
    for cut in range(0, len(data)):
        assert unpack(data[:cut]) is None
    for at in range(0, len(data), 7):
        assert unpack(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    stage = Stage(str(tmp_path))
    stage.put("key", (np.arange(100),))
    path = tmp_path / "key"
    path.write_bytes(path.read_bytes()[:-9])
    assert stage.kept("key", lambda: (np.arange(3),))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["B", "f", "Q", "I"])
def test_memory_views_go_to_other_processes(kind: str) -> None:
    for numbers in ([], [1, 2, 3]):
        view = memoryview(array(kind, numbers))
        again = pickle.loads(packed((view, "and more")))[0]
        assert again.format == kind and again.tolist() == numbers


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a prefix in an S3 bucket."""
    server = ThreadedMotoServer(port=0, ip_address="127.0.0.1", verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": url,
        }.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="work")
        yield "s3://work/stage"
    server.stop()


def test_a_stage_may_lie_in_a_bucket(bucket: str) -> None:
    stage = Stage(bucket)
    assert stage.get("a/b") is None
    assert stage.kept("a/b", lambda: (np.arange(9),))[0].tolist() == list(range(9))
    assert stage.kept("a/b", lambda: pytest.fail("it is there"))[0].tolist() == list(range(9))
    stage.clear()
    assert stage.get("a/b") is None


def test_rows_in_a_bucket_are_those_of_the_scratch_files(bucket: str, tmp_path: Path) -> None:
    """Where a machine that shares no folder works on them."""
    x, ids = np.random.default_rng(3).standard_normal((300, 8)).astype(np.float32), [f"row {i}" for i in range(300)]
    columns = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8), "id": ids, "text": ids}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with stage(open_source([tmp_path / "rows.parquet"]), tmp_path / "scratch", metric="cosine") as staging:
        near = pickle.loads(pickle.dumps(staging))
        staging.share(bucket)
        data, some = pickle.dumps(staging), np.array([5, 299, 0, 5])
    with pytest.raises(
        StoreError, match="no rows at .*ids.raw|no rows at .*vectors.raw; machines that share no folder"
    ):
        pickle.loads(pickle.dumps(near))
    near.close()
    far = pickle.loads(data)
    assert far.content() == staging.content()
    assert np.array_equal(far.floats(0, 300), x) and np.array_equal(far.gather(some), x[some])
    assert far.ids(some) == [ids[i].encode() for i in some]
    assert far.attributes(some) == [f'["row {i}"]'.encode() for i in some]
    assert far.attribute_sizes().tolist() == [len(i) + 4 for i in ids]


# Maps


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with Pool(2, tmp_path_factory.mktemp("pool")) as own:
        yield own


def test_a_pool_gives_what_one_process_gives(pool: Pool, tmp_path: Path) -> None:
    pieces = Lazy(40, lambda number: 3 * number)
    here = [one.tolist() for (one,) in HERE.map(_square, 7, pieces)]
    heard = list[float]()
    stage = Stage(str(tmp_path))
    for _ in range(2):
        progress = Progress(lambda phase, share: heard.append(share))
        assert here == [one.tolist() for (one,) in Tasks(pool, stage).map(_square, 7, pieces, progress)]
    assert heard == [n / 40 for n in range(1, 41)] * 2
    assert len(list((tmp_path / "square").iterdir())) == 40
    assert [one.tolist() for (one,) in Tasks(pool).map(_square, 7, pieces, keep=False)] == here
    assert list(HERE.map(_square, 7, [])) == list(Tasks(pool).map(_square, 7, [])) == []


def test_an_error_of_a_worker_is_told_whole(pool: Pool) -> None:
    with pytest.raises(LimitError, match="the piece is 5, the limit is 4; give a smaller one") as caught:
        list(Tasks(pool).map(_refuse, 0, range(20)))
    assert (caught.value.value, caught.value.limit, caught.value.param) == (5, 4, "piece")
    assert [one.tolist() for (one,) in Tasks(pool).map(_square, 1, [2])] == [[5]]
    with pytest.raises(VantageError, match="_OddError: 0 is odd"):
        list(Tasks(pool).map(_refuse_oddly, 0, range(2)))


def test_workers_that_die_are_replaced(pool: Pool, tmp_path: Path) -> None:
    assert [int(one[0]) for (one,) in Tasks(pool).map(_die_once, str(tmp_path), range(20))] == list(range(20))
    with pytest.raises(
        VantageError, match=f"ended {DEATHS_MAX} worker processes, the last one by signal 9; .*fewer --workers"
    ):
        list(Tasks(pool).map(_die, None, range(2)))
    assert [one.tolist() for (one,) in Tasks(pool).map(_square, 1, range(2))] == [[1], [2]]


# Builds


@pytest.fixture(autouse=True)
def as_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that a command has pinned since, in this process, does not count here: numpy was loaded before."""
    for name in INSTRUCTIONS:
        if name not in STARTED_WITH:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((150, 12)).astype(np.float32)
    x = centres[rng.integers(0, 150, 20_000)] + 0.6 * rng.standard_normal((20_000, 12))
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, x.astype(np.float32))
    return path


def built(source: Path, out: Path, progress: Progress = SILENT, **how: Any) -> str:
    context = BuildContext(out, "l2", Options(**OPTIONS), progress, **how)
    return build(open_source([source]), context).current.generation


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The generation that one process makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "CELL_ROWS", CELL_ROWS)
        return built(source, tmp_path_factory.mktemp("alone") / "index")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")
def test_a_pool_whose_workers_are_killed_builds_the_same_index(
    source: Path, alone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "CELL_ROWS", CELL_ROWS)
    killer = Killer(POOL_WORKER)
    assert built(source, tmp_path / "index", Progress(killer.hear), workers=2) == alone
    assert killer.killed > 3
    assert not (tmp_path / "index" / ".scratch").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")
def test_ray_whose_workers_are_killed_builds_the_same_index(
    source: Path, alone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray has no wheels for this Python")
    monkeypatch.setattr(rows_module, "CELL_ROWS", CELL_ROWS)
    killer = Killer(RAY_WORKER)
    assert built(source, tmp_path / "index", Progress(killer.hear), cluster="local") == alone
    assert killer.killed
    assert not (tmp_path / "index" / ".scratch").exists()


CHILD = """
import os, signal, sys
from pathlib import Path
from build_index.ingest import rows
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.ingest.staging import stage
from build_index.tasks.stage import Stage
from build_index.tune.options import Options
rows.CELL_ROWS = int(sys.argv[4])
whole, made, most = Stage.put, 0, int(sys.argv[3])
def put(self, key, arrays):
    global made
    if made == most:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, key, arrays)
    made += 1
Stage.put = put
context = BuildContext(Path(sys.argv[2]), "l2", Options(**eval(sys.argv[5])), stage=sys.argv[2] + ".stage")
report = build(open_source([Path(sys.argv[1])]), context)
print(made, report.current.generation)
"""


def test_a_build_goes_on_where_its_process_was_killed(source: Path, alone: str, tmp_path: Path) -> None:
    def run(out: str, most: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", CHILD, source, tmp_path / out, str(most), str(CELL_ROWS), repr(OPTIONS)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    whole = run("whole", -1).stdout.split()
    assert whole[1] == alone
    assert [run("killed", most).returncode for most in (7, 20)] == [-signal.SIGKILL, -signal.SIGKILL]
    assert list((tmp_path / "killed.stage" / "killed.scratch" / "stage").iterdir())
    rest = run("killed", -1).stdout.split()
    assert rest[1] == alone
    assert int(rest[0]) + 27 == int(whole[0])
    assert not list((tmp_path / "killed.stage").iterdir())
