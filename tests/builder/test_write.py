"""What the builder writes: Parquet that others read, rows by their bytes, the same bytes again, and no half index."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.answers import answers
from fixtures.reader import Reader
from small import clustered

from build_index import build as build_module
from build_index.bucket import generations as g
from build_index.bucket.store import FolderStore
from build_index.bucket.store import beside as beside_store
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.ingest.rows import Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.progress import SILENT, Progress
from build_index.tune import renditions
from build_index.tune.check import check_options
from build_index.tune.choose import Choice, choose
from build_index.tune.options import Options
from build_index.write import blocks as blocks_module
from build_index.write import contents, ids, publish, shard
from build_index.write import index as write_module
from build_index.write import vectors as write_vectors
from build_index.write.contents import Contents
from build_index.write.index import write_index
from build_index.write.vectors import _PartWriter
from vantage.errors import InputError, LimitError
from vantage.format import VECTOR_BYTES, Current, Root
from vantage.kernels import crc32c

ROWS, DIMENSION = 240, 6  # more than are simply exact
DTYPES = {"f16": np.float16, "f32": np.float32, "u8": np.uint8, "i8": np.int8}


def values(kind: str, seed: int = 0) -> np.ndarray:
    """(ROWS, DIMENSION), never the same row twice."""
    rng = np.random.default_rng(seed)
    if kind in ("u8", "i8"):
        return rng.integers(*((0, 256) if kind == "u8" else (-128, 128)), (ROWS, DIMENSION)).astype(DTYPES[kind])
    return rng.standard_normal((ROWS, DIMENSION)).astype(DTYPES[kind])


def source(folder: Path, given: np.ndarray, **columns: Any) -> Path:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(given.reshape(-1)), given.shape[1])
    path = folder / "source.parquet"
    pq.write_table(pa.table({"vector": flat, **columns}), path)
    return path


def make(
    path: Path, out: Path, metric: str = "l2", *, wide: bool = True, seed: int = 0,
    progress: Progress = SILENT,
) -> Any:  # fmt: skip
    vectors = "f32" if wide else "f16"
    return build(open_source([path]), BuildContext(out, metric, Options(0.5, 5, seed, vectors=vectors), progress))


def objects_of(index: Path) -> dict[str, bytes]:
    """The live objects, key below the index -> bytes."""
    current = Current.unpack((index / "CURRENT").read_bytes(), "CURRENT")
    live = [p for p in (index / current.generation).rglob("*") if p.is_file()]
    return {str(p.relative_to(index)): p.read_bytes() for p in [index / "CURRENT", *live]}


def root_of(objects: dict[str, bytes]) -> Root:
    return Root.unpack(next(v for k, v in objects.items() if k.endswith("/root.bin")), "root.bin")


def works(index: Path, queries: np.ndarray) -> dict[str, Any]:
    """Its answers to two queries; that there are some is what counts."""
    found = answers(objects_of(index), queries[:2].tolist(), [])
    assert [len(q["exact"]) for q in found["queries"]] == [10, 10]
    return found


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, copies, shards, parts and pages."""
    monkeypatch.setattr("build_index.tune.draft.BLOCK_ROWS", 24)
    monkeypatch.setattr("build_index.tune.draft._shares", lambda *_: [0.35])
    monkeypatch.setattr(shard, "SHARD_BYTES", 3000)
    monkeypatch.setattr(renditions, "INLINE_BYTES", 0)
    for module in (contents, write_vectors):
        monkeypatch.setattr(module, "PAGE_ROWS", 32)
    monkeypatch.setattr(write_vectors, "PART_ROWS_BYTES", 256 * DIMENSION)


