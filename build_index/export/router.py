"""Exports the router of an index as an ONNX model, which runs without our kernels: one function for each section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vantage.errors import DamagedError, InputError, LimitError
from vantage.format import (
    TREE_UNITS,
    TREE_WAYS,
    BecTreeSection,
    Cursor,
    EcvhSection,
    IndexSection,
    LseSection,
    MlpSection,
    TreeSection,
    TwoLevelSection,
    pack_page,
)
from vantage.index import Index
from vantage.kernels import crc32c
from vantage.search.prepare import I16_NORM
from vantage.search.route.bec_tree import MARGIN_MAX, MARGIN_UNIT
from vantage.search.route.common import SCALE_MIN, UNIT_MAX

from ..bucket.open import open_built
from ..ingest.rows import F32
from ..routers.packing import unpack
from ..routers.tree import paths

OPSET, IR = 18, 10  # the first with axes as inputs throughout; read by onnxruntime 1.18 and later
TABLE_VALUES_MAX = 1 << 28  # 256 MiB in the file, 1 GiB as the f32 that runtimes make of it
EXACT = 1 << 24  # integers up to here are exact in f32, and so are their sums in any order
NORM_MIN = 1e-300  # in place of 0, so that a zero vector gives zeros
STEP = 1 << 14  # rows of a table at once
UNITS = float(1 << 20)  # of probability, as the kernels count it
I8 = npt.NDArray[np.int8]


@dataclass
class Graph:
    """Nodes and constants so far; a tensor is its name."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: npt.ArrayLike, dtype: Any) -> str:
        """A tensor of this value; dtype is numpy's."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The first output of a new node."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def cast(self, tensor: str, dtype: Any) -> str:
        """The same values as another dtype of numpy."""
        return self.op("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@dataclass(frozen=True)
class Quantized:
    """A query as prepare.py leaves it. i16 f32 (n, d): whole numbers within +-32767. scale f64 (n, 1) or (1, 1)."""

    i16: str
    scale: str


def _quantize(g: Graph, query: str, index: IndexSection) -> Quantized:
    """vantage.search.prepare as nodes, in f64 where that has f64; only the order of adding squares may differ."""
    wide, norm = g.cast(query, np.float64), g.constant(I16_NORM, np.float64)
    if index.origin:
        wide = g.op("Sub", wide, g.constant(np.asarray(index.origin, np.float64)[None], np.float64))
    squares = g.op("ReduceSum", g.op("Mul", wide, wide), g.constant([1], np.int64), keepdims=1)
    length = g.op("Sqrt", squares)
    if index.metric == "l2":
        row_scale = g.constant(index.row_scale, np.float64)
        vector = g.cast(g.op("Mul", wide, row_scale), np.float32)
        length = g.op("Max", g.op("Mul", length, row_scale), g.constant(NORM_MIN, np.float64))
        factor = g.op("Div", norm, length)
        scale = g.op("Div", g.constant(1, np.float64), factor)
    else:
        length = g.op("Max", length, g.constant(NORM_MIN, np.float64))
        vector = g.cast(g.op("Div", wide, length), np.float32)
        factor, scale = norm, g.constant([[1 / I16_NORM]], np.float64)
    whole = g.op("Round", g.op("Mul", g.cast(vector, np.float64), factor))
    clipped = g.op("Clip", whole, g.constant(-I16_NORM, np.float64), norm)
    return Quantized(g.cast(clipped, np.float32), scale)


def dots(g: Graph, i16: str, table: I8) -> str:
    """i32 (n, M): the inner products of i16 f32 (n, d) with table (M, d), the integers that the kernels find.

    A product of matrices adds f32 in an order of its own, so the query is cut into parts so small that no sum passes
    2^24: each is exact, and they are put together as i32.
    """
    parts = (table[at : at + STEP].astype(np.int16) for at in range(0, len(table), STEP))
    heaviest = max(1, *(int(np.abs(part).sum(1).max()) for part in parts))
    bits = min(15, (EXACT // heaviest).bit_length() - 1)
    matrix = g.op("Transpose", g.cast(g.constant(table, np.int8), np.float32), perm=[1, 0])
    part, total, shift = i16, "", 0
    while shift + bits < 15:  # i16 = low + 2^bits above, low from 0 to 2^bits - 1
        step = g.constant(2.0**bits, np.float32)
        above = g.op("Floor", g.op("Div", part, step))
        low = g.op("Sub", part, g.op("Mul", above, step))
        total = _add(g, total, g.op("MatMul", low, matrix), shift)
        part, shift = above, shift + bits
    return _add(g, total, g.op("MatMul", part, matrix), shift)


def _add(g: Graph, total: str, product: str, shift: int) -> str:
    """i32: total ("" is none) + 2^shift found."""
    whole = g.op("Mul", g.cast(product, np.int32), g.constant(1 << shift, np.int32))
    return g.op("Add", total, whole) if total else whole


def _table(raw: memoryview | bytes, bits: int, rows: int, dimension: int) -> I8:
    """int8 (rows, dimension) of a table as it is stored (docs/format.md, 4.7)."""
    stored = np.frombuffer(raw, np.uint8).reshape(rows, LseSection.stride(bits, dimension))
    return unpack(stored, bits)[:, :dimension]


def mixture(
    g: Graph, query: Quantized, table: I8, scale: F32, weight: F32, subs: int, beta: float, temperature: float
) -> str:
    """Units of probability, f32 (n, B), of table (B subs, d), scale and weight (B subs), as section 9.3 says.

    Steps and their rounding are the kernel's; exp and log are the runtime's own.
    """
    alpha = g.cast(g.op("Mul", query.scale, g.constant(beta, np.float64)), np.float32)
    slopes = g.op("Mul", alpha, g.constant(scale[None], np.float32))
    products = g.cast(dots(g, query.i16, table), np.float32)
    logits = g.op("Add", g.constant(weight[None], np.float32), g.op("Mul", slopes, products))
    logits = g.op("Reshape", logits, g.constant([0, len(table) // subs, subs], np.int64))
    axis, lowest = g.constant([2], np.int64), g.constant(np.finfo(np.float32).min, np.float32)
    peak = g.op("Max", g.op("ReduceMax", logits, axis, keepdims=1), lowest)
    total = g.op("ReduceSum", g.op("Exp", g.op("Sub", logits, peak)), axis, keepdims=1)
    mixed = g.op("Squeeze", g.op("Add", peak, g.op("Log", total)), axis)
    return _units(g, g.op("Mul", g.constant(temperature, np.float32), mixed), 1)


def _units(g: Graph, logits: str, axis: int) -> str:
    """f32: whole units of 2^-20 of probability, from logits, which share it along this axis."""
    along = g.constant([axis], np.int64)
    top = g.op("ReduceMax", logits, along, keepdims=1)
    mass = g.cast(g.op("Exp", g.op("Sub", logits, top)), np.float64)
    share = g.op("Div", mass, g.op("ReduceSum", mass, along, keepdims=1))
    rounded = g.op("Add", g.op("Mul", share, g.constant(UNITS, np.float64)), g.constant(0.5, np.float64))
    return g.cast(g.cast(rounded, np.int32), np.float32)


def _lse(g: Graph, query: Quantized, section: LseSection, index: IndexSection, pages: bytes) -> str:
    scale, weight = (np.asarray(column, np.float32) for column in (section.scale, section.weight))
    table = _table(section.table, section.bits, len(scale), index.dimension)
    return mixture(g, query, table, scale, weight, section.subs, section.beta, section.temperature)


def _mlp(g: Graph, query: Quantized, section: MlpSection, index: IndexSection, pages: bytes) -> str:
    """The hidden units in the query's integers, and the lse router over them; of all regions, where there are some."""
    table = _table(section.table, section.bits, section.units, index.dimension)
    low = np.where(np.arange(section.units) < section.linear, -UNIT_MAX, 0)
    hidden = _hidden(g, query, table, section.scale, section.bias, low)
    return _lse(g, Quantized(hidden, query.scale), section.output, replace(index, dimension=section.units), pages)


