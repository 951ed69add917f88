"""root.bin: all that a Worker needs to plan, one class a section."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..bounded_json import loads
from .bounds import Bounds
from .codecs import CODEC_SECTIONS, LrsqSection
from .index import IndexSection
from .layout import (
    ATTRIBUTE_NAME_BYTES_MAX,
    ATTRIBUTES_MAX,
    BLOCK_ROWS_MAX,
    BOUNDS,
    CENTRES,
    CODEC,
    CONTRACT,
    DIRECTORY,
    ID_PAGES,
    INDEX,
    OBJECTS,
    PROMISES,
    READ_BYTES_MAX,
    REGIONS_VERSION,
    ROOT_MAGIC,
    ROTATION,
    ROUTER,
    SCHEMA,
    SCHEMA_BYTES_MAX,
    SECTION_NAMES,
    SECTION_VERSION,
    VECTOR_BYTES,
    VECTORS,
    Cursor,
    aligned,
    damaged,
    finite,
    pack_object,
    unpack_object,
)
from .promises import PROMISED_VECTORS_MAX, Promises
from .rotations import ROTATION_SECTIONS, Rotation
from .routers import ROUTER_SECTIONS
from .routers.common import RouterSection
from .routers.mlp import MlpSection
from .routers.two_level import TwoLevelSection
from .shard import SPOT_BYTES, BlockPlanes, block_planes


def _router_version(router: RouterSection) -> int:
    """Regions came with version 2."""
    regions = isinstance(router, TwoLevelSection) or isinstance(router, MlpSection) and router.regions is not None
    return REGIONS_VERSION if regions else SECTION_VERSION


SCHEMA_DEPTH_MAX = 16
SCHEMA_PARTS_MAX = 8 * ATTRIBUTES_MAX  # an attribute has five: itself, two names and two texts


def unpack_schema(body: memoryview, label: str) -> Mapping[str, Any]:
    """{"attributes": [{"name": ..., "type": ...}, ...]} in the order of attribute blocks, and perhaps "model": text."""
    if len(body) > SCHEMA_BYTES_MAX:
        raise damaged(label, f"{len(body)} bytes, the limit is {SCHEMA_BYTES_MAX}")
    try:
        schema = loads(body, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX)
        if not all(isinstance(a["name"], str) and isinstance(a["type"], str) for a in schema["attributes"]):
            raise TypeError("a name or type is not text")
        if not isinstance(schema.get("model", ""), str):
            raise TypeError("the model is not text")
        names = [a["name"] for a in schema["attributes"]]
        if len(names) > ATTRIBUTES_MAX or len(set(names)) < len(names):
            raise TypeError(f"{len(names)} attributes, or two of one name; the limit is {ATTRIBUTES_MAX}")
        if max((len(n.encode()) for n in names), default=0) > ATTRIBUTE_NAME_BYTES_MAX:
            raise TypeError(f"a name is longer than {ATTRIBUTE_NAME_BYTES_MAX} bytes")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(label, f"is not a schema ({type(error).__name__}: {error})"[:300]) from None
    checked: Mapping[str, Any] = schema
    return checked


_DIRECTORY = struct.Struct("<II")


@dataclass(frozen=True)
class Directory:
    """Where each of B blocks lies in S shards; blocks are numbered in file order, rows in the order of home blocks.

    shard_blocks (S + 1): first block of each shard. first_row (B + 1): the block's home rows are first_row[b] up to
    first_row[b + 1]. Of its scan block: offset (B) in the shard, size (B) in bytes, rows (B) with copies, crc (B).
    Of its attributes: attribute_offset, attribute_size, attribute_crc, all 0 without attributes.
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

    def span(self) -> int:
        """Bytes of all scan blocks and of what lies between those of a shard."""
        ends = self.shard_blocks
        return sum(
            self.offset[end - 1] + self.size[end - 1] - self.offset[first]
            for first, end in zip(ends[:-1], ends[1:], strict=True)
        )

    def pack(self) -> bytes:
        columns = (
            (self.offset, "Q"), (self.attribute_offset, "Q"), (self.shard_blocks, "I"), (self.first_row, "I"),
            (self.size, "I"), (self.rows, "I"), (self.crc, "I"), (self.attribute_size, "I"), (self.attribute_crc, "I"),
        )  # fmt: skip
        out = _DIRECTORY.pack(len(self.rows), len(self.shard_blocks) - 1)
        return out + b"".join(struct.pack(f"<{len(column)}{code}", *column) for column, code in columns)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, shard_sizes: list[int], label: str) -> Directory:
        cursor = Cursor(body, label)
        blocks, shards = cursor.unpack(_DIRECTORY)
        if blocks != index.blocks or shards != index.shards or shards != len(shard_sizes):
            raise damaged(
                label, f"{blocks} blocks in {shards} shards, the index section says {index.blocks} in {index.shards}"
            )
        offset, attribute_offset = cursor.column("Q", blocks), cursor.column("Q", blocks)
        shard_blocks, first_row = cursor.column("I", shards + 1), cursor.column("I", blocks + 1)
        size, rows, crc, attribute_size, attribute_crc = (cursor.column("I", blocks) for _ in range(5))
        cursor.end()
        if first_row[0] or first_row[blocks] != index.rows or sum(rows) != index.slots:
            counts = f"{first_row[blocks]} rows in {sum(rows)} slots"
            raise damaged(label, f"{counts}, the index section says {index.rows} in {index.slots}")
        if shard_blocks[0] or shard_blocks[shards] != blocks:
            raise damaged(label, "the shards do not cover the blocks")
        for shard in range(shards):
            low, high = shard_blocks[shard], shard_blocks[shard + 1]
            if low >= high:
                raise damaged(label, f"shard {shard} holds no block")
            end = attribute_end = 0
            for b in range(low, high):
                if offset[b] < end or attribute_offset[b] < attribute_end:
                    raise damaged(label, f"block {b} overlaps the block before it")
                end, attribute_end = offset[b] + size[b], attribute_offset[b] + attribute_size[b]
                if end > shard_sizes[shard] or attribute_end > shard_sizes[shard]:
                    raise damaged(label, f"block {b} ends outside of shard {shard} of {shard_sizes[shard]} bytes")
                if size[b] > READ_BYTES_MAX or attribute_size[b] > READ_BYTES_MAX and not index.by_row:
                    longer = max(size[b], 0 if index.by_row else attribute_size[b])
                    raise damaged(label, f"block {b} has {longer} bytes, the limit is {READ_BYTES_MAX}")
                home = first_row[b + 1] - first_row[b]
                if not 0 <= home <= rows[b] <= BLOCK_ROWS_MAX:
                    raise damaged(label, f"block {b} has {rows[b]} rows, {home} of them at home")
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
        cursor = Cursor(body, label)
        blocks, stride = cursor.unpack(_CENTRES)
        if blocks != index.blocks or stride != aligned(index.dimension, 16):
            raise damaged(label, f"{blocks} centres of {stride} bytes for {index.blocks} blocks")
        scale, bias = cursor.column("f", blocks), cursor.column("f", blocks)
        table = cursor.take(blocks * stride)
        cursor.end()
        finite(label, scale, bias)
        return cls(table, scale, bias)


