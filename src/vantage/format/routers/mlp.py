"""The section of mlp."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..index import IndexSection
from ..layout import DIMENSION_MAX, Cursor, damaged, finite
from .lse import LseSection

_MLP = struct.Struct("<III")
UNITS_STEP = 32  # dimensions of a group in the 4-bit layout
_REGIONS = struct.Struct("<II")


@dataclass(frozen=True)
class Regions:
    """The coarse head of a progressive network: R regions of consecutive blocks, of which a query looks into `beam`.

    first_block u32 (R + 1). head: an lse router over the regions, with the hidden units in the place of the query.
    """

    beam: int
    first_block: Any
    head: LseSection

    def pack(self) -> bytes:
        """Little-endian: u32 regions and beam, u32 first_block, then the head."""
        n = len(self.first_block) - 1
        return _REGIONS.pack(n, self.beam) + struct.pack(f"<{n + 1}I", *self.first_block) + self.head.pack()

    @classmethod
    def taken(cls, cursor: Cursor, index: IndexSection) -> Regions:
        """The ones at the cursor; the dimension of index is the number of hidden units.

        Raises DamagedError where the beam is not 1 to R, or where the regions do not cover the blocks in order.
        """
        n, beam = cursor.unpack(_REGIONS)
        if not 1 <= beam <= n <= index.blocks:
            raise damaged(cursor.label, f"{n} regions, a beam of {beam}, for {index.blocks} blocks")
        first = cursor.column("I", n + 1)
        if first[0] or first[n] != index.blocks or any(a >= b for a, b in pairwise(first)):
            raise damaged(cursor.label, "the regions do not cover the blocks")
        return cls(beam, first, LseSection.taken(cursor, replace(index, blocks=n)))


@dataclass(frozen=True)
class MlpSection:
    """A network: `units` hidden ones, the first `linear` of them signed, the others rectified, and an output layer.

    bits: of the first layer, 4 or 8. table: its rows, one a unit, over d dimensions, as in LseSection. scale, bias f32
    (units). A unit is scale <q, row> + bias, cut at the norm of the query, a rectified one at 0 too.
    output: an lse router over the units in the place of the query. regions: none where a query looks at all blocks.
    """

    bits: int
    linear: int
    table: memoryview
    scale: memoryview
    bias: memoryview
    output: LseSection
    regions: Regions | None = None

    @property
    def units(self) -> int:
        return len(self.scale)

    def pack(self) -> bytes:
        """The section, little-endian: u32 units, linear and bits, f32 scale and bias, table and output."""
        n = self.units
        return (
            _MLP.pack(n, self.linear, self.bits)
            + struct.pack(f"<{n}f", *self.scale)
            + struct.pack(f"<{n}f", *self.bias)
            + bytes(self.table)
            + self.output.pack()
            + (self.regions.pack() if self.regions else b"")
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> MlpSection:
        """Views into body, the bytes of the section, as `pack` writes them.

        index: of the same root, for its B blocks and dimension d. label: what errors call the section. Raises
        DamagedError where units are not a multiple of 32 up to the greatest dimension, where a number is not finite or
        out of range, where bytes are missing or left over, or where the output's sums could pass 31 bits.
        """
        cursor = Cursor(body, label)
        n, linear, bits = cursor.unpack(_MLP)
        if bits not in (4, 8) or not n or n % UNITS_STEP or n > DIMENSION_MAX or linear > n:
            raise damaged(label, f"{n} units of {bits} bits, {linear} of them signed")
        scale, bias = cursor.column("f", n), cursor.column("f", n)
        table = cursor.take(n * LseSection.stride(bits, index.dimension))
        finite(label, scale, bias)
        inner = replace(index, dimension=n)
        output = LseSection.taken(cursor, inner)
        regions = Regions.taken(cursor, inner) if cursor.at < len(body) else None
        cursor.end()
        widest = max(output.bits, regions.head.bits if regions else 0)
        # Each unit may be as long as the query: what the kernel adds up must stay below 2^31.
        if 32767 * n << (widest - 1) >= 1 << 31:
            raise damaged(label, f"{n} units and {widest} bits overflow the sums")
        if regions:
            _check_held(regions, output, label)
        return cls(bits, linear, table, scale, bias, output, regions)


def _check_held(regions: Regions, output: LseSection, label: str) -> None:
    """Raises DamagedError where a region that can be picked has no block that can."""
    for r, (low, high) in enumerate(pairwise(regions.first_block)):
        head = regions.head.weight[r * regions.head.subs : (r + 1) * regions.head.subs]
        if max(head) > -math.inf and max(output.weight[low * output.subs : high * output.subs]) == -math.inf:
            raise damaged(label, f"region {r} holds no sub-centroid")
