"""Queries in step: each says what it wants next, and one wave reads that for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ..errors import DamagedError
from ..kernels import crc32c
from ..receipt import Receipt
from .gather import Span, plan_shared, span_of
from .reader import Reader

T = TypeVar("T")


class Item(NamedTuple):
    """Bytes that are verified and used as one: `size` at `offset` of an object of `whole` bytes."""

    key: str
    offset: int
    size: int
    whole: int
    crc: int
    what: str  # what errors call it


@dataclass(frozen=True)
class Want:
    """Items that a query wants, and the spans by which it would read them alone.

    use(numbers, bytes) gets some items as they arrive, verified; the bytes are overwritten after it.
    """

    items: list[Item]
    spans: list[Span]
    use: Callable[[list[int], list[memoryview]], None]
    hot: bool = False  # others will want these too: a warm place is asked first


# A query: yields what it wants, is resumed with whether there was time for all of that, and returns its answer.
Steps = Generator[Want, bool, T]


async def together(queries: Sequence[tuple[Steps[T], Receipt]], reader: Reader) -> list[T]:
    """Runs queries side by side, a wave at a time; what several want is read once.

    Each receipt counts what its query wanted, as if asked alone; that of the reader counts what was read. The first
    failure ends all of them. When the reader's time is up, they go on with what arrived.
    """
    found: dict[int, T] = {}
    whole: dict[int, bool] = {}
    live = range(len(queries))
    while len(found) < len(queries):
        wants: dict[int, Want] = {}
        for i in live:
            steps, receipt = queries[i]
            try:
                wants[i] = steps.send(whole[i]) if i in whole else next(steps)
                if not reader.until.over:
                    receipt.wanted([s.size for s in wants[i].spans])
            except StopIteration as end:
                found[i] = end.value
        whole = dict(zip(wants, await _read(list(wants.values()), reader), strict=True))
        live = wants.keys()  # type: ignore[assignment]
    return [found[i] for i in range(len(queries))]


async def _read(wants: list[Want], reader: Reader) -> list[bool]:
    """Reads and verifies each item once, and hands it to all that want it; whether each got all of its items."""
    missing = [len(want.items) for want in wants]
    if len(wants) == 1:  # by its own plan
        items, spans = wants[0].items, wants[0].spans
        takers = [[(0, j)] for j in range(len(items))]
    else:
        at: dict[tuple[str, int], int] = {}
        items, takers = [], []
        for w, want in enumerate(wants):
            for j, item in enumerate(want.items):
                number = at.setdefault((item.key, item.offset), len(items))
                if number == len(items):
                    items.append(item)
                    takers.append([])
                takers[number].append((w, j))
        places = [item[:3] for item in items]
        spans = plan_shared(places)
        if len(spans) > sum(len(want.spans) for want in wants):  # their own plans bridge more
            spans = _own_spans(wants, takers, places)

    def hand(pieces: list[tuple[int, memoryview]]) -> None:
        arrived: dict[int, tuple[list[int], list[memoryview]]] = {}
        for number, view in pieces:
            for w, j in takers[number]:
                numbers, views = arrived.setdefault(w, ([], []))
                numbers.append(j)
                views.append(view)
        for w, (numbers, views) in arrived.items():
            wants[w].use(numbers, views)
            missing[w] -= len(numbers)

    def use(n: int, data: memoryview) -> None:
        pieces: list[tuple[int, memoryview]] = []
        for number in spans[n].items:
            item = items[number]
            start = item.offset - spans[n].offset
            view = data[start : start + item.size]
            if crc32c(view) != item.crc:
                raise DamagedError(f"{item.key}: checksum of {item.what} differs", hint="publish the index again")
            if number in lacking and reader.warm:
                reader.warm.keep(item[:3], view)
            pieces.append((number, view))
        hand(pieces)

    hot = [number for number, takes in enumerate(takers) if any(wants[w].hot for w, _ in takes)]
    held, lacking = await _warm(hot, items, reader)
    if held:
        hand(list(held.items()))
        left = [[number for number in span.items if number not in held] for span in spans]
        spans = [
            span if len(some) == len(span.items) else span_of([item[:3] for item in items], some)
            for span, some in zip(spans, left, strict=True)
            if some
        ]
    await reader.wave([(s.key, s.offset, s.size, items[s.items[0]].whole) for s in spans], use)
    return [not left for left in missing]


def _own_spans(
    wants: list[Want], takers: list[list[tuple[int, int]]], places: list[tuple[str, int, int]]
) -> list[Span]:
    """The spans by which each would read alone, without the items that one before reads already."""
    number = {taker: n for n, takes in enumerate(takers) for taker in takes}
    taken: set[int] = set()
    spans = []
    for w, want in enumerate(wants):
        for span in want.spans:
            fresh = sorted({number[w, j] for j in span.items} - taken, key=lambda n: places[n][1])
            if fresh:
                taken.update(fresh)
                spans.append(span_of(places, fresh))
    return spans


async def _warm(hot: list[int], items: list[Item], reader: Reader) -> tuple[dict[int, memoryview], set[int]]:
    """Of the items with these numbers, what the reader's warm place holds, verified; and what it would like to have."""
    if not hot or reader.warm is None or reader.warm.rests or reader.until.over:
        return {}, set()
    reader.receipt.warm_rpc += 1
    asking = asyncio.ensure_future(reader.warm.ask([items[number][:3] for number in hot]))
    await reader.until.wait([asking])
    if asking.cancelled():
        return {}, set()
    found, wanted = asking.result()
    held, lacking = dict[int, memoryview](), {hot[n] for n in wanted}
    for n, view in found.items():
        number = hot[n]
        if len(view) == items[number].size and crc32c(view) == items[number].crc:
            held[number] = view
            reader.receipt.warm_bytes += len(view)
        else:  # the bucket has the last word, and its bytes go back
            lacking.add(number)
    return held, lacking
