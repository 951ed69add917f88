"""Scan blocks and their planes, ids, attributes: what one extent of a block holds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ..bounded_json import loads
from ..kernels import crc32c
from .layout import (
    ATTRIBUTE_ROW_BYTES_MAX,
    ATTRIBUTE_ROW_DEPTH_MAX,
    ATTRIBUTE_ROW_PARTS_MAX,
    GROUP,
    ID_BYTES_MAX,
    ID_WIDTH_MAX,
    NUMBER_MAX,
    READ_BYTES_MAX,
    aligned,
    damaged,
)
from .objects import SPOT_BYTES

# Scan block: this header, the centre, then code groups, f (u8), h (u8), row numbers (u32), checks (u32: CRC-32C of the
# row's full vector, so that a vector read alone is verified too), in an index by row three columns of u32 that say
# where the row's attributes are, ids. All but the ids padded to GROUP rows. Then the planes.
BLOCK = struct.Struct("<IIffffffI12x")  # rows, id width (0: offsets), f_lo, f_step, h_lo, h_step, centre, planes
RANGES_AT = 8  # of f_lo in it
_CENTRE = struct.Struct("<ff")
_CENTRE_AT = 24
_PLANE = struct.Struct("<IIII")  # kind, offset in the block, bytes, CRC-32C
PLANES_MAX = 64
ATTRIBUTES_PLANE, NORMS_PLANE, COLUMNS_PLANE = 1, 2, 3  # kinds; others are skipped
# Of what is added to a row's score. Rows and centres have norms of 32 at most, so their products are below 2^12; under
# l2 norms of 3,000, so that half of a squared distance is below 2e7. The rest is room for what a coarse code leaves.
H_MAX = {"cosine": 1e6, "dot": 1e6, "l2": 1e8}
_RAW = struct.Struct("<I")  # bytes of an attribute plane before it was deflated


class Spot(NamedTuple):
    """Where the attributes of a row are: bytes from where those of its page of rows begin, and their CRC-32C."""

    offset: int
    size: int
    crc: int


class Plane(NamedTuple):
    """A plane at the end of a block, by what its table says."""

    kind: int
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class BlockPlanes:
    """Byte offsets in a scan block of n rows, from its start."""

    n: int
    centre: int
    codes: int
    f: int
    h: int
    rows: int
    checks: int
    spots: int
    ids: int


@lru_cache(1024)
def block_planes(n: int, code_bytes: int, dimension: int, by_row: bool = False, planes: int = 0) -> BlockPlanes:
    """Where things are follows from the numbers of rows and planes; row numbers are 4-byte aligned. by_row: spots."""
    padded = aligned(n, GROUP)
    centre = BLOCK.size + _PLANE.size * planes
    codes = centre + aligned(dimension, 16)
    f = codes + padded * code_bytes
    spots = f + 10 * padded
    ids = spots + SPOT_BYTES * padded * by_row
    return BlockPlanes(n, centre, codes, f, f + padded, f + 2 * padded, f + 6 * padded, spots, ids)


class Centre(NamedTuple):
    """A block's centre: scale times i8 (d padded to 16); bias is -|c|^2 / 2 of it under l2, else 0."""

    scale: float
    bias: float
    row: bytes | memoryview


def pack_block(
    n: int,
    width: int,
    ranges: tuple[float, float, float, float],
    centre: Centre,
    columns: Sequence[bytes],
    ids: bytes,
    planes: Sequence[tuple[int, bytes]] = (),
) -> tuple[bytes, int]:
    """(a block, its bytes without planes).

    columns are code groups, f, h, row numbers, checks and spots, padded to GROUP rows; planes (kind, bytes).
    """
    head = BLOCK.pack(n, width, *ranges, centre.scale, centre.bias, len(planes))
    body = bytes(centre.row) + b"".join(columns) + ids
    at = len(head) + _PLANE.size * len(planes) + len(body)
    size, table = at, b""
    for kind, data in planes:
        table += _PLANE.pack(kind, at, len(data), crc32c(data))
        at += len(data)
    return head + table + body + b"".join(data for _, data in planes), size


def centre_of(block: bytes | memoryview, at: BlockPlanes, dimension: int) -> Centre:
    """The centre of a block that `open_block` has checked."""
    scale, bias = _CENTRE.unpack_from(block, _CENTRE_AT)
    return Centre(scale, bias, memoryview(block)[at.centre : at.centre + aligned(dimension, 16)])


@dataclass(frozen=True)
class OpenBlock:
    """What the head of a block says: where its columns are, the width of its ids (0: offsets), and its planes."""

    at: BlockPlanes
    id_width: int
    planes: tuple[Plane, ...]


