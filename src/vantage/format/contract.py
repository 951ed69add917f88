"""The contract: the recall that an index was built for, and what prices gave."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from .layout import Cursor, damaged

_CONTRACT = struct.Struct("<IIdI4x")
POINT = struct.Struct("<IIddd")  # k, price, recall, bytes, GETs
PRICED_MAX = 1 << 60  # of price times bytes: what the planner adds up in 64 bits


@dataclass(frozen=True)
class Point:
    """What a price gave on held-out rows: recall@k, and means of bytes and GETs a query, nothing cached."""

    k: int
    price: int
    recall: float
    nbytes: float
    gets: float


@dataclass(frozen=True)
class Contract:
    """The recall asked for at k, the most GETs a plan may use, and the measured points by rising recall."""

    k: int
    gets: int
    target: float
    points: tuple[Point, ...]

    def pack(self) -> bytes:
        out = _CONTRACT.pack(self.k, self.gets, self.target, len(self.points))
        return out + b"".join(POINT.pack(p.k, p.price, p.recall, p.nbytes, p.gets) for p in self.points)

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Contract:
        cursor = Cursor(body, label)
        k, gets, target, count = cursor.unpack(_CONTRACT)
        points = tuple(Point(*cursor.unpack(POINT)) for _ in range(min(count, 4096)))
        cursor.end()
        if not 1 <= gets <= 64 or not 0 < target < 1 or not any(p.k == k for p in points):
            raise damaged(label, f"target {target} at k = {k} with {gets} GETs and {len(points)} points")
        if not all(
            p.k >= 1 and 0 <= p.recall <= 1 and 0 <= p.nbytes < math.inf and 0 <= p.gets < math.inf for p in points
        ):
            raise damaged(label, "a point is out of range")
        return cls(k, gets, target, points)
