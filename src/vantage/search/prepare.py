"""Query -> normalised, scaled and quantized, once per query."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul, sub
from typing import TYPE_CHECKING

from ..errors import InputError, LimitError
from ..format import IndexSection, aligned
from .superseded import Superseded

if TYPE_CHECKING:
    from .filtered import Selection

SCORE_BITS = 20  # an integer score is the score in units of 2^-20 for queries up to 8 times the mean norm of the rows
I16_MAX = 32767
I16_NORM = float(I16_MAX)
QUERY_NORM_MAX = 1e18  # its square, and so every score, is finite in float32


@dataclass(frozen=True)
class Prepared:
    """A query, ready for every kernel.

    source f32 (d): as sent. vector f32 (d): norm 1 (cosine, dot), or from the origin in the scale of the rows (l2).
    norm: of the source under dot, of the vector under l2, 1 under cosine. i16 (d padded to 32) * i16_scale is the
    vector. unit: integer scores for a score of 1. sharpness: the power that a router's probabilities are raised to.
    selection: the rows that may answer, None for all. distinct: the field of each of whose keys one row may answer.
    superseded: ids whose rows in the generation may not answer, as the log has said more of them since.
    """

    source: array[float]
    vector: array[float]
    norm: float
    i16: array[int]
    i16_scale: float
    unit: float
    sharpness: float = 1.0
    selection: Selection | None = None
    distinct: int | None = None
    superseded: Superseded = Superseded()


def prepare(values: Sequence[float], index: IndexSection, param: str = "vector") -> Prepared:
    """Checks and scales a query of d numbers.

    Raises InputError on a wrong length, a number that is not finite, a norm too large, or a zero vector under cosine.
    All of it is correctly rounded arithmetic (fsum, sqrt, division, round), so it is the same everywhere.
    """
    if len(values) != index.dimension:
        raise LimitError(
            f"the length of {param}",
            len(values),
            index.dimension,
            hint="send a vector of the index's dimension",
            param=param,
        )
    try:
        if not {int, float}.issuperset(map(type, values)):  # True is a number to array
            raise TypeError
        source = array("f", values)
    except (TypeError, OverflowError):
        raise InputError(
            f"{param} holds something that is not a float32 number", hint="send finite numbers", param=param
        ) from None
    if not all(map(math.isfinite, source)):
        at = next(i for i, v in enumerate(source) if not math.isfinite(v))
        raise InputError(f"{param}[{at}] is not finite as float32", hint="send finite numbers", param=param)
    length = math.sqrt(math.fsum(map(mul, source, source)))
    if length * max(1.0, index.row_scale) > QUERY_NORM_MAX:
        raise LimitError(
            f"the norm of {param}",
            length,
            QUERY_NORM_MAX / max(1.0, index.row_scale),
            hint="scale it down",
            param=param,
        )
    if index.metric == "l2":
        moved = list(map(sub, source, index.origin)) if index.origin else source
        vector = array("f", [v * index.row_scale for v in moved])
        norm = unit_norm = math.sqrt(math.fsum(v * v for v in moved)) * index.row_scale
    elif length == 0.0 and index.metric == "cosine":
        raise InputError(f"{param} is zero", hint="cosine has no answer for a zero vector", param=param)
    else:
        vector = array("f", [v / length for v in source]) if length else source
        norm, unit_norm = (length if index.metric == "dot" else 1.0), 1.0
    if unit_norm:
        factor = I16_NORM / (unit_norm if index.metric == "l2" else 1.0)
        whole = list(map(round, [v * factor for v in vector]))
        if max(map(abs, whole)) > I16_MAX:
            whole = [max(-I16_MAX, min(I16_MAX, v)) for v in whole]
        quantized = array("h", whole)
        scale = 1.0 / factor
    else:
        quantized, scale = array("h", bytes(2 * len(vector))), 0.0
    quantized.extend([0] * (aligned(index.dimension, 32) - index.dimension))
    exponent = math.frexp(unit_norm)[1]
    # Under l2 no score is over norm^2 / 2, and far rows may be cut: they are the last in any case. Else rows are short.
    shift = max(0, 2 * exponent - 9 if index.metric == "l2" else exponent - 3)
    return Prepared(source, vector, norm, quantized, scale, math.ldexp(1.0, SCORE_BITS - shift))
