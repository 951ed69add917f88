"""Planes -> contenders. One class for each codec, one interface, one table."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import mul
from typing import NamedTuple, Protocol

from .. import kernels
from ..format import (
    ATTRIBUTES_PLANE,
    CODECS,
    COLUMNS_PLANE,
    GROUP,
    RANGES_AT,
    BlockPlanes,
    Directory,
    Extent,
    OpenBlock,
    OpenChunk,
    Root,
    Spot,
    Values,
    aligned,
    attribute_bytes,
    centre_of,
    damaged,
    id_at,
    keys_in,
    open_block,
    plane_of,
    spot_at,
    unpack_attributes,
)
from .prepare import Prepared
from .rotate import rotated
from .superseded import gone_in

_ENTRY = struct.Struct("<iIII")  # score, row, extent, index in it
CONTENDERS_MIN = 300
DISTINCT_ROWS, DISTINCT_MIN = 16, 1000  # contenders a value that is wanted, where each answers once
SCORE_MAX = 1 << 30  # integer scores are cut there; those in their scale stay below, but for far rows under l2
_SCRATCH = bytearray()  # of filters, one an isolate: it is done with before anything is awaited
COSINE_MAX = 16.0  # no cosine is over 1; the rest is room for what a coarse code leaves


class Tail(NamedTuple):
    """What contenders need of a block, or of a chunk: its bytes from the checks on."""

    data: memoryview
    opened: Opened
    columns: memoryview = memoryview(b"")  # only where a query wants one row a value


Opened = OpenBlock | OpenChunk
Entry = tuple[int, int, int, int]  # score, row, extent, index in it
BlockIds = dict[tuple[int, int], Tail]  # by object and offset


@dataclass(frozen=True)
class Contender:
    """A row that the scan kept: its integer score, its id, the CRC-32C of its full vector, and an extent that has it.

    index: in that extent, by its number `place` in the directory of the query. spot: where its attributes are, in an
    index by row. key: of the field whose values tell answers apart, None without a value.
    """

    score: int
    row: int
    check: int
    id: int | bytes
    place: int
    index: int
    spot: Spot | None = None
    key: int | None = None


class Extents(Protocol):
    """What takes extents of a directory, in any order.

    has_planes: they are blocks, which end with planes of checksums of their own.
    """

    directory: Directory
    has_planes: bool

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        """Takes a verified extent of the directory; keep says that `data` stays as it is until the end."""

    def settle(self) -> None:
        """Keeps what is needed of the extents since the last call; then their bytes may go."""


class Scan(Extents, Protocol):
    """One query's scan: extents in, the best rows out. What is kept of extents is what their contenders' ids need.

    rows: scanned. matched: of those at home in their extents, the ones that the query's filter takes; 0 without one.
    """

    rows: int
    matched: int

    def base(self, place: int) -> float:
        """The score of the centre of an extent that was scanned."""

    def contenders(self, most: int, without: int | None = None) -> list[Contender]:
        """The best `most` rows but for the row `without`, best first, ties by lower row number; ids read. Of each value
        the best row alone, where the query says so.
        """

    def is_full(self) -> bool:
        """Whether it has seen more rows than it keeps."""

    def lost(self) -> list[Contender]:
        """The best rows that are dead or superseded, best first, as many as contenders; their ids are not read."""

    def attributes(self, contenders: list[Contender]) -> Iterator[tuple[int, str, bytes]]:
        """(position, what errors call the block, JSON of the attributes) of each, block by block, of a rendition that
        has them in its blocks.
        """


class LrsqScan:
    """Every codec (see build_index.codecs): nibble tables once per query, then one kernel call per extent.

    directory, rendition: of the extents. capacity: most contenders; keys: of the objects, for errors; block_ids: shared
    by the scans of a batch; fine: leading segments with 16-bit tables, None as the codec says. A row of a block scores
    base + h + f * (sum of table entries), times query.unit, as an integer; base is <q, c> plus the centre's bias.
    """

    has_planes = True

    def __init__(
        self, root: Root, directory: Directory, rendition: int, query: Prepared, capacity: int,
        keys: Sequence[str] = (), block_ids: BlockIds | None = None, *, fine: int | None = None,
    ) -> None:  # fmt: skip
        self.root, self.directory, self.rendition, self.query, self.keys = root, directory, rendition, query, keys
        self.rows = self.matched = 0
        self.codec = root.codecs[root.renditions[rendition].codec]
        weighted = array("f", map(mul, rotated(root.rotation, query.vector), self.codec.deviation))
        fine = self.codec.fine if fine is None else fine
        self.tables = bytearray(kernels.lrsq_tables_size(self.codec.code_bytes, fine))
        kernels.lrsq_tables(
            weighted, self.codec.fields, self.codec.starts, self.codec.levels, query.unit, fine, self.tables
        )
        self.capacity = capacity
        self.pool, self._lost = pool_of(capacity), bytearray()
        self._bases: dict[int, float] = {}
        self._opened: dict[int, tuple[bytes | memoryview, Opened]] = {}  # extents whose bytes stay
        self._fresh: dict[int, tuple[bytes | memoryview, Opened]] = {}  # extents of the buffer
        self._block_ids: BlockIds = {} if block_ids is None else block_ids
        self._dot = array("i", [0])

    def base(self, place: int) -> float:
        """<q, c> + bias of a block's centre."""
        return self._bases[place]

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        opened = self.open(place, data, keep=keep)
        at, (mask, lost) = opened.at, self.mask(place, data, opened)
        self.rows += at.n
        if lost:
            self._lost = self._lost or pool_of(self.capacity)
            self._offer(place, data, at, self._lost, lost)
        if mask is None or any(mask):
            self._offer(place, data, at, self.pool, mask)

    def _offer(
        self, place: int, data: bytes | memoryview, at: BlockPlanes, pool: bytearray, mask: bytes | bytearray | None
    ) -> None:  # fmt: skip
        """The rows of a mask to a pool."""
        kernels.lrsq_scan(
            data, RANGES_AT, at.codes, at.f, at.h, at.rows, at.n, self._bases[place], place, self.tables, pool,
            *(() if mask is None else (mask,)),
        )  # fmt: skip

    def mask(
        self, place: int, data: bytes | memoryview, opened: OpenBlock
    ) -> tuple[bytes | bytearray | None, bytes | bytearray]:  # fmt: skip
        """(a bit for each row of an extent that may answer, padded to whole groups, None where all may; likewise those
        that would, were they not dead or superseded, nothing where there are none).
        """
        if self.query.selection is None and not self.query.superseded and self.root.dead is None:
            return None, b""
        where, n = self.where(place), opened.at.n
        gone = gone_in(data, opened, self.query.superseded, self.root, where)
        if self.query.selection is None:
            return (without_rows(None, gone, n), _bits(gone, n)) if gone else (None, b"")
        taken = self.mask_of(plane_of(data, opened.planes, COLUMNS_PLANE, where), n, where)
        mask = without_rows(taken, gone, n)
        at_home = (1 << self.directory.homes[place]) - 1  # they come first
        self.matched += (int.from_bytes(mask, "little") & at_home).bit_count()
        lost = gone & int.from_bytes(taken, "little") if gone else 0
        return mask, _bits(lost, n) if lost else b""

    def mask_of(self, plane: memoryview, n: int, where: str) -> bytearray:
        """The same of the columns of n rows; where: what errors call them."""
        assert self.query.selection is not None
        return rows_taken(plane, n, len(self.root.filters), self.query.selection.program.data, where)

    def open(self, place: int, data: bytes | memoryview, *, keep: bool) -> OpenBlock:
        """Checks an extent, and keeps its bytes and the score of its centre."""
        index, extent = self.root.index, self.directory.extent(place, self.rendition)
        opened = open_block(
            data, extent.rows, extent.size, self.codec.code_bytes, index.dimension, index.by_row, self.where(place),
            index.metric,
        )  # fmt: skip
        (self._opened if keep else self._fresh)[place] = data, opened
        centre = centre_of(data, opened.at, index.dimension)
        kernels.matvec_i8(self.query.i16, centre.row, 1, index.dimension, self._dot)
        self._bases[place] = self._dot[0] * (centre.scale * self.query.i16_scale) + centre.bias
        return opened

    def settle(self) -> None:
        places = self.directory.places[self.rendition]
        for place in self._places_kept() & self._fresh.keys():
            where = places.object[place], places.offset[place]
            if where not in self._block_ids:
                data, opened = self._fresh[place]
                columns = memoryview(bytes(self.columns(place, data, opened)))
                self._block_ids[where] = Tail(memoryview(bytes(data[opened.at.checks :])), opened, columns)
        self._fresh.clear()

    def contenders(self, most: int, without: int | None = None) -> list[Contender]:
        entries: Iterator[Entry] = (entry for entry in self.entries() if entry[1] != without)
        if self.query.distinct is not None:
            firsts = islice(self._first_of_each(entries, self.query.distinct), most)
            best = [replace(self._contender(entry), key=key) for entry, key in firsts]
        else:
            best = [self._contender(entry) for entry in islice(entries, most)]
        metric = self.root.index.metric
        limit = min(COSINE_MAX * self.query.unit, SCORE_MAX) if metric == "cosine" else SCORE_MAX
        for c in best:
            if not (c.score > -limit or metric == "l2") or c.score >= limit:
                raise damaged(self.where(c.place), f"gives row {c.row} a score that no row can have")
        return best

    def lost(self) -> list[Contender]:
        entries = pool_entries(self._lost, self.capacity) if self._lost else ()
        return [Contender(score, row, 0, 0, place, i) for score, row, place, i in entries]

    def _first_of_each(self, entries: Iterator[Entry], field: int) -> Iterator[tuple[Entry, int | None]]:
        """Of the rows of each key of a field the first one; those without a key count as of one."""
        keys, seen = dict[int, Values](), set[int | None]()
        for entry in entries:
            _, _, place, i = entry
            if place not in keys:
                tail = self._tail(place)
                keys[place] = keys_in(tail.columns, tail.opened.at.n, field, self.where(place))
            key = next(iter(keys[place][i]), None)
            if key not in seen:
                seen.add(key)
                yield entry, key

    def is_full(self) -> bool:
        return sum(1 for _ in self.entries()) == self.capacity

    def columns(self, place: int, data: bytes | memoryview, opened: Opened) -> memoryview:
        """The columns of an extent, where the query wants one row a value; else nothing."""
        if self.query.distinct is None:
            return memoryview(b"")
        assert isinstance(opened, OpenBlock)
        return plane_of(data, opened.planes, COLUMNS_PLANE, self.where(place))

    def attributes(self, contenders: list[Contender]) -> Iterator[tuple[int, str, bytes]]:
        by_place: dict[int, list[int]] = {}
        for i, c in enumerate(contenders):
            by_place.setdefault(c.place, []).append(i)
        for place, numbers in by_place.items():  # those of one block are inflated at a time
            tail, where = self._tail(place), self.where(place)
            assert isinstance(tail.opened, OpenBlock)
            at = tail.opened.at
            plane = plane_of(tail.data, tail.opened.planes, ATTRIBUTES_PLANE, where, at.checks)
            raw = unpack_attributes(plane, at.n, where)
            for i in numbers:
                yield i, where, attribute_bytes(raw, at.n, contenders[i].index, where)

    def _places_kept(self) -> set[int]:
        """Extents whose ids may still be asked for."""
        return {place for _, _, place, _ in self.entries()}

    def _contender(self, entry: Entry) -> Contender:
        score, row, place, i = entry
        if row >= self.root.index.rows:
            raise damaged(self.where(place), f"holds row {row} of {self.root.index.rows}")
        data, opened, _ = self._tail(place)
        at = opened.at
        check = data[4 * i : 4 * i + 4].cast("I")[0]
        spot = None
        if self.root.index.by_row:
            spot = spot_at(data[at.spots - at.checks :], aligned(at.n, GROUP), i)
        ids = data[at.ids - at.checks :]
        identifier = id_at(ids, opened.id_width, at.n, i, self.root.index.id_kind, self.where(place))
        return Contender(score, row, check, identifier, place, i, spot)

    def where(self, place: int) -> str:
        """What errors call an extent."""
        extent = self._extent(place)
        key = self.keys[extent.object] if self.keys else f"object {extent.object}"
        return f"{key}, block {extent.block}"

    def _extent(self, place: int) -> Extent:
        return self.directory.extent(place, self.rendition)

    def _tail(self, place: int) -> Tail:
        """What is kept of an extent."""
        places = self.directory.places[self.rendition]
        where = places.object[place], places.offset[place]
        if where not in self._block_ids:
            data, opened = self._opened[place]
            columns = self.columns(place, data, opened)
            self._block_ids[where] = Tail(memoryview(data)[opened.at.checks :], opened, columns)
        return self._block_ids[where]

    def entries(self) -> Iterator[Entry]:
        """(score, row, extent, index in it), best first."""
        return pool_entries(self.pool, self.capacity)


