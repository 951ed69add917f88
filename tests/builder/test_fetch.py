"""Node's packages of an installed wheel: fetched whole into the cache, once. A shell script stands in for Node."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from build_index import node
from build_index.progress import SILENT, Progress
from vantage.errors import InputError, VantageError

NODE = """#!/bin/sh
case "$*" in
  *npm-cli.js*install*--omit=dev*)
    test -f package-lock.json && mkdir node_modules && cd node_modules &&
    mkdir -p wrangler/bin @cloudflare/workerd-x/bin &&
    touch wrangler/bin/wrangler.js @cloudflare/workerd-x/bin/workerd; {npm} ;;
  *make-bundle.mjs) mkdir .pyodide && touch .pyodide/pyodide_dev.capnp.bin ;;
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
    return program


def test_a_checkout_has_them(tmp_path: Path) -> None:
    assert node.is_fetched() and node.host_folder() == node.ROOT / "vendor" / "host"
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
        path.name for path in node.host_folder().iterdir()
    }
    assert list(node.host_folder().parent.iterdir()) == [node.host_folder()]
    node.fetch(Progress(lambda phase, share: pytest.fail("they are there")))


def test_another_lock_is_another_folder(installed: Path) -> None:
    before = node.host_folder()
    (node.SOURCES / "package-lock.json").write_text("another")
    assert node.host_folder() != before and node.host_folder().parent == before.parent


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
    assert not node.is_fetched() and not list(node.host_folder().parent.iterdir())


def test_what_is_interrupted_leaves_nothing_behind(installed: Path) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise KeyboardInterrupt

    installed.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(KeyboardInterrupt):
        node.fetch(Progress(interrupt))
    assert not node.is_fetched() and not list(node.host_folder().parent.iterdir())


PROGRAM = """
import sys
from pathlib import Path
from build_index import node
from build_index.cli.main import main
node.INSTALLED, node.SOURCES, program = True, Path(sys.argv[1]), Path(sys.argv[2])
node._node = lambda: program
sys.argv = ["vantage", "serve", "bucket", "--port", "0"]
main()
"""


def test_a_command_that_is_ended_leaves_nothing_behind(installed: Path) -> None:
    installed.write_text("#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    with subprocess.Popen([sys.executable, "-c", PROGRAM, node.SOURCES, installed], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (pids := list(node.cache().glob(f"{node.SCRATCH}*/host/pid"))) or not pids[0].read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        pid = int(pids[0].read_text())
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM and not list(node.cache().iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_at_once_end_with_one_folder(installed: Path) -> None:
    def other(phase: str, share: float) -> None:
        shutil.copytree(node.SOURCES, node.host_folder(), dirs_exist_ok=True)
        for pattern in node.FETCHED:
            path = node.host_folder() / pattern.replace("*", "other")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    node.fetch(Progress(other))
    assert list(node.host_folder().parent.iterdir()) == [node.host_folder()]
    assert (node.host_folder() / "node_modules/@cloudflare/workerd-other/bin/workerd").exists()


def test_a_cache_that_cannot_be_written_is_a_sentence(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match=r"cannot keep .* in .*cache/vantage.*XDG_CACHE_HOME"):
        node.fetch(SILENT)


@pytest.mark.parametrize("there", ["", "node_modules/wrangler/bin"])
def test_a_folder_that_is_not_whole_is_fetched_again(installed: Path, there: str) -> None:
    (node.host_folder() / there).mkdir(parents=True)
    assert not node.is_fetched()
    node.fetch(SILENT)
    assert node.is_fetched() and list(node.host_folder().parent.iterdir()) == [node.host_folder()]


def test_what_npm_does_not_bring_is_an_error(installed: Path) -> None:
    installed.write_text(NODE.format(npm="rm wrangler/bin/wrangler.js"))
    with pytest.raises(VantageError, match="npm did not bring all"):
        node.fetch(SILENT)
    assert not list(node.host_folder().parent.iterdir())


def test_what_dead_processes_left_is_removed_and_what_others_work_in_is_not(installed: Path) -> None:
    dead, busy = (node.host_folder().parent / f"{node.SCRATCH}{name}" for name in ("dead", "busy"))
    for folder in (dead, busy):
        (folder / "host").mkdir(parents=True)
    with node._held(busy):
        node.fetch(SILENT)
    assert sorted(node.host_folder().parent.iterdir()) == [busy, node.host_folder()]


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert node.cache() == tmp_path / ".cache" / "vantage"


def test_without_a_home_only_what_needs_one_fails(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    for ask in (node.is_fetched, node.node, node.host_folder):
        with pytest.raises(InputError, match="no home folder .* XDG_CACHE_HOME"):
            ask()
