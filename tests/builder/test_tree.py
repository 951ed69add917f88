"""tree: every block once, the edge's beam against numpy over the whole tree, its section, and training."""

from __future__ import annotations

import sys
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small import RowsOf, clustered
from test_mlp import integers
from test_trained import BLOCKS, log_loss, task_of

from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.progress import SILENT
from build_index.routers import tree
from build_index.simulate.edge import probabilities
from build_index.tune.fit import fit_router
from vantage.errors import DamagedError
from vantage.format import NO_CHILD, IndexSection, TreeSection
from vantage.search.prepare import Prepared, prepare
from vantage.search.route.tree import TreeRouter

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import reference

D = 40


def index_of(blocks: int, dimension: int = D) -> IndexSection:
    return IndexSection("dot", dimension, 100, blocks, "i64", "f32", "lrsq", "tree", 1.0, 100)


def grown(blocks: int) -> TreeSection:
    """A tree over random centres, with random weights."""
    draw = np.random.default_rng(blocks)
    child, _, _ = tree.group_blocks(draw.normal(size=(blocks, D)).astype(np.float32), np.ones(blocks, np.float32), 0)
    nodes = len(child)
    return tree.section(
        {
            "first": draw.normal(size=(nodes * 32, D)).astype(np.float32),
            "bias": 0.1 * draw.normal(size=nodes * 32).astype(np.float32),
            "second": draw.normal(size=(nodes, 3, 32)).astype(np.float32),
            "weight": draw.normal(size=(nodes, 3)).astype(np.float32),
        },
        child,
    )


def in_numpy(section: TreeSection, query: Prepared, blocks: int) -> np.ndarray:
    """f64 (B): probability of every block with no beam, in units of 2^-20."""
    q = np.array(query.i16, np.int64)[:D]
    dots = integers(section.table, 32 * section.nodes, D, section.bits) @ q
    value = np.array(section.scale, np.float64) * dots + np.array(section.bias, np.float64) / query.i16_scale
    hidden = np.clip(np.floor(value + 0.5), 0, 32767).astype(np.int64).reshape(-1, 32)
    sums = np.einsum("nwu,nu->nw", integers(section.out, 3 * section.nodes, 32, 8).reshape(-1, 3, 32), hidden)
    out, stack = np.zeros(blocks), [(0, float(1 << 20))]
    while stack:
        node, whole = stack.pop()
        at = slice(3 * node, 3 * node + 3)
        p = reference.block_probabilities(
            sums[node][:, None], np.array(section.out_scale[at], np.float32)[:, None],
            np.array(section.out_weight[at], np.float32)[:, None], query.i16_scale, section.temperature,
        )  # fmt: skip
        for child, each in zip(section.child[at], p.tolist(), strict=True):
            if child >= 0:
                stack.append((child, whole * each / 2**20))
            elif child != NO_CHILD:
                out[-1 - child] = whole * each / 2**20
    return out


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 40, 200])
def test_a_wide_beam_is_the_whole_tree_and_a_narrow_one_its_best_part(blocks: int) -> None:
    section, index = replace(grown(blocks), beam=blocks), index_of(blocks)
    TreeSection.unpack(memoryview(section.pack()), index, "router")  # every block once
    for seed in range(3):
        query = prepare(np.random.default_rng(seed).normal(size=D).tolist(), index)
        whole = in_numpy(section, query, blocks)
        found = TreeRouter(section, index).probabilities(query)
        assert found.blocks is not None
        assert list(found.blocks) == list(range(blocks))
        assert list(found.p) == np.floor(whole + 0.5).astype(int).tolist()
        part = TreeRouter(replace(section, beam=2), index).probabilities(query)
        assert part.blocks is not None
        assert list(part.blocks) == sorted(set(part.blocks))
        assert list(part.p) == np.floor(whole[list(part.blocks)] + 0.5).astype(int).tolist()
        assert len(part.blocks) < len(found.blocks) or blocks <= 4


def test_a_query_of_zeros_and_the_largest_numbers_have_answers() -> None:
    section, index = grown(20), index_of(20)
    full = replace(
        section, bias=memoryview(array("f", [1e9] * len(section.bias))), out=memoryview(b"\x80" * len(section.out))
    )
    for values in ([0.0] * D, [1e17] * D, [1e-30] * D):
        for one in (section, full):
            assert 0 < sum(TreeRouter(one, index).probabilities(prepare(values, index)).p) <= 2**20 + 20


def test_training_moves_a_tree_to_where_neighbours_lie(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss on rows that trained nothing falls with training; order moves blocks and nothing else."""
    rows = rows_of(clustered(3000, D, 3), "l2", scale=None)
    task = task_of(rows)
    base = partition(rows, task.sample, BLOCKS, 0)
    copy = soar(rows, base).best(0.35)
    loss = []
    for steps in (9, 80):
        monkeypatch.setattr(tree, "STEPS", steps)
        monkeypatch.setattr(tree, "BATCH", 256)
        layout = fit_router(task, base, copy, "tree", SILENT)[0]
        loss.append(log_loss(task, layout))
    assert loss[1] < loss[0]
    assert isinstance(layout.section, TreeSection)
    order, index = np.random.default_rng(3).permutation(BLOCKS), index_section(rows, BLOCKS, rows.count, "tree")
    p = probabilities("tree", layout.section, index, task.tune.queries[:20])
    moved = probabilities("tree", tree.reorder(layout.section, order), index, task.tune.queries[:20])
    assert (moved == p[:, order]).all()


def test_section_comes_back_and_damage_is_named() -> None:
    index, section = index_of(20), grown(20)
    body = section.pack()
    assert TreeSection.unpack(memoryview(body), index, "router").pack() == body

    def with_children(change: dict[int, int]) -> bytes:
        child = np.array(section.child, np.int32)
        for at, value in change.items():
            child[at] = value
        return replace(section, child=memoryview(child)).pack()

    infinite = memoryview(array("f", [float("inf")] * len(section.scale)))
    leaf = next(i for i, c in enumerate(section.child) if c < 0)
    inner = next(i for i, c in enumerate(section.child) if c > 0)
    for broken in (
        body[:-1], body + b"\0", body[:8], body[:4] + b"\x05" + body[5:], body[:8] + bytes(4) + body[12:],
        replace(section, temperature=0.0).pack(), replace(section, scale=infinite).pack(),
        with_children({leaf: -21}), with_children({leaf: NO_CHILD}), with_children({inner: 0}),
        with_children({inner: section.nodes}),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            TreeSection.unpack(memoryview(broken), index, "router")
    with pytest.raises(DamagedError):
        TreeSection.unpack(memoryview(body), index_of(21), "router")
