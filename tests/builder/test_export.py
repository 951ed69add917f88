"""export-router: the model says what the index says, in Python and under Node, and names what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from doubles import Built
from small import RowsOf, clustered, in_one_object, vantage
from test_bec_tree import prefixes_of
from test_ecvh import codewords_of
from test_mlp import index_of, network, progressive
from test_tree import grown
from test_tree import index_of as tree_index

from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.bucket.open import open_index
from build_index.export import router
from build_index.export.agreement import BATCH, HEAD, TOLERANCE, Said, agreement, by_kernels, by_node, by_python
from build_index.export.router import Graph, dots, router_model, routing_pages
from build_index.routers import bec_tree, ecvh, lse, two_level
from build_index.routers.training import TrainingSet
from vantage.errors import DamagedError, InputError, LimitError, VantageError
from vantage.format import LseSection, TwoLevelSection
from vantage.format.routers import ROUTER_SECTIONS
from vantage.index import Index

NAMES = ("words", "points", "dots")


@pytest.fixture(params=NAMES)
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def opened(built: Built) -> Index:
    return open_index(built.bucket / built.name)


def with_router(index: Index, section: Any) -> Index:
    return Index(index.name, index.bucket, index.cache, index.current, replace(index.root, router=section))


def saved(index: Index, folder: Path, pages: bytes = b"") -> Path:
    path = folder / "router.onnx"
    path.write_bytes(router_model(index, pages).SerializeToString())
    return path


def bare(name: str, section: Any, about: Any) -> Any:
    """What of an open index an export looks at."""
    root = SimpleNamespace(index=about, router=section)
    current = SimpleNamespace(generation="1")
    return SimpleNamespace(name=name, root=root, current=current)


def test_every_router_has_an_export() -> None:
    assert set(ROUTER_SECTIONS.values()) <= set(router.EXPORTS)


def test_python_says_what_the_index_says(built: Built, tmp_path: Path) -> None:
    index = opened(built)
    found = agreement(by_kernels(index, b"", built.queries), by_python(saved(index, tmp_path), built.queries))
    assert found.holds, found
    assert found.same_head > 0.9


def test_node_says_what_the_index_says(words: Built, tmp_path: Path) -> None:
    """More queries than one batch holds, so that the last batch is a short one."""
    queries = np.concatenate([words.queries, words.vectors[:10]])
    assert BATCH < len(queries) < 2 * BATCH
    index = opened(words)
    found = agreement(by_kernels(index, b"", queries), by_node(saved(index, tmp_path), queries))
    assert found.holds, found
    assert found.same_head > 0.9


def test_a_model_that_is_not_one_is_an_error_that_node_explains(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"none")
    with pytest.raises(VantageError, match="onnxruntime-web failed: .*"):
        by_node(tmp_path / "none.onnx", np.zeros((1, 4), np.float32))


def test_queries_of_any_length(built: Built, tmp_path: Path) -> None:
    """Norms of 1e-6 and 1e6 times those of the rows; and zero, where the metric has an answer for it."""
    queries = np.concatenate([built.queries[:6] * np.float32(1e-6), built.queries[:6] * np.float32(1e6)])
    if built.metric != "cosine":
        queries = np.concatenate([queries, np.zeros_like(queries[:1])])
    index = opened(built)
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found


def test_sub_centroids_that_are_not_there(points: Built, tmp_path: Path) -> None:
    """One block without any, and one with a single one."""
    index = opened(points)
    section = index.root.router
    assert isinstance(section, LseSection) and section.subs > 1
    weight = np.array(section.weight, np.float32)
    weight[: section.subs] = weight[section.subs + 1 : 2 * section.subs] = -np.inf
    other = with_router(index, replace(section, weight=memoryview(weight)))
    kernels = by_kernels(other, b"", points.queries)
    assert (kernels.units[:, 0] == 0).all()
    assert agreement(kernels, by_python(saved(other, tmp_path), points.queries)).holds
    assert not agreement(kernels, by_python(saved(index, tmp_path), points.queries)).holds


def test_what_the_model_says_of_itself(words: Built, tmp_path: Path) -> None:
    index, to = opened(words), tmp_path / "w.onnx"
    told = vantage("export-router", words.bucket / "words", to, "--json").json()
    model = onnx.load(to)
    assert {p.key: p.value for p in model.metadata_props} == {
        "index": "words", "generation": index.current.generation, "dimension": "96", "metric": "cosine",
        "blocks": str(index.root.index.blocks), "router": index.root.index.router,
    }  # fmt: skip
    assert told["bytes"] == to.stat().st_size < 2 * index.current.root.size
    assert (told["blocks"], told["dimension"], told["metric"]) == (index.root.index.blocks, 96, "cosine")
    session = onnxruntime.InferenceSession(to)
    shapes = {t.name: (t.type, t.shape[1]) for t in [*session.get_inputs(), *session.get_outputs()]}
    blocks = index.root.index.blocks
    assert shapes == {
        "query": ("tensor(float)", 96), "probability": ("tensor(float)", blocks), "order": ("tensor(int64)", blocks),
    }  # fmt: skip
    p, order = session.run(None, {"query": words.queries})
    assert p.sum(1) == pytest.approx(1, abs=blocks * 2.0**-20)
    assert (order == np.argsort(-p, axis=1, kind="stable")).all()
    shown = vantage("export-router", words.bucket / "words", to)
    assert shown.code == 0 and f"{blocks:,} blocks" in shown.out


@pytest.mark.parametrize(("dimension", "most"), [(1, 127), (33, 7), (384, 127), (4096, 127), (4096, 7)])
def test_integer_products_are_exact(dimension: int, most: int) -> None:
    """In as many parts as rows of this size need, the heaviest included; i16 of norm 32767, as prepare gives."""
    draw = np.random.default_rng(dimension + most)
    table = draw.integers(-most, most + 1, (40, dimension)).astype(np.int8)
    table[0], table[1] = most, -most
    direction = np.concatenate([draw.normal(size=(20, dimension)), np.ones((1, dimension)), -np.ones((1, dimension))])
    i16 = np.rint(32767 * direction / np.linalg.norm(direction, axis=1, keepdims=True))
    g = Graph()
    out = dots(g, "i16", table)
    types = {"i16": onnx.TensorProto.FLOAT, out: onnx.TensorProto.INT32}
    ends = [onnx.helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in types.items()]
    graph = onnx.helper.make_graph(g.nodes, "dots", ends[:1], ends[1:], g.constants)
    opset = [onnx.helper.make_opsetid("", router.OPSET)]
    model = onnx.helper.make_model(graph, ir_version=router.IR, opset_imports=opset)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = i16.astype(np.int64) @ table.T.astype(np.int64)
    assert (session.run(None, {"i16": i16.astype(np.float32)})[0] == wanted).all()


def two_levels(rows_of: RowsOf, bits: int) -> tuple[Any, bytes, np.ndarray]:
    """(index, its routing.bin, queries): 64 blocks in 32 regions."""
    rows = rows_of(clustered(3000, 40, 3), "l2", scale=None)
    everything = np.arange(rows.count)
    base = partition(rows, everything, 64, 0)
    subs = lse.sub_centroids(rows.take(everything), base.home, 64, 0)
    flat = lse.section(subs, "l2", 20.0, 0.65, bits)
    order = np.argsort(base.centres[:, 0], kind="stable")
    training = TrainingSet(rows, everything, base.reordered(order), np.empty((rows.count, 0), np.int32), everything[:0],
                    np.empty((0, 1), np.int32), 0)  # fmt: skip
    section = two_level.tune(two_level.reorder(two_level._one_page(flat), order), training, lambda _: 0.0)
    assert isinstance(section, TwoLevelSection) and len(section.size) > 1
    about = index_section(rows, 64, rows.count, "two-level")
    placed, pages = in_one_object(section)
    return bare("far", placed, about), pages, rows.stored.gather(everything[::40])


@pytest.mark.parametrize("bits", [4, 8])
def test_two_levels_are_one_table(bits: int, rows_of: RowsOf, tmp_path: Path) -> None:
    index, pages, queries = two_levels(rows_of, bits)
    found = agreement(by_kernels(index, pages, queries), by_python(saved(index, tmp_path, pages), queries))
    assert found.holds, found


def test_two_levels_are_refused_when_large_or_damaged(
    rows_of: RowsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, pages, _ = two_levels(rows_of, 4)
    with pytest.raises(DamagedError, match="routing.bin: checksum of page 0"):
        router_model(index, bytes([pages[0] ^ 1]) + pages[1:])
    with pytest.raises(DamagedError, match="routing.bin is missing"):
        routing_pages(tmp_path, index)
    monkeypatch.setattr(router, "TABLE_VALUES_MAX", 1000)
    with pytest.raises(LimitError, match="values in routing.bin is .*, the limit is 1000"):
        router_model(index, pages)


def test_refusals(words: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = words.bucket / "words"
    assert vantage("export-router", name, tmp_path / "no" / "r.onnx").refusal().startswith("there is no folder")
    assert vantage("export-router", tmp_path / "none", tmp_path / "r.onnx").refusal().startswith("there is no index")
    monkeypatch.setattr(router, "EXPORTS", {})
    with pytest.raises(InputError, match="has no ONNX export"):
        router_model(opened(words))
    assert not list(tmp_path.iterdir())


def test_agreement() -> None:
    """Ties may change places, others may not; a probability may differ by the tolerance."""
    units = np.array([[500, 200, 200, 100], [0, 7, 0, 9]])
    order = np.argsort(-units, axis=1, kind="stable")
    same = Said(units, order)
    assert agreement(same, same) == agreement(same, Said(units.copy(), order.copy()))
    assert (agreement(same, same).same, agreement(same, same).order_units) == (1.0, 0)
    tied = agreement(same, Said(units, np.array([[0, 2, 1, 3], order[1]])))
    assert (tied.order_units, tied.same, tied.same_head) == (0, 0.5, 0.5) and tied.holds
    swapped = agreement(same, Said(units, np.array([[1, 0, 2, 3], order[1]])))
    assert swapped.order_units == 300 and not swapped.holds
    assert agreement(same, Said(units + TOLERANCE, order)).holds
    assert not agreement(same, Said(units + TOLERANCE + 1, order)).holds
    with pytest.raises(VantageError, match="each block once"):
        agreement(same, Said(units, np.zeros_like(order)))
    long = np.arange(2 * HEAD)[::-1][None]
    tail = np.concatenate([np.arange(2 * HEAD - 2), [2 * HEAD - 1, 2 * HEAD - 2]])[None]
    found = agreement(Said(long, np.arange(2 * HEAD)[None]), Said(long, tail))
    assert (found.same_head, found.same, found.order_units) == (1.0, 0.0, 1)


@pytest.mark.parametrize(("metric", "bits"), [("dot", 4), ("cosine", 8), ("l2", 4)])
def test_networks(metric: str, bits: int, tmp_path: Path) -> None:
    """Random ones, and under l2 the zero vector, of which no unit is left."""
    about = replace(index_of(40, 60, metric), row_scale=0.25 if metric == "l2" else 1.0)
    index = bare("net", network(40, 64, 60, bits=bits), about)
    queries = np.random.default_rng(4).normal(size=(50, 40)).astype(np.float32)
    if metric == "l2":
        queries[7] = 0
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found


def test_progressive_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With every region looked into."""
    section = progressive(monkeypatch, network(40, 64, 60), 60, 2)
    index = bare("net", section, index_of(40, 60))
    queries = np.random.default_rng(4).normal(size=(50, 40)).astype(np.float32)
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found


