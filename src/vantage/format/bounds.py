"""What exact answers are proven by: centres, and how far rows lie from them and from what their codes decode to."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from .index import IndexSection
from .layout import GROUP, Cursor, aligned, damaged, finite

_CENTRES = struct.Struct("<II")


@dataclass(frozen=True)
class Centres:
    """All block centres, as they stand in the blocks too: i8 (B, padded d) times scale (B), and bias (B)."""

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


_BOUNDS = struct.Struct("<II")
# A plane of a block: this header, then a u8 a row, padded to GROUP rows.
NORMS = struct.Struct("<fff4x")  # step of a norm, slack, spread


@dataclass(frozen=True)
class Bounds:
    """radius (B): no row of the block, copies too, lies further from its stored centre; norm (B): of that centre.

    An index that has them has error norms in its scan blocks. f32, radius rounded up, norm to the nearest.
    """

    radius: memoryview
    norm: memoryview

    def pack(self) -> bytes:
        n = len(self.radius)
        return _BOUNDS.pack(n, 0) + struct.pack(f"<{2 * n}f", *self.radius, *self.norm)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> Bounds:
        cursor = Cursor(body, label)
        blocks, _ = cursor.unpack(_BOUNDS)
        if blocks != index.blocks:
            raise damaged(label, f"{blocks} blocks, the index section says {index.blocks}")
        radius, norm = cursor.column("f", blocks), cursor.column("f", blocks)
        cursor.end()
        finite(label, radius, norm)
        if any(v < 0 for column in (radius, norm) for v in column):
            raise damaged(label, "a length is negative")
        return cls(radius, norm)


@dataclass(frozen=True)
class ErrorNorms:
    """Of a block: a row's error norm is step times its u8; slack and spread are those of its worst row."""

    step: float
    slack: float
    spread: float
    norms: memoryview


def pack_norms(step: float, slack: float, spread: float, norms: bytes) -> bytes:
    """The plane of error norms; norms u8 (n)."""
    return NORMS.pack(step, slack, spread) + norms + bytes(aligned(len(norms), GROUP) - len(norms))


def norms_of(plane: bytes | memoryview, n: int, label: str) -> ErrorNorms:
    """The error norms of a block of n rows, from its plane."""
    view = memoryview(plane)
    if len(view) != NORMS.size + aligned(n, GROUP):
        raise damaged(label, f"error norms of {len(view)} bytes for {n} rows")
    step, slack, spread = NORMS.unpack_from(view)
    if not all(0 <= v < math.inf for v in (step, slack, spread)):
        raise damaged(label, "its error norms are not finite")
    return ErrorNorms(step, slack, spread, view[NORMS.size : NORMS.size + n])
