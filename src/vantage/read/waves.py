"""Queries in step: each says what it waves next, and one wave reads that for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ..errors import DamagedError
from ..format import is_intact
from ..kernels import crc32c
from ..receipt import Receipt
from .gather import Span, plan_shared, span_of
from .reader import Reader

T = TypeVar("T")


class Item(NamedTuple):
    """Bytes that are verified and used as one: `size` at `offset` of an object of `whole` bytes.

    crc: of all of them, or of the first `lead` of a block, which say the checksums of its planes.
    """

    key: str
    offset: int
    size: int
    whole: int
    crc: int
    what: str  # what errors call it
    lead: int | None = None

    def holds(self, view: memoryview) -> bool:
        """Whether these are its bytes."""
        if len(view) != self.size:
            return False
        return crc32c(view) == self.crc if self.lead is None else is_intact(view, self.lead, self.crc)


@dataclass(frozen=True)
class Wave:
    """Items that a query waves, and the spans by which it would read them alone.

    use(numbers, bytes) gets some items as they arrive, verified; the bytes are overwritten after it.
    """

    items: list[Item]
    spans: list[Span]
    use: Callable[[list[int], list[memoryview]], None]
    hot: bool = False  # others will want these too: a warm place is asked first


# A query: yields what it waves, is resumed with whether there was time for all of that, and returns its answer.
Steps = Generator[Wave, bool, T]


async def run_together(queries: Sequence[tuple[Steps[T], Receipt]], reader: Reader) -> list[T]:
    """Runs queries side by side, a wave at a time; what several want is read once.

    Each receipt counts what its query wanted, as if asked alone; that of the reader counts what was read. The first
    failure ends all of them. When the reader's time is up, they go on with what arrived.
    """
    results: dict[int, T] = {}
    whole: dict[int, bool] = {}
    live = range(len(queries))
    while len(results) < len(queries):
        waves: dict[int, Wave] = {}
        for i in live:
            steps, receipt = queries[i]
            try:
                waves[i] = steps.send(whole[i]) if i in whole else next(steps)
                if not reader.deadline.over:
                    receipt.count_wave([s.size for s in waves[i].spans])
            except StopIteration as end:
                results[i] = end.value
        whole = dict(zip(waves, await _read(list(waves.values()), reader), strict=True))
        live = waves.keys()  # type: ignore[assignment]
    return [results[i] for i in range(len(queries))]


async def _read(waves: list[Wave], reader: Reader) -> list[bool]:
    """Reads and verifies each item once, and hands it to all that want it; whether each got all of its items."""
    missing = [len(wave.items) for wave in waves]
    if len(waves) == 1:  # by its own plan
        items, spans = waves[0].items, waves[0].spans
        takers = [[(0, j)] for j in range(len(items))]
    else:
        at: dict[tuple[str, int], int] = {}
        items, takers = [], []
        for w, wave in enumerate(waves):
            for j, item in enumerate(wave.items):
                number = at.setdefault((item.key, item.offset), len(items))
                if number == len(items):
                    items.append(item)
                    takers.append([])
                takers[number].append((w, j))
        ranges = [item[:3] for item in items]
        spans = plan_shared(ranges)
        if len(spans) > sum(len(wave.spans) for wave in waves):  # their own plans bridge more
            spans = _own_spans(waves, takers, ranges)

    def hand(pieces: list[tuple[int, memoryview]]) -> None:
        arrived: dict[int, tuple[list[int], list[memoryview]]] = {}
        for number, view in pieces:
            for w, j in takers[number]:
                numbers, views = arrived.setdefault(w, ([], []))
                numbers.append(j)
                views.append(view)
        for w, (numbers, views) in arrived.items():
            waves[w].use(numbers, views)
            missing[w] -= len(numbers)

    def use(n: int, data: memoryview) -> None:
        pieces: list[tuple[int, memoryview]] = []
        for number in spans[n].items:
            item = items[number]
            start = item.offset - spans[n].offset
            view = data[start : start + item.size]
            if not item.holds(view):
                raise DamagedError(f"{item.key}: checksum of {item.what} differs", hint="publish the index again")
            if number in lacking and reader.warm_client:
                reader.warm_client.keep(item[:3], view)
            pieces.append((number, view))
        hand(pieces)

    hot = [number for number, takes in enumerate(takers) if any(waves[w].hot for w, _ in takes)]
    held, lacking = await _warm(hot, items, reader)
    if held:
        hand(list(held.items()))
        done = set(held)
        held.clear()  # megabytes of the heap, which nobody counts while the rest is read
        left = [[number for number in span.items if number not in done] for span in spans]
        spans = [
            span if len(some) == len(span.items) else span_of([item[:3] for item in items], some)
            for span, some in zip(spans, left, strict=True)
            if some
        ]
    await reader.wave([(s.key, s.offset, s.size, items[s.items[0]].whole) for s in spans], use)
    return [not left for left in missing]


def _own_spans(
    waves: list[Wave], takers: list[list[tuple[int, int]]], ranges: list[tuple[str, int, int]]
) -> list[Span]:
    """The spans by which each would read alone, without the items that one before reads already."""
    number = {taker: n for n, takes in enumerate(takers) for taker in takes}
    taken: set[int] = set()
    spans = []
    for w, wave in enumerate(waves):
        for span in wave.spans:
            fresh = sorted({number[w, j] for j in span.items} - taken, key=lambda n: ranges[n][1])
            if fresh:
                taken.update(fresh)
                spans.append(span_of(ranges, fresh))
    return spans


async def _warm(hot: list[int], items: list[Item], reader: Reader) -> tuple[dict[int, memoryview], set[int]]:
    """Of the items with these numbers, what the reader's warm place holds, verified; and what it would like to have."""
    if not hot or reader.warm_client is None or reader.warm_client.rests or reader.deadline.over:
        return {}, set()
    reader.receipt.warm_rpc += 1
    asking = asyncio.ensure_future(reader.warm_client.ask([items[number][:3] for number in hot]))
    await reader.deadline.wait([asking])
    if asking.cancelled():
        return {}, set()
    views, wanted = asking.result()
    held, lacking = dict[int, memoryview](), {hot[n] for n in wanted}
    for n, view in views.items():
        number = hot[n]
        if items[number].holds(view):
            held[number] = view
            reader.receipt.warm_bytes += len(view)
        else:  # the bucket has the last word, and its bytes go back
            lacking.add(number)
    return held, lacking