def open_block(
    block: bytes | memoryview, rows: int, size: int, code_bytes: int, dimension: int, by_row: bool, label: str,
    metric: str = "l2",
) -> OpenBlock:  # fmt: skip
    """Checks a block of `size` bytes and its planes against what the directory says of it; columns are in its size.

    metric: of the index; how far addends reach follows from it, under l2 the furthest.
    """
    if len(block) < max(size, BLOCK.size):
        raise damaged(label, f"{len(block)} bytes are no block of {size}")
    n, width, *numbers, planes = BLOCK.unpack_from(block)
    low, step, h_low, h_step, scale, bias = numbers
    if n != rows:
        raise damaged(label, f"it says {n} rows, the directory {rows}")
    if planes > PLANES_MAX:
        raise damaged(label, f"it says {planes} planes")
    at = block_planes(n, code_bytes, dimension, by_row, planes)
    if size < at.ids:
        raise damaged(label, f"{size} bytes for {n} rows")
    factors, addends = (low, low + 255 * step, scale, bias), (h_low, h_low + 255 * h_step)
    if not all(abs(v) < NUMBER_MAX for v in factors) or not all(abs(v) < H_MAX[metric] for v in addends):
        limits = f"{NUMBER_MAX:.0e} or {H_MAX[metric]:.0e}"
        raise damaged(label, f"a factor range or its centre is not finite, or beyond {limits}")
    ids = n * width
    if not width:
        ids = 4 * (n + 1)
        ids += struct.unpack_from("<I", block, at.ids + 4 * n)[0] if size >= at.ids + ids else 0
    if width > ID_WIDTH_MAX or size != at.ids + ids:
        raise damaged(label, f"ids of width {width} do not fit")
    table, end = [], size
    for i in range(planes):
        plane = Plane(*_PLANE.unpack_from(block, BLOCK.size + _PLANE.size * i))
        if plane.offset < end:
            raise damaged(label, f"plane {plane.kind} begins at byte {plane.offset}, {end} is free")
        end = plane.offset + plane.size
        table.append(plane)
    return OpenBlock(at, int(width), tuple(table))


def is_intact(block: bytes | memoryview, size: int, crc: int) -> bool:
    """Whether the first `size` bytes of a block have this CRC-32C, and its planes those that stand there."""
    view = memoryview(block)
    if not BLOCK.size <= size <= len(view) or crc32c(view[:size]) != crc:
        return False
    planes = BLOCK.unpack_from(view)[-1]
    if planes > PLANES_MAX or BLOCK.size + _PLANE.size * planes > size:
        return False
    end = size
    for i in range(planes):
        plane = Plane(*_PLANE.unpack_from(view, BLOCK.size + _PLANE.size * i))
        if plane.offset < end or crc32c(view[plane.offset : plane.offset + plane.size]) != plane.crc:
            return False  # of planes that overlap, the bytes of one would be gone through for each
        end = plane.offset + plane.size
    return True


def plane_of(block: bytes | memoryview, planes: Sequence[Plane], kind: int, label: str, start: int = 0) -> memoryview:
    """A plane by its kind, of a block that is intact; `block` has its bytes from byte `start` on."""
    for plane in planes:
        if plane.kind == kind:
            view = memoryview(block)[plane.offset - start : plane.offset - start + plane.size]
            if len(view) != plane.size:
                raise damaged(label, f"plane {kind} ends after the block")
            return view
    raise damaged(label, f"it has no plane {kind}")


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


def spot_at(spots: bytes | memoryview, n: int, i: int) -> Spot:
    """Of row i of n, from three columns of u32 of n rows."""
    return Spot(*(struct.unpack_from("<I", spots, 4 * (column * n + i))[0] for column in range(3)))


def pack_attributes(rows: Sequence[bytes]) -> bytes:
    """The plane of attributes of the rows of a block: u32 bytes of what was deflated (RFC 1950), which is u32 (n + 1)
    offsets and the JSON of each row.
    """
    offsets, at = [0], 0
    for row in rows:
        at += len(row)
        offsets.append(at)
    raw = struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(rows)
    return _RAW.pack(len(raw)) + zlib.compress(raw, 9)


def unpack_attributes(plane: bytes | memoryview, n: int, label: str) -> bytes:
    """Offsets and texts of n rows, inflated: never more than the plane says, and READ_BYTES_MAX."""
    if len(plane) < _RAW.size:
        raise damaged(label, f"attributes of {len(plane)} bytes")
    (size,) = _RAW.unpack_from(plane)
    if not 4 * (n + 1) <= size <= READ_BYTES_MAX:
        raise damaged(label, f"attributes of {size} bytes for {n} rows")
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(memoryview(plane)[_RAW.size :], size + 1)
    except zlib.error as error:
        raise damaged(label, f"its attributes are not deflated ({error})") from None
    if len(raw) != size or not inflater.eof:
        raise damaged(label, f"attributes of {len(raw)} bytes or more, not {size}")
    return raw


def attribute_bytes(raw: bytes | memoryview, n: int, i: int, label: str) -> bytes:
    """The JSON of row i of n, of what `unpack_attributes` gave."""
    low, high = struct.unpack_from("<2I", raw, 4 * i)
    start = 4 * (n + 1)
    if low > high or high - low > ATTRIBUTE_ROW_BYTES_MAX or start + high > len(raw):
        raise damaged(label, f"attributes of row {i} are at bytes {low} to {high}")
    return bytes(raw[start + low : start + high])


def attributes_of(row: bytes | memoryview, names: list[str], label: str) -> dict[str, Any]:
    """The attributes of a row from its JSON, an array in the order of the schema."""
    if len(row) > ATTRIBUTE_ROW_BYTES_MAX:
        raise damaged(label, f"{len(row)} bytes of attributes, the limit is {ATTRIBUTE_ROW_BYTES_MAX}")
    try:
        values = loads(row, ATTRIBUTE_ROW_DEPTH_MAX, ATTRIBUTE_ROW_PARTS_MAX)
    except ValueError as error:
        raise damaged(label, f"its attributes are not JSON within bounds: {error}"[:300]) from None
    if not isinstance(values, list) or len(values) != len(names):
        raise damaged(label, f"it has not the {len(names)} attributes of the schema")
    return dict(zip(names, values, strict=True))