@pytest.mark.parametrize("blocks", [1, 2, 40])
def test_trees(blocks: int, tmp_path: Path) -> None:
    """With every branch followed."""
    index = bare("tree", grown(blocks), tree_index(blocks))
    queries = np.random.default_rng(6).normal(size=(50, 40)).astype(np.float32)
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found


@pytest.mark.parametrize(("metric", "bits"), [("cosine", 8), ("l2", 4)])
def test_codes(metric: str, bits: int, tmp_path: Path) -> None:
    """Random directions with a shortened Golay code, and under l2 the zero vector."""
    about = replace(index_of(40, 27, metric), router="ecvh")
    index = bare("code", ecvh.section(codewords_of(40, 27), bits), about)
    queries = np.random.default_rng(4).normal(size=(50, 40)).astype(np.float32)
    if metric == "l2":
        queries[7] = 0
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found


@pytest.mark.parametrize(("metric", "bits"), [("cosine", 8), ("l2", 4)])
def test_prefixes(metric: str, bits: int, tmp_path: Path) -> None:
    """Random directions under a random tree, and under l2 the zero vector."""
    about = replace(index_of(40, 37, metric), router="bec-tree", row_scale=0.25 if metric == "l2" else 1.0)
    index = bare("prefixes", bec_tree.section(prefixes_of(40, 37), bits), about)
    queries = np.random.default_rng(4).normal(size=(50, 40)).astype(np.float32)
    if metric == "l2":
        queries[7] = 0
    found = agreement(by_kernels(index, b"", queries), by_python(saved(index, tmp_path), queries))
    assert found.holds, found
