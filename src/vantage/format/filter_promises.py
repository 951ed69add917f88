"""The section of promises under filters: recalls that are kept, and what they follow from; vantage.search.matching."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from .layout import Cursor, damaged, finite
from .promises import PROMISED_RERANK_MAX

FILTER_PROMISES_MAX = 4096
POWER_MAX, FLOOR_MAX = 16.0, 1024.0
_PROMISES = struct.Struct("<I4x")
_PROMISE = struct.Struct("<IIIId6d3d")


@dataclass(frozen=True)
class FilterPromise:
    """What keeps recall@k under filters, read by chunks of a projection or by blocks, and what that took on a suite.

    aim: the recall that plans expect of what they read. rerank: rows that get exact scores. A query that reads extents
    with the share m of the answers that are expected has the recall ceiling * (1 - (1 - m)^(power - slope * x)), x the
    log2 of matching rows over k. A plan ends earlier, at the step floor + rise * x of its prices, as queries that are
    worse than the mean are not worth more. gets, nbytes, ms: means of the suite.
    """

    by_chunks: bool
    k: int
    recall: float
    aim: float
    rerank: int
    ceiling: float
    power: float
    slope: float
    floor: float
    rise: float
    gets: float
    nbytes: float
    ms: float


def pack_filter_promises(promises: tuple[FilterPromise, ...]) -> bytes:
    """The section, of promises by (by_chunks, k, recall), rising."""
    return _PROMISES.pack(len(promises)) + b"".join(
        _PROMISE.pack(
            p.by_chunks,
            p.k,
            p.rerank,
            0,
            p.recall,
            p.aim,
            p.ceiling,
            p.power,
            p.slope,
            p.floor,
            p.rise,
            p.gets,
            p.nbytes,
            p.ms,
        )
        for p in promises
    )


def unpack_filter_promises(body: memoryview, label: str) -> tuple[FilterPromise, ...]:
    """Raises DamagedError where they are none, or out of order."""
    cursor = Cursor(body, label)
    (count,) = cursor.unpack(_PROMISES)
    if not 1 <= count <= FILTER_PROMISES_MAX:
        raise damaged(label, f"{count} promises, 1 to {FILTER_PROMISES_MAX} can be")
    out = []
    for _ in range(count):
        by_chunks, k, rerank, _, recall, aim, ceiling, power, slope, floor, rise, *means = cursor.unpack(_PROMISE)
        finite(label, [recall, aim, ceiling, power, slope, floor, rise, *means])
        if by_chunks > 1 or not k or rerank > PROMISED_RERANK_MAX or not (0 < recall <= 1 and 0 < aim <= 1):
            raise damaged(label, f"a promise of recall {recall} at {k}, by the aim {aim}")
        if not (0 < ceiling <= 1 and 0 < power <= POWER_MAX and abs(slope) <= POWER_MAX):
            raise damaged(label, f"a promise with ceiling {ceiling}, power {power}, slope {slope}")
        if not all(0 <= mean < math.inf for mean in means) or max(abs(floor), abs(rise)) > FLOOR_MAX:
            raise damaged(label, f"a promise with means {means}, floor {floor}, rise {rise}")
        gets, nbytes, ms = means
        out.append(
            FilterPromise(bool(by_chunks), k, recall, aim, rerank, ceiling, power, slope, floor, rise, gets, nbytes, ms)
        )
    cursor.end()
    order = [(p.by_chunks, p.k, p.recall) for p in out]
    if order != sorted(set(order)):
        raise damaged(label, "its promises are out of order")
    return tuple(out)
