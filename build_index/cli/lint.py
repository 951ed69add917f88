"""The command that looks at a source before a build: lint."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vantage.errors import InputError
from vantage.format import METRICS

from ..ingest.lint import lint
from ..ingest.open import open_source, source_metric
from ..plain import plain
from .terminal import Json, err, out, print_json


def lint_command(
    source: Annotated[list[str], typer.Argument(help="What a build would read.")],
    metric: Annotated[str | None, typer.Option(help="cosine, l2 or dot, as the build will have it.")] = None,
    vector_column: Annotated[str, typer.Option(help="Column of vectors, or dataset of HDF5.")] = "vector",
    as_json: Json = False,
) -> None:
    """Look for rows and dimensions that make an index worse: exit status 1 where a build would refuse vectors.

    Example: vantage lint vectors.parquet
    """
    opened = open_source(source, vector_column=vector_column, attributes=[], skip_bad_rows=True)
    chosen = source_metric(opened, metric)
    if chosen not in METRICS:
        raise InputError(f"there is no metric {chosen!r}", hint=f"known are: {', '.join(METRICS)}")
    findings = lint(opened, chosen)
    if as_json:
        summary = {"rows": opened.rows, "dimension": opened.dimension, "kind": opened.kind, "metric": chosen}
        print_json(summary | {"findings": [finding.as_dict() for finding in findings]})
    else:
        for note in opened.notes:
            err.print(f"note: {plain(note)}", highlight=False)
        title = f"{opened.rows:,} rows of {opened.dimension} {opened.kind}, {chosen}"
        table = Table("", "found", "what to do", title=title, title_justify="left")
        for finding in findings:
            table.add_row(finding.level, plain(finding.what), plain(finding.todo))
        out.print(table)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
