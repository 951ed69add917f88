"""Addresses of what is written: an index has a name of its own, and nothing goes into the folder one stands in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import clustered, vantage

from build_index import VectorIndex
from vantage.errors import InputError

NAMELESS = ("", ".", "./", "..", "../", "ops/..", "ops/.", "/", "ops/../", "//")
UNSERVED = ("ops/bad%20name", "ops/ü", "ops/a b", "ops/.hidden", "ops/" + "x" * 65)


@pytest.fixture(scope="module")
def fitted() -> VectorIndex:
    return VectorIndex(fast=True, k=5, recall=0.8).fit(clustered(60, 4, 1))


@pytest.fixture
def here(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, two below one that is watched: `ops/live` is an index, `x.npy` a source."""
    folder = tmp_path / "over" / "here"
    shutil.copytree(tiny[0], folder / "ops" / "live")
    np.save(folder / "x.npy", clustered(30, 4, 1))
    monkeypatch.chdir(folder)
    return folder


def everything(here: Path) -> set[str]:
    return {os.path.relpath(path, here) for path in here.parent.parent.rglob("*")}


@pytest.mark.parametrize("address", [*NAMELESS, *UNSERVED])
def test_nothing_is_made_under_no_name(here: Path, fitted: VectorIndex, address: str) -> None:
    before = everything(here)
    said = "does not name an index" if address in NAMELESS else "is not a name for an index"
    assert said in vantage("build", "x.npy", "--out", address).refusal()
    assert said in vantage("publish", "ops/live", address).refusal()
    with pytest.raises(InputError, match=said):
        fitted.save(address)
    assert everything(here) == before


@pytest.mark.parametrize("address", NAMELESS)
def test_nothing_is_changed_under_no_name(here: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.chdir(here / "ops" / "live")
    (here / "ops" / "live" / "ops").mkdir()
    assert "does not name an index" in vantage("rollback", address).refusal()
    assert "does not name an index" in vantage("gc", address, "--older-than", "0s").refusal()


def test_an_empty_generation_is_none(here: Path) -> None:
    assert "'' is not a generation" in vantage("rollback", "ops/live", "").refusal()


def test_names_below_above_and_beside_are_taken(here: Path, fitted: VectorIndex) -> None:
    for address in ("../beside", "./below", "deep/er/one", "one/", here / "whole"):
        fitted.save(address)
        assert len(VectorIndex.load(address)) == 60
    assert vantage("publish", "ops/live", "../copy").code == 0


@pytest.mark.parametrize("address", ["s3://bucket/x", "r2://bucket/x", Path("s3://bucket/x"), "gs://bucket/x"])
def test_save_takes_folders_alone(here: Path, fitted: VectorIndex, address: str | Path) -> None:
    before = everything(here)
    with pytest.raises(InputError, match="vantage publish"):
        fitted.save(address)
    assert everything(here) == before


@pytest.mark.parametrize("address", ["x.npy", "x.npy/below", "/proc/x", "/dev/null", "n" + "/m" * 3000])
def test_save_where_nothing_can_be_written(here: Path, fitted: VectorIndex, address: str) -> None:
    with pytest.raises(InputError, match="cannot write"):
        fitted.save(address)


@pytest.mark.parametrize("value", ["no", "", 0, 1, None, np.float32(1)])
@pytest.mark.parametrize("name", ["fast", "error_norms"])
def test_what_is_no_truth_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        VectorIndex(**{name: value}).fit(np.eye(4))  # type: ignore[arg-type]
