"""Counting the values of a facet in columns: what was counted, and the scan of blocks or chunks that counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .. import kernels
from ..filter.bounds import Count
from ..filter.facet import OUTSIDE, Facet
from ..format import (
    COLUMNS_PLANE,
    GROUP,
    Directory,
    OpenBlock,
    OpenChunk,
    aligned,
    damaged,
    open_block,
    open_chunk,
    plane_of,
)
from . import scan
from .filtered import Selection
from .plan import Plan
from .segment import Segment
from .superseded import gone_in

TABLE_MAX = 1 << 16  # entries of a column's table


@dataclass(frozen=True)
class Counted:
    """A facet, counted. values: of `top` a key each, most rows first; of a histogram the number of a bucket each.

    other: rows with other values; of lists each such value counts. missing: rows without one.
    """

    facet: Facet
    values: list[tuple[int, Count]]
    other: Count
    missing: Count

    @property
    def exact(self) -> bool:
        """Whether all of it was counted."""
        return all(count.exact for count in (self.other, self.missing, *(count for _, count in self.values)))


class Tally:
    """Rows of a facet as they are counted: by key, or by the number of a bucket; rows: that have a value."""

    def __init__(self, facet: Facet) -> None:
        self.facet, self.rows = facet, 0
        self.counts: dict[int, int] = {}

    def add(self, pairs: Iterable[tuple[int, int]], rows: int) -> None:
        """Pairs of a key and how many of so many rows have it."""
        place, counts = (None if self.facet.top else self.facet.bucket), self.counts
        for key, count in pairs:
            at = key if place is None else place(key)
            counts[at] = counts.get(at, 0) + count
        self.rows += rows

    def add_all(self, other: Tally) -> None:
        """Counts what another tally of the same facet has."""
        for at, rows in other.counts.items():
            self.counts[at] = self.counts.get(at, 0) + rows
        self.rows += other.rows

    def number_anew(self, numbers: Mapping[int, int]) -> None:
        """Gives keys other numbers: of texts, where more are known."""
        if self.facet.top:
            self.counts = {numbers.get(key, key): rows for key, rows in self.counts.items()}

    def counted(self, missing: int) -> Counted:
        """All of it. missing: rows without a value."""
        facet, counts = self.facet, self.counts
        if not facet.top:
            values = [(i, Count.exactly(counts.get(i, 0))) for i in range(len(facet.starts) - 1)]
            return Counted(facet, values, Count.exactly(counts.get(OUTSIDE, 0)), Count.exactly(missing))
        best = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        rest = sum(count for _, count in best[facet.top :])
        values = [(key, Count.exactly(count)) for key, count in best[: facet.top]]
        return Counted(facet, values, Count.exactly(rest), Count.exactly(missing))


@dataclass(frozen=True)
class Reading:
    """Extents in whose columns some facets are counted: blocks, or chunks of the projection of a field."""

    facets: list[int]
    directory: Directory
    rendition: int
    projection: int | None
    extents: frozenset[int]
    plan: Plan

    @property
    def sizes(self) -> list[int]:
        """Bytes of each GET."""
        return [r.size for r in self.plan.ranges]


class ColumnScan:
    """Counts values in the columns of a reading: of rows at home in blocks, or of all in chunks. taken: that count."""

    def __init__(self, segment: Segment, reading: Reading, selection: Selection | None, tallies: list[Tally]) -> None:
        self.segment, self.reading, self.selection, self.tallies = segment, reading, selection, tallies
        self.directory, self.has_planes = reading.directory, reading.projection is None
        self.taken, self.rows, self.scratch = 0, 0, bytearray()

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        del keep
        if place not in self.reading.extents:  # read only because it lies between others
            return
        root, extent = self.segment.root, self.directory.extent(place, self.reading.rendition)
        index, n = root.index, extent.rows
        where = f"{self.segment.keys[extent.object]}, block {extent.block}"
        code_bytes = root.codecs[root.renditions[self.reading.rendition].codec].code_bytes
        sizes = n, extent.size, code_bytes
        opened: OpenBlock | OpenChunk
        if self.has_planes:
            opened = open_block(data, *sizes, index.dimension, index.by_row, where, index.metric)
            plane = plane_of(data, opened.planes, COLUMNS_PLANE, where)
        else:
            opened = open_chunk(data, *sizes, index, root.paged, where)
            plane = memoryview(data)[opened.at.columns : opened.at.columns_end]
        bits = (1 << self.directory.homes[place]) - 1  # they come first
        bits &= ~gone_in(data, opened, self.segment.superseded, root, where)
        if self.selection is not None:
            program = self.selection.program.data
            bits &= int.from_bytes(scan.rows_taken(plane, n, len(root.filters), program, where), "little")
        self.rows += n
        self.taken += bits.bit_count()
        if bits:
            mask = bits.to_bytes(aligned(n, GROUP) // 8, "little")
            for tally in self.tallies:
                self._count(tally, plane, n, mask, where)

    def _count(self, tally: Tally, plane: memoryview, n: int, mask: bytes, where: str) -> None:
        size = 8 + 16 * max(n, min(TABLE_MAX, len(plane)))
        if len(self.scratch) < size:
            self.scratch = bytearray(size)
        fields, place = self.segment.root.filters, tally.facet.field
        try:
            pairs = kernels.column_counts(plane, n, len(fields), place, mask, self.scratch)
        except ValueError as error:
            raise damaged(where, f"its columns are damaged ({error})") from None
        rows, *flat = memoryview(self.scratch)[: 8 + 16 * pairs].cast("q").tolist()
        if fields[place].kind == "text" and not all(map(fields[place].is_key, flat[::2])):
            raise damaged(where, f"a text that is none of {fields[place].distinct}")
        tally.add(zip(flat[::2], flat[1::2], strict=True), rows)

    def settle(self) -> None:
        """Nothing of an extent is kept."""
