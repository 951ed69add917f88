"""Blocks of a shard: the planes that a scan reads, ids, attributes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ..bounded_json import loads
from .layout import (
    ATTRIBUTE_ROW_BYTES_MAX,
    ATTRIBUTE_ROW_DEPTH_MAX,
    ATTRIBUTE_ROW_PARTS_MAX,
    GROUP,
    ID_BYTES_MAX,
    ID_WIDTH_MAX,
    NUMBER_MAX,
    aligned,
    damaged,
)

# Scan block: this header, then code groups, f (u8), h (u8), row numbers (u32), checks (u32: CRC-32C of the row's full
# vector, so that a vector read alone is verified too), in an index by row three columns of u32 that say where the row's
# attributes are, ids. All but the ids padded to GROUP rows.
BLOCK = struct.Struct("<IIffff8x")  # rows, id width (0: offsets), f_lo, f_step, h_lo, h_step
RANGES_AT = 8  # of f_lo in it
# Of what is added to a row's score: rows and centres have norms of 32 at most, so their products are below 2^12; the
# rest is room for what a coarse code leaves.
H_MAX = 1e6
SPOT_BYTES = 12  # of a row in the columns of u32 offset, size and CRC-32C


class Spot(NamedTuple):
    """Where the attributes of a row are: bytes of the attribute block of its home, and their CRC-32C."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class BlockPlanes:
    """Byte offsets of the planes of a scan block of n rows, from its start."""

    n: int
    codes: int
    f: int
    h: int
    rows: int
    checks: int
    spots: int
    ids: int


@lru_cache(1024)
def block_planes(n: int, code_bytes: int, by_row: bool = False) -> BlockPlanes:
    """Planes follow from the row count alone; row numbers are 4-byte aligned. by_row: with spots."""
    padded = aligned(n, GROUP)
    codes = BLOCK.size
    f = codes + padded * code_bytes
    spots = f + 10 * padded
    ids = spots + SPOT_BYTES * padded * by_row
    return BlockPlanes(n, codes, f, f + padded, f + 2 * padded, f + 6 * padded, spots, ids)


def pack_block(n: int, width: int, ranges: tuple[float, float, float, float], planes: list[bytes], ids: bytes) -> bytes:
    """A scan block; planes are code groups, f, h, row numbers, checks and spots, already padded to GROUP rows."""
    return BLOCK.pack(n, width, *ranges) + b"".join(planes) + ids


def id_width(block: bytes | memoryview, planes: BlockPlanes, label: str) -> int:
    """Checks a scan block against what the directory says of it; its id width, 0 where ids have offsets."""
    if len(block) < planes.ids:
        raise damaged(label, f"{len(block)} bytes for {planes.n} rows")
    n, width, *ranges = BLOCK.unpack_from(block)
    if n != planes.n:
        raise damaged(label, f"it says {n} rows, the directory {planes.n}")
    low, step, h_low, h_step = ranges
    factors, addends = (low, low + 255 * step), (h_low, h_low + 255 * h_step)
    if not all(abs(v) < NUMBER_MAX for v in factors) or not all(abs(v) < H_MAX for v in addends):
        raise damaged(label, f"a factor range is not finite, or beyond {NUMBER_MAX:.0e} or {H_MAX:.0e}")
    ids = n * width if width else 4 * (n + 1)
    if width > ID_WIDTH_MAX or len(block) < planes.ids + ids:
        raise damaged(label, f"ids of width {width} do not fit")
    return int(width)


def pack_ids(ids: list[bytes]) -> tuple[int, bytes]:
    """(width, plane): fixed width when no id is longer than ID_WIDTH_MAX or ends in NUL, else offsets and bytes."""
    longest = max(map(len, ids), default=1)
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
        if width != 8:
            raise damaged(label, f"i64 ids of width {width}")
        return int(struct.unpack_from("<q", plane, 8 * i)[0])
    if width:
        return bytes(plane[width * i : width * (i + 1)]).rstrip(b"\0")
    low, high = struct.unpack_from("<2I", plane, 4 * i)
    start = 4 * (n + 1)
    if low > high or high - low > ID_BYTES_MAX or start + high > len(plane):
        raise damaged(label, f"id {i} is at bytes {low} to {high}")
    return bytes(plane[start + low : start + high])


def pack_attributes(rows: list[bytes]) -> bytes:
    """Attribute block: u32 offsets (n + 1), then a JSON array per row, in the order of the schema."""
    offsets, at = [0], 0
    for row in rows:
        at += len(row)
        offsets.append(at)
    return struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(rows)


def spot_at(spots: bytes | memoryview, n: int, i: int) -> Spot:
    """Of row i of n, from the three columns of a scan block of n rows, or of a page of ids of n."""
    return Spot(*(struct.unpack_from("<I", spots, 4 * (column * n + i))[0] for column in range(3)))


def attributes_of(row: bytes | memoryview, names: list[str], label: str) -> dict[str, Any]:
    """The attributes of a row from its JSON."""
    if len(row) > ATTRIBUTE_ROW_BYTES_MAX:
        raise damaged(label, f"{len(row)} bytes of attributes, the limit is {ATTRIBUTE_ROW_BYTES_MAX}")
    try:
        values = loads(row, ATTRIBUTE_ROW_DEPTH_MAX, ATTRIBUTE_ROW_PARTS_MAX)
    except ValueError as error:
        raise damaged(label, f"its attributes are not JSON within bounds: {error}"[:300]) from None
    if not isinstance(values, list) or len(values) != len(names):
        raise damaged(label, f"it has not the {len(names)} attributes of the schema")
    return dict(zip(names, values, strict=True))


def attribute_bytes(block: bytes | memoryview, n: int, i: int, label: str) -> memoryview:
    """The JSON of home row i of n in an attribute block."""
    view, start = memoryview(block), 4 * (n + 1)
    low, high = struct.unpack_from("<2I", view, 4 * i) if start <= len(view) else (1, 0)
    if low > high or start + high > len(view):
        raise damaged(label, f"attributes of row {i} are at bytes {low} to {high}")
    return view[start + low : start + high]


def attributes_at(block: bytes | memoryview, n: int, i: int, names: list[str], label: str) -> dict[str, Any]:
    """Attributes of home row i of n."""
    return attributes_of(attribute_bytes(block, n, i, label), names, f"{label}, row {i}")
