"""Scattered pieces of objects -> ranged reads: neighbours merged where that is quicker. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..cost import LANES, ROUND_MS, wave_ms
from ..format import READ_BYTES_MAX

RANGE_BYTES_MAX = READ_BYTES_MAX  # a longer range is cut: the most that the buffer in the Wasm heap grows to
SPLIT_BYTES = 128 << 10  # a shorter range is not split over idle lanes: that would gain a millisecond
ACROSS = 1 << 62  # bytes between items of two objects: never bridged
SHARED_GAP = 32 << 10  # half a millisecond of a lane, where a GET takes 40: bridged in a batch
NEAR_GAP = 256 << 10  # four milliseconds of a lane: bridged between rows that are read by their numbers


@dataclass(frozen=True)
class Span:
    """Bytes offset up to offset + size of an object, that hold the items (offset, size) named by their numbers."""

    key: str
    offset: int
    size: int
    items: list[int]


def plan_gather(
    items: Sequence[tuple[str, int, int]], gets: int, bytes_max: int, bytes_wanted: float = math.inf
) -> list[Span] | None:
    """Reads for scattered items (object key, offset, size), neighbours merged where the model says it is quicker.

    Tries one round of lanes, two, ... and takes the least modelled time, of plans of at most bytes_wanted where there
    are any. None when no plan fits the budget, or an item is over RANGE_BYTES_MAX.
    """
    order = sorted(range(len(items)), key=items.__getitem__)
    placed = [items[i] for i in order]
    ends = [offset + size for _, offset, size in placed]
    gaps = sorted(  # (-bytes between neighbours, position), the widest first
        (ends[at - 1] - placed[at][1] if placed[at - 1][0] == placed[at][0] else -ACROSS, at)
        for at in range(1, len(placed))
    )
    forced = sum(gap == -ACROSS for gap, _ in gaps)
    best: tuple[tuple[bool, float], list[Span]] | None = None
    for most in range(LANES, gets + LANES, LANES):
        if best and not best[0][0] and ROUND_MS * most / LANES >= best[0][1]:
            break  # so many rounds alone take longer
        pieces = min(most, gets)
        cuts = sorted(at for gap, at in gaps[: max(pieces - 1, 0)] if gap < 0)
        if forced > len(cuts):
            continue
        spans = list[Span]()
        for low, high in zip([0, *cuts], [*cuts, len(order)], strict=True):
            key, start, _ = placed[low]
            size = max(ends[low:high]) - start
            fits = size <= RANGE_BYTES_MAX
            spans += [Span(key, start, size, order[low:high])] if fits else _spans_of(items, order[low:high])
        nbytes = sum(s.size for s in spans)
        if len(spans) > gets or nbytes > bytes_max or max(s.size for s in spans) > RANGE_BYTES_MAX:
            continue
        cost = nbytes > bytes_wanted, wave_ms([s.size for s in spans])
        if best is None or cost < best[0]:
            best = (cost, spans)
        if most >= len(order):
            break
    return best[1] if best else None


def _spans_of(items: Sequence[tuple[str, int, int]], members: list[int]) -> list[Span]:
    """One span of these items, by rising offset in one object, or as many as RANGE_BYTES_MAX demands."""
    spans, start, end = list[Span](), 0, 0
    for at, i in enumerate(members):
        end = max(end, items[i][1] + items[i][2])
        if at > start and end - items[members[start]][1] > RANGE_BYTES_MAX:
            spans.append(span_of(items, members[start:at]))
            start, end = at, items[i][1] + items[i][2]
    return [*spans, span_of(items, members[start:])]


def plan_shared(items: Sequence[tuple[str, int, int]]) -> list[Span]:
    """Reads for what several queries want of (object key, offset, size), none of them twice in the list.

    What lies together, or apart by less than a GET is worth, is read together, up to RANGE_BYTES_MAX; idle lanes take
    halves of the longest.
    """
    spans = _joined(items, SHARED_GAP)
    while spans and len(spans) < LANES:
        longest = max(spans, key=lambda s: s.size if len(s.items) > 1 else 0)
        middle = len(longest.items) // 2
        if longest.size <= SPLIT_BYTES or not middle:
            break
        at = spans.index(longest)
        spans[at : at + 1] = [span_of(items, half) for half in (longest.items[:middle], longest.items[middle:])]
    return spans


def plan_near(items: Sequence[tuple[str, int, int]], gets: int, bytes_max: int) -> list[Span] | None:
    """Reads for (object key, offset, size) in many places: what lies at most NEAR_GAP apart is read together, and what
    lies farther where it takes too many GETs else. None when no such plan fits the budget.
    """
    gap = NEAR_GAP
    spans = _joined(items, gap)
    while len(spans) > gets and gap < RANGE_BYTES_MAX:
        gap *= 2
        spans = _joined(items, gap)
    return spans if len(spans) <= gets and sum(span.size for span in spans) <= bytes_max else None


def _joined(items: Sequence[tuple[str, int, int]], gap: int) -> list[Span]:
    """Spans of items, none of which lie farther apart than `gap`, of at most RANGE_BYTES_MAX or one item."""
    spans, members, end = list[Span](), list[int](), 0
    for i in sorted(range(len(items)), key=items.__getitem__):
        key, offset, size = items[i]
        if members:
            own, start, _ = items[members[0]]
            if key != own or offset - end > gap or max(end, offset + size) - start > RANGE_BYTES_MAX:
                spans.append(Span(own, start, end - start, members))
                members, end = [], 0
        members.append(i)
        end = max(end, offset + size)
    return [*spans, span_of(items, members)] if members else spans


def span_of(items: Sequence[tuple[str, int, int]], members: list[int]) -> Span:
    """The span of these items, by rising offset in one object."""
    key, start, _ = items[members[0]]
    end = max(items[i][1] + items[i][2] for i in members)
    return Span(key, start, end - start, members)
