"""Writes rows by number: full vectors and attributes as Parquet, attributes as JSON, and the facts of each row."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import InputError, VantageError
from vantage.format import VECTOR_BYTES, RowPages
from vantage.kernels import crc32c

from ..ingest.formats.types import is_json
from ..ingest.rows import Ints, Rows
from ..progress import Progress
from .contents import PAGE_ROWS, U32, Contents, RowTable
from .objects import ObjectList, sync

U8 = npt.NDArray[np.uint8]
OWN_COLUMNS = 3  # of a part, before the attributes
PART_ROWS_BYTES = 512 << 20
ATTRIBUTES_BYTES = 256 << 20  # of an object of them, unless those of one page take more
F16_SAFE = 4e-6  # times the root of the dimension: no longer row loses F16_LOSS_MAX, as 2^-11 and 2^-25 are rounded
ROUNDED_ROWS, ROUNDED_BYTES = 4096, 16 << 20  # of a sample, that is rounded to f16 for a trial
MOVED_MAX = 2.5e-4  # of a neighbour's distance, along one direction: then one neighbour in some hundreds changes places
F16_LOSS_MAX = 0.01  # of a row's norm; float16 rounds to 0.0005 of it above its smallest normal numbers


class _PartWriter:
    """vectors/part-NNNNN.parquet: full vectors, ids, source rows and attributes, in the order of row numbers."""

    def __init__(self, path: Path, schema: pa.Schema, first_row: int) -> None:
        self.path, self.first_row = path, first_row
        # One page a row group: the vectors of a group lie together, and a row's place follows from its number.
        self.writer = pq.ParquetWriter(
            path, schema, compression="NONE", use_dictionary=False, write_statistics=False, store_schema=True,
            data_page_size=(1 << 30), write_batch_size=PAGE_ROWS, data_page_version="1.0",
        )  # fmt: skip
        self.rows: list[int] = []

    def add(self, table: pa.Table) -> None:
        self.writer.write_table(table, row_group_size=PAGE_ROWS)
        self.rows.append(len(table))

    def close(self, width: int) -> list[tuple[int, int]]:
        """(first row, offset of its first value) of each group; the values are the end of the column's one page."""
        self.writer.close()
        meta, pages, row = pq.read_metadata(self.path), [], self.first_row
        for group, n in enumerate(self.rows):
            column = meta.row_group(group).column(0)
            end = column.data_page_offset + column.total_compressed_size
            pages.append((row, end - n * width))
            row += n
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())
        return pages


def vector_type(kind: str, dimension: int) -> pa.DataType:
    """f16 and f32 as fixed-size lists; u8 and i8 as bytes, since Parquet has no lists of 8 bits."""
    if kind in ("f16", "f32"):
        value = pa.float16() if kind == "f16" else pa.float32()
        return pa.list_(pa.field("element", value, nullable=False), dimension)
    return pa.binary(dimension)


def _vector_array(values: npt.NDArray[Any], schema: pa.Schema) -> pa.Array:
    kind = schema.field("vector").type
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values.tobytes())])


