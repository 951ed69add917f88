"""What `wrangler deploy` would upload: all of the Worker, nothing else, and little."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from build_index.node import ROOT, wrangler
from build_index.serve import QUIET

GZIP_KIB_MAX = 1024

pytestmark = pytest.mark.edge


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the dry run wrote, and what it printed."""
    out = tmp_path_factory.mktemp("deploy")
    command = [*wrangler(), "deploy", "--dry-run", "--outdir", out]
    environment = os.environ | QUIET | {"WRANGLER_LOG_PATH": str(out.parent / "wrangler-logs")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_module_of_the_worker_and_no_other_file_is_uploaded(dry_run: tuple[Path, str]) -> None:
    wanted = {name for name in files_below(ROOT / "src") if name.endswith((".py", ".so"))}
    assert {"entry.py", "kern.so", "vantage/index.py"} <= wanted
    uploaded = {name for name in files_below(dry_run[0]) if not name.startswith("python_modules/")}
    assert uploaded - {"README.md"} == wanted  # wrangler puts a README of its own beside them
    for name in wanted:
        assert (dry_run[0] / name).read_bytes() == (ROOT / "src" / name).read_bytes(), name


def test_the_sdk_is_uploaded(dry_run: tuple[Path, str]) -> None:
    assert (dry_run[0] / "python_modules" / "workers" / "__init__.py").is_file()


def test_the_upload_is_small(dry_run: tuple[Path, str]) -> None:
    size = re.search(r"Total Upload: [\d.]+ KiB / gzip: ([\d.]+) KiB", dry_run[1])
    assert size, dry_run[1]
    assert float(size[1]) < GZIP_KIB_MAX


def test_the_bindings_are_productions(dry_run: tuple[Path, str]) -> None:
    for binding in ("env.BUCKET (vantage)", "env.WARM (WarmIndex)", "env.LOG (IndexLog)"):
        assert binding in dry_run[1], dry_run[1]
