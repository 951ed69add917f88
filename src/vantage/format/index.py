"""The index section: what an index is."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

from ..errors import DamagedError
from .layout import BLOCKS_MAX, CODECS, DIMENSION_MAX, ID_KINDS, METRICS, ROUTERS, VECTOR_KINDS, Cursor, damaged

ATTRIBUTE_KINDS = ("in blocks", "by row")
_INDEX = struct.Struct("<IIQIIIIIIdII")
# An index may keep more blocks than rows where rows were removed; only so many, as a block costs time to open.
BLOCKS_FREE = 4096
ORIGIN_MAX = 1e18  # no row is longer
# In the scale of the index, which is near the length of the usual row: so that integer scores never leave 31 bits.
# Under l2 those of far rows may, which are last anyway: the rest must be told apart, and float32 hold all products.
LENGTH_MAX = {"dot": 32.0, "l2": 3000.0}
ZERO = memoryview(array("f"))


@dataclass(frozen=True)
class IndexSection:
    """What the index is. Its rows are source rows minus origin, times row_scale (1 for cosine, which scales to norm 1).

    rows: numbers of rows, some of which may be dead (see Root.dead); an empty index has none, and no blocks.
    attribute_bytes: of the JSON of a row's attributes, the mean, rounded up.
    origin f32 (d): a point among the rows under l2, where distances are the same from anywhere; else empty, for zero.
    """

    metric: str
    dimension: int
    rows: int
    blocks: int
    id_kind: str
    vector_kind: str
    codec: str
    router: str
    row_scale: float
    slots: int  # of rows in blocks: a row has one in each block that holds it
    by_row: bool = False  # scan blocks say where the attributes of their rows are
    origin: memoryview = ZERO
    attribute_bytes: int = 0

    def pack(self) -> bytes:
        fixed = _INDEX.pack(
            METRICS.index(self.metric), self.dimension, self.rows, self.blocks, self.attribute_bytes,
            ID_KINDS.index(self.id_kind), VECTOR_KINDS.index(self.vector_kind), CODECS.index(self.codec),
            ROUTERS.index(self.router), self.row_scale, self.slots, self.by_row,
        )  # fmt: skip
        return fixed + self.origin.tobytes()

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> IndexSection:
        cursor = Cursor(body, label)
        metric, dimension, rows, blocks, nbytes, ids, vectors, codec, router, scale, slots, by = cursor.unpack(_INDEX)
        origin = cursor.column("f", dimension) if metric == METRICS.index("l2") else ZERO
        cursor.end()

        def name(table: tuple[str, ...], i: int, what: str) -> str:
            if i >= len(table):
                raise DamagedError(f"{label}: {what} number {i} is unknown", hint="a newer builder made it: update")
            return table[i]

        empty = not (rows or blocks or slots)
        if not 1 <= dimension <= DIMENSION_MAX or not (empty or 1 <= blocks <= BLOCKS_MAX):
            raise damaged(label, f"dimension {dimension}, blocks {blocks}")
        if not 1e-40 < scale < 1e40 or not (empty or 1 <= rows < 1 << 32) or not slots < 1 << 32:
            raise damaged(label, f"row scale {scale}, rows {rows}, slots {slots}")
        if not all(-ORIGIN_MAX <= v <= ORIGIN_MAX for v in origin):
            raise damaged(label, f"its origin is not finite, or beyond {ORIGIN_MAX:.0e}")
        if blocks > max(BLOCKS_FREE, rows):
            raise damaged(label, f"{blocks} blocks for {rows} rows")
        return cls(
            name(METRICS, metric, "metric"), dimension, rows, blocks, name(ID_KINDS, ids, "id kind"),
            name(VECTOR_KINDS, vectors, "vector kind"), name(CODECS, codec, "codec"), name(ROUTERS, router, "router"),
            scale, slots, name(ATTRIBUTE_KINDS, by, "kind of attributes") == "by row", origin,
            nbytes,
        )  # fmt: skip
