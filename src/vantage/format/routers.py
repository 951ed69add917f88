"""Sections of the routers, one class each."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from .index import IndexSection
from .layout import DIMENSION_MAX, READ_BYTES_MAX, Cursor, aligned, damaged, finite

_LSE = struct.Struct("<IIIff")


class RouterSection(Protocol):
    """What every router's section can do; each also has unpack(body, index, label)."""

    def pack(self) -> bytes: ...


@dataclass(frozen=True)
class LseSection:
    """Routers centroids, lse and trained: `subs` sub-centroids a block, each of `bits` bits, 4 or 8.

    Score of a block: temperature * log sum_s exp(weight_s + beta scale_s <q, c_s>).
    """

    bits: int
    subs: int
    beta: float
    temperature: float
    table: memoryview
    scale: memoryview
    weight: memoryview

    @staticmethod
    def stride(bits: int, dimension: int) -> int:
        """Bytes of one sub-centroid."""
        return aligned(dimension, 32) // 2 if bits == 4 else aligned(dimension, 16)

    @classmethod
    def taken(cls, cursor: Cursor, index: IndexSection) -> LseSection:
        """The one at the cursor, where more may follow."""
        n, bits, *_ = Cursor(cursor.body[cursor.at :], cursor.label).unpack(_LSE)
        nbytes = _LSE.size + n * (8 + cls.stride(bits, index.dimension))
        return cls.unpack(cursor.take(nbytes), index, cursor.label)

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _LSE.pack(n, self.bits, self.subs, self.beta, self.temperature)
            + struct.pack(f"<{n}f", *self.scale)
            + struct.pack(f"<{n}f", *self.weight)
            + bytes(self.table)
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> LseSection:
        cursor = Cursor(body, label)
        n, bits, subs, beta, temperature = cursor.unpack(_LSE)
        if bits not in (4, 8) or not 1 <= subs <= 64 or n != index.blocks * subs:
            raise damaged(label, f"{n} sub-centroids of {bits} bits, {subs} a block, for {index.blocks} blocks")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise damaged(label, f"beta {beta}, temperature {temperature}")
        scale, weight = cursor.column("f", n), cursor.column("f", n)
        table = cursor.take(n * cls.stride(bits, index.dimension))
        cursor.end()
        finite(label, scale)
        finite(label, (w for w in weight if w != -math.inf))  # -inf: no such sub-centroid
        if max(weight) == -math.inf:
            raise damaged(label, "holds no sub-centroid")
        return cls(bits, subs, beta, temperature, table, scale, weight)


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

        Raises DamagedError where it names blocks that there are not, or not in order.
        """
        n = len(page) // self.block_bytes(self.bits, self.subs, index.dimension)
        ends = [0, 4 * n, 4 * n * (1 + self.subs), 4 * n * (1 + 2 * self.subs), len(page)]
        number, scale, weight, table = (page[a:b] for a, b in zip(ends, ends[1:], strict=False))
        blocks = number.cast("I")
        if blocks[n - 1] >= index.blocks or any(a >= b for a, b in zip(blocks, blocks[1:], strict=False)):
            raise damaged(label, f"a page names its blocks out of order, or one of {index.blocks} or more")
        return blocks, scale.cast("f"), weight.cast("f"), table


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


_TREE = struct.Struct("<IIIf")
TREE_UNITS = 32  # of a node, and
TREE_WAYS = 3  # children
NO_CHILD = -(1 << 31)
TREE_DEPTH_MAX = 32  # a level takes time; where no child has over half of the blocks there are 21 levels at most


@dataclass(frozen=True)
class TreeSection:
    """n nodes, each a network of 32 units and 3 outputs that splits its probability over 3 children.

    child i32 (3 n): another node, by a greater number; or block b as -1 - b; or NO_CHILD. Node 0 is the root, and every
    node and block is a child once. beam: nodes kept a level. bits: of the units, 4 or 8. table: their rows, 32 n over d
    dimensions, as in LseSection; scale, bias f32 (32 n) as in MlpSection. out i8 (3 n, 32), out_scale, out_weight f32
    (3 n): an lse router over the children of each node, one sub-centroid each, -inf where there is no child.
    """

    bits: int
    beam: int
    temperature: float
    child: memoryview
    scale: memoryview
    bias: memoryview
    out_scale: memoryview
    out_weight: memoryview
    table: memoryview
    out: memoryview

    @property
    def nodes(self) -> int:
        return len(self.child) // TREE_WAYS

    def pack(self) -> bytes:
        """The section, little-endian: u32 nodes, bits and beam, f32 temperature, then child and the columns of f32
        (scale, bias, out_scale, out_weight), table and out.
        """
        n = self.nodes
        numbers = [*self.scale, *self.bias, *self.out_scale, *self.out_weight]
        return (
            _TREE.pack(n, self.bits, self.beam, self.temperature)
            + struct.pack(f"<{TREE_WAYS * n}i", *self.child)
            + struct.pack(f"<{len(numbers)}f", *numbers)
            + bytes(self.table)
            + bytes(self.out)
        )

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> TreeSection:
        """Views into body, the bytes of the section, as `pack` writes them.

        index: of the same root, for its B blocks and dimension d. label: what errors call the section. Raises
        DamagedError where a number is not finite or out of range, where bytes are missing or left over, or where the
        children are no tree: each of the B blocks and each node but the root a child once, nodes after their parents,
        none without a child, -inf for each child that is not there.
        """
        cursor = Cursor(body, label)
        n, bits, beam, temperature = cursor.unpack(_TREE)
        if bits not in (4, 8) or not 1 <= n <= index.blocks or not 1 <= beam <= index.blocks:
            raise damaged(label, f"{n} nodes of {bits} bits, a beam of {beam}, for {index.blocks} blocks")
        if not 0 < temperature < 1e3:
            raise damaged(label, f"temperature {temperature}")
        child = cursor.column("i", TREE_WAYS * n)
        scale, bias = cursor.column("f", TREE_UNITS * n), cursor.column("f", TREE_UNITS * n)
        out_scale, out_weight = cursor.column("f", TREE_WAYS * n), cursor.column("f", TREE_WAYS * n)
        table = cursor.take(TREE_UNITS * n * LseSection.stride(bits, index.dimension))
        out = cursor.take(TREE_WAYS * n * TREE_UNITS)
        cursor.end()
        there = [(at, c) for at, c in enumerate(child) if c != NO_CHILD]
        if sorted(c for _, c in there) != [*range(-index.blocks, 0), *range(1, n)]:
            raise damaged(label, "a node or block is not a child exactly once")
        if any(0 <= c <= at // TREE_WAYS for at, c in there) or len({at // TREE_WAYS for at, _ in there}) != n:
            raise damaged(label, "a node has no child, or a child that comes before it")
        depth = array("I", [1]) * n
        for at, c in there:
            if c >= 0:
                depth[c] = depth[at // TREE_WAYS] + 1
        if max(depth) > TREE_DEPTH_MAX:
            raise damaged(label, f"the tree has {max(depth)} levels, the limit is {TREE_DEPTH_MAX}")
        finite(label, scale, bias, out_scale, [out_weight[at] for at, _ in there])
        if any(w != -math.inf for w, c in zip(out_weight, child, strict=True) if c == NO_CHILD):
            raise damaged(label, "a child that is not there has a weight")
        return cls(bits, beam, temperature, child, scale, bias, out_scale, out_weight, table, out)


_ECVH = struct.Struct("<IIIff")
WORD_MAX = 1024  # bits of a codeword
SIGNS_BYTES_MAX = 16 << 20  # of the table of i8 that a reader makes of words or prefixes, a row a block
MESSAGE_MAX = 32  # bits of a message


@dataclass(frozen=True)
class EcvhSection:
    """Error-correcting vantage hashing: n directions, and the codeword of each block, in a linear code of n bits.

    bits: of the directions, 4 or 8. table: one a row over d dimensions, as in LseSection. scale, bias f32 (n): margin i
    of a query is scale_i <q, row_i> + bias_i, cut at the norm of the query. generator u32 (n): bit i of the codeword of
    message u is the parity of u & generator_i. messages: message_bits planes of ceil(B / 8) bytes; bit b % 8 of byte
    b / 8 of plane j is bit j of the message of block b. A block's score: temperature * beta * the sum of the margins,
    those where its codeword has a 1 subtracted.
    """

    bits: int
    message_bits: int
    beta: float
    temperature: float
    scale: memoryview
    bias: memoryview
    generator: memoryview
    messages: memoryview
    table: memoryview

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _ECVH.pack(n, self.bits, self.message_bits, self.beta, self.temperature)
            + struct.pack(f"<{n}f{n}f{n}I", *self.scale, *self.bias, *self.generator)
            + bytes(self.messages)
            + bytes(self.table)
        )

    def columns(self, blocks: int) -> list[int]:
        """Bit b of number i is bit i of the codeword of block b."""
        step, out = -(-blocks // 8), []
        planes = [int.from_bytes(self.messages[j * step : (j + 1) * step], "little") for j in range(self.message_bits)]
        for g in self.generator:
            column = 0
            for j, plane in enumerate(planes):
                if g >> j & 1:
                    column ^= plane
            out.append(column)
        return out

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> EcvhSection:
        cursor = Cursor(body, label)
        n, bits, message_bits, beta, temperature = cursor.unpack(_ECVH)
        if bits not in (4, 8) or not 1 <= n <= WORD_MAX or not 1 <= message_bits <= MESSAGE_MAX:
            raise damaged(label, f"{n} directions of {bits} bits, messages of {message_bits} bits")
        if not 0 < beta < 1e9 or not 0 < temperature < 1e3:
            raise damaged(label, f"beta {beta}, temperature {temperature}")
        if aligned(n, 16) * index.blocks > SIGNS_BYTES_MAX:
            raise damaged(label, f"words of {n} bits for {index.blocks} blocks take over {SIGNS_BYTES_MAX} bytes")
        scale, bias, generator = cursor.column("f", n), cursor.column("f", n), cursor.column("I", n)
        messages = cursor.take(message_bits * -(-index.blocks // 8))
        table = cursor.take(n * LseSection.stride(bits, index.dimension))
        cursor.end()
        finite(label, scale, bias)
        if any(not 0 < g < 1 << message_bits for g in generator):
            raise damaged(label, f"the generator asks for other bits than the {message_bits} of a message")
        return cls(bits, message_bits, beta, temperature, scale, bias, generator, messages, table)


_BEC_TREE = struct.Struct("<IIIf")
BITS_MAX = 255  # of a word
LEAF = 255  # in place of a bit
ZERO, ONE = 1, 255  # what a prefix has of a bit: 1 and -1 as i8


@dataclass(frozen=True)
class BecTreeSection:
    """n directions, and a tree whose inner nodes ask a bit each: a block is a leaf, the bits on its way are its prefix.

    bits: of the directions, 4 or 8. table: one a row over d dimensions, as in LseSection. scale, bias f32 (n): margin i
    of a query is scale_i <q, row_i> + bias_i, and the probability that bit i is 0 the sigmoid of it. asked u8
    (2 B - 1): the nodes in preorder, the side of bit 0 first: the bit that each asks, or LEAF. numbers: planes of
    ceil(B / 8) bytes, as messages of EcvhSection: the block of each leaf, in preorder. A block's score: temperature *
    the logarithm of the probability of its prefix.
    """

    bits: int
    temperature: float
    scale: memoryview
    bias: memoryview
    asked: memoryview
    numbers: memoryview
    table: memoryview

    def pack(self) -> bytes:
        n = len(self.scale)
        return (
            _BEC_TREE.pack(n, self.bits, 0, self.temperature)
            + struct.pack(f"<{n}f{n}f", *self.scale, *self.bias)
            + bytes(self.asked)
            + bytes(self.numbers)
            + bytes(self.table)
        )

    @staticmethod
    def planes(blocks: int) -> int:
        """Bits of a block's number."""
        return (blocks - 1).bit_length()

    def blocks_of_leaves(self) -> list[int]:
        """The block of each leaf, in preorder."""
        blocks = len(self.asked) // 2 + 1
        step, out = -(-blocks // 8), [0] * blocks
        for j in range(self.planes(blocks)):
            plane = int.from_bytes(self.numbers[j * step : (j + 1) * step], "little")
            for leaf, bit in enumerate(f"{plane:0{blocks}b}"[: -blocks - 1 : -1]):
                out[leaf] |= int(bit) << j
        return out

    def prefixes(self) -> list[bytes]:
        """Of each block, for each bit: ZERO where its prefix has 0, ONE where it has 1, 0 where it does not ask."""
        out, row, blocks = [b""] * (len(self.asked) // 2 + 1), bytearray(len(self.scale)), iter(self.blocks_of_leaves())
        path: list[int] = []
        for bit in self.asked:
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
        asked = cursor.take(2 * blocks - 1)
        numbers = cursor.take(cls.planes(blocks) * -(-blocks // 8))
        table = cursor.take(n * LseSection.stride(bits, index.dimension))
        cursor.end()
        finite(label, scale, bias)
        path, on_path = bytearray(), bytearray(LEAF)  # bits that are asked here; how often: twice on the second side
        open_nodes = 1
        for bit in asked:
            if not open_nodes or (bit != LEAF and (bit >= n or on_path[bit])):
                raise damaged(label, "the tree ends early, or asks a bit that there is not, or one twice on a way")
            open_nodes += 1 if bit != LEAF else -1
            if bit != LEAF:
                path.append(bit)
                on_path[bit] = 1
                continue
            while path and on_path[path[-1]] == 2:
                on_path[path.pop()] = 0
            if path:
                on_path[path[-1]] = 2
        made = cls(bits, temperature, scale, bias, asked, numbers, table)
        if open_nodes or sorted(made.blocks_of_leaves()) != [*range(blocks)]:
            raise damaged(label, "the leaves of the tree are not each block once")
        return made


ROUTER_SECTIONS: dict[str, Any] = {
    "centroids": LseSection,
    "lse": LseSection,
    "trained": LseSection,
    "two-level": TwoLevelSection,
    "mlp": MlpSection,
    "tree": TreeSection,
    "ecvh": EcvhSection,
    "two-level-ecvh": TwoLevelSection,
    "bec-tree": BecTreeSection,
}
