"""Builds the same index by one process, by processes and by Ray whose workers are killed, and after its own is killed.

    python -m bench.faults.build_kills FOLDER [--rows 200000] [--fast]

The rows are drawn (bench/generated.py), and kept in FOLDER. Workers are killed at random, about every twentieth time
that a result comes; a build that is killed itself, at each third of what its stage keeps, is started again. Exit 1
where a generation is another one than the first.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from bench.generated import written
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.progress import SILENT, Progress
from build_index.tasks.stage import Arrays, Stage
from build_index.tune.options import Options

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from worker_kills import POOL_WORKER, RAY_WORKER, Killer  # noqa: E402


def built(folder: Path, rows: int, name: str, fast: bool, progress: Progress = SILENT, **how: object) -> str:
    """The generation of a build."""
    context = BuildContext(folder / "bucket" / name, "l2", Options(fast=fast), progress, **how)  # type: ignore[arg-type]
    return build(open_source([written(folder, rows)]), context).current.generation


def child(folder: Path, rows: int, fast: bool, most: int, answer: Connection) -> None:
    """Builds, and is killed when it is to keep one result more than `most`; sends (generation, how many it kept)."""
    kept, put = 0, Stage.put

    def counted(self: Stage, key: str, arrays: Arrays) -> None:
        nonlocal kept
        if kept == most:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, key, arrays)
        kept += 1

    Stage.put = counted  # type: ignore[method-assign]
    generation = built(folder, rows, "whole" if most < 0 else "resumed", fast, stage=str(folder / "stage"))
    answer.send((generation, kept))


def started(folder: Path, rows: int, fast: bool, most: int) -> tuple[str, int] | None:
    """What such a child sends; None where it was killed."""
    answer, other = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=child, args=(folder, rows, fast, most, other))
    process.start()
    other.close()
    try:
        out: tuple[str, int] = answer.recv()
        return out
    except EOFError:
        return None
    finally:
        process.join()


def main() -> int:
    """Prints a line a build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    generations = list[str]()

    def tell(what: str, generation: str, since: float) -> None:
        generations.append(generation)
        print(f"{what}: {generation}, {time.monotonic() - since:.0f} s", flush=True)

    start = time.monotonic()
    tell("one process", built(folder, options.rows, "alone", options.fast, workers=1), start)
    for what, line, how in (("2 workers", POOL_WORKER, {"workers": 2}), ("Ray", RAY_WORKER, {"cluster": "local"})):
        start, killer = time.monotonic(), Killer(line)
        own = built(folder, options.rows, what.partition(" ")[0], options.fast, Progress(killer.hear), **how)
        tell(f"{what}, {killer.killed} killed", own, start)
    start = time.monotonic()
    whole = started(folder, options.rows, options.fast, -1)
    assert whole is not None
    tell(f"with a stage, {whole[1]} results kept", whole[0], start)
    start, third = time.monotonic(), whole[1] // 3
    killed = [started(folder, options.rows, options.fast, third) for _ in range(2)]
    assert killed == [None, None]
    rest = started(folder, options.rows, options.fast, whole[1])
    assert rest is not None
    tell(f"killed after {third} and {2 * third} results, {rest[1]} kept then", rest[0], start)
    return int(len(set(generations)) > 1 or rest[1] + 2 * third != whole[1])


if __name__ == "__main__":
    sys.exit(main())
