"""The order in which rows are listed: extents in groups one after the other, and the rows of those that were read."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import NamedTuple

from ..errors import InputError
from ..filter.keys import KEY_MAX, KEY_MIN
from ..filter.program import Span
from ..format import (
    COLUMNS_PLANE,
    GROUP,
    Directory,
    OpenBlock,
    OpenChunk,
    Projection,
    Spot,
    aligned,
    damaged,
    id_at,
    keys_in,
    open_block,
    open_chunk,
    plane_of,
    spot_at,
)
from .filtered import Base, Selection
from .projected import buckets, known_bases
from .scan import Tail, rows_taken
from .segment import Segment
from .superseded import gone_in

WALK_BYTES_MAX = 4 << 20  # of blocks or chunks that a page reads and keeps
USUAL_ROWS = 100  # of a page: one that has more may not have come by the quickest way
SURE_ROWS = 3.0  # so many that are expected: one at least is there, in 95 of 100 cases


@dataclass(frozen=True)
class Group:
    """Extents whose rows follow those of the group before.

    mixed: their rows have to be put in order by their keys; else they lie in order. nulls: only rows without a value
    count, else only those with one, in a walk that goes by a field. low, high: the keys of the bucket.
    """

    extents: Sequence[int]
    mixed: bool = False
    nulls: bool = False
    low: int = KEY_MIN
    high: int = KEY_MAX


@dataclass(frozen=True)
class Walk:
    """All rows that a filter takes, in an order that follows from the generation and from what is asked for alone.

    projection: whose chunks the extents are; None: blocks, in a rendition. share: of their rows, those that the filter
    is expected to take, or without one those that are not dead. field: by whose keys rows are ordered, or one of each
    is taken; None: rows come as they lie.
    falling: the largest key first. spans: of lists, the keys that count: a row is in the bucket of its first one.
    """

    directory: Directory
    rendition: int
    projection: Projection | None
    groups: Sequence[Group]
    share: float
    field: int | None = None
    falling: bool = False
    distinct: bool = False
    spans: tuple[Span, ...] | None = None

    @property
    def rows(self) -> int:
        """In all its extents."""
        return sum(self.directory.homes[i] for i in self._extents())

    @property
    def nbytes(self) -> int:
        """Of all its extents, in the longest rendition: what a page is to attach may not change its order."""
        extents = self._extents()
        sums: list[int] = [sum(places.whole[i] for i in extents) for places in self.directory.places]
        return max(sums)

    def _extents(self) -> set[int]:
        return {i for group in self.groups for i in group.extents}


class Position(NamedTuple):
    """A place in a walk: the group; in one that is mixed the least key, turned where it falls, and row number that are
    still to come; in another the extent, by its place in the group, and the row in it.
    """

    group: int
    at: int
    row: int


class Listed(NamedTuple):
    """A row of a walk: its extent, its place inside, its number, and where the walk goes on behind it; its key, where
    the walk goes by a field.
    """

    place: int
    inside: int
    number: int
    after: Position
    key: int | None = None


class Held(NamedTuple):
    """What is kept of an extent: from the checks on, and of the rows that count their places, numbers and keys, the
    first of a list that counts, None without one.
    """

    tail: Tail
    taken: Sequence[int]
    numbers: Sequence[int]
    keys: Sequence[int | None]


def plan_walk(
    segment: Segment, selection: Selection | None, order: tuple[int, bool] | None, distinct: int | None, rendition: int
) -> Walk:
    """The walk that reads least. order: a field, and whether it falls. rendition: of the blocks, where those are read.

    Raises InputError for what this index has no order for.
    """
    field = order[0] if order else distinct
    if field is not None:
        return _by_field(segment, selection, field, order is not None and order[1], distinct is not None, rendition)
    root = segment.root
    walks = [_by_base(segment, selection, base) for base in (known_bases(selection, root) if selection else ())]
    if segment.resident is not None and (selection is None or selection.in_blocks(root)):
        walks.insert(0, _by_blocks(segment, selection, rendition))
    if not walks:
        what = f"the rows of {segment.name!r} cannot be listed: routing pages have the directory of its blocks"
        raise InputError(what, hint="ask for rows by their ids, or for the nearest of a vector", param="index")
    return min(walks, key=lambda walk: walk.nbytes)


def _by_blocks(segment: Segment, selection: Selection | None, rendition: int) -> Walk:
    """Rows as they lie in blocks: those at home there."""
    assert segment.resident is not None
    groups = [Group(_blocks(segment.resident, selection))]
    return _walk(segment, selection, segment.resident, groups, rendition=rendition)


def _by_base(segment: Segment, selection: Selection | None, base: Base) -> Walk:
    """Rows in the order of a projection, of the buckets that a condition leaves."""
    p, able = base.projection, _able(selection)
    spans = base.spans if segment.root.filters[p.field].many else None
    groups = [Group(_chunks(p, j, able), low=p.low[j], high=p.high[j]) for j in buckets(base)]
    if base.nulls:
        groups.append(Group(_chunks(p, len(p.low), able), nulls=True))
    return _walk(segment, selection, p.directory, groups, projection=p, spans=spans)


def _by_field(
    segment: Segment, selection: Selection | None, field: int, falling: bool, distinct: bool, rendition: int
) -> Walk:
    """Rows in the order of a field, those without a value last: by its projection; or where a page reads less so, or
    there is none, by all extents that may hold a row, put in order.
    """
    projection = next((p for p in segment.root.known_projections if p.field == field), None)
    best = min(_whole(segment, selection, field, rendition), key=lambda walk: walk.nbytes, default=None)
    if projection is not None:
        walk = _by_projection(segment, selection, projection)
        page = walk.nbytes * USUAL_ROWS / max(USUAL_ROWS, walk.share * walk.rows)
        best = walk if best is None or best.nbytes > page else best
    assert best is not None  # see can_order
    groups = best.groups
    if falling:
        groups = [*(g for g in reversed(groups) if not g.nulls), *(g for g in groups if g.nulls)]
    return replace(best, groups=groups, field=field, falling=falling, distinct=distinct)


def _by_projection(segment: Segment, selection: Selection | None, projection: Projection) -> Walk:
    """Rows by the buckets of a projection that the filter's conditions on its field leave."""
    root, able = segment.root, _able(selection)
    own = [base for base in (known_bases(selection, root) if selection else []) if base.projection is projection]
    numbers = set(range(len(projection.low))).intersection(*(buckets(base) for base in own))
    groups = [
        Group(_chunks(projection, j, able), low < high, low=low, high=high)
        for j, (low, high) in enumerate(zip(projection.low, projection.high, strict=True))
        if j in numbers
    ]
    if all(base.nulls for base in own):
        groups.append(Group(_chunks(projection, len(projection.low), able), nulls=True))
    return _walk(segment, selection, projection.directory, groups, projection=projection)


