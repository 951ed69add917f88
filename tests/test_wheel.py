"""The wheels: what lies in them, and that one works in an environment outside of the checkout."""

from __future__ import annotations

import ast
import functools
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from build_index.needed import NEEDED
from build_index.node import wrangler
from build_index.serve import QUIET
from vantage import VERSION

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)$", (ROOT / "requirements-pinned.txt").read_text(), re.MULTILINE))
LINUX = "manylinux_2_17_x86_64"
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of ELF
MACHO_ARM64 = (0xFEEDFACF, 0x0100000C)
CODE_SIGNATURE = 0x1D  # a load command of Mach-O: macOS runs nothing on arm64 without one
ROWS = np.random.default_rng(1).normal(size=(200, 12)).astype(np.float32)
IMPORTED_AS = {"faiss-cpu": "faiss"}


def build(folder: Path, project: Path, tag: str) -> Path:
    """Builds the wheel of a project for a platform, as `make dist` does; "" is this one. -> its path in `folder`"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python_modules"), "VANTAGE_PLATFORM": tag}
    program = f"from setuptools.build_meta import build_wheel; print(build_wheel({str(folder)!r}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the source distribution holds."""
    folder = tmp_path_factory.mktemp("sdist")
    program = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    [packed] = folder.iterdir()
    assert packed.name == f"vantage_search-{VERSION}.tar.gz"
    shutil.unpack_archive(packed, folder, filter="data")
    return folder / packed.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def compiled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution with the folder of the same kernels in the checkout, where zig compiled them before."""
    own, packed = (
        {path.name: path.read_bytes() for path in (folder / "kernels").iterdir() if path.is_file()}
        for folder in (ROOT, source)
    )
    assert packed == own
    folder = tmp_path_factory.mktemp("compiled") / source.name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("kernels"))
    (folder / "kernels").symlink_to(ROOT / "kernels")
    return folder


@pytest.fixture(scope="module")
def wheel_for(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A platform's tag -> its wheel, built once from the source distribution."""
    return functools.cache(lambda tag: build(tmp_path_factory.mktemp("wheel"), compiled, tag))


@pytest.fixture(scope="module")
def wheel(wheel_for: Callable[[str], Path]) -> Path:
    """The wheel for this machine."""
    return wheel_for(LINUX if sys.platform == "linux" and platform.machine() == "x86_64" else "")


def install(wheel: Path, folder: Path) -> Path:
    """Makes an environment that has the wheel and nothing else. -> its folder of programs"""
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-compile", wheel], check=True, capture_output=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment outside of the checkout, with the wheel and the packages of its extra.

    These are taken from the environment of the tests. A path file adds that folder, and does not obey the path files
    in it: what `make install` put there of this checkout stays out, and so do its kernels, because an environment's
    own folder comes first.
    """
    folder = install(wheel, tmp_path_factory.mktemp("environment"))
    [site] = folder.parent.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("platlib"))
    return folder


def clean() -> dict[str, str]:
    """The environment without what would lead Python back to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=clean(), capture_output=True, text=True, timeout=120, check=False)