_CONTRACT = struct.Struct("<IIdI4x")
POINT = struct.Struct("<IIddd")  # k, price, recall, bytes, GETs
PRICED_MAX = 1 << 60  # of price times bytes: what the planner adds up in 64 bits


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
        cursor = Cursor(body, label)
        k, gets, target, count = cursor.unpack(_CONTRACT)
        points = tuple(Point(*cursor.unpack(POINT)) for _ in range(min(count, 4096)))
        cursor.end()
        if not 1 <= gets <= 64 or not 0 < target < 1 or not any(p.k == k for p in points):
            raise damaged(label, f"target {target} at k = {k} with {gets} GETs and {len(points)} points")
        if not all(
            p.k >= 1 and 0 <= p.recall <= 1 and 0 <= p.nbytes < math.inf and 0 <= p.gets < math.inf for p in points
        ):
            raise damaged(label, "a point is out of range")
        return cls(k, gets, target, points)


_OBJECTS = struct.Struct("<III")
OBJECTS_MAX = 1 << 16  # shards, and parts: their keys have five digits


@dataclass(frozen=True)
class Objects:
    """Bytes of the objects beside the root: shards and parts in order, and ids.bin (0 when there is none)."""

    shards: list[int]
    parts: list[int]
    ids: int

    def pack(self) -> bytes:
        sizes = [*self.shards, *self.parts]
        return _OBJECTS.pack(len(self.shards), len(self.parts), 0) + struct.pack(
            f"<{len(sizes) + 1}Q", *sizes, self.ids
        )

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Objects:
        cursor = Cursor(body, label)
        shards, parts, _ = cursor.unpack(_OBJECTS)
        if max(shards, parts) > OBJECTS_MAX:
            raise damaged(label, f"{shards} shards and {parts} parts, the limit is {OBJECTS_MAX}")
        sizes = list(cursor.column("Q", shards + parts + 1))
        cursor.end()
        return cls(sizes[:shards], sizes[shards:-1], sizes[-1])


