"""What exact answers are proven by: how far rows lie from their block's centre, and from what their codes decode to."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from .index import IndexSection
from .layout import GROUP, Cursor, aligned, damaged, finite

_BOUNDS = struct.Struct("<II")
# The end of a scan block, after the ids: this header, then a u8 a row, padded to GROUP rows.
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
    """The end of a scan block; norms u8 (n)."""
    return NORMS.pack(step, slack, spread) + norms + bytes(aligned(len(norms), GROUP) - len(norms))


def norms_of(block: bytes | memoryview, n: int, ids: int, label: str) -> ErrorNorms:
    """The error norms at the end of a scan block of n rows; ids: where its plane of ids begins."""
    view, padded = memoryview(block), aligned(n, GROUP)
    at = len(view) - padded - NORMS.size
    if at < ids:
        raise damaged(label, f"{len(view)} bytes have no room for error norms")
    step, slack, spread = NORMS.unpack_from(view, at)
    if not all(0 <= v < math.inf for v in (step, slack, spread)):
        raise damaged(label, "its error norms are not finite")
    return ErrorNorms(step, slack, spread, view[at + NORMS.size : at + NORMS.size + n])
