"""Every byte layout of format v1, declared once, packed and unpacked here; docs/format.md is its prose.

Little-endian. Objects start with a header and a table of sections, 64-byte aligned, each with length, version and
CRC-32C. A section holds numbers as columns, so that a reader casts them and never parses a row at a time. All that
comes from the store is checked here before anything uses it; what fails is a DamagedError that names the place.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import DamagedError
from .kernels import crc32c

VERSION = 1
ROOT_MAGIC = b"VANTROOT"
SHARD_MAGIC = b"VANTSHRD"
IDS_MAGIC = b"VANTIDS\0"
ALIGN = 64
GROUP = 16  # rows that a scan kernel takes together

# magic, version, sections, bytes of the object, CRC-32C of this header (with this field 0) and the table
HEADER = struct.Struct("<8sIIQII")
# kind, version, offset, bytes, CRC-32C, 0
SECTION = struct.Struct("<IIQQII")

# Kinds of sections of root.bin. Unknown kinds are skipped.
INDEX, SCHEMA, OBJECTS, DIRECTORY, CENTRES, ROTATION, ROUTER, CODEC, CONTRACT, VECTORS, ID_PAGES = range(1, 12)
# Kinds of sections of a shard, and the planes kept for later versions.
SCAN, REFINEMENT, ATTRIBUTES, ERROR_NORMS, DELTA, TOMBSTONES = range(32, 38)
SECTION_NAMES = {
    INDEX: "index", SCHEMA: "schema", OBJECTS: "objects", DIRECTORY: "directory", CENTRES: "centres",
    ROTATION: "rotation", ROUTER: "router", CODEC: "codec", CONTRACT: "contract", VECTORS: "vectors",
    ID_PAGES: "id pages", SCAN: "scan", ATTRIBUTES: "attributes",
}  # fmt: skip

METRICS = ("cosine", "l2", "dot")
ID_KINDS = ("i64", "bytes")
VECTOR_KINDS = ("f16", "f32", "u8", "i8")
VECTOR_BYTES = {"f16": 2, "f32": 4, "u8": 1, "i8": 1}
CODECS = ("lrsq",)
ROUTERS = ("lse",)

DIMENSION_MAX = 4096
BLOCKS_MAX = 1 << 20
BLOCK_ROWS_MAX = 1 << 20
ID_BYTES_MAX = 512
ID_WIDTH_MAX = 32  # a longer id makes its block keep offsets


def aligned(n: int, to: int = ALIGN) -> int:
    """n rounded up to a multiple of `to`."""
    return -(-n // to) * to


def _damaged(where: str, what: str) -> DamagedError:
    return DamagedError(f"{where}: {what}", hint="the object is damaged: publish the index again, or build it again")


# ------------------------------------------------------------------------------------------------ objects of sections
def pack_object(magic: bytes, sections: list[tuple[int, bytes]]) -> bytes:
    """Header, table and sections of (kind, body), aligned."""
    at = aligned(HEADER.size + SECTION.size * len(sections))
    table = bytearray()
    for kind, body in sections:
        table += SECTION.pack(kind, VERSION, at, len(body), crc32c(body), 0)
        at = aligned(at + len(body))
    head = HEADER.pack(magic, VERSION, len(sections), at, 0, 0)
    head = HEADER.pack(magic, VERSION, len(sections), at, crc32c(head + table), 0)
    out = bytearray(at)
    out[: len(head) + len(table)] = head + table
    for i, (_, body) in enumerate(sections):
        offset = SECTION.unpack_from(table, SECTION.size * i)[2]
        out[offset : offset + len(body)] = body
    return bytes(out)


def unpack_object(data: bytes | memoryview, magic: bytes, name: str) -> dict[int, memoryview]:
    """kind -> body of every section, sizes and checksums verified; `name` is for the errors."""
    view = memoryview(data).toreadonly()
    if len(view) < HEADER.size:
        raise _damaged(name, f"{len(view)} bytes, shorter than its header of {HEADER.size}")
    found, version, count, total, crc, _ = HEADER.unpack_from(view)
    if found != magic:
        raise _damaged(name, f"magic is {found!r}, not {magic!r}")
    if version != VERSION:
        raise DamagedError(f"{name}: format version {version}", hint=f"this reader knows version {VERSION}: update it")
    if total != len(view):
        raise _damaged(name, f"{len(view)} bytes, its header says {total}")
    end = HEADER.size + SECTION.size * count
    if count > 1024 or end > total:
        raise _damaged(name, f"a table of {count} sections does not fit")
    if crc32c(bytes(view[:24]) + bytes(8) + view[HEADER.size : end]) != crc:
        raise _damaged(name, "checksum of the section table differs")
    sections: dict[int, memoryview] = {}
    last = end
    for i in range(count):
        kind, section_version, offset, length, crc, _ = SECTION.unpack_from(view, HEADER.size + SECTION.size * i)
        label = f"{name}, section {SECTION_NAMES.get(kind, kind)}"
        if offset % ALIGN or offset < last or offset + length > total:
            raise _damaged(label, f"bytes {offset} to {offset + length} overlap or are outside of {total}")
        last = offset + length
        if kind not in SECTION_NAMES:
            continue
        if section_version != VERSION:
            raise DamagedError(f"{label}: version {section_version}", hint=f"this reader knows version {VERSION}")
        body = view[offset : offset + length]
        if crc32c(body) != crc:
            raise _damaged(label, "checksum differs")
        if kind in sections:
            raise _damaged(label, "stands there twice")
        sections[kind] = body
    return sections


class _Cursor:
    """Takes structs and columns off a section, refusing to pass its end."""

    def __init__(self, body: memoryview, label: str) -> None:
        self.body, self.label, self.at = body, label, 0

    def take(self, n: int) -> memoryview:
        if n < 0 or self.at + n > len(self.body):
            raise _damaged(self.label, f"needs {self.at + n} bytes, has {len(self.body)}")
        self.at += n
        return self.body[self.at - n : self.at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def column(self, code: str, n: int) -> memoryview:
        return self.take(n * struct.calcsize(code)).cast(code)

    def end(self) -> None:
        if self.at != len(self.body):
            raise _damaged(self.label, f"{len(self.body) - self.at} bytes too many")


# ----------------------------------------------------------------------------------------------------- sections of root
_INDEX = struct.Struct("<IIQIIIIIIdI4x")


@dataclass(frozen=True)
class IndexSection:
    """What the index is. row_scale: stored rows are source rows times this (1 for cosine, which scales to norm 1)."""

    metric: str
    dimension: int
    rows: int
    blocks: int
    shards: int
    id_kind: str
    vector_kind: str
    codec: str
    router: str
    row_scale: float
    places: int  # rows in blocks, copies counted

    def pack(self) -> bytes:
        return _INDEX.pack(
            METRICS.index(self.metric), self.dimension, self.rows, self.blocks, self.shards,
            ID_KINDS.index(self.id_kind), VECTOR_KINDS.index(self.vector_kind), CODECS.index(self.codec),
            ROUTERS.index(self.router), self.row_scale, self.places,
        )  # fmt: skip

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> IndexSection:
        cursor = _Cursor(body, label)
        metric, dimension, rows, blocks, shards, ids, vectors, codec, router, scale, places = cursor.unpack(_INDEX)
        cursor.end()

        def name(table: tuple[str, ...], i: int, what: str) -> str:
            if i >= len(table):
                raise DamagedError(f"{label}: {what} number {i} is unknown", hint="a newer builder made it: update")
            return table[i]

        if not 1 <= dimension <= DIMENSION_MAX or not 1 <= blocks <= BLOCKS_MAX or not 1 <= shards <= blocks:
            raise _damaged(label, f"dimension {dimension}, blocks {blocks}, shards {shards}")
        if not 0 < scale < 1e30 or not 1 <= rows <= places < 1 << 32:
            raise _damaged(label, f"row scale {scale}, rows {rows}, places {places}")
        return cls(
            name(METRICS, metric, "metric"), dimension, rows, blocks, shards, name(ID_KINDS, ids, "id kind"),
            name(VECTOR_KINDS, vectors, "vector kind"), name(CODECS, codec, "codec"), name(ROUTERS, router, "router"),
            scale, places,
        )  # fmt: skip


_DIRECTORY = struct.Struct("<II")


@dataclass(frozen=True)
class Directory:
    """Where each of B blocks lies in S shards; blocks are numbered in file order, rows in the order of home blocks.

    shard_blocks (S + 1): first block of each shard. first_row (B + 1): the block's home rows are first_row[b] up to
    first_row[b + 1]. Of the scan section: offset (B) in the shard, size (B) in bytes, rows (B) copies included, crc (B).
    Of the attributes: attribute_offset, attribute_size, attribute_crc, all 0 without attributes.
    """

    shard_blocks: memoryview
    first_row: memoryview
    offset: memoryview
    size: memoryview
    rows: memoryview
    crc: memoryview
    attribute_offset: memoryview
    attribute_size: memoryview
    attribute_crc: memoryview

    def pack(self) -> bytes:
        columns = (
            (self.offset, "Q"), (self.attribute_offset, "Q"), (self.shard_blocks, "I"), (self.first_row, "I"),
            (self.size, "I"), (self.rows, "I"), (self.crc, "I"), (self.attribute_size, "I"), (self.attribute_crc, "I"),
        )  # fmt: skip
        out = _DIRECTORY.pack(len(self.rows), len(self.shard_blocks) - 1)
        return out + b"".join(struct.pack(f"<{len(column)}{code}", *column) for column, code in columns)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, shard_sizes: list[int], label: str) -> Directory:
        cursor = _Cursor(body, label)
        blocks, shards = cursor.unpack(_DIRECTORY)
        if blocks != index.blocks or shards != index.shards or shards != len(shard_sizes):
            raise _damaged(label, f"{blocks} blocks in {shards} shards, the index section says {index.blocks} in {index.shards}")
        offset, attribute_offset = cursor.column("Q", blocks), cursor.column("Q", blocks)
        shard_blocks, first_row = cursor.column("I", shards + 1), cursor.column("I", blocks + 1)
        size, rows, crc, attribute_size, attribute_crc = (cursor.column("I", blocks) for _ in range(5))
        cursor.end()
        if first_row[0] or first_row[blocks] != index.rows or sum(rows) != index.places:
            raise _damaged(label, f"its blocks hold {first_row[blocks]} rows, the index section says {index.rows}")
        if shard_blocks[0] or shard_blocks[shards] != blocks:
            raise _damaged(label, "the shards do not cover the blocks")
        for shard in range(shards):
            low, high = shard_blocks[shard], shard_blocks[shard + 1]
            if low >= high:
                raise _damaged(label, f"shard {shard} holds no block")
            end = attribute_end = 0
            for b in range(low, high):
                if offset[b] < end or attribute_offset[b] < attribute_end:
                    raise _damaged(label, f"block {b} overlaps the block before it")
                end, attribute_end = offset[b] + size[b], attribute_offset[b] + attribute_size[b]
                if end > shard_sizes[shard] or attribute_end > shard_sizes[shard]:
                    raise _damaged(label, f"block {b} ends outside of shard {shard} of {shard_sizes[shard]} bytes")
                home = first_row[b + 1] - first_row[b]
                if not 0 <= home <= rows[b] <= BLOCK_ROWS_MAX:
                    raise _damaged(label, f"block {b} has {rows[b]} rows, {home} of them at home")
        return cls(shard_blocks, first_row, offset, size, rows, crc, attribute_offset, attribute_size, attribute_crc)


_CENTRES = struct.Struct("<II")


@dataclass(frozen=True)
class Centres:
    """Block centres, i8 (B, padded d) times scale (B); bias (B) is -|c|^2 / 2 under l2, else 0."""

    table: memoryview
    scale: memoryview
    bias: memoryview

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _CENTRES.pack(n, len(self.table) // n)
            + struct.pack(f"<{n}f", *self.scale)
            + struct.pack(f"<{n}f", *self.bias)
            + bytes(self.table)
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> Centres:
        cursor = _Cursor(body, label)
        blocks, stride = cursor.unpack(_CENTRES)
        if blocks != index.blocks or stride != aligned(index.dimension, 16):
            raise _damaged(label, f"{blocks} centres of {stride} bytes for {index.blocks} blocks")
        scale, bias = cursor.column("f", blocks), cursor.column("f", blocks)
        table = cursor.take(blocks * stride)
        cursor.end()
        _finite(label, scale, bias)
        return cls(table, scale, bias)


def _finite(label: str, *columns: memoryview) -> None:
    for column in columns:
        if not all(-1e30 < v < 1e30 for v in column):
            raise _damaged(label, "holds a number that is not finite")


_ROTATION = struct.Struct("<II")


def pack_rotation(axes: int, dimension: int, f16_rows: bytes) -> bytes:
    """f16 (axes, dimension), orthonormal rows."""
    return _ROTATION.pack(axes, dimension) + f16_rows


def unpack_rotation(body: memoryview, index: IndexSection, label: str) -> tuple[int, memoryview]:
    """(axes, f16 rows as bytes)."""
    cursor = _Cursor(body, label)
    axes, dimension = cursor.unpack(_ROTATION)
    if dimension != index.dimension or not 1 <= axes <= dimension:
        raise _damaged(label, f"{axes} axes of {dimension} dimensions for an index of {index.dimension}")
    rows = cursor.take(2 * axes * dimension)
    cursor.end()
    if any(v & 0x7C00 == 0x7C00 for v in rows.cast("H")):
        raise _damaged(label, "holds a number that is not finite")
    return axes, rows


_LSE = struct.Struct("<IIIff")


@dataclass(frozen=True)
class LseSection:
    """Router lse: `subs` sub-centroids a block, bits 4 or 8. Score of a block: temperature * log sum_s exp(weight_s + beta scale_s <q, c_s>)."""

    bits: int
    subs: int
    beta: float
    temperature: float
    table: memoryview
    scale: memoryview
    weight: memoryview

    @staticmethod
    def stride(bits: int, dimension: int) -> int:
        """Bytes of one sub-centroid."""
        return aligned(dimension, 32) // 2 if bits == 4 else aligned(dimension, 16)

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _LSE.pack(n, self.bits, self.subs, self.beta, self.temperature)
            + struct.pack(f"<{n}f", *self.scale)
            + struct.pack(f"<{n}f", *self.weight)
            + bytes(self.table)
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> LseSection:
        cursor = _Cursor(body, label)
        n, bits, subs, beta, temperature = cursor.unpack(_LSE)
        if bits not in (4, 8) or not 1 <= subs <= 64 or n != index.blocks * subs:
            raise _damaged(label, f"{n} sub-centroids of {bits} bits, {subs} a block, for {index.blocks} blocks")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise _damaged(label, f"beta {beta}, temperature {temperature}")
        scale, weight = cursor.column("f", n), cursor.column("f", n)
        table = cursor.take(n * cls.stride(bits, index.dimension))
        cursor.end()
        _finite(label, scale)
        if not all(w < 1e30 for w in weight):  # -inf: no such sub-centroid
            raise _damaged(label, "holds a weight that is not a number")
        return cls(bits, subs, beta, temperature, table, scale, weight)


_LRSQ = struct.Struct("<IIII")
FIELD = struct.Struct("<HBBI")  # axis, shift in the nibble, width in bits, first of its 2^width levels


@dataclass(frozen=True)
class LrsqSection:
    """Codec lrsq: 2 * code_bytes nibbles; nibble n is fields starts[n] up to starts[n + 1].

    A field is worth levels[level_at + its bits] * deviation[axis]. Low nibble of a code byte first.
    """

    code_bytes: int
    deviation: Any  # f32 column
    fields: Any  # FIELD each
    starts: Any  # u32 column
    levels: Any  # f32 column

    def pack(self) -> bytes:
        return (
            _LRSQ.pack(self.code_bytes, len(self.deviation), len(self.fields) // FIELD.size, len(self.levels))
            + bytes(self.fields)
            + struct.pack(f"<{len(self.deviation)}f", *self.deviation)
            + struct.pack(f"<{len(self.starts)}I", *self.starts)
            + struct.pack(f"<{len(self.levels)}f", *self.levels)
        )

    @classmethod
    def unpack(cls, body: memoryview, axes: int, label: str) -> LrsqSection:
        cursor = _Cursor(body, label)
        code_bytes, width, fields, levels = cursor.unpack(_LRSQ)
        if width != axes or not 1 <= code_bytes <= 7680:
            raise _damaged(label, f"{code_bytes} bytes of {width} axes, the rotation has {axes}")
        table = cursor.take(fields * FIELD.size)
        deviation = cursor.column("f", axes)
        starts = cursor.column("I", 2 * code_bytes + 1)
        level = cursor.column("f", levels)
        cursor.end()
        _finite(label, deviation, level)
        if starts[0] or starts[2 * code_bytes] != fields or any(a > b for a, b in zip(starts, starts[1:], strict=False)):
            raise _damaged(label, "the nibbles do not cover the fields")
        for axis, shift, bits, at in FIELD.iter_unpack(table):
            if axis >= axes or not 1 <= bits <= 4 or shift + bits > 4 or at + (1 << bits) > levels:
                raise _damaged(label, f"a field of {bits} bits at {shift} of axis {axis} is outside")
        return cls(code_bytes, deviation, table, starts, level)


_CONTRACT = struct.Struct("<IIdI4x")
POINT = struct.Struct("<IIddd")  # k, price, recall, bytes, GETs


@dataclass(frozen=True)
class Point:
    """What a price gave on held-out rows: recall@k, and means of bytes and GETs a query, nothing cached."""

    k: int
    price: int
    recall: float
    nbytes: float
    gets: float


@dataclass(frozen=True)
class Contract:
    """The recall asked for at k, the most GETs a plan may use, and the measured points by rising recall."""

    k: int
    gets: int
    target: float
    points: tuple[Point, ...]

    def pack(self) -> bytes:
        out = _CONTRACT.pack(self.k, self.gets, self.target, len(self.points))
        return out + b"".join(POINT.pack(p.k, p.price, p.recall, p.nbytes, p.gets) for p in self.points)

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Contract:
        cursor = _Cursor(body, label)
        k, gets, target, count = cursor.unpack(_CONTRACT)
        points = tuple(Point(*cursor.unpack(POINT)) for _ in range(min(count, 4096)))
        cursor.end()
        if not 1 <= gets <= 64 or not 0 < target < 1 or not any(p.k == k for p in points):
            raise _damaged(label, f"target {target} at k = {k} with {gets} GETs and {len(points)} points")
        if not all(p.price < 1 << 32 and 0 <= p.recall <= 1 and p.k >= 1 for p in points):
            raise _damaged(label, "a point is out of range")
        return cls(k, gets, target, points)


_OBJECTS = struct.Struct("<III")


@dataclass(frozen=True)
class Objects:
    """Bytes of the objects beside the root: shards and parts in order, and ids.bin (0 when there is none)."""

    shards: list[int]
    parts: list[int]
    ids: int

    def pack(self) -> bytes:
        sizes = [*self.shards, *self.parts]
        return _OBJECTS.pack(len(self.shards), len(self.parts), 0) + struct.pack(f"<{len(sizes) + 1}Q", *sizes, self.ids)

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Objects:
        cursor = _Cursor(body, label)
        shards, parts, _ = cursor.unpack(_OBJECTS)
        sizes = list(cursor.column("Q", shards + parts + 1))
        cursor.end()
        return cls(sizes[:shards], sizes[shards:-1], sizes[-1])


_VECTORS = struct.Struct("<II")


@dataclass(frozen=True)
class VectorPages:
    """Where the full vectors of a page of rows lie: part (P), offset (P) of the first value, first_row (P + 1)."""

    part: memoryview
    offset: memoryview
    first_row: memoryview

    def pack(self) -> bytes:
        n = len(self.part)
        return _VECTORS.pack(n, 0) + struct.pack(f"<{n}Q{n}I{n + 1}I", *self.offset, *self.part, *self.first_row)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, parts: list[int], label: str) -> VectorPages:
        cursor = _Cursor(body, label)
        n, _ = cursor.unpack(_VECTORS)
        offset, part, first_row = cursor.column("Q", n), cursor.column("I", n), cursor.column("I", n + 1)
        cursor.end()
        if first_row[0] or first_row[n] != index.rows:
            raise _damaged(label, f"its pages hold {first_row[n]} rows, the index section says {index.rows}")
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        for i in range(n):
            if first_row[i] >= first_row[i + 1] or part[i] >= len(parts):
                raise _damaged(label, f"page {i} is empty or in part {part[i]} of {len(parts)}")
            if offset[i] + (first_row[i + 1] - first_row[i]) * width > parts[part[i]]:
                raise _damaged(label, f"page {i} ends outside of part {part[i]} of {parts[part[i]]} bytes")
        return cls(part, offset, first_row)


ID_PAGE_ROWS = 4096
ID_ENTRY_BYTES = 16  # in each page: u64 hash column, u32 row column, u32 check column (CRC-32C of the full vector)


@dataclass(frozen=True)
class IdPages:
    """ids.bin: pages of (hash of the id, row, check) sorted by hash, then row. first_hash (P), crc (P); ID_PAGE_ROWS rows each."""

    first_hash: memoryview
    crc: memoryview

    def pack(self) -> bytes:
        n = len(self.crc)
        return struct.pack(f"<II{n}Q{n}I", n, ID_PAGE_ROWS, *self.first_hash, *self.crc)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, size: int, label: str) -> IdPages:
        cursor = _Cursor(body, label)
        n, page_rows = cursor.unpack(_VECTORS)
        first_hash, crc = cursor.column("Q", n), cursor.column("I", n)
        cursor.end()
        if page_rows != ID_PAGE_ROWS or n != -(-index.rows // ID_PAGE_ROWS) or size != index.rows * ID_ENTRY_BYTES:
            raise _damaged(label, f"{n} pages of {page_rows} ids in {size} bytes for {index.rows} rows")
        return cls(first_hash, crc)


# ---------------------------------------------------------------------------------------------------------------- root
@dataclass(frozen=True)
class Root:
    """All that a query needs before its first read."""

    index: IndexSection
    schema: Mapping[str, Any]
    objects: Objects
    directory: Directory
    centres: Centres
    axes: int
    rotation: memoryview
    router: LseSection
    codec: LrsqSection
    contract: Contract
    vectors: VectorPages
    id_pages: IdPages

    def pack(self) -> bytes:
        """root.bin."""
        return pack_object(
            ROOT_MAGIC,
            [
                (INDEX, self.index.pack()),
                (SCHEMA, json.dumps(self.schema, sort_keys=True, separators=(",", ":")).encode()),
                (OBJECTS, self.objects.pack()),
                (DIRECTORY, self.directory.pack()),
                (CENTRES, self.centres.pack()),
                (ROTATION, pack_rotation(self.axes, self.index.dimension, bytes(self.rotation))),
                (ROUTER, self.router.pack()),
                (CODEC, self.codec.pack()),
                (CONTRACT, self.contract.pack()),
                (VECTORS, self.vectors.pack()),
                (ID_PAGES, self.id_pages.pack()),
            ],
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Root:
        """Checks everything, then gives views into `data`, which must stay as it is."""
        sections = unpack_object(data, ROOT_MAGIC, name)

        def body(kind: int) -> tuple[memoryview, str]:
            label = f"{name}, section {SECTION_NAMES[kind]}"
            if kind not in sections:
                raise _damaged(label, "is missing")
            return sections[kind], label

        index = IndexSection.unpack(*body(INDEX))
        try:
            schema = json.loads(bytes(body(SCHEMA)[0]))
        except ValueError as error:
            raise _damaged(body(SCHEMA)[1], f"is not JSON: {error}") from None
        objects = Objects.unpack(*body(OBJECTS))

        def of(kind: int, unpack: Any, *more: Any) -> Any:
            data, label = body(kind)
            return unpack(data, *more, label)

        axes, rotation = of(ROTATION, unpack_rotation, index)
        return cls(
            index,
            schema,
            objects,
            of(DIRECTORY, Directory.unpack, index, objects.shards),
            of(CENTRES, Centres.unpack, index),
            axes,
            rotation,
            of(ROUTER, LseSection.unpack, index),
            of(CODEC, LrsqSection.unpack, axes),
            of(CONTRACT, Contract.unpack),
            of(VECTORS, VectorPages.unpack, index, objects.parts),
            of(ID_PAGES, IdPages.unpack, index, objects.ids),
        )


# ------------------------------------------------------------------------------------------------------ blocks of a shard
# Scan block: this header, then code groups, f (u8), h (u8), row numbers (u32), checks (u32: CRC-32C of the row's full
# vector, so that a vector read alone is verified too), ids. All but the ids padded to GROUP rows.
BLOCK = struct.Struct("<IIffff8x")  # rows, id width (0: offsets), f_lo, f_step, h_lo, h_step
RANGES_AT = 8  # of f_lo in it


@dataclass(frozen=True)
class BlockPlanes:
    """Byte offsets of the planes of a scan block of n rows, from its start."""

    n: int
    codes: int
    f: int
    h: int
    rows: int
    checks: int
    ids: int


def block_planes(n: int, code_bytes: int) -> BlockPlanes:
    """Planes follow from the row count alone; row numbers are 4-byte aligned."""
    padded = aligned(n, GROUP)
    codes = BLOCK.size
    f = codes + padded * code_bytes
    return BlockPlanes(n, codes, f, f + padded, f + 2 * padded, f + 6 * padded, f + 10 * padded)


def pack_block(n: int, width: int, ranges: tuple[float, float, float, float], planes: list[bytes], ids: bytes) -> bytes:
    """A scan block; planes are code groups, f, h, row numbers and checks, already padded to GROUP rows."""
    return BLOCK.pack(n, width, *ranges) + b"".join(planes) + ids


def id_width(block: bytes | memoryview, planes: BlockPlanes, label: str) -> int:
    """Checks a scan block against what the directory says of it; its id width, 0 where ids have offsets."""
    if len(block) < planes.ids:
        raise _damaged(label, f"{len(block)} bytes for {planes.n} rows")
    n, width, *ranges = BLOCK.unpack_from(block)
    if n != planes.n:
        raise _damaged(label, f"it says {n} rows, the directory {planes.n}")
    if not all(-1e30 < v < 1e30 for v in ranges):
        raise _damaged(label, "a factor range is not finite")
    ids = n * width if width else 4 * (n + 1)
    if width > ID_WIDTH_MAX or len(block) < planes.ids + ids:
        raise _damaged(label, f"ids of width {width} do not fit")
    return int(width)


def pack_ids(ids: list[bytes]) -> tuple[int, bytes]:
    """(width, plane): fixed width when no id is longer than ID_WIDTH_MAX or ends in NUL, else offsets and bytes."""
    longest = max(map(len, ids))
    if longest <= ID_WIDTH_MAX and not any(i.endswith(b"\0") for i in ids):
        return longest, b"".join(i.ljust(longest, b"\0") for i in ids)
    offsets, at = [0], 0
    for i in ids:
        at += len(i)
        offsets.append(at)
    return 0, struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(ids)


def id_at(plane: bytes | memoryview, width: int, n: int, i: int, kind: str, label: str) -> int | bytes:
    """Id of row i of n in an id plane."""
    if kind == "i64":
        return int(struct.unpack_from("<q", plane, 8 * i)[0])
    if width:
        return bytes(plane[width * i : width * (i + 1)]).rstrip(b"\0")
    low, high = struct.unpack_from("<2I", plane, 4 * i)
    start = 4 * (n + 1)
    if low > high or high - low > ID_BYTES_MAX or start + high > len(plane):
        raise _damaged(label, f"id {i} is at bytes {low} to {high}")
    return bytes(plane[start + low : start + high])


def pack_attributes(rows: list[bytes]) -> bytes:
    """Attribute block: u32 offsets (n + 1), then a JSON array a row, in the order of the schema."""
    offsets, at = [0], 0
    for row in rows:
        at += len(row)
        offsets.append(at)
    return struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(rows)


def attributes_at(block: bytes | memoryview, n: int, i: int, names: list[str], label: str) -> dict[str, Any]:
    """Attributes of home row i of n."""
    start = 4 * (n + 1)
    low, high = struct.unpack_from("<2I", block, 4 * i) if start <= len(block) else (1, 0)
    if low > high or start + high > len(block):
        raise _damaged(label, f"attributes of row {i} are at bytes {low} to {high}")
    try:
        values = json.loads(bytes(block[start + low : start + high]))
    except ValueError as error:
        raise _damaged(label, f"attributes of row {i} are not JSON: {error}") from None
    if not isinstance(values, list) or len(values) != len(names):
        raise _damaged(label, f"row {i} has not the {len(names)} attributes of the schema")
    return dict(zip(names, values, strict=True))


# --------------------------------------------------------------------------------------------------------------- CURRENT
@dataclass(frozen=True)
class ObjectName:
    """An object with its size and SHA-256 (hex)."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Current:
    """CURRENT: names the live generation; the only object that is ever replaced."""

    generation: str
    root: ObjectName
    manifest: ObjectName
    extra: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        return (
            json.dumps(
                {"format": VERSION, "generation": self.generation, "root": vars(self.root), "manifest": vars(self.manifest)},
                indent=1,
            ).encode()
            + b"\n"
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Current:
        try:
            value = json.loads(bytes(data))
            if value["format"] != VERSION:
                raise DamagedError(f"{name}: format {value['format']}", hint=f"this reader knows version {VERSION}: update it")
            names = {k: ObjectName(str(v["key"]), int(v["size"]), str(v["sha256"])) for k, v in value.items() if isinstance(v, dict)}
            return cls(str(value["generation"]), names["root"], names["manifest"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(name, f"is not a valid CURRENT ({type(error).__name__}: {error})") from None


ROOT_BYTES_MAX = 64 << 20


def shard_key(generation: str, number: int) -> str:
    return f"{generation}/shard-{number:05d}.bin"


def part_key(generation: str, number: int) -> str:
    return f"{generation}/vectors/part-{number:05d}.parquet"
