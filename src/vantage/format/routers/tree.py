"""The section of tree."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass

from ..index import IndexSection
from ..layout import Cursor, damaged, finite
from .lse import LseSection

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
