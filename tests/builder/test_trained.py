"""trained: what it learns from, honest probabilities, and the same table for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import Layout, index_section
from build_index.blocks.partition import Partition
from build_index.ingest.rows import Rows
from build_index.neighbours.graph import neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.progress import SILENT
from build_index.routers import learn, trained
from build_index.routers.training import TrainingSet, renumber
from build_index.simulate.edge import HeldOutQueries, prepare_rows, probabilities
from build_index.tune.fit import Task, fit_router
from build_index.tune.options import Options

BLOCKS = 32


def task_of(rows: Rows) -> Task:
    held = hold_out(rows.count, 0)
    tune = HeldOutQueries(prepare_rows(rows, held.tuning), held.tuning, truth_of(rows, held.tuning, 20))
    sample = np.setdiff1d(np.arange(rows.count), held.all)
    near = neighbour_graph(rows, sample, 20, seed=0, memory_bytes=1 << 30)
    return Task(rows, sample, tune, sample, near, 8.0, 20, Options(0.9, 20), [], SILENT)


def log_loss(task: Task, layout: Layout) -> float:
    """Mean over neighbours of -log of the probability of the blocks that hold them, on rows that trained nothing."""
    index = index_section(task.rows, layout.blocks, task.rows.count, layout.router)
    p = probabilities(layout.router, layout.section, index, task.tune.queries) / 2**20
    places = np.concatenate([layout.partition.home[:, None], layout.copy], 1)[task.tune.truth.rows]
    each = np.where(places >= 0, p[np.arange(len(p))[:, None, None], places], 0).sum(2)
    return float(-np.log(np.maximum(each, 1e-7)).mean())


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_training_makes_probabilities_honest(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    """Lower loss on held-out rows than lse whose beta and temperature were measured; and again the same bytes."""
    monkeypatch.setattr(trained, "STEPS", 40)
    rows = rows_of(clustered(3000, 40, 3), metric, scale=None)
    task = task_of(rows)
    base = partition(rows, task.sample, BLOCKS, 0)
    copy = soar(rows, base).best(0.35)
    by_name = {name: fit_router(task, base, copy, name, SILENT)[0] for name in ("lse", "trained")}
    assert log_loss(task, by_name["trained"]) < log_loss(task, by_name["lse"])
    again = fit_router(task, base, copy, "trained", SILENT)[0]
    assert again.section.pack() == by_name["trained"].section.pack()


def test_places_and_their_numbers() -> None:
    centres, home = np.zeros((3, 2), np.float32), np.array([0, 1, 2, 1], np.int32)
    copy = np.array([[1, -1], [-1, -1], [0, 1], [2, 0]], np.int32)
    nothing = np.empty((0, 1), np.int32)
    training = TrainingSet(None, np.arange(4), Partition(centres, home), copy, np.empty(0, np.int64), nothing, 0)  # type: ignore[arg-type]
    near = np.array([[3, 0], [2, -1]], np.int32)
    assert training.blocks_of(near).tolist() == [[[1, 2, 0], [0, 1, -1]], [[2, 0, 1], [-1, -1, -1]]]
    assert renumber(copy, np.array([2, 0, 1])).tolist() == [[2, -1], [-1, -1], [1, 2], [0, 1]]


def test_logits_in_parts_learn_the_same(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many blocks a batch is computed in parts, which differ in the order of sums alone."""
    monkeypatch.setattr(trained, "STEPS", 6)
    rows = rows_of(clustered(800, 12, 3), "cosine")
    task = task_of(rows)
    base = partition(rows, task.sample, BLOCKS, 0)
    training = task.training_set(base, np.full((800, 0), -1, np.int32))
    whole = trained.table(training, 4)[0]
    monkeypatch.setattr(learn, "LOGITS_BYTES", 4 * 4 * BLOCKS * 100)  # of a hundred queries
    parts = trained.table(training, 4)[0]
    for name, value in whole.items():
        assert np.asarray(parts[name]) == pytest.approx(np.asarray(value), rel=1e-3, abs=1e-4), name
    assert not np.allclose(whole["table"], trained.table(replace(training, seed=1), 4)[0]["table"], 1e-3, 1e-4)
