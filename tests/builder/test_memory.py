"""A build stays inside its memory budget, imports included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from small import clustered

BUDGET = 640 << 20
ROWS, DIMENSION = 60_000, 192

# Fewer held-out rows and larger blocks only save time: what grows with the rows is as in any build.
SCRIPT = """
import re, resource, sys
from pathlib import Path
from build_index.tune import draft
from build_index.neighbours import truth
from build_index.cli.main import app
truth.HELD_OUT_MAX, draft.BLOCK_ROWS = 300, 800
app(sys.argv[1:], standalone_mode=False)
status = Path("/proc/self/status")  # on Linux, where ru_maxrss begins at what the process that started this one had
if status.exists():
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_is_within_the_budget(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (ROWS, DIMENSION))
    for low in range(0, ROWS, 10_000):
        noise = np.random.default_rng(low).standard_normal((10_000, DIMENSION), np.float32)
        x[low : low + 10_000] = clustered(10_000, DIMENSION, 0) + 0.3 * noise
    del x
    args = ["build", "rows.npy", "--out", "bucket/big", "--recall", "0.9", "--k", "10", "--memory-budget", "640MiB"]
    ran = subprocess.run([sys.executable, "-c", SCRIPT, *args], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "bucket" / "big" / "CURRENT").exists()
    peak = int(ran.stdout.splitlines()[-1])
    assert 100 << 20 < peak <= BUDGET, f"{peak / 2**20:.0f} MiB"
