"""Renditions of blocks: longer codes for high recalls in one wave; and small indexes, whose root holds the blocks."""

from __future__ import annotations

from dataclasses import replace

from vantage.format import Ladder, Promise, Promises

from ..ingest.rows import Ints, Rows

INLINE_BYTES = 512 << 10  # of all blocks: a lane takes nine milliseconds for them, a wave 40
SLOTS_MOST = 2  # a row
LONGER_BITS = (6, 8)  # a dimension, as candidates
LONGER_RECALL = 0.97  # lower ones are kept by the first rendition
GOALS = (0.98, 0.99, 0.995)  # by whose time one of the lengths is chosen
NEVER_MS = 1000.0  # of a recall that codes do not reach
WORTH = 0.9  # of the time of the first rendition at one recall at least, or the second is not worth its storage


def are_small(rows: Rows, sizes: Ints) -> bool:
    """Whether the root holds the blocks, which have these bytes (B), with the attributes of their rows.

    Attributes are deflated to about half.
    """
    attributes = rows.stored.attribute_sizes().mean()
    return bool(sizes.sum() + SLOTS_MOST * rows.count * attributes / 2 <= INLINE_BYTES)


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
        other = next((x.by_recall for x in second.others if x.k == k), second.by_recall if not k else ())
        both = [*own, *(replace(p, rendition=1) for p in other)]
        for p in other:
            waits = [q.ms for q in own if q.recall >= min(p.recall, own[-1].recall)]
            gains |= p.recall > own[-1].recall or p.ms < WORTH * min(waits)
        kept = [p for p in both if not any(_beats(q, p) for q in both)]
        return tuple(sorted(kept, key=lambda p: (p.recall, p.ms)))

    by_recall = cheapest(0, first.by_recall)
    others = tuple(Ladder(x.k, cheapest(x.k, x.by_recall)) for x in first.others)
    if not gains:
        return None
    estimators = first.estimators + tuple(replace(e, rendition=1) for e in second.estimators)
    return Promises(estimators, by_recall, others)


def _beats(a: Promise, b: Promise) -> bool:
    """Whether a is at least as good as b in recall and time, and better in one."""
    return a.recall >= b.recall and a.ms <= b.ms and (a.recall, -a.ms) != (b.recall, -b.ms)
