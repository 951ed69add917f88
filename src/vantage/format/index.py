"""The index section: what an index is."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import DamagedError
from .layout import BLOCKS_MAX, CODECS, DIMENSION_MAX, ID_KINDS, METRICS, ROUTERS, VECTOR_KINDS, Cursor, damaged

_INDEX = struct.Struct("<IIQIIIIIIdI4x")


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

    def pack(self) -> bytes:
        return _INDEX.pack(
            METRICS.index(self.metric), self.dimension, self.rows, self.blocks, self.shards,
            ID_KINDS.index(self.id_kind), VECTOR_KINDS.index(self.vector_kind), CODECS.index(self.codec),
            ROUTERS.index(self.router), self.row_scale, self.places,
        )  # fmt: skip

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> IndexSection:
        cursor = Cursor(body, label)
        metric, dimension, rows, blocks, shards, ids, vectors, codec, router, scale, places = cursor.unpack(_INDEX)
        cursor.end()

        def name(table: tuple[str, ...], i: int, what: str) -> str:
            if i >= len(table):
                raise DamagedError(f"{label}: {what} number {i} is unknown", hint="a newer builder made it: update")
            return table[i]

        if not 1 <= dimension <= DIMENSION_MAX or not 1 <= blocks <= BLOCKS_MAX or not 1 <= shards <= blocks:
            raise damaged(label, f"dimension {dimension}, blocks {blocks}, shards {shards}")
        if not 1e-40 < scale < 1e40 or not 1 <= rows <= places < 1 << 32:
            raise damaged(label, f"row scale {scale}, rows {rows}, places {places}")
        return cls(
            name(METRICS, metric, "metric"), dimension, rows, blocks, shards, name(ID_KINDS, ids, "id kind"),
            name(VECTOR_KINDS, vectors, "vector kind"), name(CODECS, codec, "codec"), name(ROUTERS, router, "router"),
            scale, places,
        )  # fmt: skip
