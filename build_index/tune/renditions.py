"""A second rendition, of longer codes: high recalls that the first keeps late, by more bytes a row in one wave."""

from __future__ import annotations

from dataclasses import replace

from vantage.format import Ladder, Promise, Promises

LONGER_BITS = (6, 8)  # a dimension, as candidates
LONGER_RECALL = 0.97  # lower ones are kept by the first rendition
GOALS = (0.98, 0.99, 0.995)  # by whose time one of the lengths is chosen
NEVER_MS = 1000.0  # of a recall that codes do not reach
WORTH = 0.9  # of the time of the first rendition at one recall at least, or the second is not worth its storage


def lengths(code_bytes: int, axes: int) -> list[int]:
    """Bytes of longer codes to try."""
    return [length for bits in LONGER_BITS if (length := axes * bits // 8 // 4 * 4) > code_bytes]


def better(first: Promises, second: Promises) -> Promises | None:
    """Of each recall the promise of less modelled time, second's being of rendition 1; None where it gains too little.

    Estimators of both.
    """
    gains = False

    def cheapest(k: int, own: tuple[Promise, ...]) -> tuple[Promise, ...]:
        nonlocal gains
        other = next((x.by_recall for x in second.smaller if x.k == k), second.by_recall if not k else ())
        both = [*own, *(replace(p, rendition=1) for p in other)]
        for p in other:
            waits = [q.ms for q in own if q.recall >= min(p.recall, own[-1].recall)]
            gains |= p.recall > own[-1].recall or p.ms < WORTH * min(waits)
        kept = [p for p in both if not any(_beats(q, p) for q in both)]
        return tuple(sorted(kept, key=lambda p: (p.recall, p.ms)))

    by_recall = cheapest(0, first.by_recall)
    smaller = tuple(Ladder(x.k, cheapest(x.k, x.by_recall)) for x in first.smaller)
    if not gains:
        return None
    estimators = first.estimators + tuple(replace(e, rendition=1) for e in second.estimators)
    return Promises(estimators, by_recall, smaller)


def _beats(a: Promise, b: Promise) -> bool:
    """Whether a is at least as good as b in recall and time, and better in one."""
    return a.recall >= b.recall and a.ms <= b.ms and (a.recall, -a.ms) != (b.recall, -b.ms)
