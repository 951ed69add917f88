"""The command that lists the rows of an index."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.errors import InputError
from vantage.http.bodies import row_body

from ..bucket.open import open_written
from ..listing import list_pages
from ..plain import plain
from .forms import Distinct, Filter, parse_json
from .query import cell
from .report import receipt_line
from .terminal import Address, Json, out, print_json, progress


def rows(
    index: Address,
    filter: Filter = None,
    limit: Annotated[int, typer.Option(help="How many rows at the most.")] = 100,
    order_by: Annotated[
        str | None, typer.Option("--order-by", help="An attribute: rows by its values, those without one last.")
    ] = None,
    desc: Annotated[bool, typer.Option("--desc", help="The largest values of --order-by first.")] = False,
    distinct: Distinct = None,
    as_json: Json = False,
) -> None:
    """List the rows that a filter takes, with their attributes.

    Example: vantage rows bucket/wordnet --limit 20
    """
    if desc and order_by is None:
        raise InputError("--desc has nothing to order by", hint="name an attribute with --order-by")
    opened, found, total = open_written(index), list[dict[str, Any]](), dict[str, Any]()
    order = None if order_by is None else {order_by: "desc" if desc else "asc"}
    more = None
    with progress(limit, "rows") as bar:
        report = bar.phase("rows")
        for page in list_pages(opened, parse_json(filter), limit=limit, order_by=order, distinct=distinct):
            found += [row_body(row, ["attributes"]) for row in page.rows]
            counted = page.receipt.as_dict()
            total = {name: n if isinstance(n, str) else total.get(name, 0) + n for name, n in counted.items()}
            more = page.cursor
            report(min(1.0, len(found) / limit))
    if as_json:
        print_json({"rows": found, "cursor": more, "receipt": total})
        return
    names = opened.root.names
    table = Table("id", *map(plain, names))
    for row in found:
        table.add_row(plain(str(row["id"])), *(cell(row["attributes"].get(name)) for name in names))
    out.print(table)
    out.print(receipt_line(total) + ("; there are more rows" if more else ""), highlight=False)
