"""Ends publish, rollback and gc at every operation of theirs, before and after it took effect, and counts the damage.

    python -m bench.faults.publish_kills

Two generations of 1,440 generated rows. Unreadable: the bucket then served no whole generation. Lost: running the
command again did not finish its job. Exit 1 where either is above 0.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune.options import Options

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from kills import kills  # noqa: E402


def main() -> int:
    """Prints a line a command."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        np.save(scratch / "rows.npy", np.random.default_rng(0).normal(size=(1440, 16)).astype(np.float32))
        indexes = []
        for seed in (0, 1):
            indexes.append(scratch / str(seed) / "live")
            build(
                open_source([scratch / "rows.npy"]), BuildContext(indexes[-1], "l2", Options(0.9, 10, seed, fast=True))
            )
        print("command    ended    kill points  unreadable  lost")
        for after in (False, True):
            found = kills(
                *indexes, 14, lambda name, after=after: FolderStore(scratch / f"{name}-{after}" / "live"), after
            )
            for command, (tried, unreadable, lost) in found.items():
                print(f"{command:10} {'after' if after else 'before':8} {tried:11} {unreadable:11} {lost:5}")
                bad += unreadable + lost
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
