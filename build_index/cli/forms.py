"""The forms in which `query`, `explain` and `eval` take queries: a vector, the id of a row, or a file of them."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vantage.bounded_json import loads
from vantage.errors import InputError
from vantage.index import Index
from vantage.receipt import Receipt

from ..ingest.queries import Queries, read_queries

FILTER_DEPTH_MAX = 32  # of its brackets
INTEGER = re.compile(r"-?[0-9]{1,38}")  # int() takes 2_0, blanks and digits of other scripts too; HTTP does not

Vector = Annotated[
    Path | None, typer.Option("--vector", help="A file of vectors (.npy, .parquet, ...): its first one is the query.")
]
Identifier = Annotated[
    str | None, typer.Option("--id", help="The id of a stored row: its vector is the query, and it is left out.")
]
Files = Annotated[
    Path | None, typer.Option("--queries", help="A file of queries: .parquet, .npy, .fvecs, .hdf5 (its test).")
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="How many of --queries to take, evenly spread over the file.")
]
TopK = Annotated[int, typer.Option(help="Answers, 1 to 1000.")]
Recall = Annotated[
    float | None, typer.Option(help="The recall to aim for; the index's target by default.", show_default=False)
]
Filter = Annotated[
    str | None, typer.Option("--filter", help='Rows that may answer, as JSON: {"lang": "de", "year": {"$gte": 2020}}.')
]
Distinct = Annotated[str | None, typer.Option("--distinct", help="An attribute: one row of each of its values.")]
Rerank = Annotated[int, typer.Option(help="Read the full vectors of the best n for exact scores; 0 reads none.")]


def check_form(vector: Path | None, identifier: str | None, queries: Path | None, limit: int | None) -> None:
    """Raises InputError where not exactly one form is given, or a limit of none, or one without a file of queries."""
    if sum(form is not None for form in (vector, identifier, queries)) != 1:
        raise InputError("name one query, or a file of them", hint="--vector FILE, --id ID or --queries FILE")
    if limit is not None and queries is None:
        raise InputError("--limit needs a file of queries", hint="name it with --queries, or leave --limit out")
    if limit is not None and limit < 1:
        raise InputError(f"there are no queries in --limit {limit}", hint="ask for one at least")


def parse_json(text: str | None) -> Any:
    """A filter as it was typed; None where there is none. Raises InputError for what is no JSON."""
    if text is None:
        return None
    try:
        return loads(text, FILTER_DEPTH_MAX)
    except ValueError as error:
        raise InputError(f"--filter is no JSON: {error}"[:300], hint='{"lang": "de"}, in quotes of the shell') from None


def parse_id(text: str, kind: str) -> int | bytes:
    """An id of the kind that the index has. Raises InputError."""
    if kind == "bytes":
        return os.fsencode(text)  # the bytes that were typed, be they UTF-8 or not
    if not INTEGER.fullmatch(text):
        raise InputError(f"{text!r} is not a whole number, and the ids of this index are", hint="check --id")
    return int(text)


def read_form(
    index: Index, vector: Path | None, identifier: str | None, queries: Path | None, limit: int | None
) -> Queries:
    """The queries of the form that is given; the vector of a stored row is read from the index. Raises InputError."""
    check_form(vector, identifier, queries, limit)
    if queries is not None:
        every = read_queries(queries, None)
        return every if limit is None else every.spread(limit)
    if vector is not None:
        return read_queries(vector, 1)
    assert identifier is not None
    row, values = asyncio.run(index.find(parse_id(identifier, index.root.index.id_kind), Receipt()))
    return Queries(np.array([values], np.float32), None, np.array([row]))