_VECTORS = struct.Struct("<II")
PAGES_FREE, PAGE_ROWS_MIN = 4096, 256  # more than so many pages have on average so many rows


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
        cursor = Cursor(body, label)
        n, _ = cursor.unpack(_VECTORS)
        if n > PAGES_FREE + index.rows // PAGE_ROWS_MIN:
            raise damaged(label, f"{n} pages for {index.rows} rows")
        offset, part, first_row = cursor.column("Q", n), cursor.column("I", n), cursor.column("I", n + 1)
        cursor.end()
        if first_row[0] or first_row[n] != index.rows:
            raise damaged(label, f"its pages hold {first_row[n]} rows, the index section says {index.rows}")
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        for i in range(n):
            if first_row[i] >= first_row[i + 1] or part[i] >= len(parts):
                raise damaged(label, f"page {i} is empty or in part {part[i]} of {len(parts)}")
            if offset[i] + (first_row[i + 1] - first_row[i]) * width > parts[part[i]]:
                raise damaged(label, f"page {i} ends outside of part {part[i]} of {parts[part[i]]} bytes")
        return cls(part, offset, first_row)


ID_PAGE_ROWS = 4096
ID_ENTRY_BYTES = 16  # in each page: u64 hash column, u32 row column, u32 check column (CRC-32C of the full vector)


def id_entry(index: IndexSection) -> int:
    """Bytes of a row in ids.bin: with its spot, three columns of u32 more, where attributes are by row."""
    return ID_ENTRY_BYTES + SPOT_BYTES * index.by_row


_ID_PAGES = struct.Struct("<II")


