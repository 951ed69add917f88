"""A choice -> the objects of a generation in a folder; bounded memory, and nothing that looks whole until it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError, InputError, LimitError, VantageError
from vantage.format import (
    ATTRIBUTES,
    BLOCKS_FREE,
    HEADER,
    ID_PAGE_ROWS,
    READ_BYTES_MAX,
    ROOT_BYTES_MAX,
    SCAN,
    SECTION,
    SHARD_MAGIC,
    VECTOR_BYTES,
    Bounds,
    Current,
    Directory,
    IdPages,
    ObjectName,
    Objects,
    Root,
    TwoLevelSection,
    VectorPages,
    aligned,
    block_planes,
    pack_block,
    pack_head,
    pack_ids,
)
from vantage.kernels import crc32c
from vantage.search.rows import id_hash

from .attributes import BLOCK_BYTES_MAX, are_long, pieces, schema_of
from .bucket import FolderPlace, alone
from .choose import Choice
from .codecs.planes import Encoded, encode_blocks
from .generations import pointer, seal, unmarked
from .measure import CHUNK_BYTES, chunks
from .norms import Lengths, error_norms
from .rows import Ints, Rows
from .shape import Shape, index_section
from .sources.types import is_json

SHARD_BYTES = 256 << 20
PART_ROWS_BYTES = 512 << 20
PAGE_ROWS = 8192  # of vectors, at most: one Parquet row group, whose vector column is one page
PAGE_BYTES = 16 << 20  # of them as float32
TOLD_BYTES = 32 << 20  # of attributes as JSON, that are held at a time
BUILDING = ".building"
F16_SAFE = 4e-6  # times the root of the dimension: no longer row loses F16_LOSS_MAX, as 2^-11 and 2^-25 are rounded
ROUNDED_ROWS, ROUNDED_BYTES = 4096, 16 << 20  # of a sample, that is rounded to f16 for a trial
MOVED_MAX = 2.5e-4  # of a neighbour's distance, along one direction: then one neighbour in some hundreds changes places
F16_LOSS_MAX = 0.01  # of a row's norm; float16 rounds to 0.0005 of it above its smallest normal numbers


class _ShardWriter:
    """shard-NNNNN.bin: the scan section as blocks come, then the attributes from a scratch file."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"shard-{number:05d}.bin"
        self.file: BinaryIO = self.path.open("w+b")
        self.scratch: BinaryIO = (folder / "attributes.scratch").open("w+b")
        self.start = aligned(HEADER.size + 2 * SECTION.size)
        self.file.write(bytes(self.start))
        self.crc = {SCAN: 0, ATTRIBUTES: 0}
        self.size = {SCAN: 0, ATTRIBUTES: 0}

    def add(self, kind: int, pieces: Iterable[bytes]) -> tuple[int, int, int]:
        """Appends an aligned block; (offset in its section, bytes, CRC-32C)."""
        file = self.file if kind == SCAN else self.scratch
        crc, at, size = 0, self.size[kind], 0
        for data in pieces:
            file.write(data)
            crc, size = crc32c(data, crc), size + len(data)
            self.crc[kind] = crc32c(data, self.crc[kind])
        padding = bytes(aligned(size) - size)
        file.write(padding)
        self.crc[kind] = crc32c(padding, self.crc[kind])
        self.size[kind] += size + len(padding)
        return at, size, crc

    def close(self) -> tuple[int, int]:
        """Finishes the object; (its bytes, where its attributes start)."""
        attributes_at = self.start + self.size[SCAN]
        self.scratch.seek(0)
        shutil.copyfileobj(self.scratch, self.file, 1 << 20)
        total = attributes_at + self.size[ATTRIBUTES]
        places = ((SCAN, self.start), (ATTRIBUTES, attributes_at))
        head = pack_head(SHARD_MAGIC, total, [(kind, at, self.size[kind], self.crc[kind]) for kind, at in places])
        self.file.seek(0)
        self.file.write(head)
        _sync(self.file)
        self.scratch.close()
        os.unlink(self.scratch.name)
        return total, attributes_at


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


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


