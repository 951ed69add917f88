"""What a build and a query say of themselves, for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..build import Report, storage_usd
from ..plain import plain
from .terminal import count, out, size


def show_report(report: Report, seconds: float | None, index: str | None = None) -> None:
    """The table that ends a build. index: its address where that is not the folder it was built in."""
    table = Table(
        title=f"{plain(index or str(report.index))}  generation {report.current.generation}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column()
    layout, point = report.choice.layout, report.point
    copies = layout.copies
    table.add_row("rows", f"{report.rows:,} of {report.dimension} dimensions, {report.metric}; {copies:,} copies")
    codes = f"codes of {report.choice.codec.code_bytes} bytes"
    table.add_row("blocks", f"{layout.blocks:,}, router {layout.router}, {codes}")
    table.add_row(
        "size",
        f"{size(report.nbytes)}, root {size(report.root_bytes)}; ${storage_usd(report.nbytes):.4f} a month in R2",
    )
    table.add_row(
        "recall", f"{point['recall']:.4f} at k = {int(point['k'])} on held-out rows (target {point['target']})"
    )
    reads = f"{point['gets']:.1f} GETs, {size(point['bytes_read'])}, {point['modelled_ms_p50']:.0f} ms modelled"
    table.add_row("a query", f"{reads}, nothing cached")
    table.add_row("a million", f"${point['usd_per_million_queries']:.2f} of reads and requests")
    for note in report.notes:
        table.add_row("note", plain(note))
    if seconds is not None:
        table.add_row("built in", f"{seconds:.0f} s")
    out.print(table)
    if seconds is not None:
        out.print(
            f"Try: vantage query {plain(index or str(report.index))} --id ID"
            + ("" if index and "://" in index else f"   or: vantage serve {plain(str(report.index.parent))}"),
            highlight=False,
        )


def receipt_line(receipt: dict[str, Any]) -> str:
    """A receipt in one line."""
    return (
        f"{count(receipt['gets'], 'GET')}, {size(receipt['bytes'])} in {count(receipt['waves'], 'wave')}, "
        f"{count(receipt['blocks'], 'block')} ({receipt['blocks_cached']:,} cached), "
        f"{count(receipt['rows'], 'row')} scanned, "
        f"{receipt['modelled_ms']:.0f} ms modelled"
    )


def proof_line(proof: dict[str, Any]) -> str:
    """A proof in one line."""
    return (
        f"{'proven' if proof['proven'] else 'NOT proven'}: {count(proof['blocks_excluded'], 'block')} excluded by "
        f"their radii, {proof['blocks_scanned']:,} scanned, {count(proof['vectors_read'], 'vector')} read, "
        f"{count(proof['rows_excluded'], 'row')} excluded unread"
    )
