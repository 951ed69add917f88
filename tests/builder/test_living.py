"""The living contract: rows held out know their neighbours, what is stored is scanned for them, and prices follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import clustered

from build_index import VectorIndex
from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.arrays import check_arrays
from build_index.ingest.open import open_source
from build_index.ingest.rows import scale_rows
from build_index.neighbours.truth import hold_out, neighbours_of, untied
from build_index.simulate.edge import HeldOutQueries, prepare_rows
from build_index.simulate.measure import full_scan, plans
from build_index.simulate.stored import Opened, extent_probabilities, scan_stored, stored_vectors
from build_index.tune import living, renditions
from build_index.tune.fit import probabilities_of
from build_index.tune.living import (
    NEAR,
    Held,
    Scale,
    caught_up,
    filled,
    follow,
    is_due,
    nearest_in,
    nearest_stored,
    rebuild_pays,
    without,
)
from build_index.tune.options import Options
from build_index.write.reopen import held_of
from vantage.errors import DamagedError

ROWS, DIMENSION = 3000, 24


@pytest.fixture(scope="module")
def fitted() -> VectorIndex:
    """An index whose root does not hold the blocks; a row has two copies more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renditions, "INLINE_BYTES", 0)
        index = VectorIndex(fast=True, metric="l2", k=10, copies="soar", copies_share=2.0)
        return index.fit(clustered(ROWS, DIMENSION, 1).astype(np.float16))


def test_scans_of_what_is_stored_find_what_scans_of_rows_find(fitted: VectorIndex, tmp_path: Path) -> None:
    fitted.save(tmp_path / "bucket" / "index")
    index, held = open_index(tmp_path / "bucket" / "index"), fitted.held
    rows, layout = held.rows, held.choice.layout
    own = np.arange(0, ROWS, 100)
    near, _ = neighbours_of(rows, own, rows.take(own), 50)
    asked = HeldOutQueries(prepare_rows(rows, own), own, untied(near))
    expected = full_scan(rows, layout, held.choice.codec, asked)
    source = np.concatenate([m[:h] for m, h in zip(layout.members(), np.bincount(layout.partition.home), strict=True)])
    number = np.argsort(source).astype(np.int32)
    numbered = HeldOutQueries(asked.queries, number[own].astype(np.int64), untied(number[near]))
    p = extent_probabilities(index.root, asked.queries)
    assert np.array_equal(p, probabilities_of(rows, layout, asked.queries))
    with Opened(tmp_path / "bucket" / "index" / index.current.generation) as files:
        found = scan_stored(index.root, files.read, numbered, np.ones(p.shape, bool))
        vectors = stored_vectors(index.root, files.read, number[::-7].astype(np.int64))
    assert np.array_equal(vectors, held.stored.gather(np.arange(ROWS)[::-7]))
    assert np.array_equal(found.row[:, :100], np.where(expected.row >= 0, number[expected.row], -1)[:, :100])


def unlisted(numbers: np.ndarray, x: np.ndarray, rows: int) -> Held:
    """Rows held of so many, without lists."""
    near, cost = np.full((len(numbers), NEAR), -1, np.int32), np.full((len(numbers), NEAR), np.inf, np.float32)
    later = np.zeros(len(numbers), bool)
    return Held(numbers, x[numbers], near, cost, later, np.array([rows]), 0, rows, 0, 0.9, rows, 1.0)


def exactly(held: Held, x: np.ndarray, alive: np.ndarray) -> None:
    """Lists are the rows nearest to each of those held, as far as they go."""
    for row, vector, near in zip(held.rows, held.vectors, held.near, strict=True):
        others = np.flatnonzero(alive & (np.arange(len(x)) != row))
        expected = others[np.argsort(((x[others] - vector) ** 2).sum(1), kind="stable")]
        known = near[near >= 0]
        assert np.array_equal(known, expected[: len(known)])


