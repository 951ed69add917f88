"""`vantage facets`: how many rows have which values of attributes, as tables or as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.filter.facet import FACETS_MAX
from vantage.http.facets import facets_body
from vantage.receipt import Receipt
from vantage.search.facets import FacetQuery
from vantage.search.query import Query

from ..bucket.open import open_written
from ..plain import plain
from .forms import Filter, Identifier, Vector, check_form, parse_id, parse_json, read_form
from .query import cell
from .report import receipt_line
from .terminal import Address, Json, count, out, print_json

RANGED = ("integer", "number", "time")


def facets_command(
    index: Address,
    names: Annotated[
        list[str] | None, typer.Argument(help="Attributes; all that are filterable by default.", show_default=False)
    ] = None,
    filter: Filter = None,
    top: Annotated[int, typer.Option(help="Values of each, those of most rows.")] = 10,
    buckets: Annotated[int, typer.Option(help="Of numbers and times with more values than --top: a histogram.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Count all, in 48 GETs and 64 MiB at most.")] = False,
    vector: Vector = None,
    identifier: Identifier = None,
    top_k: Annotated[int, typer.Option(help="With --vector or --id: count the nearest n rows alone.")] = 100,
    as_json: Json = False,
) -> None:
    """Count the rows with each value of attributes.

    Example: vantage facets bucket/wordnet --top 20
    """
    opened = open_written(index)
    root, where = opened.root, parse_json(filter)
    fields, facets = {root.names[f.attribute]: f for f in root.filters}, dict[str, Any]()
    for name in names or list(fields)[:FACETS_MAX]:
        ranged = name in fields and fields[name].kind in RANGED and fields[name].distinct > top
        facets[name] = {"buckets": buckets} if ranged else {"top": top}
    asked, receipt = FacetQuery(facets, where, exact), Receipt()
    if vector is not None or identifier is not None:
        check_form(vector, identifier, None, None)
        within = Query(None, top_k, attributes=True, filter=where)
        if identifier is not None:
            within = replace(within, id=parse_id(identifier, root.index.id_kind))
        else:
            within = replace(within, vector=read_form(opened, vector, None, None, None).vectors[0].tolist())
        asked = replace(asked, within=within)
    body = facets_body(asyncio.run(opened.facets(opened.plan_facets(asked), receipt)))
    if as_json:
        print_json(body | {"receipt": receipt.as_dict()})
        return
    for name, facet in body["facets"].items():
        _show(name, facet)
    about = "" if body["matched_exact"] else "about "
    out.print(f"of {about}{count(body['matched'], 'row')}", highlight=False)
    out.print(receipt_line(receipt.as_dict()), highlight=False)


def _show(name: str, facet: dict[str, Any]) -> None:
    """A table; numbers that are not exact with what they lie between."""
    rows = Table(plain(name), "rows", title_justify="left")
    rows.columns[1].justify = "right"
    if not facet["exact"]:
        rows.add_column("between", justify="right")
    known = [(cell(one["value"]), one) for one in facet.get("values", ())]
    known += [(f"{cell(one['from'])} to {cell(one['to'])}", one) for one in facet.get("buckets", ())]
    for title in ("other", "missing"):
        if facet[title]["count"] or facet[title].get("high"):
            known.append((f"({title})", facet[title]))
    for title, one in known:
        bounds = [] if facet["exact"] else [f"{one['low']:,} and {one['high']:,}"]
        rows.add_row(title, f"{one['count']:,}", *bounds)
    out.print(rows)