# Parquet


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("text_ids", [False, True])
def test_parquet_is_read_by_others_and_by_offset(tmp_path: Path, kind: str, text_ids: bool) -> None:
    given = values(kind)
    ids: list[Any] = [f"ä{row}" for row in range(ROWS)] if text_ids else [row * 10**15 - 3 for row in range(ROWS)]
    columns = {
        "id": ids, "name": [None if row % 5 == 0 else f"n{row}" for row in range(ROWS)], "size": list(range(ROWS)),
        "ratio": [row / 7 for row in range(ROWS)], "flag": [row % 2 == 0 for row in range(ROWS)],
        "marks": [[row] * (row % 3) for row in range(ROWS)], "source_row": [f"mine {row}" for row in range(ROWS)],
        "tags": [["x"] * (row % 3) for row in range(ROWS)],
    }  # fmt: skip
    make(source(tmp_path, given, **columns), tmp_path / "index")
    objects = objects_of(tmp_path / "index")
    root = root_of(objects)
    parts = [key for key in root.objects.keys if key.endswith(".parquet")]
    assert len(root.rows.vector_object) == 8 and len(parts) == (4 if kind == "f32" else 2 if kind == "f16" else 1)
    current = Current.unpack(objects["CURRENT"], "CURRENT")
    paths = sorted((tmp_path / "index" / current.generation / "vectors").iterdir())
    table = pa.concat_tables([pq.read_table(p) for p in paths])
    at = table["source_row"].to_numpy()
    assert sorted(at.tolist()) == list(range(ROWS))

    if kind in ("u8", "i8"):
        assert table.schema.field("vector").type == pa.binary(DIMENSION)
        stored = np.frombuffer(b"".join(table["vector"].to_pylist()), DTYPES[kind]).reshape(ROWS, DIMENSION)
    else:
        assert table.schema.field("vector").type.list_size == DIMENSION
        stored = table["vector"].combine_chunks().flatten().to_numpy().reshape(ROWS, DIMENSION)
    assert stored.dtype == DTYPES[kind] and (stored == given[at]).all()
    expected = [ids[row].encode() if text_ids else ids[row] for row in at]
    assert table["id"].to_pylist() == expected
    for name in columns.keys() - {"id"}:
        written = table[f"{name}_" if name == "source_row" else name].to_pylist()
        told = json.dumps if name == "tags" else lambda value: value  # a list of strings is kept as text
        assert written == [told(columns[name][row]) for row in at]

    rows = duckdb.sql(f"select * from read_parquet({[str(p) for p in paths]}) order by source_row")
    found = {c: v for c, v in zip(rows.columns, zip(*rows.fetchall(), strict=True), strict=True)}
    read = [np.frombuffer(v, DTYPES[kind]).tolist() if kind in ("u8", "i8") else list(v) for v in found["vector"]]
    assert read == given.tolist()
    assert list(found["id"]) == [i.encode() if text_ids else i for i in ids]
    assert list(found["marks"]) == columns["marks"] and list(found["name"]) == columns["name"]

    width = VECTOR_BYTES[kind] * DIMENSION
    for page, number in enumerate(root.rows.vector_object):
        data = objects[f"{current.generation}/{root.objects.keys[number]}"]
        for row in range(root.rows.first_row[page], root.rows.first_row[page + 1]):
            start = root.rows.vector_offset[page] + (row - root.rows.first_row[page]) * width
            assert data[start : start + width] == given[at[row]].tobytes()


def test_f32_that_f16_loses_is_refused_where_f16_was_asked_for(tmp_path: Path) -> None:
    given, index = values("f32"), tmp_path / "index"
    make(source(tmp_path, given, id=list(range(ROWS))), index, "cosine", wide=False)
    before = objects_of(index)
    assert root_of(before).index.vector_kind == "f16"
    given[17, 2] = 70_000
    with pytest.raises(InputError, match=r"row 17 holds a value over 65,504"):
        make(source(tmp_path, given, id=list(range(ROWS))), index, "cosine", wide=False)
    assert objects_of(index) == before


