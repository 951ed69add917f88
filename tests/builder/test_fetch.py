"""Node's packages of an installed wheel: fetched whole into the cache, once. A shell script stands in for Node."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from build_index import node
from build_index.progress import SILENT, Progress
from vantage.errors import InputError, VantageError

NODE = """#!/bin/sh
case "$*" in
  *npm-cli.js*install*--omit=dev*) test -f package-lock.json && mkdir node_modules && echo x > node_modules/x; {npm} ;;
  *make-bundle.mjs) mkdir .pyodide ;;
esac
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a wheel, with a cache folder of its own. -> the program that stands in for Node"""
    program = tmp_path / "nodejs" / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.write_text(NODE.format(npm="true"))
    program.chmod(0o755)
    (tmp_path / "sources").mkdir()
    for path in node.SOURCES.iterdir():
        if path.is_file():  # as a wheel has it: no packages
            shutil.copy(path, tmp_path / "sources")
    monkeypatch.setattr(node, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(node, "INSTALLED", True)
    monkeypatch.setattr(node, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(node, "_node", lambda: program)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(node, "HOST", node._host())
    return program


def test_a_checkout_has_them(tmp_path: Path) -> None:
    assert node.is_fetched() and node.HOST == node.ROOT / "vendor" / "host"
    node.fetch(Progress(lambda phase, share: pytest.fail("there is nothing to do")))


def test_they_are_fetched_once(installed: Path) -> None:
    assert not node.is_fetched()
    with pytest.raises(VantageError, match="`vantage serve` fetches them"):
        node.node()
    phases = {}
    node.fetch(Progress(lambda phase, share: phases.update({phase: share})))
    assert list(phases) == ["Node's packages", "Pyodide"] and all(0 <= share <= 1 for share in phases.values())
    assert node.is_fetched() and node.node() == installed
    assert {"node_modules", ".pyodide", "workerd.sh", "dev.mjs", "package-lock.json"} <= {
        path.name for path in node.HOST.iterdir()
    }
    assert list(node.HOST.parent.iterdir()) == [node.HOST]
    node.fetch(Progress(lambda phase, share: pytest.fail("they are there")))


def test_another_lock_is_another_folder(installed: Path) -> None:
    (node.SOURCES / "package-lock.json").write_text("another")
    assert node._host() != node.HOST and node._host().parent == node.HOST.parent


def test_without_node_the_extra_is_named(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(node, "INSTALLED", True)
    monkeypatch.setattr(node, "find_spec", lambda name: None)
    with pytest.raises(VantageError, match=re.escape("pip install 'vantage-search[serve]'")):
        node.node()


def test_what_fails_leaves_nothing_behind(installed: Path) -> None:
    installed.write_text(NODE.format(npm="echo no route to the registry >&2; exit 1"))
    with pytest.raises(
        VantageError, match="fetching Node's packages failed: no route to the registry; check the network"
    ):
        node.fetch(SILENT)
    assert not node.is_fetched() and not list(node.HOST.parent.iterdir())


def test_what_is_interrupted_leaves_nothing_behind(installed: Path) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise KeyboardInterrupt

    installed.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(KeyboardInterrupt):
        node.fetch(Progress(interrupt))
    assert not node.is_fetched() and not list(node.HOST.parent.iterdir())


def test_two_at_once_end_with_one_folder(installed: Path) -> None:
    def other(phase: str, share: float) -> None:
        (node.HOST / "node_modules").mkdir(parents=True, exist_ok=True)

    node.fetch(Progress(other))
    assert list(node.HOST.parent.iterdir()) == [node.HOST]


def test_a_cache_that_cannot_be_written_is_a_sentence(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match=r"cannot keep .* in .*cache/vantage.*XDG_CACHE_HOME"):
        node.fetch(SILENT)
