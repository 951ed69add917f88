"""The section of two-level and two-level-ecvh, and the pages of blocks that it names."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from operator import add, le, lt
from typing import Any

from ..directory import Directory
from ..index import IndexSection
from ..layout import READ_BYTES_MAX, Cursor, damaged
from .ecvh import EcvhSection
from .lse import LseSection

_TWO_LEVEL = struct.Struct("<IIIIff")
_PAGE = struct.Struct("<II")
PAGE_BYTES_MAX = READ_BYTES_MAX
BEAM_MAX = 6  # pages, side by side in one round


@dataclass(frozen=True)
class TwoLevelSection:
    """R regions of queries; the page of a region holds what routing and planning need of the blocks its queries want.

    regions: what is resident, a router over regions: lse, or ecvh where the index's router is two-level-ecvh. bits,
    subs, beta, temperature: as LseSection, of blocks. object u32, offset u64, size u32, crc u32 (R): of each page.
    A page of n blocks is u32 n, u32 0, u32 (n) their numbers, rising, f32 (n S) scale, f32 (n S) weight, the table, and
    a directory of these blocks. A block may lie in many pages, with the same numbers in all.
    beam: pages that a query reads. pages: in the builder, without their directories; empty in what a reader unpacked.
    """

    regions: LseSection | EcvhSection
    bits: int
    subs: int
    beta: float
    temperature: float
    object: Any
    offset: Any
    size: Any
    crc: Any
    beam: int = 1
    pages: tuple[bytes, ...] = ()

    def pack(self) -> bytes:
        """The section, little-endian: u32 regions, bits, subs and beam, f32 beta and temperature, then offset, object,
        size, crc and the router over regions.
        """
        n = len(self.size)
        return (
            _TWO_LEVEL.pack(n, self.bits, self.subs, self.beam, self.beta, self.temperature)
            + struct.pack(f"<{n}Q", *self.offset)
            + struct.pack(f"<{3 * n}I", *self.object, *self.size, *self.crc)
            + self.regions.pack()
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> TwoLevelSection:
        """Views into body, the bytes of the section, as `pack` writes them.

        index: of the same root, for its B blocks and dimension d. label: what errors call the section. Raises
        DamagedError where bits, subs, beta or temperature are out of range, or where a page has over 4 MiB.
        """
        cursor = Cursor(body, label)
        n, bits, subs, beam, beta, temperature = cursor.unpack(_TWO_LEVEL)
        if bits not in (4, 8) or not 1 <= subs <= 64 or not 1 <= n <= index.blocks:
            raise damaged(label, f"{n} regions, {subs} sub-centroids of {bits} bits a block, {index.blocks} blocks")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise damaged(label, f"beta {beta}, temperature {temperature}")
        if not 1 <= beam <= BEAM_MAX:
            raise damaged(label, f"a query reads {beam} pages, the limit is {BEAM_MAX}")
        offset = cursor.column("Q", n)
        number, size, crc = (cursor.column("I", n) for _ in range(3))
        first: Any = EcvhSection if index.router == "two-level-ecvh" else LseSection
        regions = first.unpack(cursor.take(len(body) - cursor.at), replace(index, blocks=n), label)
        if max(size) > PAGE_BYTES_MAX:
            raise damaged(label, f"a page has {max(size)} bytes, the limit is {PAGE_BYTES_MAX}")
        return cls(regions, bits, subs, beta, temperature, number, offset, size, crc, beam)

    def check(self, sizes: tuple[int, ...], label: str) -> None:
        """Raises DamagedError where a page is outside of the objects of these sizes."""
        ends = map(add, self.offset, self.size)
        if max(self.object) >= len(sizes) or not all(map(le, ends, map(sizes.__getitem__, self.object))):
            raise damaged(label, "a page is outside of its object")

    @staticmethod
    def block_bytes(bits: int, subs: int, dimension: int) -> int:
        """Of a page, for each of its blocks, without its directory."""
        return 4 + subs * (8 + LseSection.stride(bits, dimension))

    def columns(self, cursor: Cursor, index: IndexSection) -> tuple[Any, Any, Any, memoryview]:
        """(block numbers u32 (n), scale f32 (n S), weight f32 (n S), table) of a page whose checksum was right.

        The cursor then is at its directory. Raises DamagedError where it names blocks that do not exist, or not in
        order.
        """
        n, _ = cursor.unpack(_PAGE)
        if not 1 <= n <= index.blocks:
            raise damaged(cursor.label, f"a page of {n} blocks")
        blocks = cursor.column("I", n)
        if blocks[n - 1] >= index.blocks or not all(map(lt, blocks, blocks[1:])):
            raise damaged(cursor.label, f"a page names its blocks out of order, or one of {index.blocks} or more")
        scale, weight = cursor.column("f", n * self.subs), cursor.column("f", n * self.subs)
        return blocks, scale, weight, cursor.take(n * self.subs * LseSection.stride(self.bits, index.dimension))

    def directory(self, cursor: Cursor, blocks: Any, renditions: int, sizes: tuple[int, ...]) -> Directory:
        """The directory at the end of a page of these blocks."""
        directory = Directory.taken(cursor, blocks[-1] + 1, renditions, sizes)
        cursor.end()
        if set(directory.block) != set(blocks):
            raise damaged(cursor.label, "its directory is of other blocks than it names")
        return directory


def pack_page(blocks: Any, scale: bytes, weight: bytes, table: bytes) -> bytes:
    """A page of n blocks without its directory: numbers u32 (n), scale and weight f32 (n S), and the table."""
    return _PAGE.pack(len(blocks), 0) + struct.pack(f"<{len(blocks)}I", *blocks) + scale + weight + table


def with_directory(page: bytes, directory: Directory) -> bytes:
    """A whole page."""
    return page + directory.pack()