def _ecvh(g: Graph, query: Quantized, section: EcvhSection, index: IndexSection, pages: bytes) -> str:
    """The margins in the query's integers, and the signs of every block's codeword over them."""
    n, blocks = len(section.scale), index.blocks
    table = _table(section.table, section.bits, n, index.dimension)
    margins = _hidden(g, query, table, section.scale, section.bias, np.full(n, -UNIT_MAX))
    columns = [[column >> b & 1 for b in range(blocks)] for column in section.columns(blocks)]
    signs = (1 - 2 * np.array(columns, np.int8)).T
    one, none = np.ones(blocks, np.float32), np.zeros(blocks, np.float32)
    return mixture(g, Quantized(margins, query.scale), signs, one, none, 1, section.beta, section.temperature)


def _bec_tree(g: Graph, query: Quantized, section: BecTreeSection, index: IndexSection, pages: bytes) -> str:
    """Two columns a bit, as the router has them, and the signs of every block's prefix over them."""
    n, blocks = len(section.scale), index.blocks
    table = _table(section.table, section.bits, n, index.dimension)
    products = g.op("Mul", g.cast(dots(g, query.i16, table), np.float64), query.scale)
    slope, shift = (g.constant(np.asarray(c, np.float64)[None], np.float64) for c in (section.scale, section.bias))
    unit, half, most = (g.constant(v, np.float64) for v in (MARGIN_UNIT, 0.5, MARGIN_MAX))
    value = g.op("Mul", g.op("Add", g.op("Mul", slope, products), shift), unit)
    cut = g.op("Min", g.op("Max", value, g.constant(-MARGIN_MAX, np.float64)), most)
    margin = g.op("Floor", g.op("Add", cut, half))
    size = g.op("Abs", margin)
    odds = g.op("Add", g.op("Exp", g.op("Div", g.op("Neg", size), unit)), g.constant(1, np.float64))
    doubt = g.op("Mul", g.op("Log", odds), g.constant(2 * MARGIN_UNIT, np.float64))
    both = g.op("Concat", margin, g.op("Add", size, g.op("Floor", g.op("Add", doubt, half))), axis=1)
    signs = np.frombuffer(b"".join(section.prefixes()), np.int8).reshape(blocks, n)
    whole, one = g.constant([[1.0]], np.float64), np.ones(blocks, np.float32)
    return mixture(
        g, Quantized(g.cast(both, np.float32), whole), np.concatenate([signs, -np.abs(signs)], 1), one,
        np.zeros(blocks, np.float32), 1, 0.5 / MARGIN_UNIT, section.temperature,
    )  # fmt: skip


