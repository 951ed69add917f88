"""What several scripts share: sets of DATA, rows read at a goal, closed loops against a Worker."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from build_index.codecs.planes import Encoded
from build_index.ingest.open import open_source
from build_index.ingest.rows import Ints, Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.graph import neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.progress import SILENT
from build_index.serve import ROOT
from build_index.simulate.edge import HeldOutQueries, prepare_rows
from build_index.tune.draft import TRAINING_QUERIES
from build_index.tune.fit import Task
from build_index.tune.options import Options
from vantage.format import BlockPlanes, Centre, aligned, block_planes, pack_block
from vantage.http.access import Access

GOALS = ((1, 0.90), (10, 0.95), (100, 0.95))
MEMORY = 2 << 30
METRICS = {"wordnet": "cosine", "sift": "l2"}
Bools = npt.NDArray[np.bool_]

HEAP_MAX = 90 << 20
CACHE_BYTES = 20 << 20  # as wrangler.toml has it
ACCESS = Access(public=True)


def packed(codes: Encoded, dimension: int) -> tuple[bytes, BlockPlanes]:
    """A block of nothing but codes, and where they are in it: what kernels scan. dimension: of a centre of zeros."""
    n, code_bytes = codes.codes.shape
    centre = Centre(0.0, 0.0, bytes(aligned(dimension, 16)))
    data, _ = pack_block(n, 0, codes.ranges, centre, [*codes.planes(), bytes(4 * aligned(n, 16))], b"")
    return data, block_planes(n, code_bytes, dimension)


def held_by(places: npt.NDArray[np.int32], read: Bools) -> Bools:
    """bool (Q, k): whether a block of places i32 (Q, k, E), -1 for none, is read, bool (Q, B)."""
    each = np.arange(len(places))[:, None, None]
    return ((places >= 0) & read[each, places]).any(2)


def threshold(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], goal: float) -> float:
    """Mean rows read where blocks of a value over one threshold, the same for all queries, reach the goal."""
    cuts = np.sort(value, axis=None)
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if held_by(places, value >= cuts[middle]).mean() >= goal else (low, middle - 1)
    return float(((value >= cuts[low]) * sizes).sum(1).mean())


def fixed(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], goal: float) -> float:
    """Mean rows read where the best n blocks of each query reach the goal, between two whole n."""
    rank = np.argsort(np.argsort(-value, axis=1, kind="stable"), axis=1)
    before = (0.0, 0.0)
    for n in range(1, value.shape[1] + 1):
        now = float(held_by(places, rank < n).mean()), float(((rank < n) * sizes).sum(1).mean())
        if now[0] >= goal:
            return before[1] + (now[1] - before[1]) * (goal - before[0]) / (now[0] - before[0])
        before = now
    return before[1]


def cells(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], rows: int) -> str:
    """Three columns by a threshold, three at a fixed number of blocks, in % of rows."""
    found = [way(value, sizes, places[:, :k], goal) for way in (threshold, fixed) for k, goal in GOALS]
    return "".join(f"{100 * read / rows:8.2f}" for read in found)


@contextmanager
def rows_of(data: Path, name: str, count: int | None = None) -> Iterator[Rows]:
    """A set of DATA, or so many of its rows, drawn."""
    folder, metric = data / name, METRICS[name]
    source = open_source(sorted(folder.glob("part-*.parquet")) or [folder / "base.parquet"], attributes=[])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        staging = stack.enter_context(stage(source, scratch / "all", metric=metric))
        if count is not None:
            some = np.sort(np.random.default_rng(0).choice(staging.rows, min(count, staging.rows), replace=False))
            np.save(scratch / "some.npy", np.concatenate([staging.vectors(int(i), int(i) + 1) for i in some]))
            staging = stack.enter_context(stage(open_source([scratch / "some.npy"]), scratch / "some", metric=metric))
        yield scale_rows(staging, metric)


def task_of(rows: Rows, asked: int = TRAINING_QUERIES) -> Task:
    """What routers are fitted with: rows held out for tuning, and `asked` rows as questions with their neighbours."""
    held = hold_out(rows.count, 0)
    tune = HeldOutQueries(prepare_rows(rows, held.tuning), held.tuning, truth_of(rows, held.tuning, 100))
    sample = np.setdiff1d(np.arange(rows.count), held.all)
    learners = np.sort(np.random.default_rng(5).choice(sample, min(asked, len(sample)), replace=False))
    near = neighbour_graph(rows, learners, 100, seed=0, memory_bytes=MEMORY)
    return Task(rows, sample, tune, learners, near, 8.0, 100, Options(memory_bytes=MEMORY), [], SILENT)


def project_with(folder: Path, entry: str, *others: str) -> Path:
    """The Worker's project with tests/edge/`entry` as its main, and other files of the checkout beside it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (f"tests/edge/{entry}", *others):
        shutil.copy(ROOT / path, folder / "src")
    (folder / "python_modules").symlink_to(ROOT / "python_modules", target_is_directory=True)
    config = (ROOT / "wrangler.toml").read_text()
    (folder / "wrangler.toml").write_text(config.replace("src/entry.py", f"src/{entry}"))
    return folder


async def loop(
    clients: int, seconds: float, ask: Callable[[Random], Awaitable[Any]], seed: int = 0, least: int = 0
) -> list[float]:
    """A closed loop, of so many seconds and `least` answers: every client asks again when it has its answer.

    Seconds of each answer.
    """
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def one(draw: Random) -> None:
        while (start := time.perf_counter()) < end or len(took) < least:
            await ask(draw)
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(one(Random(1000 * seed + i)) for i in range(clients)))
    return took


def percentiles(seconds: list[float]) -> str:
    """p50, p95 and p99 in ms."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {1e3 * cuts[49]:.1f}, p95 {1e3 * cuts[94]:.1f}, p99 {1e3 * cuts[98]:.1f} ms"
