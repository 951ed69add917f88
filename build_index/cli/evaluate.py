"""The commands that measure an index or take it elsewhere: eval with its curve, and export-router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vantage.errors import InputError
from vantage.search.query import Query

from ..bucket.open import open_built
from ..evaluate.by_filter import SUITE_QUERIES, evaluate_by_filter, picture_by_filter
from ..evaluate.curve import CURVE_QUERIES, picture
from ..evaluate.curve import curve as measure_curve
from ..evaluate.evaluate import INCLUDE, evaluate
from ..ingest.queries import Queries
from ..plain import plain
from .forms import Files, Filter, Identifier, Limit, Recall, Rerank, Vector, check_form, parse_json, read_form
from .terminal import Address, Bucket, Json, count, folder, nbytes, out, print_json, progress, size, writable


def eval_command(
    index: Address,
    vector: Vector = None,
    identifier: Identifier = None,
    queries: Files = None,
    limit: Limit = None,
    k: Annotated[int | None, typer.Option(help="recall@k; the contract's k by default.")] = None,
    cache: Annotated[str, typer.Option(help="Cache of blocks beyond the root; 0 for none.")] = "0",
    warm: Annotated[bool, typer.Option("--warm", help="Make a first pass that does not count.")] = False,
    recall: Recall = None,
    rerank: Rerank = Query.rerank,
    filter: Filter = None,
    include: Annotated[
        list[str] | None, typer.Option(help="What answers hold besides: attributes, vector; may be given twice.")
    ] = None,
    curve: Annotated[
        bool,
        typer.Option("--curve", help=f"At every promise of the contract, {CURVE_QUERIES} queries without --limit."),
    ] = False,
    by_filter: Annotated[
        bool,
        typer.Option(
            "--filters", help=f"Under filters made of the attributes, {SUITE_QUERIES} queries without --limit."
        ),
    ] = False,
    svg: Annotated[Path | None, typer.Option(help="With --curve or --filters: a picture of it, to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure recall and cost on queries of your own.

    Example: vantage eval bucket/wordnet --queries queries.parquet --k 100 --cache 0
    """
    check_form(vector, identifier, queries, limit)
    for name in include or []:
        if name not in INCLUDE:
            raise InputError(f"--include is {name!r}", hint=f"known are: {', '.join(INCLUDE)}")
    if curve and by_filter:
        raise InputError("--curve and --filters are two measurements", hint="leave one of them out")
    if curve:
        if recall is not None:
            raise InputError("--curve asks at every promise", hint="leave --recall out")
        if filter is not None:
            raise InputError("--curve is of queries without a filter", hint="leave --filter out")
        if svg is not None:
            writable(svg, index, *(file for file in (vector, queries) if file is not None))
        most = CURVE_QUERIES if limit is None else limit
        form = read_form(open_built(index), vector, identifier, queries, None).spread(most)
        _curve(index, form, k, nbytes(cache), warm, rerank, include or [], svg, as_json)
        return
    if by_filter:
        if filter is not None or rerank or warm or include or nbytes(cache):
            raise InputError("--filters asks plain queries, nothing cached", hint="leave the other options out")
        if svg is not None:
            writable(svg, index, *(file for file in (vector, queries) if file is not None))
        form = read_form(open_built(index), vector, identifier, queries, None)
        _by_filter(index, form.spread(SUITE_QUERIES if limit is None else limit), k, recall, svg, as_json)
        return
    if svg is not None:
        raise InputError("--svg draws a curve", hint="add --curve or --filters")
    form = read_form(open_built(index), vector, identifier, queries, limit)
    with progress(len(form.vectors), "queries") as bar:
        result = evaluate(
            index, form, k=k, cache_bytes=nbytes(cache), warm=warm, recall=recall, rerank=rerank,
            include=include or [], filter=parse_json(filter), progress=bar.phase("queries"),
        )  # fmt: skip
    if as_json:
        print_json(result)
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in result.items():
        table.add_row(
            name,
            f"{value:,.4f}"
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else plain(str(value)),
        )
    out.print(table)


def _curve(
    path: str, queries: Queries, k: int | None, cache_bytes: int, warm: bool, rerank: int, include: list[str],
    svg: Path | None, as_json: bool,
) -> None:  # fmt: skip
    with progress(len(queries.vectors), "queries") as bar:
        curve = measure_curve(
            path, queries, k=k, cache_bytes=cache_bytes, warm=warm, rerank=rerank,
            include=include, progress=bar,
        )  # fmt: skip
    if svg is not None:
        svg.write_text(picture(curve), encoding="utf-8")
    if as_json:
        print_json(curve)
        return
    table = Table(
        "promise", f"recall@{curve['k']}", "GETs", "bytes", "waves", "ms p50", "ms p99",
        title=f"{plain(path)}: {curve['queries']:,} queries at each promise, times modelled", title_justify="left",
    )  # fmt: skip
    kept = next((p["promise"] for p in curve["points"] if p["promise"] >= curve["target"]), None)
    for p in curve["points"]:
        mark = " (target)" if p["promise"] == kept else ""
        table.add_row(
            f"{p['promise']:.4f}{mark}", f"{p['recall']:.4f}", f"{p['gets']:.1f}", size(p["bytes"]),
            f"{p['waves']:.2f}", f"{p['modelled_ms_p50']:.0f}", f"{p['modelled_ms_p99']:.0f}",
        )  # fmt: skip
    out.print(table)


def _by_filter(
    path: str, queries: Queries, k: int | None, recall: float | None, svg: Path | None, as_json: bool
) -> None:
    with progress(1, "filters") as bar:
        result = evaluate_by_filter(path, queries, k=k, recall=recall, progress=bar.phase("filters"))
    if svg is not None:
        svg.write_text(picture_by_filter(result), encoding="utf-8")
    if as_json:
        print_json(result)
        return
    table = Table(
        "filter", "rows", f"recall@{result['k']}", "estimate", "GETs", "bytes", "waves", "ms",
        title=f"{plain(path)}: {result['queries']:,} queries a line at most, target {result['target']}, "
        "times modelled", title_justify="left",
    )  # fmt: skip
    for line in result["filters"]:
        told = line["recall_estimate"]
        table.add_row(
            line["filter"], f"{100 * line['rows']:.3g}%", f"{line['recall']:.4f}",
            "-" if told is None else f"{told:.4f}", f"{line['gets']:.1f}", size(line["bytes"]),
            f"{line['waves']:.2f}", f"{line['modelled_ms']:.0f}",
        )  # fmt: skip
    out.print(table)


def export_router_command(
    index: Bucket,
    to: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.onnx")],
    as_json: Json = False,
) -> None:
    """Write an index's router as an ONNX model: query in, probability and order of its blocks out.

    Example: vantage export-router bucket/wordnet router.onnx
    """
    from ..export.router import export_router  # onnx takes a while to import

    writable(to, index)
    report = export_router(folder(index), to)
    if as_json:
        print_json(report)
        return
    out.print(
        f"{plain(str(to))}: {size(report['bytes'])}, {report['router']} router of {plain(index)}, "
        f"{report['dimension']} dimensions, {count(report['blocks'], 'block')}, generation {report['generation']}",
        highlight=False,
    )
