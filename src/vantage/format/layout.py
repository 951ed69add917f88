"""The common layout: objects of sections with sizes and checksums, and the checks that every reader needs."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

from ..errors import DamagedError
from ..kernels import crc32c

VERSION = 2
SECTION_VERSION = 1
REGIONS_VERSION = 2  # of the section of a router with regions: no earlier reader can use it
ROOT_MAGIC = b"VANTROOT"
SHARD_MAGIC = b"VANTSHRD"
ALIGN = 64
GROUP = 16  # rows that a scan kernel takes together

# magic, version, sections, bytes of the object, CRC-32C of this header (with this field 0) and the table
HEADER = struct.Struct("<8sIIQII")
# kind, version, offset, bytes, CRC-32C, 0
SECTION = struct.Struct("<IIQQII")

# Kinds of sections of root.bin. Unknown kinds are skipped.
INDEX, SCHEMA, OBJECTS, DIRECTORY, CENTRES, ROTATION, ROUTER, CODEC, CONTRACT, ROW_PAGES, ID_PAGES, PROMISES = range(
    1, 13
)
BOUNDS = 13
BUTTERFLY = 14  # in the place of ROTATION
RENDITIONS = 15
INLINE = 16  # bytes of the root that its directory of objects names as an object of its own
NIBBLES = 17  # in the place of ROTATION
FILTERS = 18
COUNTS = 19
PROJECTIONS = 20
FILTER_PROMISES = 21
DEAD = 22
# The kind of the section of a shard.
SCAN = 32
# The kinds of the sections of the log's objects.
LOG_SEGMENT, LOG_LEDGER = 48, 49
SECTION_NAMES = {
    INDEX: "index", SCHEMA: "schema", OBJECTS: "objects", DIRECTORY: "directory", CENTRES: "centres",
    ROTATION: "rotation", ROUTER: "router", CODEC: "codec", CONTRACT: "contract", ROW_PAGES: "row pages",
    ID_PAGES: "id pages", PROMISES: "promises", BOUNDS: "bounds", BUTTERFLY: "butterfly", RENDITIONS: "renditions",
    INLINE: "inline", NIBBLES: "nibbles", FILTERS: "filters", COUNTS: "counts", PROJECTIONS: "projections",
    FILTER_PROMISES: "promises under filters", DEAD: "dead rows", SCAN: "scan", LOG_SEGMENT: "log segment",
    LOG_LEDGER: "ledger",
}  # fmt: skip

METRICS = ("cosine", "l2", "dot")
ID_KINDS = ("i64", "bytes")
VECTOR_KINDS = ("f16", "f32", "u8", "i8")
VECTOR_BYTES = {"f16": 2, "f32": 4, "u8": 1, "i8": 1}
CODECS = ("lrsq", "rabitq", "pq", "sign", "ecvh")
ROUTERS = ("lse", "centroids", "trained", "two-level", "mlp", "tree", "ecvh", "two-level-ecvh", "bec-tree")

DIMENSION_MAX = 4096
AXES_MAX = 8192  # directions of a rotation
BLOCKS_MAX = 1 << 20
BLOCK_ROWS_MAX = 1 << 20
ID_BYTES_MAX = 512
ID_WIDTH_MAX = 32  # a longer id makes its block keep offsets
READ_BYTES_MAX = 4 << 20  # of what is verified as one: a block, a routing page; the buffer grows to no more
ATTRIBUTES_MAX = 4096
ATTRIBUTE_NAME_BYTES_MAX = 512
SCHEMA_BYTES_MAX = 256 << 10
ATTRIBUTE_ROW_BYTES_MAX = 1 << 20  # of a row's JSON
ATTRIBUTE_ROW_DEPTH_MAX = 65  # lists and objects open in each other: 64 of a value, and the row's own list
ATTRIBUTE_ROW_PARTS_MAX = 1 << 15  # lists, objects and texts


def aligned(n: int, to: int = ALIGN) -> int:
    """n rounded up to a multiple of `to`."""
    return -(-n // to) * to


def damaged(where: str, what: str) -> DamagedError:
    return DamagedError(f"{where}: {what}", hint="the object is damaged: publish the index again, or build it again")


def other_version(where: str, version: Any) -> DamagedError:
    """The error for an object of another version of the format."""
    older = isinstance(version, int) and version < VERSION
    hint = f"this reader knows version {VERSION}: {'build the index again' if older else 'update the reader'}"
    return DamagedError(f"{where}: format version {version!r}"[:200], hint=hint)


def pack_head(
    magic: bytes, total: int, sections: list[tuple[int, int, int, int]], router_version: int = SECTION_VERSION
) -> bytes:
    """Header and table of an object of `total` bytes; sections are (kind, offset, bytes, CRC-32C)."""
    table = b"".join(
        SECTION.pack(kind, router_version if kind == ROUTER else SECTION_VERSION, at, length, crc, 0)
        for kind, at, length, crc in sections
    )
    head = HEADER.pack(magic, VERSION, len(sections), total, 0, 0)
    return HEADER.pack(magic, VERSION, len(sections), total, crc32c(head + table), 0) + table


def pack_object(magic: bytes, sections: list[tuple[int, bytes]], router_version: int = SECTION_VERSION) -> bytes:
    """Header, table and sections of (kind, body), aligned."""
    at, entries = aligned(HEADER.size + SECTION.size * len(sections)), []
    for kind, body in sections:
        entries.append((kind, at, len(body), crc32c(body)))
        at = aligned(at + len(body))
    out, head = bytearray(at), pack_head(magic, at, entries, router_version)
    out[: len(head)] = head
    for (_, offset, length, _), (_, body) in zip(entries, sections, strict=True):
        out[offset : offset + length] = body
    return bytes(out)


def unpack_object(data: bytes | memoryview, magic: bytes, name: str) -> dict[int, memoryview]:
    """kind -> body of every section, sizes and checksums verified; `name` is for the errors."""
    view = memoryview(data).toreadonly()
    if len(view) < HEADER.size:
        raise damaged(name, f"{len(view)} bytes, shorter than its header of {HEADER.size}")
    own, version, count, total, crc, _ = HEADER.unpack_from(view)
    if own != magic:
        raise damaged(name, f"magic is {own!r}, not {magic!r}")
    if version != VERSION:
        raise other_version(name, version)
    if total != len(view):
        raise damaged(name, f"{len(view)} bytes, its header says {total}")
    end = HEADER.size + SECTION.size * count
    if count > 1024 or end > total:
        raise damaged(name, f"a table of {count} sections does not fit")
    if crc32c(bytes(view[:24]) + bytes(8) + view[HEADER.size : end]) != crc:
        raise damaged(name, "checksum of the section table differs")
    sections: dict[int, memoryview] = {}
    last = end
    for i in range(count):
        kind, section_version, offset, length, crc, _ = SECTION.unpack_from(view, HEADER.size + SECTION.size * i)
        label = f"{name}, section {SECTION_NAMES.get(kind, kind)}"
        if offset % ALIGN or offset < last or offset + length > total:
            raise damaged(label, f"bytes {offset} to {offset + length} overlap or are outside of {total}")
        last = offset + length
        if kind not in SECTION_NAMES:
            continue
        newest = REGIONS_VERSION if kind == ROUTER else SECTION_VERSION
        if not SECTION_VERSION <= section_version <= newest:
            raise DamagedError(f"{label}: version {section_version}", hint=f"this reader knows version {newest}")
        body = view[offset : offset + length]
        if crc32c(body) != crc:
            raise damaged(label, "checksum differs")
        if kind in sections:
            raise damaged(label, "stands there twice")
        sections[kind] = body
    return sections


class Cursor:
    """Takes structs and columns off a section, refusing to pass its end."""

    def __init__(self, body: memoryview, label: str) -> None:
        self.body, self.label, self.at = body, label, 0

    def take(self, n: int) -> memoryview:
        if n < 0 or self.at + n > len(self.body):
            raise damaged(self.label, f"needs {self.at + n} bytes, has {len(self.body)}")
        self.at += n
        return self.body[self.at - n : self.at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def column(self, code: str, n: int) -> Any:
        """A memoryview of n numbers of this struct code."""
        return self.take(n * struct.calcsize(code)).cast(code)  # type: ignore[call-overload]

    def end(self) -> None:
        if self.at != len(self.body):
            raise damaged(self.label, f"{len(self.body) - self.at} bytes too many")


# Rows have a norm of 32 at most in the scale of an index; within this no product in a kernel leaves f32.
NUMBER_MAX = 1e9


def finite(label: str, *columns: Iterable[float]) -> None:
    """Raises DamagedError where a number is not finite, or beyond NUMBER_MAX."""
    for column in columns:
        values = column if isinstance(column, memoryview) else list(column)
        # A NaN may pass min and max, and never a sum.
        if len(values) and not (min(values) > -NUMBER_MAX and max(values) < NUMBER_MAX and sum(values) < math.inf):
            raise damaged(label, f"holds a number that is not finite, or beyond {NUMBER_MAX:.0e}")