def test_lists_are_exact_as_rows_come_and_go() -> None:
    draw, x = np.random.default_rng(3), clustered(1500, 8, 2).astype(np.float16).astype(np.float32)
    rows = scale_rows(check_arrays(x[:500].astype(np.float16), np.arange(500), "l2"), "l2")
    scale, alive = Scale("l2", rows.origin, rows.scale), np.arange(1500) < 500
    held = filled(unlisted(np.arange(0, 500, 10), x, 500), 10, 500, nearest_in(rows))
    assert (held.near >= 0).all()
    for low in range(500, 1500, 100):
        gone = np.sort(draw.choice(np.flatnonzero(alive), 60, replace=False))
        alive[gone], alive[low : low + 100] = False, True
        new = np.arange(low, low + 100)
        held = follow(without(held, gone), int(alive.sum()), new, x[new], scale, draw)
        exactly(held, x, alive)
    assert held.later.any() and not np.isin(held.rows, np.flatnonzero(~alive)).any()
    share = held.later.mean()  # as many rows held as there are rows that came later
    assert abs(share - (alive[500:].sum() / alive.sum())) < 0.2
    kept = filled(held, 10, 1500, lambda some, count: (np.tile(np.arange(count, dtype=np.int32), (len(some.rows), 1)),
                                                       np.ones((len(some.rows), count), np.float32)))  # fmt: skip
    assert ((kept.near >= 0).sum(1) > 10).all()


def recall_at_the_promise(path: Path, x: np.ndarray, queries: np.ndarray) -> float:
    """recall@10 of queries as the index keeps its contract."""
    found = VectorIndex.load(path).search(queries, 10)
    truth = np.argsort(((queries[:, None] - x[None]) ** 2).sum(2), axis=1)[:, :10]
    return float(np.mean([len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), truth.tolist(), strict=True)])) / 10