def capacity_for(most: int, *, distinct: bool) -> int:
    """How many contenders a scan keeps, of which `most` are wanted."""
    return max(DISTINCT_ROWS * most, DISTINCT_MIN) if distinct else max(3 * most, CONTENDERS_MIN)


def rows_taken(plane: memoryview, n: int, columns: int, program: bytes, where: str) -> bytearray:
    """A bit for each of n rows that a filter takes, by their columns, padded to whole groups. Raises DamagedError."""
    mask, size = bytearray(aligned(n, GROUP) // 8), kernels.filter_rows_size(n)
    if len(_SCRATCH) < size:
        _SCRATCH.extend(bytes(size - len(_SCRATCH)))
    try:
        kernels.filter_rows(plane, n, columns, program, mask, _SCRATCH)
    except ValueError as error:
        raise damaged(where, f"its columns are damaged ({error})") from None
    return mask


def without_rows(mask: bytearray | None, gone: int, n: int) -> bytes | bytearray:
    """A mask of n rows, of all where it is None, without those of the bits `gone`."""
    if mask is not None and not gone:
        return mask
    bits = (1 << n) - 1 if mask is None else int.from_bytes(mask, "little")
    return _bits(bits & ~gone, n)


def _bits(bits: int, n: int) -> bytes:
    return bits.to_bytes(aligned(n, GROUP) // 8, "little")


def pool_of(capacity: int) -> bytearray:
    """One that is empty."""
    pool = bytearray(kernels.pool_size(capacity))
    kernels.pool_reset(pool, capacity)
    return pool


def pool_entries(pool: bytearray, capacity: int) -> Iterator[Entry]:
    """(score, row, extent, index in it) of what a pool of this capacity keeps, best first."""
    out = bytearray(_ENTRY.size * capacity)
    count = kernels.pool_finish(pool, out)
    return _ENTRY.iter_unpack(memoryview(out)[: _ENTRY.size * count])


SCANS = dict.fromkeys(CODECS, LrsqScan)