def _whole(segment: Segment, selection: Selection | None, field: int, rendition: int) -> list[Walk]:
    """Walks whose extents one page can read and put in order by a field: blocks, or chunks of a condition."""
    root, out = segment.root, list[Walk]()
    columns = {field} | (selection.program.columns if selection else frozenset())
    if segment.resident is not None and all(root.filters[i].in_blocks for i in columns):
        out.append(_by_blocks(segment, selection, rendition))
    for base in known_bases(selection, root) if selection else ():
        if not root.filters[base.projection.field].many:
            out.append(_by_base(segment, selection, base))
    both = []
    for walk in out:
        extents = [i for group in walk.groups for i in group.extents]
        groups = [Group(extents, mixed=True), Group(extents, mixed=True, nulls=True)] if extents else []
        both.append(replace(walk, groups=groups))
    return [walk for walk in both if walk.nbytes <= WALK_BYTES_MAX]


def can_order(segment: Segment, selection: Selection | None, field: int, rendition: int) -> bool:
    """Whether rows can be had in the order of a field: by its projection, or as one page reads all of them."""
    if segment.root.filters[field].many:
        return False
    return any(p.field == field for p in segment.root.known_projections) or bool(
        _whole(segment, selection, field, rendition)
    )


def _walk(
    segment: Segment, selection: Selection | None, directory: Directory, groups: Sequence[Group], *,
    rendition: int = 0, projection: Projection | None = None, spans: tuple[Span, ...] | None = None,
) -> Walk:  # fmt: skip
    rows = sum(directory.homes[i] for group in groups for i in group.extents)
    wanted = sum(selection.rows) if selection and selection.rows else segment.live_share * rows
    groups = [group for group in groups if group.extents]
    return Walk(directory, rendition, projection, groups, min(1.0, wanted / max(1, rows)), spans=spans)


def _blocks(directory: Directory, selection: Selection | None) -> Sequence[int]:
    """Extents that may hold a row which the filter takes."""
    every = range(len(directory))
    if selection is None or not selection.rows:
        return every
    return [i for i in every if selection.rows[directory.block[i]]]


