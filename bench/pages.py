"""Commands of the project and what they print, for the pages in docs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """A command as a reader would type it, what it printed, its seconds, those of CPU, and its peak memory in bytes."""

    command: str
    text: str
    seconds: float
    cpu: float
    peak: int

    @property
    def json(self) -> dict[str, Any]:
        """The object that a --json command printed."""
        found: dict[str, Any] = json.loads(self.text.strip().splitlines()[-1])
        return found


def run(*words: object, places: dict[str, str]) -> Run:
    """Runs a command of this project's environment; places are shown in the page by their names."""
    command = [str(w) for w in words]
    shown = shlex.join(command)
    for path, name in places.items():
        shown = shown.replace(path, name)
    print(f"$ {shown}", file=sys.stderr, flush=True)
    start = time.monotonic()
    process = subprocess.Popen([BIN / command[0], *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    for path, name in places.items():
        text = text.replace(path, name)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{shown} failed")
    return Run(shown, text, time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def block(*runs: Run) -> str:
    """Commands with what they printed."""
    return "\n".join(f"```\n$ {r.command}\n{r.text.rstrip()}\n```\n" for r in runs)
