"""What a build and a query say of themselves, for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ..build import Report, storage_usd
from ..filters.estimate import FilterEstimate, kind_name
from ..plain import plain
from .terminal import Screen, count, out, size

CELL_CHARS = 24  # of a least or largest value


def show_plan(estimates: Sequence[FilterEstimate], screen: Screen) -> None:
    """What filtering by each attribute will take, before a build, and which are left out."""
    known = [one for one in estimates if not one.left_out]
    costs = [(one.name, one.kind, one.distinct, one.blocks, one.root, one.projection) for one in known]
    _show_costs("what filters will take, about", costs, screen)
    for one in estimates:
        if one.left_out:
            screen.print(f"not filterable: {plain(f'{one.name!r} ({one.kind}), {one.left_out}')}", highlight=False)


def show_costs(attributes: Sequence[dict[str, Any]], screen: Screen) -> None:
    """What filtering takes, by what `describe_attributes` says of an index."""
    known = [(one["name"], one["filter"]) for one in attributes if one["filter"]]
    costs = [(name, kind_name(f["kind"], f["list"]), f["distinct"], *f["bytes"].values()) for name, f in known]
    _show_costs("what filters take", costs, screen)


def _show_costs(title: str, costs: Sequence[tuple[str, str, int, int, int, int]], screen: Screen) -> None:
    """(attribute, kind, distinct values, bytes in blocks, in the root and of the projection) of each."""
    table = Table(
        "attribute", "kind", "distinct", "in blocks", "in the root", "projection", title=title, title_justify="left"
    )  # fmt: skip
    for name, kind, distinct, *sizes in costs:
        table.add_row(plain(name), kind, f"{distinct:,}", *(size(n) if n else "none" for n in sizes))
    if table.row_count:
        screen.print(table)


def show_values(attributes: Sequence[dict[str, Any]], screen: Screen) -> None:
    """What can be filtered by, by what `describe_attributes` says of an index, and the names of what cannot."""
    table = Table(
        "attribute", "kind", "rows", "distinct", "min", "max", title="what can be filtered by", title_justify="left"
    )  # fmt: skip
    for one in attributes:
        if f := one["filter"]:
            table.add_row(
                plain(one["name"]), kind_name(f["kind"], f["list"]), f"{f['rows']:,}", f"{f['distinct']:,}",
                _end(f["min"]), _end(f["max"]),
            )  # fmt: skip
    if table.row_count:
        screen.print(table)
    others = ", ".join(f"{one['name']} ({one['type']})" for one in attributes if not one["filter"])
    if others:
        screen.print(f"not filterable: {plain(others)}", highlight=False)


def _end(value: Any) -> str:
    """A least or largest value."""
    if value is None:
        return ""
    text = plain(value if value and isinstance(value, str) else json.dumps(value))
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


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
    show_costs(report.attributes, out)
    if seconds is not None:
        out.print(
            f"Try: vantage query {plain(index or str(report.index))} --id ID"
            + ("" if index and "://" in index else f"   or: vantage serve {plain(str(report.index.parent))}"),
            highlight=False,
        )


def matched_line(rows: int, exact: bool) -> str:
    """How many rows a filter takes, in one line."""
    return f"the filter takes {'' if exact else 'about '}{count(rows, 'row')}"


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