@pytest.mark.usefixtures("small_pages")
def test_blocks_hold_every_row_once_at_home_and_copies_with_the_same_check(tmp_path: Path) -> None:
    given = values("f32")
    report = make(source(tmp_path, given, id=list(range(ROWS))), tmp_path / "index", "cosine")
    objects = objects_of(tmp_path / "index")
    root = root_of(objects)
    assert root.index.slots == ROWS + report.as_dict()["copies"] > ROWS
    seen: dict[int, tuple[int, Any]] = {}
    other, homes = Reader(objects), list[int]()
    assert len(other.extents) == root.index.blocks > 4
    for i, extent in enumerate(other.extents):
        block = other.block(i)
        rows = block["rows"].tolist()
        homes += rows[: extent.homes]
        assert len(set(rows)) == extent.rows
        for row, check, identifier in zip(rows, block["checks"].tolist(), block["ids"], strict=True):
            assert seen.setdefault(row, (check, identifier)) == (check, identifier)
            assert crc32c(other.vector(row)) == check
    assert homes == list(range(ROWS)) == sorted(seen)  # this builder numbers rows by their blocks


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("longer", [False, True])
def test_every_rendition_holds_the_same_rows(tmp_path: Path, longer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of both lengths, each once with the attributes of its rows, of which the first has error norms."""
    given = clustered(ROWS, 24, 3)
    monkeypatch.setattr(renditions, "WORTH", 1e9 if longer else 0.0)
    monkeypatch.setattr("build_index.tune.contract.SURE", 0.0)  # else so few held-out rows promise nothing by codes
    path = source(tmp_path, given, id=list(range(ROWS)), word=[f"w{row % 7}" for row in range(ROWS)])
    build(open_source([path]), BuildContext(tmp_path / "index", "cosine", Options(0.5, 5, error_norms=True)))
    objects = objects_of(tmp_path / "index")
    root, other = root_of(objects), Reader(objects)
    codecs = range(1 + longer)
    assert list(root.renditions) == [(codec, attributes) for attributes in (False, True) for codec in codecs]
    assert len({codec.code_bytes for codec in root.codecs}) == 1 + longer
    for i in range(root.index.blocks):
        blocks = [other.block(i, r) for r in range(len(root.renditions))]
        for block, (codec, attributes) in zip(blocks, root.renditions, strict=True):
            assert block["codes"].shape[1] == root.codecs[codec].code_bytes
            assert block["rows"].tolist() == blocks[0]["rows"].tolist() and block["ids"] == blocks[0]["ids"]
            assert block["planes"] == [3] + [2] * (not codec and not attributes) + [1] * attributes
            texts = [other.attributes(row) for row in block["rows"].tolist()]
            assert block["texts"] == (texts if attributes else [])


def test_a_small_index_is_all_in_its_root_but_vectors_and_lookups(tmp_path: Path) -> None:
    path = source(tmp_path, values("f32"), id=list(range(ROWS)), word=["w"] * ROWS)
    make(path, tmp_path / "index")
    objects = objects_of(tmp_path / "index")
    root, other = root_of(objects), Reader(objects)
    assert sorted(k.partition("/")[2] for k in objects) == sorted(
        [
            "",
            "attributes-00000.bin",
            "held.bin",
            "ids.bin",
            "manifest.json",
            "root.bin",
            "rows.bin",
            "vectors/part-00000.parquet",
        ]
    )
    assert list(root.renditions) == [(0, True)] and len(root.inline) == other.sizes[other.keys.index("root.bin")] > 0
    rows = [row for i in range(root.index.blocks) for row in other.block(i)["rows"].tolist()]
    assert set(rows) == set(range(ROWS))
    assert works(tmp_path / "index", values("f32"))


# The same bytes again


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_two_builds_are_the_same_bytes(tmp_path: Path, metric: str) -> None:
    path = source(tmp_path, values("f32"), id=[f"id {row}" for row in range(ROWS)], word=["w"] * ROWS)
    for name in ("first", "second"):
        make(path, tmp_path / name, metric)
    assert objects_of(tmp_path / "first") == objects_of(tmp_path / "second")
    make(path, tmp_path / "second", metric, seed=1)
    assert objects_of(tmp_path / "first").keys() != objects_of(tmp_path / "second").keys()


def test_building_again_keeps_one_generation_back(tmp_path: Path) -> None:
    path = source(tmp_path, values("u8"), id=list(range(ROWS)))
    live = [make(path, tmp_path / "index", seed=seed).current.generation for seed in (0, 1, 2, 2)]
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == sorted(["CURRENT", live[1], live[2]])
    assert live[2] == live[3] and len(set(live)) == 3


# Interrupted


class Killed(BaseException):
    """What a kill is to the code that runs: nothing after it is done, but `finally` parts."""


def _stop(monkeypatch: pytest.MonkeyPatch, target: str, at: int, error: BaseException) -> Callable[[], bool]:
    """The at-th call of a function raises instead; gives a function that says whether it came to that."""
    where, name = target.split(".")
    owner: Any = {
        "os": os,
        "Path": Path,
        "part": _PartWriter,
        "write": write_module,
        "blocks": blocks_module,
        "shard": shard,
        "vectors": write_vectors,
        "ids": ids,
        "publish": publish,
    }[where]
    whole, calls = getattr(owner, name), 0

    def stopped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, stopped)
    return lambda: calls >= at


POINTS = [
    ("part.add", 1), ("part.add", 3), ("part.close", 2), ("blocks.pack_block", 1), ("blocks.pack_block", 4),
    ("blocks.pack_ids", 2), ("write.write_ids", 1), ("shard.sync", 1), ("shard.sync", 2), ("ids.sync", 1),
    ("vectors.sync", 1), ("vectors.sync", 2),
    ("publish.sync", 1), ("write.make_live", 1),
    ("os.fsync", 1), ("os.fsync", 4), ("Path.rename", 1), ("Path.replace", 1),
]  # fmt: skip


@dataclass
class Chosen:
    """All that write_index needs, made once: writing is what is interrupted."""

    rows: Rows
    choice: Choice

    def write(self, out: Path, seed: int) -> None:
        """The seed is in the manifest, so each names another generation."""
        schema = pa.schema([("word", pa.string())])
        write_index(Contents(self.rows, schema, self.choice, "f32", {"seed": seed}), BuildContext(out, "l2"))


@pytest.fixture
def chosen(tmp_path: Path, small_pages: None) -> Iterator[Chosen]:
    path = source(tmp_path, values("f32"), id=[f"id {row}" for row in range(ROWS)], word=["w"] * ROWS)
    with stage(open_source([path]), tmp_path / "staging", metric="l2") as staging:
        rows = scale_rows(staging, "l2")
        yield Chosen(rows, choose(rows, 6.0, Options(0.5, 5)))


@pytest.mark.parametrize("kind", ["killed", "full disk"])
def test_a_write_that_stops_leaves_the_old_index_and_runs_again(tmp_path: Path, chosen: Chosen, kind: str) -> None:
    """At every point in turn, on a new index and on one that is live."""
    index, fresh = tmp_path / "index", tmp_path / "fresh"
    chosen.write(index, 0)
    before, answered = objects_of(index), works(index, values("f32"))
    chosen.write(tmp_path / "next", 1)
    after = objects_of(tmp_path / "next")
    for target, at in POINTS:
        for out in (index, fresh):
            with pytest.MonkeyPatch.context() as patch:
                error = Killed() if kind == "killed" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                reached = _stop(patch, target, at, error)
                with pytest.raises(Killed if kind == "killed" else InputError) as caught:
                    chosen.write(out, 1)
                assert reached()
            if kind == "full disk":
                assert "No space left on device" in str(caught.value) and "free some space" in str(caught.value)
                assert str(out) in str(caught.value)
            assert not (fresh / "CURRENT").exists()
            assert objects_of(index) == before
            left = {p.name for p in out.iterdir()} - {"CURRENT", ".CURRENT.new"}
            assert {name for name in left if len(name) != 16} == set()
    assert works(index, values("f32")) == answered
    for out, told in ((index, {"previous": json.loads(before["CURRENT"])["generation"]}), (fresh, {})):
        chosen.write(out, 1)
        now = objects_of(out)
        assert json.loads(now.pop("CURRENT")) == json.loads(after["CURRENT"]) | told
        assert now == {key: data for key, data in after.items() if key != "CURRENT"}
        assert not (out / "CURRENT.new").exists()


def test_two_builds_of_one_folder_at_once(tmp_path: Path, chosen: Chosen) -> None:
    """The second is told, and takes nothing from the first, which goes on."""
    chosen.write(tmp_path / "index", 0)
    chosen.write(tmp_path / "after", 1)
    inner = write_module._write

    def beside(*given: Any) -> Any:
        with pytest.raises(InputError, match="another build is writing"):
            chosen.write(tmp_path / "index", 2)
        return inner(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_module, "_write", beside)
        chosen.write(tmp_path / "index", 1)
    now, after = (objects_of(tmp_path / name) for name in ("index", "after"))
    assert now.keys() == after.keys() and works(tmp_path / "index", values("f32"))


def test_the_lock_covers_all_of_a_build(tmp_path: Path, chosen: Chosen, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first phase on, others are told before they do a thing; to read from the folder stays free."""
    out, path = tmp_path / "index", tmp_path / "source.parquet"
    chosen.write(out, 0)
    before, phases = objects_of(out), dict[str, int]()
    first = build_module._stage
    monkeypatch.setattr(build_module, "_stage", lambda *_: pytest.fail("read rows"))

    def beside(phase: str, share: float) -> None:
        phases[phase] = phases.get(phase, 0) + 1
        if phases[phase] > 1:
            return
        for _ in range(2):
            with pytest.raises(InputError, match="another build is writing"):
                make(path, out)
        with pytest.raises(InputError, match="another build is writing"):
            chosen.write(out, 3)
        for change in (
            lambda: g.publish(tmp_path / "next", FolderStore(out)), lambda: g.rollback(FolderStore(out)),
            lambda: g.gc(FolderStore(out), 0),
        ):  # fmt: skip
            with pytest.raises(InputError, match="a build is writing"):
                change()
        assert g.publish(out, FolderStore(tmp_path / phase))["swapped"] and g.verify(FolderStore(out))["damage"] == []
        assert objects_of(out) == before or phase == "write"

    chosen.write(tmp_path / "next", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "_stage", first)
        make(path, out, progress=Progress(beside))
    assert {"read", "truth", "write"} <= phases.keys() and objects_of(out) != before and works(out, values("f32"))
    assert {len(p.name) for p in out.iterdir()} == {len("CURRENT"), 16}
    with beside_store(FolderStore(out)), pytest.raises(InputError, match="a publish, rollback or gc is writing"):
        make(path, out)
    with beside_store(FolderStore(out)), beside_store(FolderStore(out)):
        assert g.gc(FolderStore(out), 0)["deleted"] == []
    assert g.publish(tmp_path / "next", FolderStore(out))["swapped"]


def test_a_full_disk_while_the_source_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = source(tmp_path, values("f32"), id=list(range(ROWS)))
    monkeypatch.setattr("build_index.build.choose", full)
    with pytest.raises(InputError, match="No space left on device"):
        make(path, tmp_path / "index")
    assert list((tmp_path / "index").iterdir()) == []


@pytest.mark.usefixtures("small_pages")
def test_building_the_live_generation_again_never_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path, values("f32"), id=list(range(ROWS)))
    make(path, tmp_path / "index")
    before = objects_of(tmp_path / "index")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("moves objects that may be live"))
    make(path, tmp_path / "index")
    assert objects_of(tmp_path / "index") == before


