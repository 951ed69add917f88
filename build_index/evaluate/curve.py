"""What each promise of recall costs: an index asked the same queries at every point of its contract."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from vantage.format import Contract, Promises

from ..bucket.open import open_index
from ..ingest.queries import Queries
from ..progress import SILENT, Progress
from .evaluate import check_truth, evaluate
from .matching import able_rows
from .picture import Axis, panels

CURVE_QUERIES = 500  # a promise, unless told otherwise: ten seconds for seven promises of 300,000 rows
COSTS = (
    "recall",
    "gets",
    "bytes",
    "waves",
    "scan_cost",
    "rows_ranked",
    "modelled_ms_p50",
    "modelled_ms_p99",
    "incomplete",
)


def promises(contract: Contract, section: Promises | None, k: int) -> list[float]:
    """Rising recalls that an index promises at k, or at the next k that it has promises for; without any those of its
    points, but for price 0."""
    if section is not None:
        ladders = section.ladders(contract.k)
        return [p.recall for p in next((x for x in ladders if x.k >= k), ladders[-1]).by_recall]
    points = [p for p in contract.points if p.k == contract.k]
    kept = min((p.recall for p in points if p.recall >= contract.target), default=contract.target)
    return sorted({p.recall for p in points if p.price} | {kept})


def curve(
    path: Path | str,
    queries: Queries,
    *,
    k: int | None = None,
    cache_bytes: int = 0,
    warm: bool = False,
    rerank: int = 0,
    include: Collection[str] = (),
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The keys of `vantage eval --curve`; a point holds a promise, and keys of `vantage eval` of queries that ask it.

    k: how many answers each query asks for, the contract's by default; include: as for `evaluate`. Each promise is a
    phase of progress. Raises as `evaluate` does.
    """
    index = open_index(path)
    contract = index.root.contract
    k = contract.k if k is None else k
    known = replace(queries, neighbors=check_truth(path, index, queries, k, rerank=rerank, able=able_rows(path, index)))
    points = []
    for promise in promises(contract, index.root.promises, k):
        measured = evaluate(
            path, known, k=k, cache_bytes=cache_bytes, warm=warm, recall=promise, rerank=rerank, include=include,
            progress=progress.phase(f"promise {promise:.4f}"),
        )  # fmt: skip
        points.append({"promise": promise} | {name: measured[name] for name in COSTS})
    return {
        "index": index.name, "rows": index.root.live_rows, "queries": len(queries.vectors), "k": k,
        "target": contract.target,
        "points": points,
    }  # fmt: skip


def picture(result: dict[str, Any]) -> str:
    """SVG text of what `curve` returned: recall against GETs, bytes and modelled milliseconds."""
    points = result["points"]
    lowest = min(min(p["recall"], p["promise"]) for p in points)

    def line(cost: str, unit: float = 1.0, recall: str = "recall") -> list[tuple[float, float]]:
        return [(p[cost] / unit, p[recall]) for p in points]

    def against(label: str, lines: dict[str, list[tuple[float, float]]]) -> tuple[Axis, Any]:
        # A warm cache may leave nothing to read, and an axis needs a length.
        return Axis(label, 0.0, 1.1 * max(x for points in lines.values() for x, _ in points) or 1.0), lines

    plots = [
        against(label, {"measured": line(cost, unit), "promised": line(cost, unit, "promise")})
        for label, cost, unit in (("GETs a query", "gets", 1.0), ("MB a query", "bytes", 1e6))
    ]
    times = {"p50": line("modelled_ms_p50"), "p99": line("modelled_ms_p99")}
    plots.append(against("modelled ms", times))
    title = f"{result['index']}: recall@{result['k']} and its cost, {result['queries']} queries"
    return panels(plots, Axis(f"recall@{result['k']}", max(0.0, lowest - 0.05), 1.0), title)
