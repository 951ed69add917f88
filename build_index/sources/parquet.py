"""Parquet, streamed by pages: neither a row group nor a file is ever held whole."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import InputError

from .places import Place, local_or_filesystem

# Read-ahead of a column. Without it, pyarrow holds whole column chunks: all of a row group, often all of a file.
READ_BUFFER_BYTES = 1 << 20


def header(path: Place) -> tuple[int, pa.Schema]:
    """Rows and schema. Raises InputError."""
    try:
        where, filesystem = local_or_filesystem(path)
        with pq.ParquetFile(where, filesystem=filesystem) as file:
            return file.metadata.num_rows, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None


def batches(path: Place, columns: list[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Record batches of at most rows_max rows. Raises InputError."""
    try:
        where, filesystem = local_or_filesystem(path)
        with pq.ParquetFile(
            where, filesystem=filesystem, pre_buffer=False, memory_map=False, buffer_size=READ_BUFFER_BYTES
        ) as file:
            yield from file.iter_batches(batch_size=rows_max, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="the file may be damaged: copy it again") from None
