"""Sections of the rotation, one class a kind: rows of a matrix, or layers of turns of pairs (a butterfly)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from ..kernels import butterfly_plan
from .index import IndexSection
from .layout import AXES_MAX, BUTTERFLY, NIBBLES, ROTATION, Cursor, damaged, finite

_DENSE = struct.Struct("<II")
_BUTTERFLY = struct.Struct("<III4x")
LAYERS_MAX = 200
TANGENT_ONE = 16384  # of the integers that tangents are stored as
_LOW, _HIGH = (bytes(((byte >> shift & 15) - 8) & 255 for byte in range(256)) for shift in (0, 4))


@dataclass(frozen=True)
class _Rows:
    """Axes stored as rows of small integers, each with a scale f32; rows as bytes."""

    dimension: int
    scale: memoryview
    rows: memoryview

    @property
    def axes(self) -> int:
        return len(self.scale)

    def pack(self) -> bytes:
        return _DENSE.pack(self.axes, self.dimension) + bytes(self.scale) + bytes(self.rows)


@dataclass(frozen=True)
class DenseRotation(_Rows):
    """Axis a is scale[a] times row a; scale f32 (axes), rows i8 (axes, dimension) as bytes.

    The axes have norm 1, and are orthogonal up to their rounding, some thousandths.
    """

    kind = ROTATION

    @property
    def roundings(self) -> float:
        """At most how many 2^-24 of a vector's length its part along an axis is off, as computed in f32."""
        return self.dimension / 16 + 1

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> DenseRotation:
        cursor = Cursor(body, label)
        axes, dimension = cursor.unpack(_DENSE)
        _fits(axes, dimension, index, label)
        scale, rows = cursor.column("f", axes), cursor.take(axes * dimension)
        cursor.end()
        finite(label, scale)
        return cls(dimension, scale, rows)


@dataclass(frozen=True)
class NibbleRotation(_Rows):
    """As a dense one, rows u8 (axes, half) with half = ceil(dimension / 2), two values of -8 to 7 a byte.

    The low nibble of byte j is value j + 8, the high one value half + j + 8. The axes are a ninth off orthogonal.
    """

    kind = NIBBLES

    @property
    def roundings(self) -> float:
        """As of a dense rotation; both halves are summed by themselves."""
        return self.dimension / 16 + 2

    @cached_property
    def halves(self) -> tuple[bytes, bytes]:
        """Rows i8 (axes, half) of the first half of the dimensions, and of the others, to which one may be added."""
        rows = bytes(self.rows)
        return rows.translate(_LOW), rows.translate(_HIGH)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> NibbleRotation:
        cursor = Cursor(body, label)
        axes, dimension = cursor.unpack(_DENSE)
        _fits(axes, dimension, index, label)
        if dimension < 2:
            raise damaged(label, "one dimension has no second half")
        scale, rows = cursor.column("f", axes), cursor.take(axes * -(-dimension // 2))
        cursor.end()
        finite(label, scale)
        return cls(dimension, scale, rows)


@dataclass(frozen=True)
class ButterflyRotation:
    """Layers of turns of disjoint pairs; kern.pyi, butterfly_plan, has the arithmetic.

    kept u16 (axes): coordinates of the turned vector that are axes, in order. partners u16 and tangents i16, both
    (layers, ceil(dimension / 2)): each layer's pairs, and the tangents of their angles in units of 1 / TANGENT_ONE.
    """

    kind = BUTTERFLY
    dimension: int
    layers: int
    kept: memoryview
    partners: memoryview
    tangents: memoryview

    @property
    def axes(self) -> int:
        return len(self.kept)

    @property
    def roundings(self) -> float:
        """As of a dense rotation. A turn is off by 3 a coordinate, so a layer by 3 sqrt(2) and no more than 5."""
        return 5.0 * self.layers + 4

    @cached_property
    def plan(self) -> bytearray:
        """What the kernel turns by. Raises ValueError for layers that are not of pairs."""
        out = bytearray(4 * self.dimension + 12 * self.layers * (self.dimension // 2))
        butterfly_plan(self.partners, self.tangents, self.layers, self.dimension, out)
        return out

    def pack(self) -> bytes:
        head = _BUTTERFLY.pack(self.axes, self.dimension, self.layers)
        return head + bytes(self.kept) + bytes(self.partners) + bytes(self.tangents)

    @classmethod
    def unpack(cls, body: memoryview, index: IndexSection, label: str) -> ButterflyRotation:
        cursor = Cursor(body, label)
        axes, dimension, layers = cursor.unpack(_BUTTERFLY)
        _fits(axes, dimension, index, label)
        if not 1 <= layers <= LAYERS_MAX:
            raise damaged(label, f"{layers} layers, 1 to {LAYERS_MAX} are known")
        entries = layers * -(-dimension // 2)
        kept, partners, tangents = cursor.column("H", axes), cursor.column("H", entries), cursor.column("h", entries)
        cursor.end()
        if len(set(kept)) != axes or max(kept) >= dimension:
            raise damaged(label, f"{axes} axes are not as many coordinates of {dimension}")
        rotation = cls(dimension, layers, kept, partners, tangents)
        try:
            rotation.plan  # noqa: B018
        except ValueError as error:
            raise damaged(label, str(error)) from None
        return rotation


def _fits(axes: int, dimension: int, index: IndexSection, label: str) -> None:
    if dimension != index.dimension or not 1 <= axes <= AXES_MAX:
        raise damaged(label, f"{axes} axes of {dimension} dimensions for an index of {index.dimension}")


Rotation = DenseRotation | NibbleRotation | ButterflyRotation
ROTATION_SECTIONS: dict[int, type[DenseRotation] | type[NibbleRotation] | type[ButterflyRotation]] = {
    c.kind: c for c in (DenseRotation, NibbleRotation, ButterflyRotation)
}
