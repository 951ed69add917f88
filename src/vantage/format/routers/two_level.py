"""The section of two-level and two-level-ecvh, and the pages of routing.bin."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

from ..index import IndexSection
from ..layout import READ_BYTES_MAX, Cursor, damaged
from .ecvh import EcvhSection
from .lse import LseSection

_TWO_LEVEL = struct.Struct("<IIIIffQ")
PAGE_BYTES_MAX = READ_BYTES_MAX


@dataclass(frozen=True)
class TwoLevelSection:
    """R regions of queries; the page of a region is what routing.bin holds of the blocks that its queries want.

    regions: what is resident, a router over regions: lse, or ecvh where the index's router is two-level-ecvh. bits,
    subs, beta, temperature: as LseSection, of blocks.
    offset u64 (R), size u32 (R), crc u32 (R), CRC-32C of the page. A page of n blocks is u32 (n) their numbers, rising,
    f32 (n S) scale, f32 (n S) weight, and the table. A block may lie in many pages, with the same numbers in all.
    pages: routing.bin itself, in the builder; empty in what a reader unpacked. nbytes: its size.
    """

    regions: LseSection | EcvhSection
    bits: int
    subs: int
    beta: float
    temperature: float
    offset: Any
    size: Any
    crc: Any
    nbytes: int
    pages: memoryview = memoryview(b"")

    def pack(self) -> bytes:
        """The section, little-endian: u32 regions, bits, subs and 0, f32 beta and temperature, u64 nbytes, then offset,
        size, crc and the router over regions. Not the pages: the builder writes those as routing.bin.
        """
        n = len(self.size)
        return (
            _TWO_LEVEL.pack(n, self.bits, self.subs, 0, self.beta, self.temperature, self.nbytes)
            + struct.pack(f"<{n}Q", *self.offset)
            + struct.pack(f"<{n}I{n}I", *self.size, *self.crc)
            + self.regions.pack()
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> TwoLevelSection:
        """Views into body, the bytes of the section, as `pack` writes them; pages stay empty.

        index: of the same root, for its B blocks and dimension d. label: what errors call the section. Raises
        DamagedError where bits, subs, beta or temperature are out of range, or where a page is not of 1 to B whole
        blocks, has over 4 MiB, or does not start where the last one ends.
        """
        cursor = Cursor(body, label)
        n, bits, subs, _, beta, temperature, nbytes = cursor.unpack(_TWO_LEVEL)
        if bits not in (4, 8) or not 1 <= subs <= 64 or not 1 <= n <= index.blocks:
            raise damaged(label, f"{n} regions, {subs} sub-centroids of {bits} bits a block, {index.blocks} blocks")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise damaged(label, f"beta {beta}, temperature {temperature}")
        offset, size, crc = cursor.column("Q", n), cursor.column("I", n), cursor.column("I", n)
        first: Any = EcvhSection if index.router == "two-level-ecvh" else LseSection
        regions = first.unpack(cursor.take(len(body) - cursor.at), replace(index, blocks=n), label)
        each, end = cls.block_bytes(bits, subs, index.dimension), 0
        for r in range(n):
            blocks = size[r] // each
            if offset[r] != end or size[r] != each * blocks or not 1 <= blocks <= index.blocks:
                raise damaged(label, f"page {r} of {size[r]} bytes at {offset[r]} is not of whole blocks")
            if size[r] > PAGE_BYTES_MAX:
                raise damaged(label, f"page {r} has {size[r]} bytes, the limit is {PAGE_BYTES_MAX}")
            end += size[r]
        if end != nbytes:
            raise damaged(label, f"pages of {end} bytes, routing.bin has {nbytes}")
        return cls(regions, bits, subs, beta, temperature, offset, size, crc, nbytes)

    @staticmethod
    def block_bytes(bits: int, subs: int, dimension: int) -> int:
        """Of a page, for each of its blocks."""
        return 4 + subs * (8 + LseSection.stride(bits, dimension))

    def columns(self, page: memoryview, index: IndexSection, label: str) -> tuple[Any, Any, Any, memoryview]:
        """(block numbers u32 (n), scale f32 (n S), weight f32 (n S), table) of a page whose checksum was right.

        Raises DamagedError where it names blocks that do not exist, or not in order.
        """
        n = len(page) // self.block_bytes(self.bits, self.subs, index.dimension)
        ends = [0, 4 * n, 4 * n * (1 + self.subs), 4 * n * (1 + 2 * self.subs), len(page)]
        number, scale, weight, table = (page[a:b] for a, b in zip(ends, ends[1:], strict=False))
        blocks = number.cast("I")
        if blocks[n - 1] >= index.blocks or any(a >= b for a, b in zip(blocks, blocks[1:], strict=False)):
            raise damaged(label, f"a page names its blocks out of order, or one of {index.blocks} or more")
        return blocks, scale.cast("f"), weight.cast("f"), table
