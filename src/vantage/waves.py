"""Queries in step: each says what it wants next, and one wave reads that for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from .errors import DamagedError
from .kernels import crc32c
from .plan import Span, plan_shared
from .stats import Receipt
from .store import Reader

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


# A query: yields what it wants, is resumed when all of that was used, and returns its answer.
Steps = Generator[Want, None, T]


async def together(queries: Sequence[tuple[Steps[T], Receipt]], reader: Reader) -> list[T]:
    """Runs queries side by side, a wave at a time; what several want is read once.

    Each receipt counts what its query wanted, as if asked alone; that of the reader counts what was read. The first
    failure ends all of them.
    """
    found: dict[int, T] = {}
    live = range(len(queries))
    while len(found) < len(queries):
        wants: dict[int, Want] = {}
        for i in live:
            steps, receipt = queries[i]
            try:
                wants[i] = next(steps)
                receipt.wanted([s.size for s in wants[i].spans])
            except StopIteration as end:
                found[i] = end.value
        await _read(list(wants.values()), reader)
        live = wants.keys()  # type: ignore[assignment]
    return [found[i] for i in range(len(queries))]


async def _read(wants: list[Want], reader: Reader) -> None:
    """Reads and verifies each item once, and hands it to all that want it."""
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
        spans = plan_shared([item[:3] for item in items])

    def use(n: int, data: memoryview) -> None:
        arrived: dict[int, tuple[list[int], list[memoryview]]] = {}
        for number in spans[n].items:
            item = items[number]
            start = item.offset - spans[n].offset
            view = data[start : start + item.size]
            if crc32c(view) != item.crc:
                raise DamagedError(f"{item.key}: checksum of {item.what} differs", hint="publish the index again")
            for w, j in takers[number]:
                numbers, views = arrived.setdefault(w, ([], []))
                numbers.append(j)
                views.append(view)
        for w, (numbers, views) in arrived.items():
            wants[w].use(numbers, views)

    await reader.wave([(s.key, s.offset, s.size, items[s.items[0]].whole) for s in spans], use)
