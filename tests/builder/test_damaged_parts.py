"""vantage eval and the vectors of an index: a part whose bytes are not those that were written is an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import vantage

from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.evaluate.stored import source_rows, stored_vectors
from vantage.errors import DamagedError


def flipped(data: bytes) -> bytes:
    at = len(data) // 3
    return data[:at] + bytes(b ^ 0x55 for b in data[at : at + 400]) + data[at + 400 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flipped,
    "one byte": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"\0",
    "random": lambda data: np.random.default_rng(0).bytes(len(data)),
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.fixture
def index(tiny: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(tiny[0], tmp_path / "live")
    np.save(tmp_path / "q.npy", np.ones((3, 8), np.float32))
    return tmp_path / "live"


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_part_is_an_error_and_never_a_recall(index: Path, name: str) -> None:
    part = next(index.glob("*/vectors/part-00000.parquet"))
    whole = part.read_bytes()
    before = vantage("eval", index, "--queries", index.parent / "q.npy", "--json").json()["recall"]
    damaged = DAMAGES[name](whole)
    part.unlink()
    if damaged is not None:
        part.write_bytes(damaged)
    ran = vantage("eval", index, "--queries", index.parent / "q.npy", "--json")
    assert ran.code == 1 and ran.out == "" and "part-00000.parquet" in ran.err and "Traceback" not in ran.err
    opened = open_index(index)
    with pytest.raises(Exception, match="part-00000") as told:
        stored_vectors(index, opened, 0, 1)
    assert name == "gone" or isinstance(told.value, DamagedError)
    part.write_bytes(whole)
    assert vantage("eval", index, "--queries", index.parent / "q.npy", "--json").json()["recall"] == before


def test_a_damaged_manifest_vouches_for_nothing(index: Path) -> None:
    opened = open_index(index)
    manifest = next(index.glob("*/manifest.json"))
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(DamagedError, match="manifest"):
        source_rows(index, opened)


def test_a_part_is_read_whole_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, seen = open_index(index), list[str]()
    digest = FolderStore.digest

    def counted(self: FolderStore, key: str) -> tuple[int, str] | None:
        seen.append(key)
        return digest(self, key)

    monkeypatch.setattr(FolderStore, "digest", counted)
    for _ in range(3):
        source_rows(index, opened)
        stored_vectors(index, opened, 0, 2)
    assert len(seen) == 1
    part = next(index.glob("*/vectors/part-00000.parquet"))
    os.utime(part, ns=(1, 1))
    stored_vectors(index, opened, 0, 2)
    assert len(seen) == 2
