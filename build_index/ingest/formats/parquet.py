"""Parquet, streamed by pages: neither a row group nor a file is ever held whole, nor decoded whole."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import InputError

from .address import Location, open_file, shown
from .sizes import PIECE_BYTES, VALUE_BYTES

# Read-ahead of a column. Without it, pyarrow holds whole column chunks: all of a row group, often all of a file.
READ_BUFFER_BYTES = 1 << 20

# Where values take so many times the bytes of their pages, a few rows may hold nearly all of them.
DENSE = 16

# A page is unpacked whole, and nothing says how large it is before it is: a column chunk so large that shrank so much
# may be one page.
PAGE_BYTES_MAX, SHRUNK_MAX = 256 << 20, 256


def header(path: Location) -> tuple[int, pa.Schema]:
    """Rows and schema. Raises InputError, also where columns lie in another file: no path in a file is followed."""
    try:
        with open_file(path) as raw, _file(raw) as file:
            metadata = file.metadata
            for group in range(metadata.num_row_groups):
                for column in range(metadata.num_columns if metadata.row_group(group).num_rows else 0):
                    elsewhere = metadata.row_group(group).column(column).file_path
                    if elsewhere:
                        raise InputError(
                            f"{shown(path)} has its rows in another file, {elsewhere}", hint="name that file instead"
                        )
            return metadata.num_rows, file.schema_arrow
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{shown(path)} cannot be read as Parquet: {error}") from None


def has_only_nulls(path: Location, column: str) -> bool:
    """Whether the file says of a column, not of a nested one, that it has no value. Raises OSError."""
    with open_file(path) as raw, _file(raw) as file:
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(leaf) for group in groups for leaf in range(metadata.num_columns)]
        statistics = [chunk.statistics for chunk in chunks if chunk.path_in_schema == column]
        return bool(statistics) and all(
            one is not None and one.has_null_count and not one.num_values for one in statistics
        )


def batches(path: Location, columns: list[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Record batches of at most rows_max rows. Raises InputError."""
    try:
        with open_file(path) as raw:
            with _file(raw) as file:
                rows, texts = _reading(path, file.metadata, columns, rows_max)
            with _file(raw, texts) as file:
                parts = file.iter_batches(batch_size=rows, columns=columns, use_threads=False)
                yield from parts if rows == rows_max else _join(parts, rows_max)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{shown(path)} cannot be read: {error}", hint="the file may be damaged: copy it again"
        ) from None


def _file(raw: Any, texts: Sequence[str] = ()) -> Any:
    # Microseconds: the nanoseconds of Spark's old timestamps, int96, leave 64 bits after the year 2262.
    return pq.ParquetFile(
        raw, pre_buffer=False, buffer_size=READ_BUFFER_BYTES, read_dictionary=list(texts),
        coerce_int96_timestamp_unit="us",
    )  # fmt: skip


def _reading(path: Location, metadata: Any, columns: list[str], rows_max: int) -> tuple[int, list[str]]:
    """How many rows to read at a time, and the columns of text to read as dictionaries, so that a read is bounded.

    A page may stand for very many more bytes: by a dictionary, by runs of one value, by shared prefixes. Dictionaries
    are kept as they are, and undone a piece of rows at a time. InputError where a page may be too large to unpack.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [(group.num_rows, group.column(leaf)) for group in groups for leaf in range(metadata.num_columns)]
    needed = [
        (count, chunk)
        for count, chunk in chunks
        if count and any(chunk.path_in_schema == c or chunk.path_in_schema.startswith(f"{c}.") for c in columns)
    ]
    for _, chunk in needed:
        unpacked, stored = chunk.total_uncompressed_size, max(1, chunk.total_compressed_size)
        if unpacked > PAGE_BYTES_MAX and unpacked > SHRUNK_MAX * stored:
            raise InputError(
                f"{shown(path)} column {chunk.path_in_schema!r} packs {unpacked:,} bytes into {stored:,}, and they may "
                "have to be held at once",
                hint="write the file with smaller row groups",
            )
    texts = {chunk.path_in_schema: chunk for _, chunk in needed if chunk.physical_type == "BYTE_ARRAY"}
    shared = {leaf for leaf in texts if _encoded(needed, leaf, "DELTA_BYTE_ARRAY")}
    leaves = map(metadata.schema.column, range(metadata.num_columns))
    json = {column.path for column in leaves if column.logical_type.type == "JSON"}
    # Those whose dictionaries pyarrow cannot keep.
    mixed = {leaf for leaf in texts if leaf in json or _encoded(needed, leaf, "DELTA")}
    named = {leaf for leaf in texts if _encoded(needed, leaf, "DICTIONARY")}
    rows = rows_max
    for count, chunk in needed:
        leaf, packed, values = chunk.path_in_schema, chunk.total_uncompressed_size, chunk.num_values
        if leaf in shared or leaf in mixed & named:  # one value may be as long as all bytes of the chunk
            rows = min(rows, max(1, PIECE_BYTES // max(1, packed)))
        decoded = VALUE_BYTES * values + (packed if leaf in texts else 0)
        if decoded > PIECE_BYTES:
            dense = values > count and decoded > DENSE * max(packed, PIECE_BYTES)
            rows = min(rows, 1 if dense else max(1, PIECE_BYTES * count // decoded))
    return rows, sorted(named - mixed)


def _encoded(chunks: list[tuple[int, Any]], path: str, name: str) -> bool:
    return any(name in encoding for _, c in chunks if c.path_in_schema == path for encoding in c.encodings)


def _join(parts: Iterator[pa.RecordBatch], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Small batches put together, up to rows_max rows or PIECE_BYTES as they are in memory."""
    held, rows, size = list[pa.RecordBatch](), 0, 0
    for part in parts:
        nbytes = part.nbytes
        same = not held or part.schema == held[0].schema
        if held and (rows + len(part) > rows_max or size + nbytes > PIECE_BYTES or not same):
            yield from _one(held)
            held, rows, size = [], 0, 0
        held.append(part)
        rows, size = rows + len(part), size + nbytes
    yield from _one(held)


def _one(parts: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        if parts:
            yield pa.concat_batches(parts)
    except pa.ArrowNotImplementedError:  # dictionaries within lists cannot be put together
        yield from parts
