"""BEC-tree: leaves are prefixes that cover all codewords, whatever comes and goes; the router is brute force's."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import RowsOf, clustered
from test_mlp import index_of, integers
from test_trained import log_loss, task_of

from build_index.blocks.by_codeword import leaves
from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.hashing import bec_tree as module
from build_index.hashing import codewords as words_module
from build_index.hashing.bec_tree import BecTree, tree
from build_index.hashing.codewords import Codewords, plain, start_codewords
from build_index.hashing.prefixes import LEAF, Prefixes, log_probability
from build_index.ingest.rows import Rows
from build_index.neighbours.graph import neighbour_graph
from build_index.progress import SILENT
from build_index.routers import bec_tree, ecvh
from build_index.simulate.edge import probabilities
from build_index.tune.fit import fit_router
from vantage.errors import DamagedError, InputError
from vantage.format import BecTreeSection
from vantage.search.prepare import prepare
from vantage.search.route.bec_tree import MARGIN_UNIT, BecTreeRouter

BITS = 6


def codewords_of(x: np.ndarray, bits: int = BITS) -> Codewords:
    """Untrained."""
    return start_codewords(x, plain(bits), np.arange(1 << bits, dtype=np.uint32), 0)


def grown(rows: Rows, most: int = 24) -> BecTree:
    return tree(rows, codewords_of(rows.slice(0, rows.count)), most)


def prefixes_of(dimension: int, blocks: int, bits: int = 10) -> Prefixes:
    """A random tree, its leaves numbered at random."""
    draw = np.random.default_rng(blocks)

    def asked(n: int, left: list[int]) -> list[int]:
        if n == 1:
            return [LEAF]
        bit = int(draw.choice(left))
        rest = [b for b in left if b != bit]
        room = 1 << len(rest)
        low = int(draw.integers(max(1, n - room), min(n - 1, room) + 1))
        return [bit, *asked(low, rest), *asked(n - low, rest)]

    nodes = np.array(asked(blocks, list(range(bits))), np.int16)
    return Prefixes(
        draw.normal(size=(bits, dimension)).astype(np.float32), draw.normal(size=bits).astype(np.float32), 3.0, nodes,
        draw.permutation(blocks).astype(np.int32),
    )  # fmt: skip


def check(made: BecTree, x: dict[int, np.ndarray]) -> None:
    """The directory and the assignments agree; x: the rows that should be there."""
    signs = made.prefixes().signs()
    every = 1 - 2 * (np.arange(1 << signs.shape[1])[:, None] >> np.arange(signs.shape[1]) & 1)
    agrees = ((signs == 0) | (every[:, None] == signs)).all(2)
    assert (agrees.sum(1) == 1).all(), "a word lies in no leaf, or in two"
    assert set(np.flatnonzero(made.home >= 0).tolist()) == set(x)
    sizes = np.bincount(made.home[made.home >= 0], minlength=made.leaves)
    assert len(made.prefixes().number) == made.leaves == len(sizes)
    assert sizes.min() > 0 or made.leaves == 1
    cut = made.level(signs.shape[1])
    assert sorted(cut.cluster.tolist()) == list(range(made.leaves))
    assert (made.sizes()[cut.cluster] == sizes).all()
    row, vector = made.medoids()
    for leaf in range(made.leaves):
        members = [r for r in x if made.home[r] == leaf]
        if members:
            inside = np.array([x[r] for r in members])
            far = ((inside[:, None] - inside[None]) ** 2).sum(2).sum(1)
            at = cut.cluster[leaf]
            assert row[at] in members and far[members.index(row[at])] <= far.min() * (1 + 1e-4) + 1e-6
            assert (vector[at] == x[row[at]]).all()
            assert np.allclose(made._sums.total[leaf], inside.sum(0), atol=1e-3)
            assert (made._point[leaf] == x[made._medoid[leaf]]).all() and made.home[made._medoid[leaf]] == leaf


def test_what_a_tree_says(rows_of: RowsOf) -> None:
    """Levels are nested, k is kept, sizes and labels agree, and new vectors go where such rows are."""
    rows = rows_of(clustered(900, 16, 3), "cosine", scale=None)
    made, x = grown(rows), rows.slice(0, 900)
    check(made, dict(enumerate(x)))
    assert 12 < made.leaves <= 24
    assert len(made.level(0)) == len(made.cut(1)) == 1 and len(made.cut(10**6)) == made.leaves
    assert len(made.level(2)) <= 4 and made.level(1).prefix[0].count("-") == BITS - 1
    for k in (2, 5, 11):
        assert len(made.cut(k)) == k
        label = made.labels(k=k)
        assert (np.bincount(label) == made.sizes(k=k)).all()
        assert all(len(set(made.cut(k).cluster[made.cut(k + 1).cluster == c])) == 1 for c in range(k + 1))
        row, vector = made.medoids(k=k)
        assert (label[row] == np.arange(k)).all() and (x[row] == vector).all()
    assert (made.assign(x, k=5) == made.labels(k=5)).mean() > 0.9
    assert (made.assign(x, k=5) == made.cut(5).cluster[made.assign(x)][:]).mean() < 1  # numbers of leaves are not slots
    for wrong in ({"level": -1}, {"k": 0}, {"k": 2, "level": 1}):
        with pytest.raises(InputError):
            made.sizes(**wrong)
    with pytest.raises(InputError, match="ask for one or more"):
        tree(rows, codewords_of(x), 0)


def test_assignment_is_cheaper_than_prefixes_alone(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows lie nearer to medoids, and no leaf is far over the mean."""
    rows = rows_of(clustered(1500, 16, 3), "cosine", scale=None)
    x, near = rows.slice(0, 1500), []
    for penalty in (1e4, module.PENALTY):
        made = tree(rows, codewords_of(x), 24, penalty=penalty)
        near.append(float((x * made._point[made.home]).sum(1).mean()))
    assert near[1] > near[0] + 0.02
    assert made.sizes().max() < 3 * 1500 / made.leaves


