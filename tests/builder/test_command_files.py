"""Files and limits of commands: what cannot be written, read or asked for ends in a sentence, before the work."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import clustered, vantage

from build_index import serve as host
from build_index.cli import main as command
from vantage.errors import InputError, LimitError


@pytest.fixture
def here(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny[0], tmp_path / "live")
    np.save(tmp_path / "x.npy", clustered(90, 4, 1))
    np.save(tmp_path / "zeros.npy", np.zeros((30, 4), np.float32))
    np.save(tmp_path / "q.npy", np.ones((2, 8), np.float32))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "export-router live folder", "export-router live .", "export-router live file/x",
        "cluster x.npy --picture folder", "cluster x.npy --out folder", "cluster live --out file/x",
        "eval live --queries q.npy --curve --svg folder", "eval live --queries q.npy --curve --svg /",
        "serve . --state file", "serve . --state file/below", "serve . --state /proc/x", "publish live --state file",
        "build x.npy --out file", "build x.npy --out /proc/x",
    ],
)  # fmt: skip
def test_a_place_that_takes_no_file(here: Path, words: str) -> None:
    said = vantage(*words.split()).refusal()
    assert re.search(r"cannot|there is no folder|is a folder", said) and "\n" not in said
    assert (here / "file").read_text() == "kept" and not [*(here / "folder").iterdir()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cluster x.npy --seed -1", "--seed is -1"), ("cluster x.npy --seed 2147483647", "--seed is"),
        ("cluster x.npy --memory-budget 0", "at least"), ("cluster x.npy --memory-budget 1", "at least"),
        ("cluster live --memory-budget 1MiB", "64MiB"),
        ("serve . --port 70000", "--port is 70000, the limit is 0 to 65535"), ("serve . --port -1", "--port is -1"),
    ],
)  # fmt: skip
def test_a_limit_that_is_passed(here: Path, words: str, said: str) -> None:
    assert said in vantage(*words.split()).refusal()


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_a_port_that_is_none(tmp_path: Path, port: int) -> None:
    with pytest.raises(LimitError, match="--port"), host.serve(tmp_path, port=port):
        pass


@pytest.mark.parametrize(
    "error",
    [
        IsADirectoryError(21, "Is a directory", "a/b"), PermissionError(13, "Permission denied", b"a/b"),
        OSError(28, "No space left on device"), FileNotFoundError(2, "No such file", Path("a/b")),
    ],
)  # fmt: skip
def test_any_file_of_a_command(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def failing(**options: object) -> None:
        raise error

    monkeypatch.setattr(command, "app", failing)
    said = vantage("anything").refusal()
    assert said.startswith("cannot read or write") and str(error.strerror) in said
    assert error.filename is None or os.fsdecode(error.filename) in said


@pytest.mark.parametrize(
    "words",
    [
        "cluster x.npy --picture x.npy", "cluster x.npy --out ./folder/../x.npy", "cluster live --out live/CURRENT",
        "cluster live --assign q.npy --out q.npy", "cluster x.npy --out one --picture one",
        "eval live --queries q.npy --curve --svg q.npy", "eval live --queries q.npy --curve --svg live/new",
        "export-router live live/CURRENT", "export-router live live/below",
    ],
)  # fmt: skip
def test_what_is_read_is_not_written_over(here: Path, words: str) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert "what is read" in vantage(*words.split()).refusal()
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("digits", [25, 400, 5000])
def test_numbers_of_many_digits(here: Path, digits: int) -> None:
    many = "9" * digits
    assert "is not an age" in vantage("gc", "live", "--older-than", f"{many}d").refusal()
    for words in (["cluster", "x.npy", "--memory-budget"], ["eval", "live", "--queries", "q.npy", "--cache"]):
        assert "a size is 999" in vantage(*words, f"{many}GiB").refusal()


def test_cluster_advises_what_it_has(here: Path) -> None:
    said = vantage("cluster", "zeros.npy").refusal()
    assert "row 0" in said and "--skip-bad-rows" not in said
    (here / "live" / "CURRENT").unlink()
    assert "no CURRENT" in vantage("cluster", "live").refusal()
    with pytest.raises(InputError):
        host.load(here / "nowhere", here / "state")