def _hidden(
    g: Graph, query: Quantized, table: I8, scale: memoryview, bias: memoryview, low: npt.NDArray[np.int64]
) -> str:
    """f32 (n, units): whole numbers of the query's scale, halves up, none below low (units) or past UNIT_MAX."""
    known = g.op("Greater", query.scale, g.constant(SCALE_MIN, np.float64))
    unit = g.op("Div", g.cast(known, np.float64), g.op("Max", query.scale, g.constant(SCALE_MIN, np.float64)))
    slope, shift = (g.constant(np.asarray(column, np.float64)[None], np.float64) for column in (scale, bias))
    value = g.op("Add", g.op("Mul", slope, g.cast(dots(g, query.i16, table), np.float64)), g.op("Mul", shift, unit))
    cut = g.op("Min", g.op("Max", value, g.constant(low[None], np.float64)), g.constant(UNIT_MAX, np.float64))
    return g.cast(g.op("Floor", g.op("Add", cut, g.constant(0.5, np.float64))), np.float32)


def _tree(g: Graph, query: Quantized, section: TreeSection, index: IndexSection, pages: bytes) -> str:
    """What the index says of a query that follows every branch: no beam."""
    n, wide = section.nodes, TREE_WAYS * section.nodes
    table = _table(section.table, section.bits, TREE_UNITS * n, index.dimension)
    hidden = _hidden(g, query, table, section.scale, section.bias, np.zeros(TREE_UNITS * n, np.int64))
    each = g.op("Reshape", g.cast(hidden, np.float64), g.constant([0, n, 1, TREE_UNITS], np.int64))
    out = np.frombuffer(section.out, np.int8).reshape(1, n, TREE_WAYS, TREE_UNITS)
    sums = g.op("ReduceSum", g.op("Mul", each, g.constant(out, np.float64)), g.constant([3], np.int64), keepdims=0)
    slope, weight = (
        g.constant(np.asarray(column, np.float32).reshape(1, n, TREE_WAYS), np.float32)
        for column in (section.out_scale, section.out_weight)
    )
    alpha = g.op("Unsqueeze", g.cast(query.scale, np.float32), g.constant([2], np.int64))
    logits = g.op("Add", weight, g.op("Mul", g.op("Mul", alpha, slope), g.cast(sums, np.float32)))
    split = g.cast(_units(g, g.op("Mul", g.constant(section.temperature, np.float32), logits), 2), np.float64)
    whole = g.op("Reshape", split, g.constant([0, wide], np.int64))
    ends = g.op("Mul", g.op("Slice", whole, *(g.constant([v], np.int64) for v in (0, 1, 1))), g.constant(0, np.float64))
    sure = g.op("Add", ends, g.constant(UNITS, np.float64))  # an edge that every query takes, past the end of a path
    edges = g.op("Concat", whole, sure, axis=1)
    steps = paths(np.array(section.child, np.int64).reshape(n, TREE_WAYS), index.blocks)
    share = g.op("Gather", edges, g.constant(steps[0], np.int64), axis=1)
    for step in steps[1:]:
        more = g.op("Gather", edges, g.constant(step, np.int64), axis=1)
        share = g.op("Div", g.op("Mul", share, more), g.constant(UNITS, np.float64))
    return g.cast(g.op("Floor", g.op("Add", share, g.constant(0.5, np.float64))), np.float32)