changes = st.lists(st.tuples(st.sampled_from(["add", "far", "remove", "most"]), st.integers(1, 40)), max_size=8)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_whatever_comes_and_goes_all_agrees(rows_of: RowsOf, metric: str) -> None:
    rows = rows_of(clustered(120, 8, 3), metric, scale=None)
    start, codewords = rows.slice(0, 120), codewords_of(rows.slice(0, 120), 5)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(changes, st.integers(0, 99))
    def run(steps: list[tuple[str, int]], seed: int) -> None:
        made, draw, there = tree(rows, codewords, 9), np.random.default_rng(seed), dict(enumerate(start))
        for what, n in steps:
            if what in ("add", "far"):
                x = draw.normal(size=(n, 8)) + (4 * np.eye(8)[seed % 8] if what == "far" else 0)
                x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
                there |= dict(zip(made.add(x).tolist(), x, strict=True))
            else:
                n = min(n, len(there)) if what == "remove" else len(there) * 9 // 10
                gone = draw.choice(sorted(there), n, replace=False)
                made.remove(gone)
                there = {r: v for r, v in there.items() if r not in set(gone.tolist())}
            check(made, there)
        made.remove(np.array(sorted(there), np.int64))
        check(made, {})
        made.add(start[:3])
        assert made.sizes().sum() == 3

    run()


def test_leaves_split_and_merge(rows_of: RowsOf) -> None:
    rows = rows_of(clustered(600, 16, 3), "cosine", scale=None)
    made = grown(rows, 8)
    before = made.leaves
    x = rows.slice(0, 600) + np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32) * np.float32(0.05)
    added = [made.add(x / np.linalg.norm(x, axis=1, keepdims=True)) for _ in range(3)]
    grew = made.leaves
    assert grew > before + 4
    made.remove(np.concatenate(added))
    made.remove(np.arange(0, 600, 2))
    assert made.leaves < grew
    for wrong in ([0], [-1], [10**6], [1, 1]):
        sizes = made.sizes()
        with pytest.raises(InputError):
            made.remove(np.array(wrong))
        assert (made.sizes() == sizes).all()


@pytest.mark.parametrize("rows_and_bits", [(1, 3), (40, 1), (40, 6)])
def test_small_and_equal_rows(rows_of: RowsOf, rows_and_bits: tuple[int, int]) -> None:
    """One row, one bit, and rows that are all the same."""
    n, bits = rows_and_bits
    x = np.tile(clustered(1, 6, 0), (n, 1)) if bits == 6 else clustered(n, 6, 0)
    rows = rows_of(x, "l2")
    made = tree(rows, codewords_of(clustered(50, 6, 1), bits), 16)
    check(made, dict(enumerate(rows.slice(0, n))))
    assert made.leaves <= 1 << bits


