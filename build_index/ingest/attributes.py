"""Attributes of rows against the limits of the format, before anything expensive is done with them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from vantage.bounded_json import loads
from vantage.errors import InputError, LimitError
from vantage.format import (
    ATTRIBUTE_NAME_BYTES_MAX,
    ATTRIBUTE_ROW_BYTES_MAX,
    ATTRIBUTE_ROW_DEPTH_MAX,
    ATTRIBUTE_ROW_PARTS_MAX,
    ATTRIBUTES_MAX,
    SCHEMA_BYTES_MAX,
    SPOT_BYTES,
)

from .rows import Ints, StoredRows

CHUNK_BYTES = 32 << 20  # of JSON at a time
TYPE_CHARS_MAX = 100  # types stand in the schema for people
MODEL_BYTES = 4 << 10  # of the schema, for the model: 200 characters at most, as JSON up to 12 bytes each
# A block of 128 rows at 512 bytes each: 64 KiB, which a query reads whole (bench/research/attributes.py).
SHORT_BYTES = 512
BLOCK_BYTES_MAX = 1 << 20  # a longer attribute block is not read for one row of it
LEAVE_OUT = "name the columns to keep with --attributes, or split long texts into more rows"


def schema_of(attributes: pa.Schema) -> list[dict[str, str]]:
    """What root.bin says of the attributes."""
    return [{"name": f.name, "type": str(f.type)[:TYPE_CHARS_MAX]} for f in attributes]


def check_schema(attributes: pa.Schema) -> None:
    """Raises InputError or LimitError for more or longer attributes than an index can have, or two of one name."""
    if len(attributes) > ATTRIBUTES_MAX:
        raise LimitError("the number of attributes", len(attributes), ATTRIBUTES_MAX, hint=LEAVE_OUT)
    for name in attributes.names:
        if len(name.encode()) > ATTRIBUTE_NAME_BYTES_MAX:
            what = f"the name of attribute {name[:40]!r}..., in bytes,"
            raise LimitError(what, len(name.encode()), ATTRIBUTE_NAME_BYTES_MAX, hint="rename the column")
        if attributes.names.count(name) > 1:
            raise InputError(f"two attributes are called {name!r}", hint="rename one of the columns")
    nbytes = len(json.dumps({"attributes": schema_of(attributes)}))
    if nbytes > SCHEMA_BYTES_MAX - MODEL_BYTES:
        what = "what the schema says of all attributes, in bytes,"
        raise LimitError(
            what, nbytes, SCHEMA_BYTES_MAX - MODEL_BYTES, hint="name the columns to keep with --attributes"
        )


def check_rows(stored: StoredRows, names: list[str]) -> None:
    """Raises LimitError for a row whose attributes are longer, deeper or of more parts than a reader takes."""
    if not names:
        return
    sizes = stored.attribute_sizes()
    longest = int(sizes.argmax())
    if sizes[longest] > ATTRIBUTE_ROW_BYTES_MAX:
        _refuse(stored, longest, names, "bytes", int(sizes[longest]), ATTRIBUTE_ROW_BYTES_MAX)
    for low, high in pieces(sizes, CHUNK_BYTES):
        for row, record in enumerate(stored.attributes(np.arange(low, high)), low):
            opened = record.count(b"[") + record.count(b"{")
            if opened > ATTRIBUTE_ROW_DEPTH_MAX or opened + record.count(b'"') > ATTRIBUTE_ROW_PARTS_MAX:
                try:
                    loads(record, ATTRIBUTE_ROW_DEPTH_MAX, ATTRIBUTE_ROW_PARTS_MAX)
                except ValueError as error:
                    _refuse(stored, row, names, str(error), None, None)


def _refuse(stored: StoredRows, row: int, names: list[str], what: str, size: int | None, limit: int | None) -> None:
    """Names the row by its id, and the attribute that takes most of it."""
    (identifier,) = stored.ids(np.array([row]))
    name = identifier.decode(errors="backslashreplace")[:80] if isinstance(identifier, bytes) else int(identifier)
    values = json.loads(stored.attributes(np.array([row]))[0])
    most, length = max(((n, len(json.dumps(v))) for n, v in zip(names, values, strict=True)), key=lambda one: one[1])
    where = f"the row with id {name!r} (row {row}): its attributes, most of them {length} bytes of {most!r},"
    if size is None:
        limits = f"{ATTRIBUTE_ROW_DEPTH_MAX} deep, {ATTRIBUTE_ROW_PARTS_MAX} lists, objects and texts"
        raise InputError(f"{where} are beyond what a reader takes ({what}; limits: {limits})", hint=LEAVE_OUT)
    raise LimitError(f"{where} in {what} as JSON,", size, limit, hint=LEAVE_OUT)


def are_long(stored: StoredRows, names: list[str]) -> bool:
    """Whether an index of these rows says where the attributes of each are, so that they can be read a row."""
    if not names:
        return False
    sizes = stored.attribute_sizes()
    return bool(sizes.mean() > SHORT_BYTES or sizes.max() > BLOCK_BYTES_MAX // 2)


def spot_bytes(stored: StoredRows, names: list[str]) -> int:
    """What saying so takes of each row of a scan block."""
    return SPOT_BYTES * are_long(stored, names)


def pieces(sizes: Ints, bytes_max: int, rows_max: int | None = None) -> Iterator[tuple[int, int]]:
    """Ranges [low, high) of consecutive rows of these sizes (N): at most so many bytes and rows, one row at least."""
    ends = np.cumsum(sizes)
    low = 0
    while low < len(sizes):
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + bytes_max, side="right")))
        high = high if rows_max is None else min(high, low + rows_max)
        yield low, high
        low = high
