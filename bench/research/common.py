"""What the scripts about codewords of signs share: a set, its near rows, and lines of a table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common import MEMORY, rows_of
from build_index.blocks.graph_cut import VOTERS
from build_index.blocks.layout import Layout, index_section
from build_index.blocks.partition import Partition
from build_index.ingest.open import open_source
from build_index.ingest.rows import Ints, Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.graph import Graph, neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.progress import SILENT
from build_index.simulate.edge import HeldOutQueries, prepare_rows, probabilities
from build_index.tune.fit import Task, fit_router
from build_index.tune.options import Options
from vantage.search.prepare import Prepared

GOALS = (0.90, 0.95)
ASKED = 30_000  # rows of the sample that the routers learn from
Asked = tuple[list[Prepared], npt.NDArray[np.int32]]  # queries and their exact neighbours


@dataclass(frozen=True)
class Setting:
    """What every line works with."""

    task: Task
    graph: Graph
    blocks: int
    asked: list[Asked]

    @property
    def rows(self) -> Rows:
        return self.task.rows


def setting_of(rows: Rows, blocks: int, asked: list[Asked]) -> Setting:
    """The task with rows held out for tuning, and the near rows of all."""
    held = hold_out(rows.count, 0)
    sample = np.setdiff1d(np.arange(rows.count), held.all)
    graph = neighbour_graph(rows, np.arange(rows.count), VOTERS, seed=0, memory_bytes=MEMORY)
    learners = np.sort(np.random.default_rng(5).choice(sample, min(ASKED, len(sample)), replace=False))
    tune = HeldOutQueries(prepare_rows(rows, held.tuning), held.tuning, truth_of(rows, held.tuning, 100))
    settings = Options(memory_bytes=MEMORY)
    task = Task(rows, sample, tune, learners, graph[learners], 8.0, 100, settings, [], SILENT)
    return Setting(task, graph, blocks, asked)


def cell(p: npt.NDArray[np.floating], sizes: Ints, places: npt.NDArray[np.int32], rows: int, goal: float) -> str:
    """Rows in % and blocks read, for p (Q, B) and the blocks of the neighbours, places (Q, k, E), -1 for none."""
    value = p / np.maximum(sizes, 1)
    each = np.arange(len(p))[:, None, None]
    found = np.sort(np.where(places >= 0, value[each, places], -1).max(2), axis=None)[::-1]
    read = (value >= found[int(np.ceil(goal * found.size)) - 1]) & (sizes > 0)
    return f"{100 * (read * sizes).sum(1).mean() / rows:8.2f} /{read.sum(1).mean():7.1f}"


def show(
    what: str, setting: Setting, base: Partition, copy: npt.NDArray[np.int32], nbytes: int,
    route: Callable[[list[Prepared]], npt.NDArray[np.floating]], began: float,
) -> None:  # fmt: skip
    """Prints a line."""
    held = np.concatenate([base.home[:, None], copy], 1)
    sizes = np.bincount(held[held >= 0], minlength=base.blocks)
    cells = [
        cell(p, sizes, held[near], setting.rows.count, goal)
        for p, near in ((route(queries), near) for queries, near in setting.asked)
        for goal in GOALS
    ]
    skew = np.bincount(base.home).max() * base.blocks / setting.rows.count
    print(
        f"{what:34}{nbytes:9,}{base.blocks:7}{skew:7.1f}" + "".join(cells) + f"{time.monotonic() - began:7.0f}",
        flush=True,
    )


def routed(
    what: str, setting: Setting, base: Partition, router: str, began: float, copy: npt.NDArray[np.int32] | None = None
) -> Layout:
    """Prints the line of a router fitted to blocks, with copies i32 (N, E), if any; what it fitted."""
    rows, none = setting.rows, np.full((setting.rows.count, 0), -1, np.int32)
    layout, _ = fit_router(setting.task, base, none if copy is None else copy, router, SILENT)
    index = index_section(rows, base.blocks, rows.count, router)
    show(
        what, setting, layout.partition, layout.copy, len(layout.section.pack()),
        lambda queries: probabilities(router, layout.section, index, queries), began,
    )  # fmt: skip
    return layout


@contextmanager
def drawn_rows(data: Path, name: str, count: int) -> Iterator[Rows]:
    """A set of DATA, or so many of its rows drawn at random."""
    with rows_of(data, name) as rows, tempfile.TemporaryDirectory() as scratch:
        if not count:
            yield rows
            return
        drawn = np.sort(np.random.default_rng(11).choice(rows.count, count, replace=False))
        np.save(Path(scratch, "rows.npy"), rows.stored.gather(drawn))
        with stage(open_source([Path(scratch, "rows.npy")]), Path(scratch), metric=rows.metric) as few:
            yield scale_rows(few, rows.metric)