def test_prices_follow_what_comes(
    fitted: VectorIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    path = tmp_path / "bucket" / "index"
    fitted.save(path)
    old, index = open_index(path), VectorIndex.load(path).held
    x = clustered(3 * ROWS, DIMENSION, 7).astype(np.float16)  # other clusters
    index.add(check_arrays(x[: 2 * ROWS], np.arange(ROWS, 3 * ROWS), "l2", "f16"))
    index.write(path)
    now = open_index(path)
    held = held_of([path / key for key in now.root.objects.resolve("", now.current.generation)], now.root)
    assert held is not None and held.later.sum() > len(held.rows) / 2 and held.changed == 0
    assert now.root.contract.target == old.root.contract.target and now.root.contract != old.root.contract
    every = np.concatenate([fitted.held.stored.held, x[: 2 * ROWS]]).astype(np.float32)
    queries = x[2 * ROWS :: 30].astype(np.float32)
    assert recall_at_the_promise(path, every, queries) > now.root.contract.target - 0.03
    # Little more, and prices stay; what came is not forgotten.
    index = VectorIndex.load(path).held
    index.add(check_arrays(x[2 * ROWS : 2 * ROWS + 20], np.arange(9 * ROWS, 9 * ROWS + 20), "l2", "f16"))
    index.write(path)
    again = open_index(path)
    assert again.root.contract == now.root.contract
    held = held_of([path / key for key in again.root.objects.resolve("", again.current.generation)], again.root)
    assert held is not None and held.changed == 20 and not is_due(held, 20, 3 * ROWS)
    monkeypatch.setattr(living, "PAYS_BYTES", 1000)
    assert rebuild_pays(again.root, replace(held, built_bytes=1.0))
    assert not rebuild_pays(again.root, replace(held, built_bytes=1e9))
    monkeypatch.setattr(living, "PAYS_BYTES", 1 << 30)
    assert not rebuild_pays(again.root, replace(held, built_bytes=1.0))


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_a_build_keeps_rows_with_their_neighbours(metric: str, tmp_path: Path) -> None:
    """Those that its prices were measured on, in the order that the vectors have as they are stored."""
    x = clustered(ROWS, DIMENSION, 1) + np.float32(0.3)
    np.save(tmp_path / "x.npy", x)
    path = tmp_path / "bucket" / "index"
    build(open_source([tmp_path / "x.npy"]), BuildContext(path, metric, Options(fast=True, k=10)))
    opened = open_index(path)
    root, generation = opened.root, path / opened.current.generation
    held = held_of([path / key for key in root.objects.resolve("", opened.current.generation)], root)
    assert held is not None and root.index.vector_kind == "f16"
    with Opened(generation) as read:
        every = stored_vectors(root, read.read, np.arange(ROWS)).astype(np.float64)
    assert np.array_equal(held.vectors, every[held.rows]) and not held.later.any()
    source = pq.read_table(next(generation.glob("vectors/*.parquet")), columns=["source_row"])["source_row"].to_numpy()
    assert set(source[held.rows]) <= set(hold_out(ROWS, 0).calibration)
    score = every[held.rows] @ every.T
    if metric == "l2":
        score = 2 * score - (every**2).sum(1)
    if metric == "cosine":
        score = score / np.linalg.norm(every, axis=1)
    score[np.arange(len(held.rows)), held.rows] = -np.inf
    best = -np.sort(-score, axis=1)[:, :NEAR]
    assert np.abs(np.take_along_axis(score, held.near.astype(np.int64), 1) - best).max() < 1e-5
    assert json.loads((generation / "manifest.json").read_text())["living"]["changed"] == 0
    assert (held.numbers, held.built_rows, held.changed) == (ROWS, ROWS, 0)


def test_neighbours_are_found_in_what_is_stored(fitted: VectorIndex, tmp_path: Path) -> None:
    path = tmp_path / "bucket" / "index"
    fitted.save(path)
    opened = open_index(path)
    files = [path / key for key in opened.root.objects.resolve("", opened.current.generation)]
    kept = held_of(files, opened.root)
    assert kept is not None and (kept.near >= 0).all() and not kept.later.any()
    none = replace(kept, near=np.full_like(kept.near, -1), cost=np.full_like(kept.cost, np.inf))
    with Opened(path / opened.current.generation) as read:
        nearest = nearest_stored(opened.root, read.read)
        found = filled(none, 10, ROWS, nearest)
        alone = [nearest(none.take(np.array([i])), NEAR)[0][0] for i in range(5)]  # others do not bring their rows
        every = stored_vectors(opened.root, read.read, np.arange(ROWS))
    right = [
        np.isin(np.argsort(((every - v) ** 2).sum(1))[1 : NEAR + 1], near).mean() for near, v in
        zip(found.near, found.vectors, strict=True)
    ]  # fmt: skip
    right += [
        np.isin(np.argsort(((every - v) ** 2).sum(1))[1 : NEAR + 1], near).mean() for near, v in
        zip(alone, found.vectors, strict=False)
    ]  # fmt: skip
    assert min(right) > 0.95 and np.mean(right) > 0.995
    assert caught_up(found, opened.root, lambda rows: every[rows], 0).changed == 0
    kind = opened.root.index.vector_kind
    again = Held.unpack(found.pack(kind), opened.root, "held.bin")
    assert all(np.array_equal(getattr(again, name), getattr(found, name)) for name in vars(found))
    with pytest.raises(DamagedError):
        Held.unpack(found.pack(kind)[:-4], opened.root, "held.bin")
    with pytest.raises(DamagedError, match="held.bin"):
        Held.unpack(replace(found, numbers=ROWS - 1).pack(kind), opened.root, "held.bin")
    assert found.near.shape[1] == NEAR


def test_no_range_goes_over_the_begin_of_an_object() -> None:
    p, sizes = np.full((1, 4), 1 << 10, np.uint32), np.full(4, 1000)
    assert len(plans(p, sizes, 1).ranges[0]) == 1
    assert len(plans(p, sizes, 1, starts=np.array([True, False, True, False])).ranges[0]) == 2
