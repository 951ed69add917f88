"""The section of centroids, lse and trained."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from ..index import IndexSection
from ..layout import Cursor, aligned, damaged, finite

_LSE = struct.Struct("<IIIff")


@dataclass(frozen=True)
class LseSection:
    """Routers centroids, lse and trained: `subs` sub-centroids per block, each of `bits` bits, 4 or 8.

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
