"""The index section: what an index is."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import DamagedError
from .layout import BLOCKS_MAX, CODECS, DIMENSION_MAX, ID_KINDS, METRICS, ROUTERS, VECTOR_KINDS, Cursor, damaged

ATTRIBUTE_KINDS = ("by block", "by row")
_INDEX = struct.Struct("<IIQIIIIIIdII")
# An index may keep more blocks than rows where rows were removed; only so many, as a block costs time to open.
BLOCKS_FREE = 4096


@dataclass(frozen=True)
class IndexSection:
    """What the index is. row_scale: stored rows are source rows times this (1 for cosine, which scales to norm 1)."""

    metric: str
    dimension: int
    rows: int
    blocks: int
    shards: int
    id_kind: str
    vector_kind: str
    codec: str
    router: str
    row_scale: float
    places: int  # rows in blocks, copies counted
    by_row: bool = False  # attributes can be read a row: its place stands in scan blocks and in ids.bin

    def pack(self) -> bytes:
        return _INDEX.pack(
            METRICS.index(self.metric), self.dimension, self.rows, self.blocks, self.shards,
            ID_KINDS.index(self.id_kind), VECTOR_KINDS.index(self.vector_kind), CODECS.index(self.codec),
            ROUTERS.index(self.router), self.row_scale, self.places, self.by_row,
        )  # fmt: skip

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> IndexSection:
        cursor = Cursor(body, label)
        metric, dimension, rows, blocks, shards, ids, vectors, codec, router, scale, places, by = cursor.unpack(_INDEX)
        cursor.end()

        def name(table: tuple[str, ...], i: int, what: str) -> str:
            if i >= len(table):
                raise DamagedError(f"{label}: {what} number {i} is unknown", hint="a newer builder made it: update")
            return table[i]

        if not 1 <= dimension <= DIMENSION_MAX or not 1 <= blocks <= BLOCKS_MAX or not 1 <= shards <= blocks:
            raise damaged(label, f"dimension {dimension}, blocks {blocks}, shards {shards}")
        if not 1e-40 < scale < 1e40 or not 1 <= rows <= places < 1 << 32:
            raise damaged(label, f"row scale {scale}, rows {rows}, places {places}")
        if blocks > max(BLOCKS_FREE, rows):
            raise damaged(label, f"{blocks} blocks for {rows} rows")
        return cls(
            name(METRICS, metric, "metric"), dimension, rows, blocks, shards, name(ID_KINDS, ids, "id kind"),
            name(VECTOR_KINDS, vectors, "vector kind"), name(CODECS, codec, "codec"), name(ROUTERS, router, "router"),
            scale, places, name(ATTRIBUTE_KINDS, by, "kind of attributes") == "by row",
        )  # fmt: skip
