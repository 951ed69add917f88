"""A query's vector along the axes of the codec, by the index's rotation; a function a kind."""

from __future__ import annotations

from array import array
from operator import add, mul
from typing import Any

from .. import kernels
from ..format import ButterflyRotation, DenseRotation, NibbleRotation, Rotation


def _dense(rotation: DenseRotation, vector: Any, out: array[float]) -> None:
    d = rotation.dimension
    kernels.dot_i8(vector, rotation.rows, 0, d, rotation.axes, d, out)
    out[:] = array("f", map(mul, out, rotation.scale))


def _nibbles(rotation: NibbleRotation, vector: Any, out: array[float]) -> None:
    d, half, (low, high) = rotation.dimension, -(-rotation.dimension // 2), rotation.halves
    others = array("f", out)
    kernels.dot_i8(vector, low, 0, half, rotation.axes, half, out)
    kernels.dot_i8(vector[half:], high, 0, half, rotation.axes, d - half, others)
    out[:] = array("f", map(mul, map(add, out, others), rotation.scale))


def _butterfly(rotation: ButterflyRotation, vector: Any, out: array[float]) -> None:
    r = rotation
    kernels.butterfly_turn(vector, r.plan, r.layers, r.dimension, r.kept, r.axes, out)


_TURNS: dict[type, Any] = {DenseRotation: _dense, NibbleRotation: _nibbles, ButterflyRotation: _butterfly}


def rotated(rotation: Rotation, vector: Any) -> array[float]:
    """f32 (axes) of vector f32 (d)."""
    out = array("f", bytes(4 * rotation.axes))
    _TURNS[type(rotation)](rotation, vector, out)
    return out