def _vector_array(values: npt.NDArray[Any], kind: str) -> pa.Array:
    n, d = values.shape
    if kind in ("f16", "f32"):
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=vector_type(kind, d))
    return pa.Array.from_buffers(pa.binary(d), n, [None, pa.py_buffer(values.tobytes())])


def stored_kind(rows: Rows, near: float, vectors: str | None) -> str:
    """Kind of the stored vectors: as f32 sources are asked for, or f16 where that moves no row across its neighbours.

    near: how far, in the scale of the index, a row's neighbours are.
    """
    if rows.spool.kind != "f32":
        return rows.spool.kind
    if vectors is not None:
        return vectors
    step = max(1, rows.count // ROUNDED_ROWS, rows.count * 4 * rows.dimension // ROUNDED_BYTES)
    x = rows.spool.gather(np.arange(0, rows.count, step))
    with np.errstate(over="ignore"):
        half = x.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        return "f32"
    moved = np.linalg.norm(rows.scaled(half) - rows.scaled(x), axis=1)
    return "f16" if np.sqrt(np.mean(moved**2)) <= MOVED_MAX * near * rows.dimension**0.5 else "f32"


# (first block, after the last, source rows of these blocks, where each begins and the last ends) -> their codes
Encode = Callable[[int, int, Ints, list[int]], list[Encoded]]


def encoder(rows: Rows, choice: Choice) -> Encode:
    """Encodes the blocks it is asked for."""
    centres = choice.shape.centres

    def encode(low: int, high: int, source: Ints, starts: list[int]) -> list[Encoded]:
        return encode_blocks(choice.codec, rows.take(source), starts, centres[low:high], rows.metric)

    return encode


def write_index(
    rows: Rows,
    attributes: pa.Schema,
    choice: Choice,
    out: Path,
    vector_kind: str,
    manifest: dict[str, Any],
    progress: Callable[[float], None],
    *,
    norms: bool = False,
    encode: Encode | None = None,
    locked: bool = False,
) -> tuple[Current, int]:
    """Writes a generation under the folder `out` and makes it live; (CURRENT, bytes of all objects).

    All is written into `.building` and renamed when it is whole; CURRENT is replaced last. A build that dies leaves the
    index as it was. norms: with error norms, for exact answers. encode: where codes come from that are known already.
    locked: the caller is `alone` in the folder. Raises InputError when the disk is full, f16 cannot hold a value,
    something else is writing there, or a reader would refuse the index.
    """
    building = out / BUILDING
    try:
        with nullcontext() if locked else alone(out):
            try:
                shutil.rmtree(building, ignore_errors=True)
                (building / "vectors").mkdir(parents=True)
                return _write(rows, attributes, choice, out, building, vector_kind, manifest, progress, norms, encode)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


def _write(
    rows: Rows,
    attributes: pa.Schema,
    choice: Choice,
    out: Path,
    building: Path,
    vector_kind: str,
    manifest: dict[str, Any],
    progress: Callable[[float], None],
    norms: bool,
    encode: Encode | None,
) -> tuple[Current, int]:
    shape, codec, encode = choice.shape, choice.codec, encode or encoder(rows, choice)
    members, blocks = shape.members(), shape.blocks
    home_counts = np.bincount(shape.partition.home, minlength=blocks)
    first_row = np.concatenate([[0], np.cumsum(home_counts)])
    number = np.empty(rows.count, np.uint32)  # source row -> row number
    home_rows = np.concatenate([m[:h] for m, h in zip(members, home_counts, strict=True)])
    number[home_rows] = np.arange(rows.count, dtype=np.uint32)
    checks = np.empty(rows.count, np.uint32)  # by source row
    width = VECTOR_BYTES[vector_kind] * rows.dimension
    sizes = shape.sizes()
    own = rows.spool.attribute_sizes()[home_rows] if len(attributes) else np.zeros(rows.count, np.int64)
    told = 4 * (home_counts + 1) + _sums(own, first_row) if len(attributes) else np.zeros(blocks, np.int64)
    by_row = are_long(rows.spool, attributes.names) or bool(told.max() > BLOCK_BYTES_MAX)
    check_blocks(sizes, rows.count, codec.code_bytes, by_row)
    if told.max() >= 1 << 32:
        raise InputError(
            f"block {told.argmax()} has {told.max():,} bytes of attributes, an index keeps up to 4 GiB a block",
            hint="leave long columns out with --attributes, or split the rows over several indexes",
        )
    spots = _spots(own, first_row, home_counts) if by_row else None

    parts, pages = _write_vectors(
        rows, attributes, home_rows, own, vector_kind, building, checks, spots, lambda s: progress(0.4 * s)
    )

    columns = {name: np.zeros(blocks, np.uint64) for name in ("offset", "size", "crc", "a_offset", "a_size", "a_crc")}
    shard_blocks, shard_sizes = [0], []
    shard = _ShardWriter(building, 0)
    radius = array("f")

    def finish(last: int) -> None:
        total, attributes_at = shard.close()
        part = slice(shard_blocks[-1], last)
        columns["offset"][part] += np.uint64(shard.start)
        columns["a_offset"][part] += np.uint64(attributes_at if len(attributes) else 0)
        shard_sizes.append(total)
        shard_blocks.append(last)

    for low, high in chunks(members, CHUNK_BYTES // (4 * rows.dimension)):
        source = np.concatenate(members[low:high])
        starts = np.concatenate([[0], np.cumsum([len(m) for m in members[low:high]])]).tolist()
        encoded = encode(low, high, source, starts)
        ids = _id_bytes(rows, source)
        lengths = _lengths(rows, choice, encoded, source, slice(low, high), vector_kind) if norms else []
        radius.extend(block.radius for block in lengths)
        for i, b in enumerate(range(low, high)):
            part, n = slice(starts[i], starts[i + 1]), starts[i + 1] - starts[i]
            pad = bytes(4 * (aligned(n, 16) - n))
            id_width, id_plane = pack_ids(ids[part]) if rows.spool.id_kind == "bytes" else (8, b"".join(ids[part]))
            planes = [*encoded[i].planes(), number[source[part]].tobytes() + pad, checks[source[part]].tobytes() + pad]
            if spots is not None:
                planes += [column.tobytes() + pad for column in spots[number[source[part]]].T]
            data = pack_block(n, id_width, encoded[i].ranges, planes, id_plane)
            data += lengths[i].plane if norms else b""
            if len(data) > READ_BYTES_MAX:
                raise _too_long(b, n, len(data))
            if shard.size[SCAN] and shard.size[SCAN] + len(data) + shard.size[ATTRIBUTES] > SHARD_BYTES:
                finish(b)
                shard = _ShardWriter(building, len(shard_sizes))
            columns["offset"][b], columns["size"][b], columns["crc"][b] = shard.add(SCAN, [data])
            if len(attributes):
                body = _attributes(rows, members[b][: home_counts[b]], own[first_row[b] : first_row[b + 1]])
                columns["a_offset"][b], columns["a_size"][b], columns["a_crc"][b] = shard.add(ATTRIBUTES, body)
        progress(0.4 + 0.6 * high / blocks)
    finish(blocks)

    id_pages, ids_size = _write_ids(rows, home_rows, checks, spots, building / "ids.bin")
    u32 = {name: memoryview(array("I", column.tolist())) for name, column in columns.items() if "offset" not in name}
    u64 = {name: memoryview(array("Q", columns[name].tolist())) for name in ("offset", "a_offset")}
    root = Root(
        index_section(rows, blocks, int(sizes.sum()), shape.router, len(shard_sizes), vector_kind, codec.name, by_row),
        {"attributes": schema_of(attributes)}
        | {name: manifest[name] for name in ("model",) if name in manifest},
        Objects(shard_sizes, [p.stat().st_size for p in parts], ids_size),
        Directory(
            memoryview(array("I", shard_blocks)), memoryview(array("I", first_row.tolist())), u64["offset"],
            u32["size"], memoryview(array("I", sizes.tolist())), u32["crc"], u64["a_offset"],
            u32["a_size"], u32["a_crc"],
        ),
        shape.centre_section,
        codec.rotation,
        shape.section,
        codec.section,
        choice.contract,
        VectorPages(
            memoryview(array("I", [p for p, _, _ in pages])), memoryview(array("Q", [o for _, _, o in pages])),
            memoryview(array("I", [*(r for _, r, _ in pages), rows.count])),
        ),
        id_pages,
        choice.stop,
        Bounds(memoryview(radius), memoryview(array("f", np.linalg.norm(_exact_centres(shape), axis=1).tolist())))
        if norms
        else None,
    )  # fmt: skip
    packed = root.pack()
    if len(packed) > ROOT_BYTES_MAX:
        raise LimitError(
            "the size of root.bin", len(packed), ROOT_BYTES_MAX, hint="split the rows over several indexes"
        )
    Root.unpack(packed, "root.bin")  # what is written is what a reader takes
    assert pages[0][2] + width <= parts[0].stat().st_size
    with (building / "root.bin").open("wb") as file:
        file.write(packed)
        _sync(file)
    if isinstance(shape.section, TwoLevelSection):
        with (building / "routing.bin").open("wb") as file:
            file.write(shape.section.pages)
            _sync(file)
    return _publish(out, building, manifest)


def _sums(sizes: Ints, first_row: Ints) -> Ints:
    """int64 (B): sums of the sizes (N) of each block's home rows."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.diff(ends[first_row])


def check_blocks(sizes: Ints, rows: int, code_bytes: int, by_row: bool) -> None:
    """Raises InputError where a reader would refuse an index of so many rows whose blocks have sizes (B)."""
    if len(sizes) > max(BLOCKS_FREE, rows):
        raise InputError(f"{len(sizes)} blocks for {rows} rows", hint="fit again: so many rows were removed")
    widest = int(sizes.max())
    least = block_planes(widest, code_bytes, by_row).ids + widest
    if least > READ_BYTES_MAX:
        raise _too_long(int(sizes.argmax()), widest, least)


def _too_long(block: int, rows: int, nbytes: int) -> InputError:
    return InputError(
        f"block {block} has {rows:,} rows and {nbytes:,} bytes, a reader takes {READ_BYTES_MAX:,}",
        hint="leave --partition and --spill-share out, give shorter ids, or fit again with the rows that were added",
    )


def _spots(own: Ints, first_row: Ints, home_counts: Ints) -> npt.NDArray[np.uint32]:
    """u32 (N, 3), by row number: where attributes of these sizes are in the blocks; CRC-32C still 0."""
    ends = np.concatenate([[0], np.cumsum(own)])[:-1]
    block = np.repeat(np.arange(len(home_counts)), home_counts)
    spots = np.zeros((len(own), 3), np.uint32)
    spots[:, 0] = ends - ends[first_row[block]] + 4 * (home_counts[block] + 1)
    spots[:, 1] = own
    return spots


def _attributes(rows: Rows, source: Ints, own: Ints) -> Iterator[bytes]:
    """The attribute block of these home rows, whose JSON has so many bytes each, in pieces."""
    yield np.concatenate([[0], np.cumsum(own)]).astype("<u4").tobytes()
    for low, high in pieces(own, TOLD_BYTES):
        yield b"".join(rows.spool.attributes(source[low:high]))


def _write_vectors(
    rows: Rows,
    attributes: pa.Schema,
    home_rows: Ints,
    own: Ints,
    kind: str,
    building: Path,
    checks: npt.NDArray[np.uint32],
    spots: npt.NDArray[np.uint32] | None,
    progress: Callable[[float], None],
) -> tuple[list[Path], list[tuple[int, int, int]]]:
    """(paths, pages as (part, first row, offset)).

    own (N): bytes of the attributes, by row number. Fills checks with the CRC-32C of each source row's stored vector,
    and the last column of spots with that of the attributes, by row number.
    """
    d, id_type = rows.dimension, pa.int64() if rows.spool.id_kind == "i64" else pa.binary()
    width = VECTOR_BYTES[kind] * d
    columns = [_column_field(f) for f in attributes]
    schema = pa.schema(
        [
            pa.field("vector", vector_type(kind, d), nullable=False),
            pa.field("id", id_type, nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            *columns,
        ]
    )
    paths: list[Path] = []
    pages: list[tuple[int, int, int]] = []
    writer: _PartWriter | None = None
    for low, high in pieces(own, TOLD_BYTES, min(PAGE_ROWS, max(1, PAGE_BYTES // (4 * d)))):
        source = home_rows[low:high]
        if writer is None:
            paths.append(building / "vectors" / f"part-{len(paths):05d}.parquet")
            writer = _PartWriter(paths[-1], schema, low)
        values = stored_values(rows.spool.gather(source), kind, source)
        raw = memoryview(values.tobytes())
        for i, row in enumerate(source.tolist()):
            checks[row] = crc32c(raw[i * width : (i + 1) * width])
        ids = rows.spool.ids(source)
        texts = rows.spool.attributes(source) if columns else []
        if spots is not None:
            spots[low:high, 2] = list(map(crc32c, texts))
        told = [json.loads(text) for text in texts]
        more = [_column([row[i] for row in told], field.type) for i, field in enumerate(columns)]
        writer.add(
            pa.Table.from_arrays(
                [
                    _vector_array(values, kind),
                    pa.array(ids, id_type),
                    pa.array(rows.spool.source_rows(source), pa.int64()),
                    *more,
                ],
                schema=schema,
            )
        )
        if high == rows.count or (high - writer.first_row) * width >= PART_ROWS_BYTES:
            pages += [(len(paths) - 1, row, offset) for row, offset in writer.close(width)]
            _check_pages(rows, paths[-1], [p for p in pages if p[0] == len(paths) - 1], high, home_rows, kind)
            writer = None
        progress(high / rows.count)
    return paths, pages


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


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
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


def _check_pages(
    rows: Rows, path: Path, pages: list[tuple[int, int, int]], end: int, home_rows: Ints, kind: str
) -> None:
    """The first and last row of each page of a part, read by their offsets alone, are what was written."""
    width = VECTOR_BYTES[kind] * rows.dimension
    with path.open("rb") as file:
        for (_, row, offset), after in zip(pages, [*(p[1] for p in pages[1:]), end], strict=True):
            for r in (row, after - 1):
                file.seek(offset + (r - row) * width)
                source = home_rows[r : r + 1]
                if file.read(width) != stored_values(rows.spool.gather(source), kind, source).tobytes():
                    raise VantageError(
                        f"{path.name}: row {r} is not at byte {offset + (r - row) * width}",
                        hint="this version of pyarrow lays pages out in another way: report it",
                    )


def _exact_centres(shape: Shape) -> npt.NDArray[np.float64]:
    """The stored centres (B, d) without the rounding to f32 that encoding gives them."""
    section, dimension = shape.centre_section, shape.centres.shape[1]
    table = np.frombuffer(section.table, np.int8).reshape(shape.blocks, -1)[:, :dimension]
    return table.astype(np.float64) * np.asarray(section.scale, np.float64)[:, None]


def _lengths(
    rows: Rows, choice: Choice, encoded: list[Encoded], source: Ints, blocks: slice, kind: str
) -> list[Lengths]:
    """Error norms of blocks with the source rows `source`, to the full vectors as they are stored."""
    x = stored_values(rows.spool.gather(source), kind, source).astype(np.float64)
    if rows.metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    else:
        x = (x - rows.origin if rows.metric == "l2" else x) * rows.scale
    shape, codec = choice.shape, choice.codec
    bias = np.asarray(shape.centre_section.bias, np.float64)[blocks]
    return error_norms(codec.section, codec.axes, encoded, x, _exact_centres(shape)[blocks], bias, rows.metric)


def _id_bytes(rows: Rows, source: Ints) -> list[bytes]:
    ids = rows.spool.ids(source)
    return ids if isinstance(ids, list) else [struct.pack("<q", i) for i in ids.tolist()]


def _write_ids(
    rows: Rows,
    home_rows: Ints,
    checks: npt.NDArray[np.uint32],
    spots: npt.NDArray[np.uint32] | None,
    path: Path,
) -> tuple[IdPages, int]:
    """ids.bin. Raises InputError for two ids with one hash, which no lookup could tell apart."""
    hashes = np.empty(rows.count, np.uint64)
    for low in range(0, rows.count, 1 << 16):
        ids = rows.spool.ids(home_rows[low : low + (1 << 16)])
        hashes[low : low + len(ids)] = [id_hash(i) for i in (ids if isinstance(ids, list) else ids.tolist())]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        pair = [int(home_rows[order[same[0] + i]]) for i in (0, 1)]
        raise InputError(
            f"the ids of rows {pair[0]} and {pair[1]} have the same hash", hint="change one of the two ids"
        )
    first, crc = array("Q"), array("I")
    with path.open("wb") as file:
        for low in range(0, rows.count, ID_PAGE_ROWS):
            part = order[low : low + ID_PAGE_ROWS]
            page = hashes[part].tobytes() + part.astype(np.uint32).tobytes() + checks[home_rows[part]].tobytes()
            page += b"" if spots is None else spots[part].T.tobytes()
            first.append(int(hashes[part[0]]))
            crc.append(crc32c(page))
            file.write(page)
        size = file.tell()
        _sync(file)
    return IdPages(memoryview(first), memoryview(crc)), size


def _publish(out: Path, building: Path, manifest: dict[str, Any]) -> tuple[Current, int]:
    """Names the generation by its content, renames it into place, then replaces CURRENT.

    Raises ConflictError where a gc is deleting a generation of the same content.
    """
    objects = {
        str(p.relative_to(building)): (p.stat().st_size, _sha256(p)) for p in sorted(building.rglob("*")) if p.is_file()
    }
    generation = hashlib.sha256(json.dumps([objects, manifest]).encode()).hexdigest()[:16]
    manifest = manifest | {
        "generation": generation,
        "objects": [{"key": f"{generation}/{k}", "size": size, "sha256": sha} for k, (size, sha) in objects.items()],
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    with (building / "manifest.json").open("wb") as file:
        file.write(text)
        _sync(file)
    current = Current(
        generation,
        ObjectName(f"{generation}/root.bin", *objects["root.bin"]),
        ObjectName(f"{generation}/manifest.json", len(text), hashlib.sha256(text).hexdigest()),
    )
    target, old = out / generation, _live(out)
    unmarked(FolderPlace(out), generation)
    # What is there already, whole, may be live: moving it would leave CURRENT without its objects for a moment.
    stated = objects | {"manifest.json": (len(text), current.manifest.sha256)}
    if _holds(out, {f"{generation}/{key}": one for key, one in stated.items()}):
        seal(FolderPlace(out), current, text)
    else:
        if target.exists():  # damaged since
            target.rename(building / "replaced")
        building.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    if old != generation:
        (out / ".CURRENT.new").unlink(missing_ok=True)
        with (out / ".CURRENT.new").open("xb") as file:
            file.write(pointer(current, {"previous": old} if old else {}))
            _sync(file)
        (out / ".CURRENT.new").replace(out / "CURRENT")
        for stale in out.iterdir():  # a folder keeps the live generation and the one before it
            ours = re.fullmatch("[0-9a-f]{16}", stale.name) and (stale / "manifest.json").is_file()
            if ours and stale.name not in (generation, old):
                shutil.rmtree(stale, ignore_errors=True)
    return current, sum(size for size, _ in objects.values()) + len(text)


def _holds(folder: Path, objects: dict[str, tuple[int, str]]) -> bool:
    """Whether the objects in a folder have these sizes and SHA-256."""
    with suppress(DamagedError):
        return all(FolderPlace(folder).digest(key) == stated for key, stated in objects.items())
    return False


def _live(out: Path) -> str | None:
    with suppress(Exception):
        return Current.unpack((out / "CURRENT").read_bytes(), "CURRENT").generation
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
