"""The commands that make an empty index, write to one and show its log: create, upsert, patch, delete, log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.errors import InputError

from ..ingest.open import open_source
from ..plain import plain
from ..writes import create_index, line_batches, log_of, sender, source_batches, write_rows
from .terminal import Json, count, err, out, print_json, progress, size

LINES = (".jsonl", ".ndjson")

Written = Annotated[
    str,
    typer.Argument(
        help="An index: a folder, s3://bucket/name, r2://bucket/name, or https://HOST/NAME of a service.",
        metavar="INDEX",
    ),
]
Rows = Annotated[Path, typer.Argument(help="JSON Lines, a row a line; - for standard input.", metavar="SOURCE")]


def create(
    index: Written,
    dimension: Annotated[int, typer.Option(help="Values of a vector.")],
    metric: Annotated[str, typer.Option(help="cosine, l2 or dot.")] = "cosine",
    vectors: Annotated[str, typer.Option(help="How vectors are stored: f16, f32, u8 or i8.")] = "f16",
    ids: Annotated[str, typer.Option(help="text or integer.")] = "text",
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="NAME:TYPE, to filter by: text, text[] (lists), integer, number, boolean, time. Repeatable."),
    ] = None,
    stored: Annotated[
        list[str] | None, typer.Option(help="NAME:TYPE, kept and not filtered by; json too. Repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="What makes the vectors; queries that name another fail.")] = None,
    as_json: Json = False,
) -> None:
    """Make an empty index, which takes writes at once; `vantage compact` builds it later.

    Example: vantage create bucket/docs --dimension 384 --attribute lang:text --attribute year:integer
    """
    attributes = [_declared(text, "--attribute", True) for text in attribute or ()]
    attributes += [_declared(text, "--stored", False) for text in stored or ()]
    fields = {"dimension": dimension, "metric": metric, "vectors": vectors, "ids": ids, "attributes": attributes}
    made = create_index(index, fields | ({} if model is None else {"model": model}), os.environ)
    if as_json:
        print_json({"index": index, "created": made})
        return
    out.print(f"{plain(index)}: {'made' if made else 'is there already, as it is to be'}", highlight=False)


def _declared(text: str, option: str, filtered: bool) -> dict[str, Any]:
    """An attribute as HTTP has it."""
    name, colon, kind = text.rpartition(":")
    if not colon:
        raise InputError(f"{option} {text!r} has no type", hint="write NAME:TYPE, as in lang:text")
    return {"name": name, "type": kind.removesuffix("[]"), "list": kind.endswith("[]"), "filter": filtered}


def upsert(
    source: Annotated[str, typer.Argument(help="What a build reads, or JSON Lines (.jsonl, or - for standard input).")],
    index: Written,
    vector_column: Annotated[str, typer.Option(help="Column of vectors, or dataset of HDF5.")] = "vector",
    id_column: Annotated[str, typer.Option(help="Column of ids; row numbers when there is none.")] = "id",
    attributes: Annotated[str | None, typer.Option(help="Columns to keep, a,b,c; all by default, '' for none.")] = None,
    as_json: Json = False,
) -> None:
    """Put rows into an index, over those with their ids: up to 1,000 at once, all of them or none.

    Example: vantage upsert new.parquet bucket/wordnet
    """
    if source == "-" or source.endswith(LINES):
        _lines(Path(source), index, "upsert", as_json)
        return
    send = sender(index, os.environ)
    names = None if attributes is None else [name for name in attributes.split(",") if name]
    opened = open_source([source], vector_column=vector_column, id_column=id_column, attributes=names)
    for note in opened.notes:
        err.print(f"note: {plain(note)}", highlight=False)
    with progress(opened.rows, "rows") as bar:
        phase = bar.phase("upsert")
        report = write_rows(send, "upsert", source_batches(opened), lambda rows: phase(rows / opened.rows))
    _tell(report, index, as_json)


def patch(source: Rows, index: Written, as_json: Json = False) -> None:
    """Change attributes of rows: lines like {"id": "a", "attributes": {"lang": "de"}}.

    Example: vantage patch changes.jsonl bucket/wordnet
    """
    _lines(source, index, "patch", as_json)


def delete(source: Rows, index: Written, as_json: Json = False) -> None:
    """Delete rows by their ids, a JSON value a line: "a", 5 or {"id": "a", "if_seq": 7}.

    Example: vantage delete gone.jsonl bucket/wordnet
    """
    _lines(source, index, "delete", as_json)


def _lines(source: Path, index: str, kind: str, as_json: bool) -> None:
    send = sender(index, os.environ)
    with progress(1, "rows") as bar:
        phase = bar.phase(kind)
        phase(0.0)
        report = write_rows(send, kind, line_batches(source, kind), lambda rows: None)
    _tell(report, index, as_json)


def _tell(report: dict[str, Any], index: str, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    where = f", up to seq {report['seq']}" if report["requests"] else ""
    out.print(
        f"{plain(index)}: {count(report['rows'], 'row')} written in {count(report['requests'], 'request')}{where}",
        highlight=False,
    )


def log(index: Written, as_json: Json = False) -> None:
    """Show what was written behind the live generation of an index, and not compacted yet.

    Example: vantage log bucket/wordnet
    """
    told = log_of(index, os.environ)
    if as_json:
        print_json(told)
        return
    where = f"{plain(index)}: seq {told['seq']}, "
    if "fresh" in told:
        out.print(
            f"{where}{count(told['fresh'], 'row')} and {count(told['superseded'], 'id')} behind generation "
            f"{told['generation']}",
            highlight=False,
        )
        return
    table = Table("seq", "writes", "size", title=f"log {told['log']}", title_justify="left")
    for seq, operations, nbytes in told["last"]:
        table.add_row(str(seq), f"{operations:,}", size(nbytes))
    if table.row_count:
        out.print(table)
    out.print(
        f"{where}{count(told['segments'], 'segment')} behind generation {told['generation']}: "
        f"{count(told['operations'], 'write')} of {count(told['ids'], 'id')}, {size(told['bytes'])}",
        highlight=False,
    )
