"""The options of a build, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING_BYTES_MIN = 1 << 30  # of memory: what training a network holds comes on top of all else


@dataclass(frozen=True)
class Options:
    """What the user asked for; None where the builder is to choose by measuring. The command line and VectorIndex
    take their defaults from here.

    cache_bytes: an index that can fit it is made to fit it; 0: none is. copies: one of copies.COPY_RULES; copies_share:
    how many a row. fast: no router is trained. second_wave: queries that estimate a low recall read once more. codec:
    one of codecs.CODECS. rotation: of rotations.ROTATIONS. error_norms: answers can be proven, for a byte a row. model:
    what made the vectors, a stamp that queries can be checked against. vectors: how those of an f32 source are kept,
    f16 or f32; None: f16 where that loses nothing. filters: attributes to filter by; None: all scalar ones that cost a
    query little.
    """

    recall: float = 0.95
    k: int = 100
    seed: int = 0
    cache_bytes: int = 0
    memory_bytes: int = 2 << 30
    partition: str | None = None
    router: str | None = None
    copies: str | None = None
    copies_share: float | None = None
    fast: bool = False
    second_wave: bool = False
    codec: str = "lrsq"
    rotation: str | None = None
    error_norms: bool = False
    model: str | None = None
    vectors: str | None = None
    filters: tuple[str, ...] | None = None