def _chunks(projection: Projection, bucket: int, able: Sequence[int]) -> Sequence[int]:
    """Those of a bucket, or of the rows without a value, that may hold a row which the filter takes: of one segment
    after the other.

    able: how many blocks before each one (B + 1) may hold such a row; none where that is not known.
    """
    segments = projection.chunks(bucket)
    if not able:
        return segments[0] if len(segments) == 1 else [*chain.from_iterable(segments)]
    block, out = projection.block, list[int]()
    for own in segments:
        ends = [*block[own.start + 1 : own.stop], len(able) - 2]  # in a bucket rows lie by their blocks
        out += [c for c, end in zip(own, ends, strict=False) if able[end + 1] > able[block[c]]]
    return out


def _able(selection: Selection | None) -> Sequence[int]:
    return list(accumulate(map(bool, selection.rows), initial=0)) if selection and selection.rows else []


class RowScan:
    """Takes the extents of a walk: of those that are wanted, it keeps which rows count and what is attached to them.

    held: by extent. rows: looked at.
    """

    def __init__(self, segment: Segment, walk: Walk, selection: Selection | None) -> None:
        self.segment, self.walk, self.selection = segment, walk, selection
        self.directory, self.has_planes = walk.directory, walk.projection is None
        self.wanted: set[int] = set()
        self.held: dict[int, Held] = {}
        self.rows = 0

    def where(self, place: int) -> str:
        """What errors call an extent."""
        extent = self.directory.extent(place, self.walk.rendition)
        return f"{self.segment.keys[extent.object]}, block {extent.block}"

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        del keep
        if place not in self.wanted:  # read only because it lies between others
            return
        root, walk, where = self.segment.root, self.walk, self.where(place)
        index, extent = root.index, self.directory.extent(place, walk.rendition)
        n, sizes = (
            extent.rows,
            (extent.rows, extent.size, root.codecs[root.renditions[walk.rendition].codec].code_bytes),
        )
        opened: OpenBlock | OpenChunk
        plane = memoryview(b"")
        if self.has_planes:
            opened = open_block(data, *sizes, index.dimension, index.by_row, where, index.metric)
            if self.selection or walk.field is not None:
                plane = plane_of(data, opened.planes, COLUMNS_PLANE, where)
        else:
            opened = open_chunk(data, *sizes, index, root.paged, where)
            plane = memoryview(data)[opened.at.columns : opened.at.columns_end]
        self.rows += n
        bits = (1 << self.directory.homes[place]) - 1  # they come first; copies are listed where they are at home
        bits &= ~gone_in(data, opened, self.segment.superseded, root, where)
        if self.selection:
            program = self.selection.program.data
            bits &= int.from_bytes(rows_taken(plane, n, len(root.filters), program, where), "little")
        taken = array("I", (i for i in range(n) if bits >> i & 1)) if bits else array("I")
        every = memoryview(data)[opened.at.rows : opened.at.rows + 4 * n].cast("I")
        numbers = array("I", (every[i] for i in taken))
        if max(numbers, default=0) >= index.rows:
            raise damaged(where, f"holds row {max(numbers)} of {index.rows}")
        keys: list[int | None] = []
        by = walk.projection.field if walk.spans is not None and walk.projection else walk.field
        if by is not None and taken:
            values = keys_in(plane, n, by, where)
            keys = [self._first(values[i]) for i in taken]
        tail = memoryview(bytes(data[opened.at.checks :])) if taken else memoryview(b"")
        self.held[place] = Held(Tail(tail, opened), taken, numbers, keys)

    def _first(self, keys: Sequence[int]) -> int | None:
        spans = self.walk.spans
        if spans is None:
            return keys[0] if keys else None
        return next((key for key in keys if any(low <= key <= high for low, high in spans)), None)

    def settle(self) -> None:
        """All that is needed is kept already."""

    def start(self) -> Position:
        """Before the first row."""
        return _start(self.walk, 0)

    def row(self, listed: Listed) -> tuple[int | bytes, int, Spot | None]:
        """(id, check of the vector, where attributes are) of a row; no spot where extents do not have it."""
        (data, opened, _), index = self.held[listed.place].tail, self.segment.root.index
        at, i = opened.at, listed.inside
        check = data[4 * i : 4 * i + 4].cast("I")[0]
        spot = spot_at(data[at.spots - at.checks :], aligned(at.n, GROUP), i) if index.by_row else None
        ids = data[at.ids - at.checks :]
        return id_at(ids, opened.id_width, at.n, i, index.id_kind, self.where(listed.place)), check, spot

    def listed(self, position: Position, count: int) -> tuple[list[Listed], Position]:
        """At most `count` rows from a position on, as far as all before them is held; and where that ends."""
        out = list[Listed]()
        for one in self._from(position):
            if isinstance(one, Position):
                position = one
            else:
                out.append(one)
                position = one.after
                if len(out) == count:
                    break
        return out, position

    def _from(self, position: Position) -> Iterator[Listed | Position]:
        """Rows in order, and positions that are reached without one."""
        walk, (first, at, row) = self.walk, position
        for g in range(first, len(walk.groups)):
            group = walk.groups[g]
            if group.mixed:
                if any(i not in self.held for i in group.extents):
                    return
                yield from self._in_order(g, (at, row))
            else:
                for number in range(at, len(group.extents)):
                    held = self.held.get(group.extents[number])
                    if held is None:
                        return
                    found = self._as_they_lie(g, number, row, held)
                    one = next(found, None) if walk.distinct else None
                    if one:
                        yield one._replace(after=_start(walk, g + 1))
                        break
                    yield from found
                    row = 0
                    yield Position(g, number + 1, 0)
            _, at, row = _start(walk, g + 1)
            yield Position(g + 1, at, row)

    def _as_they_lie(self, g: int, number: int, row: int, held: Held) -> Iterator[Listed]:
        """Rows of an extent of a group that is not mixed."""
        group, walk = self.walk.groups[g], self.walk
        keys = held.keys or [None] * len(held.taken)
        for i, own, key in zip(held.taken, held.numbers, keys, strict=True):
            if i < row or (walk.field is not None and group.nulls != (key is None)):
                continue
            if walk.spans is not None and not group.nulls and not (key is not None and group.low <= key <= group.high):
                continue
            yield Listed(group.extents[number], i, own, Position(g, number, i + 1), key)

    def _in_order(self, g: int, least: tuple[int, int]) -> Iterator[Listed]:
        """Rows of a mixed group by key and row number, from these on."""
        walk, nulls, entries = self.walk, self.walk.groups[g].nulls, list[tuple[int, int, int, int]]()
        for place in walk.groups[g].extents:
            held = self.held[place]
            for i, number, key in zip(held.taken, held.numbers, held.keys, strict=True):
                if (key is None) == nulls:
                    entries.append((0 if key is None else ~key if walk.falling else key, number, place, i))
        entries.sort()
        for key, number, place, i in entries:
            if (key, number) < least:
                continue
            least = (key, number + 1)
            after = Position(g, *least)
            if walk.distinct:
                least = (key + 1, 0)
                after = Position(g, *least) if key < KEY_MAX else _start(walk, g + 1)
            yield Listed(place, i, number, after, None if nulls else ~key if walk.falling else key)