def stored_kind(rows: Rows, near: float, vectors: str | None) -> str:
    """Kind of the stored vectors: as f32 sources are asked for, or f16 where that moves no row across its neighbours.

    near: how far, in the scale of the index, a row's neighbours are.
    """
    if rows.stored.kind != "f32":
        return rows.stored.kind
    if vectors is not None:
        return vectors
    step = max(1, rows.count // ROUNDED_ROWS, rows.count * 4 * rows.dimension // ROUNDED_BYTES)
    x = rows.stored.gather(np.arange(0, rows.count, step))
    with np.errstate(over="ignore"):
        half = x.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        return "f32"
    moved = np.linalg.norm(rows.scaled(half) - rows.scaled(x), axis=1)
    return "f16" if np.sqrt(np.mean(moved**2)) <= MOVED_MAX * near * rows.dimension**0.5 else "f32"


def write_rows(contents: Contents, table: RowTable, objects: ObjectList, progress: Progress) -> RowPages:
    """Writes the Parquet parts, attributes and facts of all rows, which have numbers in a row; their pages.

    Fills in the checks of the table, and the checksums of its spots.
    """
    rows, kind, names = contents.rows, contents.vector_kind, contents.attributes.names
    width, fields = VECTOR_BYTES[kind] * rows.dimension, [_column_field(f) for f in contents.attributes]
    schema = _schema(rows, kind, fields)
    places: list[tuple[int, int]] = []  # (object, offset) of the vectors of each page
    writer: _PartWriter | None = None
    texts = _Texts(objects)
    parts = 0
    pieces = [table.source[low:high] for low, high in table.pages]
    shared = rows, schema.serialize().to_pybytes(), kind  # pickle would lose names and nulls of a list's elements
    made = rows.tasks.map(_make_page, shared, pieces, progress, keep=False)
    for (low, high), (group, checks, records, spots) in zip(table.pages, made, strict=True):
        if writer is None:
            key = f"vectors/part-{parts:05d}.parquet"
            number, path = objects.begin(key)
            writer, parts = _PartWriter(path, schema, low), parts + 1
        table.checks[low:high] = checks
        if names:
            table.spots[low:high, 2] = spots
            texts.add(records)
        writer.add(pa.ipc.open_stream(pa.py_buffer(group)).read_all())
        if high == rows.count or (high - writer.first_row) * width >= PART_ROWS_BYTES:
            own = writer.close(width)
            _check_pages(rows, path, own, high, table.source, kind)
            places += [(number, offset) for _, offset in own]
            objects.end(key, path.stat().st_size)
            writer = None
    facts = _write_facts(table, bool(names), objects)
    texts.close()
    columns = [*zip(*places, strict=True), *zip(*facts, strict=True)]
    columns += zip(*(texts.places or [(0, 0)] * len(table.pages)), strict=True)
    kinds = ("I", "Q", "I", "Q", "I", "I", "Q")
    starts = [*(low for low, _ in table.pages), rows.count]
    first_row = array("I", [int(table.stored[0]) + start for start in starts])
    return RowPages(first_row, *(array(code, column) for code, column in zip(kinds, columns, strict=True)))


def _make_page(shared: tuple[Rows, bytes, str], source: Ints) -> tuple[U8, U32, U8, U32]:
    """A page of these source rows (n): (a row group as an Arrow stream, CRC-32C u32 (n) of the stored vectors, the JSON
    of all attributes, CRC-32C u32 (n) of each row's).
    """
    rows, kind, schema = shared[0], shared[2], pa.ipc.read_schema(pa.py_buffer(shared[1]))
    width = VECTOR_BYTES[kind] * rows.dimension
    values = stored_values(rows.stored.gather(source), kind, source)
    raw = memoryview(values.tobytes())
    records = rows.stored.attributes(source) if len(schema) > OWN_COLUMNS else []
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, schema) as writer:
        writer.write_table(_group(rows, schema, values, records, source))
    return (
        np.frombuffer(stream.getvalue(), np.uint8),
        np.array([crc32c(raw[at : at + width]) for at in range(0, len(raw), width)], np.uint32),
        np.frombuffer(b"".join(records), np.uint8),
        np.array(list(map(crc32c, records)), np.uint32),
    )


class _Texts:
    """attributes-NNNNN.bin: the JSON of rows, one after the other, in as many objects as they take."""

    def __init__(self, objects: ObjectList) -> None:
        self.objects, self.places = objects, list[tuple[int, int]]()
        self.count = self.size = 0
        self.file: BinaryIO | None = None

    def add(self, data: U8) -> None:
        """That of a page."""
        if self.file is None or self.size > ATTRIBUTES_BYTES:
            self.close()
            self.key = f"attributes-{self.count:05d}.bin"
            self.number, path = self.objects.begin(self.key)
            self.file, self.size, self.count = path.open("wb"), 0, self.count + 1
        self.places.append((self.number, self.size))
        self.file.write(data.data)
        self.size += len(data)

    def close(self) -> None:
        """Ends the object."""
        if self.file is not None:
            sync(self.file)
            self.objects.end(self.key, self.size)


