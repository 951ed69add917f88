"""The tail router: blocks by how many answers they are expected to hold, of the rows that a filter takes.

Scores of the rows of a block are normal around that of its centre, or of a large index around the logit that the router
gives it; T is the score that as many rows as are wanted are
expected to pass, and a block is as probable as the share of them that it holds. Measured, it follows k, the share of
rows that match, and filters whose rows lie far from the query, which probabilities of a router for all rows do not.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import mul

from ... import kernels
from ...format import Centres, Counts, IndexSection
from ..prepare import Prepared
from .common import PROBABILITY_BITS, Routed

KNOWN_SHARE = 0.98  # of the rows that match, at most, are wanted: T would be the least score of all
DISTANCE_MIN = 1e-9
SCORE_MAX = 1e29  # what the kernel takes


def by_centres(
    query: Prepared, index: IndexSection, centres: Centres, counts: Counts
) -> tuple[Sequence[float], Sequence[float]]:
    """(mean, deviation) of the scores of the rows of every block, from its centre."""
    dots = array("i", bytes(4 * index.blocks))
    kernels.matvec_i8(query.i16, centres.table, index.blocks, index.dimension, dots)
    base = list(map(mul, dots, map(query.i16_scale.__mul__, centres.scale)))
    if index.metric == "l2":
        base = [b + bias for b, bias in zip(base, centres.bias, strict=True)]
        away = [math.sqrt(max(DISTANCE_MIN, query.norm * query.norm - 2 * b)) for b in base]
        spread = [counts.spread * d for d in away]
        base = [b + counts.shift * d for b, d in zip(base, away, strict=True)]
    else:
        spread = [counts.spread] * index.blocks
        base = [b + counts.shift for b in base]
    return [max(-SCORE_MAX, min(SCORE_MAX, b)) for b in base], [min(SCORE_MAX, s) for s in spread]


def by_logits(logits: Sequence[float], counts: Counts) -> tuple[Sequence[float], Sequence[float]]:
    """The same in units of the router's logits, which stand for scores where the root has no centres."""
    least = max(-SCORE_MAX, min((v for v in logits if v != -math.inf), default=0.0))
    return [max(least, min(SCORE_MAX, v)) for v in logits], [counts.spread] * len(logits)


def tail(scores: tuple[Sequence[float], Sequence[float]], rows: Sequence[float], wanted: int) -> Routed:
    """Of every block. scores: mean and deviation of those of its rows. rows (B): of each that match, expected."""
    base, spread = scores
    out, total = array("I", bytes(4 * len(base))), sum(rows)
    if not total:
        return Routed(out)
    most = min(float(wanted), KNOWN_SHARE * total)
    kernels.tail_probabilities(array("f", rows), array("f", base), array("f", spread), most, out)
    return Routed(out)


def shared(routed: Routed, rows: Sequence[float], homes: Sequence[int]) -> Routed:
    """The probabilities of a router for all rows, times the share of each block's rows that match."""
    numbers = range(len(homes)) if routed.blocks is None else routed.blocks
    values = [p * rows[b] / homes[b] if homes[b] else 0.0 for p, b in zip(routed.p, numbers, strict=True)]
    unit = (1 << PROBABILITY_BITS) / (sum(values) or 1.0)
    p = [max(round(v * unit), 1) if rows[b] > 0 else 0 for v, b in zip(values, numbers, strict=True)]
    return Routed(array("I", p), routed.blocks, routed.directory, routed.complete)