def answer(*command: str | Path, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_extra_one_line_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    vantage = install(wheel, tmp_path / "environment") / "vantage"
    for arguments in ([], ["--help"], ["build", "rows.npy"]):
        done = run(vantage, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "numpy" in done.stderr and "pip install 'vantage-search[build]'" in done.stderr


@pytest.fixture(scope="module")
def home(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, and an index of them that the wheel built."""
    folder = tmp_path_factory.mktemp("home")
    np.save(folder / "rows.npy", ROWS)
    np.save(folder / "queries.npy", ROWS[:20] + 0.01)
    options = ("--out", "bucket/small", "--k", "5", "--metric", "l2", "--fast")
    answer(programs / "vantage", "build", "rows.npy", *options, cwd=folder)
    return folder


def test_the_wheel_works_outside_the_checkout(programs: Path, home: Path) -> None:
    where = "import build_index, kern, vantage; print(build_index.__file__, kern.__file__, vantage.__file__)"
    for path in answer(programs / "python", "-c", where, cwd=home).split():
        assert programs.parent in Path(path).parents
    vantage = programs / "vantage"
    assert "export-router" in answer(vantage, "--help", cwd=home)
    reply = json.loads(answer(vantage, "query", "bucket/small", "--id", "7", "--json", cwd=home))
    assert reply["matches"][0]["id"] == np.argsort(((ROWS - ROWS[7]) ** 2).sum(1))[1]  # so few rows are exact
    options = ("--queries", "queries.npy", "--k", "5", "--json")
    assert json.loads(answer(vantage, "eval", "bucket/small", *options, cwd=home))["recall"] > 0.9
    assert answer(vantage, "verify", "bucket/small", cwd=home).endswith(": whole\n")


@pytest.fixture(scope="module")
def edge(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `vantage worker` of the wheel wrote."""
    folder = tmp_path_factory.mktemp("worker")
    answer(programs / "vantage", "worker", "edge", "--bucket", "some-bucket", "--index", "docs", cwd=folder)
    return folder / "edge"


def test_the_folder_of_the_worker_has_the_code_of_the_checkout(edge: Path) -> None:
    for path in (ROOT / "src").rglob("*"):
        if path.suffix in (".py", ".so"):
            assert (edge / "src" / path.relative_to(ROOT / "src")).read_bytes() == path.read_bytes()
    assert tomllib.loads((edge / "pyproject.toml").read_text())["project"]["dependencies"] == []
    assert not (edge / "requirements.txt").exists()  # pywrangler would refuse
    assert "vantage publish ../bucket/docs r2://some-bucket/docs" in (edge / "README.md").read_text()


@pytest.mark.edge
def test_wrangler_takes_the_folder_of_the_worker(edge: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*wrangler(), "deploy", "--dry-run", "--outdir", tmp_path / "out"],
        cwd=edge, env=os.environ | QUIET | {"WRANGLER_LOG_PATH": str(tmp_path / "logs")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "env.BUCKET (some-bucket)" in done.stdout and "env.WARM (WarmIndex)" in done.stdout
    assert "env.LOG (IndexLog)" in done.stdout
    for folder in ("src", "python_modules"):
        for path in (edge / folder).rglob("*.py"):
            uploaded = tmp_path / "out" / path.relative_to(edge / "src" if folder == "src" else edge)
            assert uploaded.read_bytes() == path.read_bytes()
    assert (tmp_path / "out" / "kern.so").read_bytes() == (ROOT / "src" / "kern.so").read_bytes()


@pytest.mark.edge
def test_the_wheel_serves(programs: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the checkout has already in the place of what is fetched at first use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = "from build_index.node import host_folder; print(host_folder())"
    host = Path(answer(programs / "python", "-c", place, cwd=home).strip())
    assert host.parent == tmp_path / "vantage"
    host.mkdir(parents=True)
    for path in (ROOT / "vendor" / "host").iterdir():
        if path.is_file():
            shutil.copy(path, host)
        else:
            (host / path.name).symlink_to(path)
    command = [programs / "vantage", "serve", "bucket", "--port", "0"]
    with subprocess.Popen(command, cwd=home, env=clean(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            body = {"vector": ROWS[7].tolist(), "top_k": 1}
            reply = httpx.post(f"{url}/v1/indexes/small/query", json=body, timeout=60, trust_env=False)
            assert reply.json()["matches"][0]["id"] == 7
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert (home / ".vantage").is_dir()


def test_the_wheel_has_all_that_the_commands_need(wheel: Path) -> None:
    assert re.fullmatch(rf"vantage_search-{VERSION}-cp311-abi3-[a-z]+.*\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        for folder, package in ((ROOT / "src", "vantage"), (ROOT, "build_index")):
            code = {str(path.relative_to(folder)) for path in (folder / package).rglob("*.py")}
            assert code - names <= {"build_index/demo.py", "build_index/export/agreement.py"}
            assert f"{package}/py.typed" in names
        for name in ("wrangler.toml", "src/entry.py", "src/kern.so", "vendor/host/package-lock.json"):
            assert packed.read(f"build_index/files/{name}") == (ROOT / name).read_bytes()
    assert {"build_index/files/vendor/host/workerd.sh", "build_index/files/python_modules/workers/__init__.py"} <= names
    assert {f"vantage_search-{VERSION}.dist-info/licenses/{n}" for n in ("LICENSE", "THIRD_PARTY_NOTICES.md")} <= names


@pytest.mark.parametrize("machine", MACHINES)
def test_the_kernels_of_linux(wheel_for: Callable[[str], Path], machine: str) -> None:
    path = wheel_for(f"manylinux_2_17_{machine}")
    assert path.name == f"vantage_search-{VERSION}-cp311-abi3-manylinux_2_17_{machine}.whl"
    kernels = zipfile.ZipFile(path).read("kern.abi3.so")
    assert kernels[:6] == b"\x7fELF\x02\x01" and struct.unpack_from("<H", kernels, 18) == (MACHINES[machine],)
    assert b"\0PyInit_kern\0" in kernels
    assert b"GLIBC" not in kernels and b"libc.so" not in kernels  # so that the tag's floor holds


def test_the_kernels_of_macos(source: Path, tmp_path: Path) -> None:
    """Compiled from what the source distribution holds, and from nothing else."""
    path = build(tmp_path, source, "macosx_11_0_arm64")
    assert path.name == f"vantage_search-{VERSION}-cp311-abi3-macosx_11_0_arm64.whl"
    kernels = zipfile.ZipFile(path).read("kern.abi3.so")
    magic, machine, _, _, count = struct.unpack_from("<5I", kernels)
    assert (magic, machine) == MACHO_ARM64
    assert b"\0_PyInit_kern\0" in kernels
    commands, at = set(), 32
    for _ in range(count):
        command, size = struct.unpack_from("<2I", kernels, at)
        commands.add(command)
        at += size
    assert CODE_SIGNATURE in commands


def requirements(name: str) -> dict[str, str]:
    """Names and lowest versions of an extra, without those of Vantage itself."""
    wanted = PROJECT["project"]["optional-dependencies"][name]
    return dict(one.split(">=") for one in wanted if not one.startswith("vantage"))


def test_the_extra_is_what_the_builder_imports() -> None:
    imported = set()
    for path in (ROOT / "build_index").rglob("*.py"):
        if path.name in ("demo.py", "agreement.py"):  # not in a wheel
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= sys.stdlib_module_names | {"vantage", "build_index", "kern"}
    assert {IMPORTED_AS.get(name, name) for name in requirements("build")} == imported - {"ray"}  # an extra of its own
    assert set(NEEDED) == imported - {"ray"} | {"kern"}


def test_versions_are_the_pinned_ones() -> None:
    for name, lowest in (requirements("build") | requirements("serve")).items():
        assert lowest == PINS[name], name
    pinned = dict(one.split("==") for one in PROJECT["build-system"]["requires"] if "==" in one)
    assert pinned["ziglang"] == PINS["ziglang"]
    assert f"workers-runtime-sdk=={pinned['workers-runtime-sdk']}" in (ROOT / "Makefile").read_text()
