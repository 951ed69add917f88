"""Kills the workers of a build at random."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

POOL_WORKER, RAY_WORKER = b"build_index.tasks.worker", b"ray::work"  # in the command lines of workers at work


class Killer:
    """Kills a process below this one, with `line` in its command line, about every twentieth time that it hears of a
    result; found by /proc. killed: how many.
    """

    def __init__(self, line: bytes, seed: int = 1) -> None:
        self.line, self.rng, self.killed = line, np.random.default_rng(seed), 0

    def hear(self, phase: str, share: float) -> None:
        """Takes a report of progress."""
        if self.rng.random() < 0.05 and (pids := [pid for pid, line in _descendants().items() if self.line in line]):
            os.kill(int(self.rng.choice(pids)), signal.SIGKILL)
            self.killed += 1


def _descendants() -> dict[int, bytes]:
    """Command lines of the processes below this one."""
    parents, lines = dict[int, int](), dict[int, bytes]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
    out, found = dict[int, bytes](), {os.getpid()}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found}
        out |= {pid: lines[pid] for pid in found}
    return out
