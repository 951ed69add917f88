"""Which rows of an index a filter takes, from the attributes in its Parquet files and not from what a query reads."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.filter.parse import Negation, Node, Term, parse_filter
from vantage.filter.program import spans_of
from vantage.format import FilterField
from vantage.index import Index

from ..bucket.rows import is_dead
from ..bucket.store import Ranged
from ..filters.columns import keys_of, text_keys
from ..ingest.json_rows import json_rows
from .stored import AGAIN, part_at

Keys = dict[int, list[int]]  # of a row, by the place of the field


def matching_rows(path: Path | str, index: Index, value: Any) -> npt.NDArray[np.bool_]:
    """(N) by row number. Raises InputError for a filter that the index does not take, DamagedError for a bad file."""
    fields = index.root.filters
    node = parse_filter(value, fields, index.root.names)
    spans: dict[int, list[tuple[int, int]]] = {}
    rows = (dict(enumerate(keys)) for keys in stored_keys(path, index))
    return np.array([node is None or _takes(node, keys, fields, spans) for keys in rows], bool)


def able_rows(path: Path | str, index: Index, value: Any = None) -> npt.NDArray[np.bool_] | None:
    """(N) by row number: rows that live and that a filter takes, if there is one. None where these are the rows of one
    build, all of them. Raises as `matching_rows`.
    """
    root, able = index.root, None if value is None else matching_rows(path, index, value)
    if root.dead is None and len(root.id_pages) == 1:
        return able
    lives = ~is_dead(root.dead, np.arange(root.index.rows))
    return lives if able is None else able & lives


def stored_keys(path: Path | str, index: Index) -> Iterator[list[list[int]]]:
    """Of each row by its number the keys of each field, as its Parquet files have them. Raises DamagedError for a bad
    file.
    """
    root = index.root
    key_of = [text_keys(field) for field in root.filters]
    for part in sorted(set(root.rows.vector_object)):
        where, key = part_at(path, index, part)
        try:
            file = pq.ParquetFile(pa.PythonFile(Ranged(where, key, root.objects.sizes[part]), "r"))
            names = [file.schema_arrow.names[3 + f.attribute] for f in root.filters]  # beside vector, id, source_row
            for batch in file.iter_batches(columns=names):
                table = pa.Table.from_batches([batch]).select(names)
                for record in json_rows(table, len(batch)):
                    yield list(map(_keys, json.loads(record), root.filters, key_of))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedError(f"{key}: is no Parquet file of rows", hint=AGAIN) from error


def _keys(value: Any, field: FilterField, key_of: Callable[[bytes], int]) -> list[int]:
    if field.many and isinstance(value, str):  # as Parquet parts keep lists
        value = json.loads(value)
    keys = keys_of(value, field.kind, field.many)
    return [key_of(key.encode()) for key in keys] if field.kind == "text" else keys


def _takes(node: Node, keys: Keys, fields: tuple[FilterField, ...], known: dict[int, list[tuple[int, int]]]) -> bool:
    if isinstance(node, Negation):
        return not _takes(node.part, keys, fields, known)
    if isinstance(node, Term):
        if id(node) not in known:
            known[id(node)] = list(spans_of(node, fields[node.field]))
        spans = known[id(node)]
        at = [(bisect_right(spans, key, key=lambda span: span[0]) - 1, key) for key in keys[node.field]]
        return any(i >= 0 and key <= spans[i][1] for i, key in at)
    some = (_takes(part, keys, fields, known) for part in node.parts)
    return any(some) if node.either else all(some)