@pytest.mark.usefixtures("small_pages")
def test_building_again_mends_a_damaged_generation(tmp_path: Path) -> None:
    path = source(tmp_path, values("f32"), id=list(range(ROWS)))
    make(path, tmp_path / "index")
    before = objects_of(tmp_path / "index")
    for damage in ("cut", "missing"):
        victim = next((tmp_path / "index").rglob("shard-00001.bin"))
        victim.unlink() if damage == "missing" else victim.write_bytes(victim.read_bytes()[:-1])
        make(path, tmp_path / "index")
        assert objects_of(tmp_path / "index") == before
        assert {p.name for p in (tmp_path / "index").iterdir()} == {
            "CURRENT",
            next(iter(before.keys() - {"CURRENT"}))[:16],
        }


CHILD = """
import sys
from pathlib import Path
import build_index.write.contents as contents
import build_index.write.vectors as write
from build_index.build import build
from build_index.context import BuildContext
from build_index.tune.check import check_options
from build_index.tune import renditions
from build_index.tune.options import Options
from build_index.ingest.open import open_source
write.PAGE_ROWS = contents.PAGE_ROWS = 8
whole = write._PartWriter.add
def slow(self, table):
    whole(self, table)
    print("writing", flush=True)
    sys.stdin.read(1)
write._PartWriter.add = slow
build(open_source([Path(sys.argv[1])]), BuildContext(Path(sys.argv[2]), "l2", Options(0.5, 5, 1, vectors="f32")))
"""