def test_probabilities_are_products_of_the_bits_and_sum_to_one() -> None:
    made = prefixes_of(12, 37)
    x = np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32)
    margins = made.margins(x)
    found = np.exp(log_probability(margins, made.signs()))
    assert found.sum(1) == pytest.approx(1, abs=1e-4)
    for i, leaf in enumerate(made.signs()):
        bits = np.flatnonzero(leaf)
        want = np.prod(1 / (1 + np.exp(-(leaf * margins.astype(float))[:, bits])), axis=1)
        assert found[:, i] == pytest.approx(want, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("dimension", "blocks", "bits", "metric"),
    [(40, 37, 4, "cosine"), (33, 200, 8, "l2"), (96, 1, 4, "dot"), (96, 2, 4, "l2")],
)
def test_the_router_says_what_brute_force_says(dimension: int, blocks: int, bits: int, metric: str) -> None:
    index = replace(index_of(dimension, blocks, metric), row_scale=0.25 if metric == "l2" else 1.0)
    tree_ = prefixes_of(dimension, blocks)
    section, draw = bec_tree.section(tree_, bits), np.random.default_rng(2)
    signs = tree_.signs().astype(np.int64)
    assert [list(p) for p in section.prefixes()] == [[s % 256 for s in row] for row in signs.tolist()]
    for scale in (1.0, 1e-12, 1e6, 0.0) if metric == "l2" else (1.0, 1e6):
        query = prepare((scale * draw.normal(size=dimension)).tolist(), index)
        dots = integers(section.table, len(section.scale), dimension, bits) @ np.array(query.i16, np.int64)[:dimension]
        logit = np.array(section.scale, float) * (dots * query.i16_scale) + np.array(section.bias, float)
        margin = np.floor(np.clip(logit, -30, 30) * MARGIN_UNIT + 0.5) / MARGIN_UNIT
        log_p = -(np.log1p(np.exp(-signs * margin)) * (signs != 0)).sum(1)
        want = np.exp(section.temperature * log_p)
        p = np.array(BecTreeRouter(section, index).probabilities(query).p)
        assert np.abs(p - want / want.sum() * 2**20).max() <= 2**20 * 0.01
        assert p[log_p.argmax()] == p.max()
        order = np.random.default_rng(3).permutation(blocks)
        assert (
            np.array(BecTreeRouter(bec_tree.reorder(section, order), index).probabilities(query).p) == p[order]
        ).all()


def test_no_library_of_mathematics_can_round_otherwise() -> None:
    """The one exp and log outside of the kernels: no value is within 10^-6 of one that rounds otherwise."""
    values = np.array([2 * MARGIN_UNIT * log1p(exp(-m / MARGIN_UNIT)) for m in range(30 * MARGIN_UNIT + 1)])
    assert np.abs(values % 1 - 0.5).min() > 1e-6


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_leaves_as_blocks(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    """Every block has rows to train on; the trained router's probabilities are better than even ones."""
    monkeypatch.setattr(words_module, "BATCH", 256)
    monkeypatch.setattr(words_module, "STEPS", 40)
    monkeypatch.setattr(ecvh, "STEPS", 20)
    rows = rows_of(clustered(2000, 40, 3), metric, scale=None)
    task = task_of(rows)
    graph = neighbour_graph(rows, np.arange(rows.count), 10, seed=0, memory_bytes=1 << 28)
    base = leaves(rows, task.sample, 40, graph, 0)
    assert 30 < base.blocks <= 40
    assert np.bincount(base.home[task.sample], minlength=base.blocks).min() > 0
    layout, _ = fit_router(task, base, soar(rows, base).best(0.35), "bec-tree", SILENT)
    assert log_loss(task, layout) < 0.8 * np.log(base.blocks)
    index = index_section(rows, base.blocks, rows.count, "bec-tree")
    assert layout.partition.tree is not None
    whole = probabilities("bec-tree", bec_tree.section(layout.partition.tree, 8), index, task.tune.queries[:50])
    best = whole.argmax(1)
    assert (best == layout.partition.home[task.tune.rows[:50]]).mean() > 0.3
    with pytest.raises(InputError, match="not leaves"):
        fit_router(task, partition(rows, task.sample, 8, 0), np.full((2000, 0), -1, np.int32), "bec-tree", SILENT)


def test_a_fiftieth_of_the_bytes_of_centroids() -> None:
    assert len(bec_tree.section(prefixes_of(384, 4096, 13)).pack()) < 4096 * 384 / 50


def test_section_comes_back_and_damage_is_named() -> None:
    index = index_of(40, 27)
    section = bec_tree.section(prefixes_of(40, 27))
    body = section.pack()
    back = BecTreeSection.unpack(memoryview(body), index, "router")
    assert back.pack() == body
    asked = bytes(section.nodes)
    once_more = bytes([asked[0]]) + bytes([asked[0] if b != 255 else b for b in asked[1:]])
    cases = [
        (body[:-1], index), (body + b"\0", index), (body[:20], index), (bytes(4) + body[4:], index),
        (body[:4] + b"\x05" + body[5:], index), (body[:12] + bytes(4) + body[16:], index),
        (body, replace(index, blocks=28)), (body, replace(index, dimension=100)),
    ]  # fmt: skip
    damaged = [
        {"bias": memoryview(np.full(10, np.nan, np.float32))},
        {"nodes": memoryview(b"\xff" + asked[1:])},
        {"nodes": memoryview(asked[:-1] + b"\0")},
        {"nodes": memoryview(once_more)},
        {"nodes": memoryview(bytes([10 if b == asked[0] else b for b in asked]))},
        {"numbers": memoryview(bytes(len(section.numbers)))},
    ]
    for broken, of in [*cases, *((replace(section, **part).pack(), index) for part in damaged)]:
        with pytest.raises(DamagedError):
            BecTreeSection.unpack(memoryview(broken), of, "router")
