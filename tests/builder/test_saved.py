"""An index in memory and the folder that it was loaded from: others write to that too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import clustered
from test_compact import ROWS, index, plain, rows_of, write  # noqa: F401

from build_index import VectorIndex
from build_index import saved as saved_module
from build_index.bucket.open import open_index
from build_index.bucket.store import store_at
from build_index.compact import compact
from vantage.errors import ConditionError, InputError, LogFullError

NEW = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)


def test_what_the_log_has_is_loaded(index: Path) -> None:  # noqa: F811
    vectors = NEW[:2].astype(np.float16).tobytes()
    write(index, upserts=[b"new", b"r1"], vectors=vectors, attributes=[b'{"n": 5}', b""], deletes=[b"r2"])
    write(index, patches=[b"r3"], changes=[b'{"n": 7}'])
    loaded = VectorIndex.load(index)
    assert {row.id: row.attributes for row in loaded.rows()} == rows_of(index)
    found = loaded.search(NEW[:2], 1)
    assert found.ids.tolist() == [["new"], ["r1"]] and len(loaded) == ROWS
    ids = loaded.ids_.tolist()
    assert "r2" not in ids and "new" in ids


def test_a_save_writes_what_changed_and_others_lose_nothing(index: Path) -> None:  # noqa: F811
    before = open_index(index)
    loaded = VectorIndex.load(index)
    loaded.add(NEW[:3], ["a", "b", "c"]).remove(["r1", "r2", "c"]).remove(["r3"])
    loaded.add(NEW[3:4], ["r3"])
    write(index, upserts=[b"other"], vectors=NEW[5].astype(np.float16).tobytes(), attributes=[b""], deletes=[b"r9"])
    oracle = rows_of(index)
    loaded.save(index)
    for name in ("r1", "r2"):
        del oracle[name]
    oracle |= dict.fromkeys(["a", "b", "r3"], {"n": None, "word": None})
    assert rows_of(index) == oracle
    assert open_index(index).current.log.id == before.current.log.id
    assert VectorIndex.load(index).search(NEW[3:6:2], 1).ids.tolist() == [["r3"], ["other"]]
    loaded.remove(["a"]).save(index)  # from there on
    del oracle["a"]
    assert rows_of(index) == oracle
    generation = open_index(index).current.generation
    loaded.save(index)
    assert open_index(index).current.generation == generation


def test_a_row_of_another_is_not_overwritten(index: Path) -> None:  # noqa: F811
    loaded = VectorIndex.load(index).add(NEW[:2], ["a", "b"])
    write(index, upserts=[b"b"], vectors=NEW[7].astype(np.float16).tobytes(), attributes=[b'{"n": 1}'])
    with pytest.raises(ConditionError, match="'b'"):
        loaded.save(index)
    assert rows_of(index)["b"]["n"] == 1 and "a" not in rows_of(index)
    loaded.remove(["b"]).save(index)
    assert rows_of(index)["b"]["n"] == 1 and "a" in rows_of(index)


def test_a_full_log_is_compacted(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    compacted, real = list[int](), saved_module.write_rows

    def full(*given: object) -> object:
        if len(compacted) < 2:
            raise LogFullError("the log is full", hint="")
        return real(*given)  # type: ignore[arg-type]

    def counted(store: object) -> object:
        compacted.append(1)
        return compact(store)  # type: ignore[arg-type]

    monkeypatch.setattr(saved_module, "write_rows", full)
    monkeypatch.setattr(saved_module, "compact", counted)
    VectorIndex.load(index).add(NEW, [f"n{i}" for i in range(40)]).remove(["r0"]).save(index)
    assert len(compacted) == 3 and set(rows_of(index)) == {f"n{i}" for i in range(40)} | {
        f"r{i}" for i in range(1, ROWS)
    }


def test_an_index_that_was_fitted_again_takes_the_place(index: Path) -> None:  # noqa: F811
    loaded = VectorIndex.load(index)
    loaded.fit(clustered(300, 16, 2))
    write(index, deletes=[b"r9"])
    with pytest.raises(InputError, match="vantage compact"):
        loaded.save(index)
    compact(store_at(str(index)))
    loaded.save(index)
    assert len(rows_of(index)) == 300


def test_an_index_lies_in_several_folders(index: Path, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "bucket" / "other"
    loaded = VectorIndex.load(index)
    loaded.save(other).add(NEW[:1], ["a"])
    write(index, upserts=[b"theirs"], vectors=NEW[5].astype(np.float16).tobytes(), attributes=[b""])
    compact(store_at(str(index)))
    loaded.save(index).save(other)
    assert {"a", "theirs"} <= set(rows_of(index))
    assert "a" in rows_of(other) and "theirs" not in rows_of(other)


def test_another_index_in_the_folder_is_left_alone(index: Path, tmp_path: Path) -> None:  # noqa: F811
    loaded = VectorIndex.load(index).add(NEW[:1], ["a"])
    VectorIndex(metric="l2", recall=0.8, k=10, fast=True).fit(clustered(300, 16, 2)).save(index)
    with pytest.raises(InputError, match="does not hold the index any more"):
        loaded.save(index)
    assert len(rows_of(index)) == 300


def test_an_empty_index_is_refused(index: Path) -> None:  # noqa: F811
    write(index, deletes=[name.encode() for name in rows_of(index)])
    with pytest.raises(InputError, match="is empty"):
        VectorIndex.load(index)
    compact(store_at(str(index)))
    with pytest.raises(InputError, match="is empty"):
        VectorIndex.load(index)