def _write_facts(table: RowTable, attributes: bool, objects: ObjectList) -> list[tuple[int, int, int]]:
    """Writes rows.bin; (object, offset, CRC-32C) of the facts of each page: checks, and spots where there are any."""
    number, path = objects.begin("rows.bin")
    out, at = [], 0
    with path.open("wb") as file:
        for low, high in table.pages:
            page = table.checks[low:high].tobytes()
            page += table.spots[low:high].T.tobytes() if attributes else b""
            out.append((number, at, crc32c(page)))
            file.write(page)
            at += len(page)
        sync(file)
    objects.end("rows.bin", at)
    return out


def _schema(rows: Rows, kind: str, columns: list[pa.Field]) -> pa.Schema:
    """The columns of a part."""
    id_type = pa.int64() if rows.stored.id_kind == "i64" else pa.binary()
    return pa.schema(
        [
            pa.field("vector", vector_type(kind, rows.dimension), nullable=False),
            pa.field("id", id_type, nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *columns,
        ]
    )


def _group(rows: Rows, schema: pa.Schema, values: npt.NDArray[Any], texts: list[bytes], source: Ints) -> pa.Table:
    """A row group of some source rows (n), whose stored vectors are values (n, d), and their attributes JSON."""
    records, columns = [json.loads(text) for text in texts], list(schema)[OWN_COLUMNS:]
    arrays = [
        _vector_array(values, schema),
        pa.array(rows.stored.ids(source), schema.field("id").type),
        pa.array(rows.stored.source_rows(source), pa.int64()),
        *(column_array([record[i] for record in records], field.type) for i, field in enumerate(columns)),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column_field(field: pa.Field) -> pa.Field:
    """An attribute's column: its own type where JSON keeps it, else text; renamed where it would hide one of ours."""
    name = f"{field.name}_" if field.name in ("vector", "id", "source_row") else field.name
    kind = field.type
    plain = (
        pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )
    nested = (
        pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type) and not pa.types.is_temporal(kind.value_type)
    )
    return pa.field(name, kind if plain or nested or is_json(kind) else pa.string())


def column_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An attribute's column from values as JSON has them."""
    if is_json(kind):
        texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(texts, kind.storage_type))
    if pa.types.is_string(kind):
        values = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(values, kind)


def stored_values(
    values: npt.NDArray[np.float32], kind: str, source: Ints, where: Callable[[int], str] = "row {}".format
) -> npt.NDArray[Any]:
    """values f32 (n, d) as they are stored. Raises InputError that names one of the rows `source` (n): f16 loses it."""
    if kind == "f16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            row = int(source[int(np.argmin(np.isfinite(half).all(1)))])
            raise InputError(
                f"{where(row)} holds a value over 65,504, which float16 cannot", hint="build with --vectors f32"
            )
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        short = np.flatnonzero(lengths < F16_SAFE * values.shape[1] ** 0.5)
        lost = np.linalg.norm(half[short] - values[short].astype(np.float64), axis=1)
        moved = short[lost > F16_LOSS_MAX * lengths[short]]
        if len(moved):
            raise InputError(
                f"{where(int(source[moved[0]]))} is too small for float16 to keep", hint="build with --vectors f32"
            )
        return half
    return values.astype({"f32": np.float32, "u8": np.uint8, "i8": np.int8}[kind])


def _check_pages(rows: Rows, path: Path, pages: list[tuple[int, int]], end: int, home_rows: Ints, kind: str) -> None:
    """The first and last row of each page of a part, read by their offsets alone, are what was written."""
    width = VECTOR_BYTES[kind] * rows.dimension
    with path.open("rb") as file:
        for (row, offset), after in zip(pages, [*(p[0] for p in pages[1:]), end], strict=True):
            for r in (row, after - 1):
                file.seek(offset + (r - row) * width)
                source = home_rows[r : r + 1]
                if file.read(width) != stored_values(rows.stored.gather(source), kind, source).tobytes():
                    raise VantageError(
                        f"{path.name}: row {r} is not at byte {offset + (r - row) * width}",
                        hint="this version of pyarrow lays pages out in another way: report it",
                    )
