"""Arrow IPC, files (Feather 2) and streams, a record batch at a time: a writer's batches bound the memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.ipc

from vantage.errors import InputError

from .address import Location, open_file, shown

FILE_MAGIC = b"ARROW1"
STREAM_END = bytes.fromhex("ffffffff00000000")


def header(path: Location) -> tuple[int, pa.Schema]:
    """Rows and schema. Every batch is read once to count its rows. Raises InputError."""
    try:
        with _open(path) as (schema, parts):
            return sum(part.num_rows for part in parts), schema
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{shown(path)} cannot be read as Arrow IPC: {error}") from None


def batches(path: Location, columns: list[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Record batches of 1 to rows_max rows. Raises InputError."""
    try:
        with _open(path) as (_, parts):
            for part in parts:
                chosen = part.select(columns)
                for low in range(0, part.num_rows, rows_max):
                    yield chosen.slice(low, rows_max)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{shown(path)} cannot be read: {error}", hint="the file may be damaged: copy it again"
        ) from None


def note(path: Location) -> str | None:
    """A sentence where a stream has no end: its writer may have died, and nobody can tell what else it had."""
    with open_file(path) as file:
        is_file = file.read(len(FILE_MAGIC)) == FILE_MAGIC
        file.seek(max(0, file.size() - len(STREAM_END)))
        ended = is_file or file.read() == STREAM_END
    return None if ended else f"{shown(path)} has no end mark: its writer may have been stopped before all rows."


@contextmanager
def _open(path: Location) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with open_file(path) as file:
        is_file = file.read(len(FILE_MAGIC)) == FILE_MAGIC
        file.seek(0)
        if is_file:
            with pa.ipc.open_file(file) as reader:
                yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(file) as reader:
                yield reader.schema, iter(reader)
