"""Rows of a generation in a store: found by their ids, read by their numbers, what lies near together in one read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.format import ID_PAGE_ROWS, VECTOR_BYTES, Dead, Root, id_entry
from vantage.format.log import Id
from vantage.read.waves import Item
from vantage.search.rows import id_hash

from ..ingest.arrays import Ids
from ..ingest.formats.batch import DTYPES
from ..ingest.rows import Ints
from .store import ObjectStore, Ranged

READ_BYTES, BRIDGED_BYTES = 8 << 20, 64 << 10  # of one read at most, unless an item takes more; read between two items
READS, AHEAD_BYTES = 16, 32 << 20  # that are under way at a time, but for one that is longer by itself

U32 = npt.NDArray[np.uint32]
Read = Callable[[str, int, int], bytes]  # (key, offset, bytes)


class Span(NamedTuple):
    """Bytes of an object that are read at once."""

    key: str
    offset: int
    nbytes: int


class Stored(NamedTuple):
    """A generation in a store; keys: of its objects, by number."""

    store: ObjectStore
    root: Root
    keys: tuple[str, ...]

    def read(self, number: int, offset: int, nbytes: int) -> bytes:
        """Bytes of an object."""
        return self.store.read(self.keys[number], offset, nbytes)


class Entries(NamedTuple):
    """Rows as the pages of ids have them: number i64 (n), check u32 (n), spot u32 (n, 3), or (n, 0) without
    attributes.
    """

    number: Ints
    check: U32
    spot: U32

    def some(self, which: npt.NDArray[Any]) -> Entries:
        """Some of them, by a mask or in an order."""
        return Entries(self.number[which], self.check[which], self.spot[which])


def is_dead(dead: Dead | None, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """bool (n): whether rows (n) are dead."""
    if dead is None:
        return np.zeros(len(numbers), bool)
    bits = np.frombuffer(dead.bits, np.uint8)
    out: npt.NDArray[np.bool_] = (bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1).astype(bool)
    return out


def read_ahead(read: Read, spans: Iterable[Span]) -> Iterator[bytes]:
    """What is read of each span, in turn; those that come next are read meanwhile, up to READS and AHEAD_BYTES."""
    with ThreadPoolExecutor(READS) as pool:
        waiting, held = deque[tuple[Future[bytes], int]](), 0
        for span in spans:
            while waiting and (len(waiting) == READS or held + span.nbytes > AHEAD_BYTES):
                first, nbytes = waiting.popleft()
                yield first.result()
                held -= nbytes
            waiting.append((pool.submit(read, *span), span.nbytes))
            held += span.nbytes
        while waiting:
            yield waiting.popleft()[0].result()


def gather(read: Read, items: Sequence[Item]) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each item, as they lie in the bucket; those that lie close are read together. Raises
    DamagedError for one that is not what it was.
    """
    order = sorted(range(len(items)), key=lambda i: (items[i].key, items[i].offset))
    spans, parts, at = list[Span](), list[list[int]](), 0
    while at < len(order):
        first, end = items[order[at]], at + 1
        high = first.offset + first.size
        while end < len(order):
            item = items[order[end]]
            last = max(high, item.offset + item.size)
            if item.key != first.key or item.offset > high + BRIDGED_BYTES or last - first.offset > READ_BYTES:
                break
            high, end = last, end + 1
        spans.append(Span(first.key, first.offset, high - first.offset))
        parts.append(order[at:end])
        at = end
    for span, part, data in zip(spans, parts, read_ahead(read, spans), strict=True):
        for i in part:
            item = items[i]
            own = data[item.offset - span.offset :][: item.size]
            if len(own) != item.size or not item.holds(memoryview(own)):
                raise DamagedError(
                    f"{item.key}: {item.what} is not what was written", hint="`vantage verify` tells what is damaged"
                )
            yield i, own


