"""What takes long to make is made once a run, for all of its workers."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What make(an empty folder) returns, as the first worker that asks for this name has it; the others wait for it.

    The folder is everybody's: nobody may change it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    kept = folder / f"{name}.pickle"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            (folder / name).mkdir()
            kept.write_bytes(pickle.dumps(make(folder / name)))
        found: T = pickle.loads(kept.read_bytes())
    return found