@pytest.mark.usefixtures("small_pages")
def test_sigkill_leaves_the_old_index_and_the_next_build_clears_up(tmp_path: Path) -> None:
    given = values("f32")
    path = source(tmp_path, given, id=list(range(ROWS)))
    index = tmp_path / "index"
    make(path, index)
    before, answered = objects_of(index), works(index, given)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert (index / ".building" / "vectors").is_dir() and (index / ".scratch").is_dir()
    assert objects_of(index) == before and works(index, given) == answered
    make(path, index, seed=2)
    assert objects_of(index) != before
    assert {len(p.name) for p in index.iterdir()} == {len("CURRENT"), 16}


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """The real thing, in the middle of a Parquet part: the operating system refuses pyarrow's own write."""
    path = source(tmp_path, values("f32"), id=list(range(ROWS)))
    limit = "    __import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (2000, 2000))\n"
    code = CHILD.replace("    sys.stdin.read(1)\n", limit)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "index")], capture_output=True, text=True, timeout=120
    )
    assert "vantage.errors.InputError: cannot write" in done.stderr and "File too large" in done.stderr
    assert list((tmp_path / "index").iterdir()) == []


@pytest.mark.parametrize(("rows", "dimension"), [(40_000_000, 4096), (10**9, 2048)])
def test_a_root_over_the_limit_is_told_before_a_row_is_read(rows: int, dimension: int) -> None:
    with pytest.raises(LimitError, match=r"root\.bin, with the centres of [\d,]+ blocks, .* the limit is 67108864"):
        check_options(rows, dimension, Options(error_norms=True), "cosine")
    check_options(rows // 10, dimension, Options(error_norms=True), "cosine")
    check_options(rows, dimension, Options(), "cosine")  # whose root has no centres
