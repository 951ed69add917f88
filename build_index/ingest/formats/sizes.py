"""Measures rows as they are once decoded, so that a few bytes of a file cannot become many of memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .types import is_binary, is_list, is_list_view, is_text, is_view, list_offsets, map_entries, runs_of

VALUE_BYTES = 8  # at least, of each value: as JSON and in Python it takes more than its bits
PIECE_BYTES = (
    8 << 20
)  # of decoded rows that are held at a time: as Python's values and as JSON they take some ten times that

Sizes = npt.NDArray[np.int64]


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in runs of rows of at most PIECE_BYTES once decoded, or of one row. Its columns must be valid."""
    ends = np.cumsum(row_bytes(batch))
    low, before = 0, 0
    while low < len(batch):
        high = max(low + 1, int(np.searchsorted(ends, before + PIECE_BYTES, side="right")))
        yield batch.slice(low, high - low)
        low, before = high, int(ends[high - 1])


def row_bytes(batch: pa.RecordBatch) -> Sizes:
    """int64 (n): bytes of each row, all columns, once decoded."""
    return np.asarray(sum((value_bytes(column) for column in batch.columns), np.zeros(len(batch), np.int64)))


def value_bytes(column: Any) -> Sizes:
    """int64 (n): bytes of each value of a valid column once decoded, nulls included."""
    kind, count = column.type, len(column)
    if not count:
        return np.zeros(0, np.int64)
    if isinstance(kind, pa.BaseExtensionType):
        return value_bytes(column.storage)
    if pa.types.is_dictionary(kind):
        places = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False)
        each = value_bytes(column.dictionary) if len(column.dictionary) else np.zeros(1, np.int64)
        return np.asarray(each[places])
    if pa.types.is_run_end_encoded(kind):
        return np.asarray(value_bytes(column.values)[runs_of(column)])
    if is_view(kind):
        # Each view of 16 bytes begins with its length; the views of rows may all show the same bytes.
        views = np.frombuffer(column.buffers()[1], np.int32)[::4][column.offset :][:count]
        return np.where(np.asarray(column.is_null()), 0, views).astype(np.int64) + VALUE_BYTES
    if (is_text(kind) or is_binary(kind)) and not pa.types.is_fixed_size_binary(kind):
        lengths = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        return np.asarray(lengths.astype(np.int64) + VALUE_BYTES)
    if is_list(kind) or pa.types.is_map(kind):
        lists = map_entries(column) if pa.types.is_map(kind) else column
        return _of_lists(lists) + VALUE_BYTES
    if pa.types.is_struct(kind):
        fields = (value_bytes(column.field(i)) for i in range(kind.num_fields))
        return np.asarray(sum(fields, np.full(count, VALUE_BYTES, np.int64)))
    return np.full(count, _width(kind) or VALUE_BYTES, np.int64)  # null, and unions, which nothing takes, have none


def _of_lists(column: Any) -> Sizes:
    """int64 (n): bytes of what the lists hold."""
    width = _width(column.type.value_type)
    if width is not None:
        return np.diff(list_offsets(column)) * width
    if is_list_view(column.type):  # lists of several rows may be the same values
        starts, sizes = (np.asarray(part).astype(np.int64) for part in (column.offsets, column.sizes))
        starts, sizes = (np.where(np.asarray(column.is_null()), 0, part) for part in (starts, sizes))
        ends = np.concatenate([[0], np.cumsum(value_bytes(column.values))])
        return np.asarray(ends[starts + sizes] - ends[starts])
    ends, offsets = np.concatenate([[0], np.cumsum(value_bytes(column.flatten()))]), list_offsets(column)
    return np.asarray(ends[offsets[1:]] - ends[offsets[:-1]])


def _width(kind: pa.DataType) -> int | None:
    """Bytes of each value, where all have the same."""
    if pa.types.is_dictionary(kind):  # its width is that of the indices
        return None
    try:
        return max(VALUE_BYTES, int(kind.bit_width) // 8)
    except ValueError:
        return None
