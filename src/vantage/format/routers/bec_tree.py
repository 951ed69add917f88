"""The section of bec-tree."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..index import IndexSection
from ..layout import Cursor, aligned, damaged, finite
from .ecvh import SIGNS_BYTES_MAX
from .lse import LseSection

_BEC_TREE = struct.Struct("<IIIf")
BITS_MAX = 255  # of a word
LEAF = 255  # in place of a bit
ZERO, ONE = 1, 255  # what a prefix has of a bit: 1 and -1 as i8


@dataclass(frozen=True)
class BecTreeSection:
    """n directions, and a tree whose inner nodes ask a bit each: a block is a leaf, the bits on its way are its prefix.

    bits: of the directions, 4 or 8. table: rows of d dimensions, as in LseSection. scale, bias f32 (n): margin i
    of a query is scale_i <q, row_i> + bias_i, and the probability that bit i is 0 the sigmoid of it. nodes u8
    (2 B - 1): the nodes in preorder, the side of bit 0 first: the bit that each asks, or LEAF. numbers: planes of
    ceil(B / 8) bytes, as messages of EcvhSection: the block of each leaf, in preorder. A block's score: temperature *
    the logarithm of the probability of its prefix.
    """

    bits: int
    temperature: float
    scale: memoryview
    bias: memoryview
    nodes: memoryview
    numbers: memoryview
    table: memoryview

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _BEC_TREE.pack(n, self.bits, 0, self.temperature)
            + struct.pack(f"<{n}f{n}f", *self.scale, *self.bias)
            + bytes(self.nodes)
            + bytes(self.numbers)
            + bytes(self.table)
        )

    @staticmethod
    def planes(blocks: int) -> int:
        """Bits of a block's number."""
        return (blocks - 1).bit_length()

    def blocks_of_leaves(self) -> list[int]:
        """The block of each leaf, in preorder."""
        blocks = len(self.nodes) // 2 + 1
        step, out = -(-blocks // 8), [0] * blocks
        for j in range(self.planes(blocks)):
            plane = int.from_bytes(self.numbers[j * step : (j + 1) * step], "little")
            for leaf, bit in enumerate(f"{plane:0{blocks}b}"[: -blocks - 1 : -1]):
                out[leaf] |= int(bit) << j
        return out

    def prefixes(self) -> list[bytes]:
        """Of each block, for each bit: ZERO where its prefix has 0, ONE where it has 1, 0 where it does not ask."""
        out, row, blocks = [b""] * (len(self.nodes) // 2 + 1), bytearray(len(self.scale)), iter(self.blocks_of_leaves())
        path: list[int] = []
        for bit in self.nodes:
            if bit != LEAF:
                path.append(bit)
                row[bit] = ZERO
                continue
            out[next(blocks)] = bytes(row)
            while path and row[path[-1]] == ONE:  # both sides are done
                row[path.pop()] = 0
            if path:
                row[path[-1]] = ONE
        return out

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> BecTreeSection:
        cursor, blocks = Cursor(body, label), index.blocks
        n, bits, _, temperature = cursor.unpack(_BEC_TREE)
        if bits not in (4, 8) or not 1 <= n <= BITS_MAX or not 0 < temperature < 1e3:
            raise damaged(label, f"{n} directions of {bits} bits, temperature {temperature}")
        if aligned(2 * n, 16) * blocks > SIGNS_BYTES_MAX:
            raise damaged(label, f"prefixes of {n} bits for {blocks} blocks take over {SIGNS_BYTES_MAX} bytes")
        scale, bias = cursor.column("f", n), cursor.column("f", n)
        nodes = cursor.take(2 * blocks - 1)
        numbers = cursor.take(cls.planes(blocks) * -(-blocks // 8))
        table = cursor.take(n * LseSection.stride(bits, index.dimension))
        cursor.end()
        finite(label, scale, bias)
        path, on_path = bytearray(), bytearray(LEAF)  # bits that are asked here; how often: twice on the second side
        open_nodes = 1
        for bit in nodes:
            if not open_nodes or (bit != LEAF and (bit >= n or on_path[bit])):
                raise damaged(
                    label, "the tree ends early, or asks for a bit that does not exist, or one twice on a way"
                )
            open_nodes += 1 if bit != LEAF else -1
            if bit != LEAF:
                path.append(bit)
                on_path[bit] = 1
                continue
            while path and on_path[path[-1]] == 2:
                on_path[path.pop()] = 0
            if path:
                on_path[path[-1]] = 2
        section = cls(bits, temperature, scale, bias, nodes, numbers, table)
        if open_nodes or sorted(section.blocks_of_leaves()) != [*range(blocks)]:
            raise damaged(label, "the leaves of the tree are not each block once")
        return section