def _start(walk: Walk, g: int) -> Position:
    """Before the first row of a group."""
    return Position(g, KEY_MIN if g < len(walk.groups) and walk.groups[g].mixed else 0, 0)


def is_within(walk: Walk, position: Position) -> bool:
    """Whether a position is one of a walk."""
    g, at, row = position
    if not 0 <= g < len(walk.groups):
        return position == _start(walk, len(walk.groups))  # rows in the log may come behind the last group
    if walk.groups[g].mixed:
        return KEY_MIN <= at <= KEY_MAX and 0 <= row <= 1 << 32
    return 0 <= at < len(walk.groups[g].extents) and 0 <= row <= walk.directory.rows[walk.groups[g].extents[at]]


def unread(scan: RowScan, position: Position, rows: float, nbytes: int) -> list[int]:
    """Extents from a position on that are not held, in the order of the walk: such as are expected to give so many rows
    (values, where each counts once), of at most so many bytes in all, but one at least.
    """
    walk, whole = scan.walk, scan.directory.places[scan.walk.rendition].whole
    homes, out, expected = scan.directory.homes, list[int](), 0.0
    first, at, _ = position
    for g in range(first, len(walk.groups)):
        group, own = walk.groups[g], 0.0
        extents = group.extents if group.mixed else group.extents[at:]
        at = 0
        for i in extents:
            if i in scan.held:
                continue
            if out and whole[i] > nbytes:
                return out
            nbytes -= whole[i]
            out.append(i)
            own += homes[i] * walk.share
            if not group.mixed and (own >= SURE_ROWS if walk.distinct else expected + own >= rows):
                break
        expected += min(own, 1.0) if walk.distinct and not group.mixed else own
        if expected >= rows:
            break
    return out