def whole_page(section: TwoLevelSection, index: IndexSection, pages: bytes) -> memoryview:
    """The page that names all blocks, from the pages of an index. Raises DamagedError where they are not whole."""
    columns: list[dict[int, bytes]] = [{}, {}, {}]
    for r, (at, size) in enumerate(zip(section.offset, section.size, strict=True)):
        page = memoryview(pages)[at : at + size]
        if crc32c(page) != section.crc[r]:
            raise DamagedError(f"routing.bin: checksum of page {r} differs", hint="publish the index again")
        blocks, *parts = section.columns(Cursor(page, f"routing.bin, page {r}"), index)
        for column, part in zip(columns, parts, strict=True):
            each = part.nbytes // len(blocks)
            column |= {b: bytes(part.cast("B")[i * each : (i + 1) * each]) for i, b in enumerate(blocks)}
    if len(columns[0]) < index.blocks:
        raise DamagedError(
            f"routing.bin names {len(columns[0])} of {index.blocks} blocks", hint="build the index again"
        )
    every = range(index.blocks)
    return memoryview(pack_page(every, *(b"".join(column[b] for b in every) for column in columns)))


def _two_level(g: Graph, query: Quantized, section: TwoLevelSection, index: IndexSection, pages: bytes) -> str:
    """All pages as one table: what the index says of a query whose page names every block."""
    values = index.blocks * section.subs * index.dimension
    if values > TABLE_VALUES_MAX:
        raise LimitError(
            "values in routing.bin", values, TABLE_VALUES_MAX, hint="an index of fewer blocks can be exported"
        )
    whole = Cursor(whole_page(section, index, pages), "routing.bin")
    _, scale, weight, table = section.columns(whole, index)
    return mixture(
        g, query, _table(table, section.bits, len(scale), index.dimension), np.array(scale, np.float32),
        np.array(weight, np.float32), section.subs, section.beta, section.temperature,
    )  # fmt: skip


# Of each router section: adds its nodes and gives the name of f32 (n, B), whole units of 2^-20 of probability.
EXPORTS: dict[type, Callable[[Graph, Quantized, Any, IndexSection, bytes], str]] = {
    LseSection: _lse,
    MlpSection: _mlp,
    TreeSection: _tree,
    EcvhSection: _ecvh,
    BecTreeSection: _bec_tree,
    TwoLevelSection: _two_level,
}


def router_model(index: Index, pages: bytes = b"") -> onnx.ModelProto:
    """The router of an open index; pages: its routing.bin, where it has one.

    Input `query` f32 (n, d), as it would be sent to the index. Outputs: `probability` f32 (n, B), whole multiples of
    2^-20 as the kernels give them; `order` i64 (n, B), blocks by falling probability, the lower number first among
    equals. Refuses no query: a zero vector gets what the weights alone say. Raises LimitError for a router too large,
    InputError for one that has no export, DamagedError for pages that are not those of the index.
    """
    about, section = index.root.index, index.root.router
    build = EXPORTS.get(type(section))
    if build is None:
        raise InputError(f"the router {about.router} has no ONNX export", hint="build the index with another --router")
    g = Graph()
    units = build(g, _quantize(g, "query", about), section, about, pages)
    g.nodes.append(helper.make_node("Mul", [units, g.constant(1 / UNITS, np.float32)], ["probability"]))
    g.nodes.append(
        helper.make_node("TopK", [units, g.constant([about.blocks], np.int64)], ["falling", "order"], axis=1)
    )
    graph = helper.make_graph(
        g.nodes,
        "router",
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["n", about.dimension])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", about.blocks]),
            helper.make_tensor_value_info("order", TensorProto.INT64, ["n", about.blocks]),
        ],
        g.constants,
    )
    model = helper.make_model(
        graph, producer_name="vantage", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    properties = {
        "index": index.name, "generation": index.current.generation, "dimension": about.dimension,
        "metric": about.metric, "blocks": about.blocks, "router": about.router,
    }  # fmt: skip
    helper.set_model_props(model, {name: str(value) for name, value in properties.items()})
    onnx.checker.check_model(model)
    return model


def routing_pages(path: Path, index: Index) -> bytes:
    """routing.bin of an index in a folder, or nothing where its router has none."""
    if not isinstance(index.root.router, TwoLevelSection):
        return b""
    file = path / index.current.generation / "routing.bin"
    if not file.is_file():
        raise DamagedError(f"{file} is missing", hint="copy the whole index")
    return file.read_bytes()


def export_router(path: Path, out: Path) -> dict[str, Any]:
    """Writes the router of bucket/name to `out`. Returns what the model says of itself, and its bytes."""
    index = open_built(path)
    model = router_model(index, routing_pages(path, index))
    data = model.SerializeToString()
    out.write_bytes(data)
    return {p.key: int(p.value) if p.value.isdigit() and p.key in ("dimension", "blocks") else p.value
            for p in model.metadata_props} | {"bytes": len(data)}  # fmt: skip