def find_ids(stored: Stored, ids: Sequence[Id]) -> Entries:
    """The rows of ids (n), number -1 for one that no row has. Each page that has one of them is read, in a segment
    after the other, newest first.
    """
    store, root, keys = stored
    entry, attributes = id_entry(bool(root.names)), 3 * bool(root.names)
    hashes = np.array([id_hash(identifier) for identifier in ids], np.uint64)
    out = Entries(np.full(len(ids), -1), np.zeros(len(ids), np.uint32), np.zeros((len(ids), attributes), np.uint32))
    left = np.argsort(hashes, kind="stable")
    for segment in reversed(root.id_pages):
        page = np.searchsorted(np.asarray(segment.first_hash, np.uint64), hashes[left], "right") - 1
        wanted = np.unique(page[page >= 0]).tolist()
        key = keys[segment.object]
        items = [
            Item(
                key, segment.offset + p * ID_PAGE_ROWS * entry, segment.rows_of(p) * entry,
                root.objects.sizes[segment.object], segment.crc[p], f"page {p}",
            )
            for p in wanted
        ]  # fmt: skip
        for i, data in gather(store.read, items):
            n, of = segment.rows_of(wanted[i]), left[page == wanted[i]]
            known, columns = np.frombuffer(data, "<u8", n), np.frombuffer(data, "<u4", -1, 8 * n).reshape(-1, n)
            at = np.minimum(np.searchsorted(known, hashes[of]), n - 1)
            there = known[at] == hashes[of]
            of, at = of[there], at[there]
            numbers = columns[0][at].astype(np.int64)
            if (numbers >= root.index.rows).any():
                raise DamagedError(f"{key}: a row beyond the {root.index.rows} that there are")
            lives = ~is_dead(root.dead, numbers)
            of, at = of[lives], at[lives]
            out.number[of], out.check[of], out.spot[of] = numbers[lives], columns[1][at], columns[2:].T[at]
        left = left[out.number[left] < 0]
    return out


def page_of(root: Root, numbers: Ints) -> Ints:
    """i64 (n): the pages that hold rows (n)."""
    return np.searchsorted(np.asarray(root.rows.first_row, np.int64), numbers, "right") - 1


def read_vectors(stored: Stored, rows: Entries) -> npt.NDArray[Any]:
    """(n, d) full vectors of rows, as they are stored."""
    store, root, keys = stored
    pages, index = root.rows, root.index
    width = VECTOR_BYTES[index.vector_kind] * index.dimension
    items = []
    for number, check, p in zip(rows.number.tolist(), rows.check.tolist(), page_of(root, rows.number), strict=True):
        place, offset = pages.vector_object[p], pages.vector_offset[p] + (number - pages.first_row[p]) * width
        size = root.objects.sizes[place]
        items.append(Item(keys[place], offset, width, size, check, f"the vector of row {number}"))
    out = np.empty((len(items), index.dimension), DTYPES[index.vector_kind])
    for i, data in gather(store.read, items):
        out[i] = np.frombuffer(data, out.dtype)
    return out


def read_attributes(stored: Stored, rows: Entries) -> list[bytes]:
    """The JSON of the attributes of rows (n)."""
    store, root, keys = stored
    pages, out = root.rows, [b"[]"] * len(rows.number)
    if not root.names:
        return out
    items = []
    spots = zip(rows.number.tolist(), rows.spot.tolist(), page_of(root, rows.number).tolist(), strict=True)
    for number, (offset, size, crc), p in spots:
        place = pages.attribute_object[p]
        where = pages.attribute_offset[p] + offset
        items.append(Item(keys[place], where, size, root.objects.sizes[place], crc, f"attributes of row {number}"))
    for i, data in gather(store.read, items):
        out[i] = data
    return out


@contextmanager
def open_part(stored: Stored, number: int) -> Iterator[pq.ParquetFile]:
    """A Parquet part, by the number of its object. Raises DamagedError where what is read of it is none."""
    key = stored.keys[number]
    try:
        yield pq.ParquetFile(pa.PythonFile(Ranged(stored.store, key, stored.root.objects.sizes[number]), "r"))
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise DamagedError(f"{key}: is not the Parquet file that was written ({error})"[:300]) from None


def read_ids(stored: Stored, numbers: Ints) -> Ids:
    """The ids of rows (n), from the Parquet parts."""
    root = stored.root
    place, page = root.rows.vector_object, page_of(root, numbers)
    group = {p: sum(place[q] == place[p] for q in range(p)) for p in np.unique(page).tolist()}
    out: list[Any] = [None] * len(numbers)
    for part in sorted({place[p] for p in group}):
        with open_part(stored, part) as file:
            for p in (p for p in group if place[p] == part):
                values = file.read_row_group(group[p], columns=["id"])["id"].to_pylist()
                of = np.flatnonzero(page == p)
                for i, at in zip(of.tolist(), (numbers[of] - root.rows.first_row[p]).tolist(), strict=True):
                    out[i] = values[at]
    return out if root.index.id_kind == "bytes" else np.array(out, np.int64)
