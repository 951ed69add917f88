"""Contenders -> answers: scores in the user's metric, exact ones from full vectors when they were read."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Any

from .. import kernels
from ..format import VECTOR_BYTES, IndexSection
from .prepare import Prepared
from .scan import Contender

SCALE_MAX = 1e12  # of rows, past which float32 loses their products
SQUARE_MIN = 1e-24  # of a row, likewise


@dataclass
class Match:
    """An answer: score is cosine or inner product (larger is better) or squared L2 (smaller is better)."""

    id: int | bytes
    row: int
    check: int
    score: float
    attributes: dict[str, Any] | None = None
    contender: Contender | None = field(default=None, compare=False)  # where a scan saw it: no part of the answer
    stored: bytes | None = None  # the full vector, of `kind`
    kind: str = "f32"

    @property
    def vector(self) -> list[float] | None:
        """The full vector as numbers, when it was asked for; made anew each time."""
        return None if self.stored is None else decode(self.stored, self.kind)


def rank_estimated(contenders: list[Contender], query: Prepared, index: IndexSection, top_k: int) -> list[Match]:
    """The best top_k by their scan scores, clamped to the range of the metric."""
    return [
        Match(c.id, c.row, c.check, _score(c.score / query.unit, query, index), contender=c) for c in contenders[:top_k]
    ]


def _score(s: float, query: Prepared, index: IndexSection) -> float:
    if index.metric == "cosine":
        return round(max(-1.0, min(1.0, s)), 7)
    if index.metric == "dot":
        return s * query.norm / index.row_scale
    return max(0.0, query.norm * query.norm - 2 * s) / (index.row_scale * index.row_scale)


SQUARE_MAX = 1e37  # of a vector: builders take norms up to 1e18, and so no score leaves float32
_DOT: dict[str, Callable[..., int]] = {"f16": kernels.dot_f16, "f32": kernels.dot_f32, "u8": kernels.dot_u8}
_L2: dict[str, Callable[..., int]] = {"f16": kernels.l2_f16, "f32": kernels.l2_f32, "u8": kernels.l2_u8}


def comparable(vectors: bytes | memoryview, kind: str) -> tuple[bytes | memoryview, str]:
    """(stored vectors as the kernels of exact scores take them, of what kind): i8 has none of its own."""
    return (array("f", memoryview(vectors).cast("b").tolist()).tobytes(), "f32") if kind == "i8" else (vectors, kind)


def lengths_of(
    vectors: bytes | memoryview, n: int, kind: str, dimension: int, origin: bytes = b""
) -> list[float]:  # fmt: skip
    """The norms of n comparable vectors, infinite where they are of no row; 0 where float32 loses their squares.

    origin f32 (d): what they are the distances from; the zero vector without it.
    """
    squares = array("f", bytes(4 * n))
    _L2[kind](origin or bytes(4 * dimension), vectors, 0, VECTOR_BYTES[kind] * dimension, n, dimension, squares)
    return [
        0.0 if square <= SQUARE_MIN else math.sqrt(square) if square < SQUARE_MAX else math.inf for square in squares
    ]  # NaN is not below


def products(
    vectors: bytes | bytearray | memoryview, kind: str, n: int, query: Prepared, index: IndexSection
) -> Sequence[float]:
    """Of n comparable vectors, one after the other, in f32 sums of 16 lanes: their scores; under cosine those times
    their lengths.
    """
    d, out = index.dimension, array("f", bytes(4 * n))
    stride = VECTOR_BYTES[kind] * d
    if index.metric != "cosine" and (index.row_scale > SCALE_MAX or 0 < query.norm < 1 / SCALE_MAX):
        some = (memoryview(vectors)[i * stride : (i + 1) * stride] for i in range(n))
        return [_tiny_score(decode(vector, kind), query, index) for vector in some]
    if index.metric == "l2":
        _L2[kind](query.source, vectors, 0, stride, n, d, out)
    elif index.metric == "dot":
        _DOT[kind](query.source, vectors, 0, stride, n, d, out)
    else:
        _DOT[kind](query.vector, vectors, 0, stride, n, d, out)  # of norm 1: the square of a tiny source would be 0
    return out


def score_of(
    product: float, length: float, vector: Callable[[], bytes | memoryview], kind: str, query: Prepared,
    index: IndexSection,
) -> float:  # fmt: skip
    """The score of a comparable vector with this product and length (see lengths_of)."""
    if index.metric != "cosine":
        return product
    return max(-1.0, min(1.0, product / length if length else _short_score(vector(), kind, query)))


def _short_score(vector: bytes | memoryview, kind: str, query: Prepared) -> float:
    """The cosine of a vector whose square float32 loses."""
    values, out = decode(vector, kind), array("f", [0.0])
    d, length = len(values), math.sqrt(math.fsum(v * v for v in values))
    _DOT["f32"](query.vector, array("f", [v / (length or 1.0) for v in values]).tobytes(), 0, 4 * d, 1, d, out)
    return out[0]


def exact_score(vector: bytes | memoryview, query: Prepared, index: IndexSection) -> float:
    """The score of one stored vector."""
    data, kind = comparable(vector, index.vector_kind)
    length = lengths_of(data, 1, kind, index.dimension)[0] if index.metric == "cosine" else 1.0
    return score_of(products(data, kind, 1, query, index)[0], length, lambda: data, kind, query, index)


def _tiny_score(vector: list[float], query: Prepared, index: IndexSection) -> float:
    """As exact_score, in the scale of the index: as they are, the products would leave float32."""
    moved = map(sub, vector, index.origin) if index.origin else vector
    out, scaled = array("f", [0.0]), array("f", [v * index.row_scale for v in moved])
    kernel = kernels.l2_f32 if index.metric == "l2" else kernels.dot_f32
    kernel(query.vector, scaled.tobytes(), 0, 4 * len(vector), 1, len(vector), out)
    if index.metric == "l2":
        return out[0] / (index.row_scale * index.row_scale)
    return out[0] * query.norm / index.row_scale


def is_sound(vector: bytes | memoryview, kind: str) -> bool:
    """Whether all numbers of a stored vector are finite, and its norm is one that a row may have."""
    if kind in ("u8", "i8"):
        return True
    return math.isfinite(lengths_of(vector, 1, kind, len(vector) // VECTOR_BYTES[kind])[0])


def decode(vector: bytes | memoryview, kind: str) -> list[float]:
    """A stored vector as numbers."""
    code = {"f16": "e", "f32": "f", "u8": "B", "i8": "b"}[kind]
    return list(struct.unpack(f"<{len(vector) // VECTOR_BYTES[kind]}{code}", vector))


def rank_exact(
    contenders: list[Contender], vectors: dict[int, bytes], query: Prepared, index: IndexSection, top_k: int
) -> list[Match]:
    """The best top_k of the contenders whose vectors were read, by exact score, ties by lower row number."""
    scored = [
        Match(c.id, c.row, c.check, exact_score(vectors[c.row], query, index), contender=c)
        for c in contenders
        if c.row in vectors
    ]
    return best_first(scored, index)[:top_k]


def best_first(matches: list[Match], index: IndexSection) -> list[Match]:
    """In the order of answers: by score, ties by lower row number."""
    sign = 1.0 if index.metric == "l2" else -1.0
    return sorted(matches, key=lambda m: (sign * m.score, m.row))
