"""The command that prices an index: what it costs a month, and the same rows elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from vantage.errors import LimitError
from vantage.search.query import Query

from ..bucket.open import open_index
from ..prices import AS_OF, CPU_MS, OTHERS, index_bytes, vantage, workload_of
from .forms import Recall, TopK
from .terminal import Address, Json, out, print_json, size

QUERIES_MAX = 10**12


def price(
    index: Address,
    queries: Annotated[int, typer.Option(help="Queries a month.")] = 1_000_000,
    top_k: TopK = Query.top_k,
    recall: Recall = None,
    as_json: Json = False,
) -> None:
    """What an index costs a month, and what the same rows and queries would cost elsewhere.

    Example: vantage price bucket/wordnet --queries 5000000
    """
    if not 0 <= queries <= QUERIES_MAX:
        raise LimitError("--queries", queries, f"0 to {QUERIES_MAX:,}", hint="name the queries of a month")
    opened = open_index(index)
    query = Query(None, top_k, recall)
    opened.check([query])
    promise, nbytes = opened.segment.promise(query), index_bytes(opened)
    workload = workload_of(opened, queries, top_k)
    bills = [vantage(nbytes, promise.gets, queries), *(bill(workload) for bill in OTHERS)]
    if as_json:
        told = [asdict(bill) | {"total": bill.total} for bill in bills]
        print_json({"as_of": AS_OF, "workload": asdict(workload), "bytes": nbytes, "gets": promise.gets, "bills": told})
        return
    title = (
        f"{workload.rows:,} rows of {workload.dimension} dimensions, {queries:,} queries a month for {top_k} answers; "
        f"dollars a month by list prices of {AS_OF}"
    )
    table = Table("service", "storage", "queries", "least", "total", "", title=title, title_justify="left")
    for bill in bills:
        row = (bill.storage, bill.queries, bill.minimum, bill.total)
        table.add_row(bill.service, *(f"{usd:,.2f}" for usd in row), bill.note)
    out.print(table)
    out.print(
        f"Vantage: {size(nbytes)} in R2, {promise.gets:.1f} GETs a query with nothing cached, {CPU_MS:.0f} ms of CPU; "
        "docs/costs.md has the formulas, and where the prices are from",
        highlight=False,
    )