@dataclass(frozen=True)
class IdPages:
    """ids.bin: pages of ID_PAGE_ROWS (hash of the id, row, check) sorted by hash. first_hash (P), crc (P)."""

    first_hash: memoryview
    crc: memoryview

    def pack(self) -> bytes:
        n = len(self.crc)
        return struct.pack(f"<II{n}Q{n}I", n, ID_PAGE_ROWS, *self.first_hash, *self.crc)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, size: int, label: str) -> IdPages:
        cursor = Cursor(body, label)
        n, page_rows = cursor.unpack(_ID_PAGES)
        first_hash, crc = cursor.column("Q", n), cursor.column("I", n)
        cursor.end()
        if page_rows != ID_PAGE_ROWS or n != -(-index.rows // ID_PAGE_ROWS) or size != index.rows * id_entry(index):
            raise damaged(label, f"{n} pages of {page_rows} ids in {size} bytes for {index.rows} rows")
        return cls(first_hash, crc)


@dataclass(frozen=True)
class Root:
    """All that a query needs before its first read."""

    index: IndexSection
    schema: Mapping[str, Any]
    objects: Objects
    directory: Directory
    centres: Centres
    rotation: Rotation
    router: RouterSection
    codec: LrsqSection
    contract: Contract
    vectors: VectorPages
    id_pages: IdPages
    promises: Promises | None = None  # an index of an earlier builder has none
    bounds: Bounds | None = None  # without them no answer can be proven

    def planes(self, block: int) -> BlockPlanes:
        """Where the planes of a scan block are."""
        return block_planes(self.directory.rows[block], self.codec.code_bytes, self.index.by_row)

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
                (self.rotation.kind, self.rotation.pack()),
                (ROUTER, self.router.pack()),
                (CODEC, self.codec.pack()),
                (CONTRACT, self.contract.pack()),
                (VECTORS, self.vectors.pack()),
                (ID_PAGES, self.id_pages.pack()),
                *([(PROMISES, self.promises.pack())] if self.promises else []),
                *([(BOUNDS, self.bounds.pack())] if self.bounds else []),
            ],
            _router_version(self.router),
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Root:
        """Checks everything, then gives views into `data`, which must stay as it is."""
        sections = unpack_object(data, ROOT_MAGIC, name)

        def body(kind: int) -> tuple[memoryview, str]:
            label = f"{name}, section {SECTION_NAMES[kind]}"
            if kind not in sections:
                raise damaged(label, "is missing")
            return sections[kind], label

        index = IndexSection.unpack(*body(INDEX))
        schema = unpack_schema(*body(SCHEMA))
        objects = Objects.unpack(*body(OBJECTS))

        def of(kind: int, unpack: Any, *more: Any) -> Any:
            data, label = body(kind)
            return unpack(data, *more, label)

        kinds = [kind for kind in ROTATION_SECTIONS if kind in sections]
        if len(kinds) > 1:
            raise damaged(name, "there are two rotations")
        kind = kinds[0] if kinds else ROTATION
        rotation: Rotation = of(kind, ROTATION_SECTIONS[kind].unpack, index)
        directory, contract = of(DIRECTORY, Directory.unpack, index, objects.shards), of(CONTRACT, Contract.unpack)
        nbytes = directory.span()
        promises: Promises | None = of(PROMISES, Promises.unpack) if PROMISES in sections else None
        for kind, prices in (
            (CONTRACT, [p.price for p in contract.points]),
            (PROMISES, [p.price for p in promises.all()] if promises else [0]),
        ):
            if max(prices) * nbytes >= PRICED_MAX:
                raise damaged(
                    f"{name}, section {SECTION_NAMES[kind]}", f"a price for {nbytes} bytes of blocks is out of range"
                )
        ranked = max((p.rerank for p in promises.all()), default=0) if promises else 0
        if ranked * index.dimension * VECTOR_BYTES[index.vector_kind] > PROMISED_VECTORS_MAX:
            raise damaged(f"{name}, section {SECTION_NAMES[PROMISES]}", f"a promise reads {ranked} full vectors")
        codec: LrsqSection = of(CODEC, CODEC_SECTIONS[index.codec].unpack, rotation.axes)
        for b, (n, size) in enumerate(zip(directory.rows, directory.size, strict=True)):
            if size < block_planes(n, codec.code_bytes, index.by_row).ids:
                raise damaged(f"{name}, section {SECTION_NAMES[DIRECTORY]}", f"block {b} of {size} bytes has {n} rows")
        return cls(
            index,
            schema,
            objects,
            directory,
            of(CENTRES, Centres.unpack, index),
            rotation,
            of(ROUTER, ROUTER_SECTIONS[index.router].unpack, index),
            codec,
            contract,
            of(VECTORS, VectorPages.unpack, index, objects.parts),
            of(ID_PAGES, IdPages.unpack, index, objects.ids),
            promises,
            of(BOUNDS, Bounds.unpack, index) if BOUNDS in sections else None,
        )
