"""What recall costs under filters, by how many rows these take: an index asked a suite made of its own attributes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.index import Index
from vantage.search.filtered import select
from vantage.search.query import Query

from ..bucket.open import open_index
from ..filters.columns import Column, column_of
from ..filters.suite import NEAR_FAR, Case, make_suite, nearest_taken, right_rows
from ..ingest.queries import Queries
from ..ingest.rows import F32, in_scale
from ..neighbours.exact import CHUNK_BYTES, exact_neighbours
from ..progress import SILENT, Progress
from .matching import able_rows, stored_keys
from .picture import Axis, panels
from .stored import stored_vectors

SUITE_QUERIES = 40  # of those given, unless told otherwise
SEED = 1  # of the filters: others than those that promises rest on


def evaluate_by_filter(
    path: Path | str, queries: Queries, *, k: int | None = None, recall: float | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:  # fmt: skip
    """The keys of `vantage eval --filters`: a line a family of filters, means over its queries; recall is against all
    rows that a filter takes. k: the contract's by default. Raises InputError where no attribute can be filtered by.
    """
    index = open_index(path, 0)
    root = index.root
    if not root.filters:
        raise InputError("no attribute of this index can be filtered by", hint="build it with --filter")
    k = root.contract.k if k is None else k
    able = able_rows(path, index)
    able = np.ones(root.index.rows, bool) if able is None else able
    number, place = np.flatnonzero(able), np.where(able, np.cumsum(able) - 1, -1)  # of rows that live, and the inverse
    columns, scaled = stored_columns(path, index, able), _scaled(queries.vectors, index)
    without = np.full(len(scaled), -1) if queries.own is None else place[np.asarray(queries.own)]
    most = min(NEAR_FAR, len(number))
    near = exact_neighbours(scaled, _chunks(path, index, able), most, root.index.metric)
    suite = make_suite(columns, near, len(number), SEED)
    if not suite:
        raise InputError("its attributes have too few values to filter by", hint="ask with --filter")
    selections = [select(case.filter, root, index.segment.homes) for case in suite]
    nodes = [None if one is None else one.node for one in selections]
    best, counts = nearest_taken(
        _chunks(path, index, able), scaled, root.index.metric, without, suite, nodes, columns, k
    )  # fmt: skip
    families: dict[str, list[tuple[float, ...]]] = {}
    for i, case in enumerate(suite):
        if counts[i]:
            own = None if queries.own is None else int(queries.own[case.query])
            right = number[best[i][0]], best[i][1]
            measured = _ask(index, queries.vectors[case.query], case, own, k, recall, right, int(counts[i]))
            families.setdefault(case.family, []).append((counts[i] / len(number), *measured))
        progress((i + 1) / len(suite))
    lines = []
    for name, some in families.items():
        share, found, told, gets, nbytes, waves, ms, cut = np.mean(some, axis=0).tolist()
        lines.append({
            "filter": name, "queries": len(some), "rows": share, "recall": found,
            "recall_estimate": None if np.isnan(told) else told,
            "gets": gets, "bytes": nbytes, "waves": waves, "modelled_ms": ms, "incomplete": cut,
        })  # fmt: skip
    lines.sort(key=lambda line: -line["rows"])
    target = root.contract.target if recall is None else recall
    return {
        "index": index.name, "rows": len(number), "queries": len(queries.vectors), "k": k, "target": target,
        "filters": lines,
    }  # fmt: skip


def _ask(
    index: Index, vector: F32, case: Case, own: int | None, k: int, recall: float | None, best: Any, count: int
) -> tuple[float, ...]:
    """(recall, its estimate, GETs, bytes, waves, ms, whether it was cut) of an answer."""
    answer = asyncio.run(index.query(Query(vector.tolist(), k, recall, filter=case.filter, without=own)))
    wanted, receipt = min(k, count), answer.receipt
    right = min(wanted, len({m.row for m in answer.matches[:wanted]} & set(right_rows(best, wanted).tolist())))
    told = np.nan if answer.recall_estimate is None else answer.recall_estimate
    return (
        right / wanted, told, receipt.gets, receipt.bytes, receipt.waves, receipt.modelled_ms, not answer.complete
    )  # fmt: skip


def stored_columns(path: Path | str, index: Index, able: npt.NDArray[np.bool_]) -> list[Column]:
    """The keys of the rows of the index that are able (N), by rising number, of each field. Raises DamagedError for a
    bad file.
    """
    root = index.root
    keys: list[list[int]] = [[] for _ in root.filters]
    counts: list[list[int]] = [[] for _ in root.filters]
    for row in compress(stored_keys(path, index), able.tolist()):
        for own, count, some in zip(keys, counts, row, strict=True):
            own += sorted(some)
            count.append(len(some))
    return [column_of(root.names[f.attribute], f, *own) for f, *own in zip(root.filters, keys, counts, strict=True)]


def _scaled(x: F32, index: Index) -> F32:
    section = index.root.index
    return in_scale(x.astype(np.float32), section.metric, np.asarray(section.origin, np.float32), section.row_scale)


def _chunks(path: Path | str, index: Index, able: npt.NDArray[np.bool_]) -> Iterator[tuple[int, F32]]:
    """(place of the first, vectors) of rows that are able, in pieces."""
    step, place = max(1, CHUNK_BYTES // (4 * index.root.index.dimension)), 0
    for page_low, page_high in pairwise(index.root.rows.first_row):
        for low in range(page_low, page_high, step):
            high = min(page_high, low + step)
            if able[low:high].any():
                x = stored_vectors(path, index, low, high)[able[low:high]]
                yield place, _scaled(x, index)
                place += len(x)


def picture_by_filter(result: dict[str, Any]) -> str:
    """SVG text of what `evaluate_by_filter` returned: GETs, bytes and time by the share of rows that match."""
    lines = [line for line in result["filters"] if line["rows"] > 0]
    kinds = {"values": "value ", "ranges": "range "}

    def of(kind: str) -> list[dict[str, Any]]:
        single = [line for line in lines if any(line["filter"].startswith(begin) for begin in kinds.values())]
        return (
            [line for line in lines if line not in single]
            if kind == "others"
            else [line for line in lines if line["filter"].startswith(kinds[kind])]
        )

    def against(label: str, cost: str, unit: float) -> tuple[Axis, dict[str, list[tuple[float, float]]]]:
        points = {
            kind: [(line[cost] / unit, 100 * line["rows"]) for line in some]
            for kind in (*kinds, "others")
            if (some := of(kind))
        }
        return Axis(label, 0.0, 1.1 * max(x for some in points.values() for x, _ in some) or 1.0), points

    plots = [
        against(label, cost, unit)
        for label, cost, unit in (
            ("GETs a query", "gets", 1.0), ("MB a query", "bytes", 1e6), ("modelled ms", "modelled_ms", 1.0)
        )
    ]  # fmt: skip
    least = 100 * min(line["rows"] for line in lines)
    title = f"{result['index']}: cost of recall@{result['k']} {result['target']} by how many rows match"
    return panels(plots, Axis("rows that match, %", least / 2, 100.0, log=True), title)
