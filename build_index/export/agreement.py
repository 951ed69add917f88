"""Whether an exported router says what the index says: the kernels next to onnxruntime, in Python and under Node."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from vantage.errors import VantageError
from vantage.format import MlpSection, TreeSection, TwoLevelSection
from vantage.index import Index
from vantage.search.prepare import prepare
from vantage.search.route import ROUTERS

from ..ingest.rows import F32
from ..node import host_folder, node
from .router import UNITS, whole_page

BATCH = 64  # queries at once
TOLERANCE = 1  # units of 2^-20 of probability: exp and log of a runtime may differ in the last digit from ours
HEAD = 32  # blocks whose order is compared strictly
Units = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Said:
    """units i64 (Q, B): probability in 2^-20. order i64 (Q, B): blocks by falling probability."""

    units: Units
    order: npt.NDArray[np.int64]


def by_kernels(index: Index, pages: bytes, queries: F32) -> Said:
    """What the index itself says of queries f32 (Q, d); by a page of all blocks, all branches, all regions."""
    section = index.root.router
    if isinstance(section, TreeSection):
        section = replace(section, beam=index.root.index.blocks)
    if isinstance(section, MlpSection):
        section = replace(section, regions=None)
    router = ROUTERS[index.root.index.router](section, index.root.index)
    every = whole_page(section, index.root.index, pages) if isinstance(section, TwoLevelSection) else None
    probabilities = [
        (router.probabilities(query) if every is None else router.probabilities(query, {0: every})).p
        for query in (prepare(v.tolist(), index.root.index) for v in queries)
    ]
    units = np.array(probabilities, np.int64).reshape(len(queries), index.root.index.blocks)
    return Said(units, np.argsort(-units, axis=1, kind="stable"))


def by_python(model: Path, queries: F32) -> Said:
    """What onnxruntime says on its CPU provider, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches = [
        session.run(["probability", "order"], {"query": queries[at : at + BATCH]})
        for at in range(0, len(queries), BATCH)
    ]
    return _said(np.concatenate([p for p, _ in batches]), np.concatenate([order for _, order in batches]))


def by_node(model: Path, queries: F32) -> Said:
    """What onnxruntime-web says under Node, on its Wasm provider, on one thread. Raises VantageError if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        query_file, probability_file, order_file = (
            Path(scratch) / name for name in ("queries", "probability", "order")
        )
        query_file.write_bytes(np.ascontiguousarray(queries, "<f4").tobytes())
        ran = subprocess.run(
            [
                node(),
                host_folder() / "route.mjs",
                model,
                query_file,
                str(queries.shape[1]),
                str(BATCH),
                probability_file,
                order_file,
            ],
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise VantageError(f"onnxruntime-web failed: {ran.stderr.strip()[-500:]}")
        shape = (len(queries), -1)
        return _said(np.fromfile(probability_file, "<f4").reshape(shape), np.fromfile(order_file, "<i8").reshape(shape))


def _said(probability: F32, order: npt.NDArray[np.int64]) -> Said:
    units = np.rint(probability.astype(np.float64) * UNITS).astype(np.int64)
    return Said(units, order)


RUNTIMES: dict[str, Callable[[Path, F32], Said]] = {"onnxruntime": by_python, "onnxruntime-web": by_node}


@dataclass(frozen=True)
class Agreement:
    """How far a runtime is from the kernels, over queries.

    p_units: largest difference of a probability, in 2^-20. order_units: largest difference, by the kernels, of the
    probabilities of the two blocks that stand at one place of the two orders; 0 where they differ among ties alone.
    same_head: share of queries with the same first HEAD blocks in the same order. same: with all of them.
    """

    p_units: int
    order_units: int
    same_head: float
    same: float

    @property
    def holds(self) -> bool:
        """Equal but for blocks that the kernels themselves hold for equally probable, within the tolerance."""
        return max(self.p_units, self.order_units) <= TOLERANCE


def agreement(kernels: Said, runtime: Said) -> Agreement:
    """Of what both say of the same queries. Raises VantageError where an order is not one of all blocks."""
    if kernels.units.shape != runtime.units.shape or (np.sort(runtime.order, 1) != np.sort(kernels.order, 1)).any():
        raise VantageError("the model's order does not hold each block once")
    at_place = (np.take_along_axis(kernels.units, said.order, 1) for said in (kernels, runtime))
    equal = kernels.order == runtime.order
    return Agreement(
        int(np.abs(kernels.units - runtime.units).max()),
        int(np.abs(np.subtract(*at_place)).max()),
        float(equal[:, :HEAD].all(1).mean()),
        float(equal.all(1).mean()),
    )
