"""Rows by a filter, page by page: the steps of one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ..cost import LANES, Budget
from ..errors import InputError, LimitError
from ..format import ATTRIBUTES_PLANE, OpenBlock, Root, attribute_bytes, plane_of, unpack_attributes
from ..read.deadline import Deadline
from ..read.waves import Steps
from ..receipt import Receipt
from .cursor import read_cursor, write_cursor
from .filtered import Selection, select
from .plan import plan_extents
from .rank import decode
from .rows import ATTRIBUTES_BYTES_MAX, StoredRow
from .segment import Segment
from .walk import WALK_BYTES_MAX, Listed, Position, RowScan, Walk, can_order, plan_walk, unread
from .written import Mark, Written, merged, upcoming

LIMIT_MAX = 1000  # rows of a page
GETS_MAX = 2 * LANES  # of a wave of blocks or chunks
MARGIN, GROWTH = 1.25, 4.0  # rows that are read for, to those wanted: in the first wave, and how that grows


@dataclass(frozen=True)
class Listing:
    """A page of rows: those that the filter takes, all without one.

    cursor: of the page before; None: the first. order_by: {attribute: "asc" or "desc"}. distinct: an attribute, of each
    of whose values one row is listed. All but limit, budget and what is attached must stay the same from page to page.
    """

    filter: Any = None
    limit: int = 100
    cursor: str | None = None
    order_by: Any = None
    distinct: str | None = None
    attributes: bool = True
    vectors: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Page:
    """Rows in order. cursor: of the next page, None after the last one. complete is False where the budget or the time
    ended the page before it had `limit` rows, or all that there are.
    """

    rows: list[StoredRow]
    cursor: str | None
    complete: bool
    receipt: Receipt


@dataclass
class _Reads:
    """See segment.Reads."""

    receipt: Receipt
    done: set[int]


@dataclass(frozen=True)
class PreparedListing:
    """A listing that was checked against a segment."""

    listing: Listing
    selection: Selection | None
    walk: Walk
    position: Position | None
    mark: Mark | None = None

    @property
    def asked(self) -> Any:
        """What a cursor stands for a place of."""
        return [self.listing.filter or None, self.listing.order_by, self.listing.distinct]


def prepare_listing(segment: Segment, listing: Listing) -> PreparedListing:
    """Checks it all, and plans in which order rows come. Raises InputError or LimitError."""
    if not 1 <= listing.limit <= LIMIT_MAX:
        hint = "ask for the next page by its cursor" if listing.limit > LIMIT_MAX else "ask for one at least"
        raise LimitError("limit", listing.limit, f"1 to {LIMIT_MAX}", hint=hint, param="limit")
    selection = select(listing.filter, segment.root, segment.homes)
    rendition, distinct = _rendition(segment.root, listing.attributes), None
    order = _order(segment, selection, listing, rendition)
    if listing.distinct is not None:
        distinct = _field(segment, selection, listing.distinct, "distinct", rendition)
        if order is not None and order[0] != distinct:
            raise InputError(
                "distinct and order_by are of two attributes", hint="name one, or leave one of them out",
                param="distinct",
            )  # fmt: skip
    walk = plan_walk(segment, selection, order, distinct, rendition)
    prepared = PreparedListing(listing, selection, walk, None)
    if listing.cursor is None:
        return prepared
    fields, by = segment.root.filters, walk.field
    texts = by is not None and fields[by].kind == "text" and not fields[by].hashed
    position, mark = read_cursor(listing.cursor, walk, prepared.asked, segment.generation, texts)
    return replace(prepared, position=position, mark=mark)


def _rendition(root: Root, attributes: bool) -> int:
    """Of blocks to read: one with attributes where they are wanted, else the shortest."""
    able = [i for i, r in enumerate(root.renditions) if r.attributes] if attributes else []
    return min(able or range(len(root.renditions)), key=lambda i: root.codecs[root.renditions[i].codec].code_bytes)


def _order(segment: Segment, selection: Selection | None, listing: Listing, rendition: int) -> tuple[int, bool] | None:
    """(field, whether it falls)."""
    value, example = listing.order_by, '{"year": "desc"}'
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) != 1 or not all(isinstance(name, str) for name in value):
        raise InputError("order_by is no object of one attribute", hint=example, param="order_by")
    [(name, way)] = value.items()
    if way not in ("asc", "desc"):
        where = f"order_by.{name[:80]}"
        raise InputError(f'{where} is neither "asc" nor "desc"', hint=example, param=where)
    field = _field(segment, selection, name, "order_by", rendition)
    if segment.root.filters[field].hashed:
        what = f"order_by: the strings of {name[:80]!r} are known by their hashes alone, which have no order"
        raise InputError(what, hint="order by another attribute", param="order_by")
    return field, way == "desc"


def _field(segment: Segment, selection: Selection | None, name: str, param: str, rendition: int) -> int:
    """The field of an attribute that rows can be ordered by."""
    root = segment.root
    able = {
        root.names[f.attribute]: i for i, f in enumerate(root.filters) if can_order(segment, selection, i, rendition)
    }
    if name not in able:
        what = "cannot order rows" if name in root.names else "is no attribute of this index"
        raise InputError(
            f"{param}: {name[:80]!r} {what}", hint=f"these can: {', '.join(able) or 'none'}"[:400], param=param
        )
    return able[name]


def list_rows(
    segment: Segment, prepared: PreparedListing, budget: Budget, receipt: Receipt, deadline: Deadline
) -> Steps[Page]:
    """The page: waves of blocks or chunks until it is full, then what is attached to its rows.

    Raises LimitError where the budget is too small for one row.
    """
    listing, walk = prepared.listing, prepared.walk
    scan = RowScan(segment, walk, prepared.selection)
    begin = prepared.position or scan.start()
    found, position = yield from _find(segment, prepared, scan, begin, budget, receipt)
    receipt.rows = scan.rows
    ended = position.group == len(walk.groups)
    if not ended and len(found) == listing.limit:
        more, end = scan.listed(position, 1)  # what is held may tell that there are no more
        if not more and end.group == len(walk.groups):
            position, ended = end, True
    every = _with_log(segment, prepared, found, ended)
    items = every[: listing.limit]
    places, room = [one.place for one, _ in items if isinstance(one, Written)], ATTRIBUTES_BYTES_MAX
    own, room = segment.fresh.attributes(places * listing.attributes, room) if segment.fresh else ({}, room)
    first = [one for one, _ in items if isinstance(one, Listed)]
    attached = iter((yield from _attach(segment, prepared, scan, first, budget, receipt, room)))
    rows, mark, last = list[StoredRow](), prepared.mark, begin
    for one, at in items:
        row = next(attached, None) if isinstance(one, Listed) else _of_log(segment, listing, one.place, own)
        if row is None:
            break
        rows.append(row)
        mark, last = at, one.after if isinstance(one, Listed) else last
    if sum(isinstance(one, Listed) for one, _ in every[: len(rows)]) < len(found):
        position = last
    ended = ended and len(rows) == len(every)
    if not ended and not rows and position == begin and not deadline.over:
        raise InputError(
            f"a budget of {budget.gets} GETs, {budget.bytes} bytes and {budget.waves} waves is too small for one row",
            hint="raise it, or leave budget out", param="budget",
        )  # fmt: skip
    cursor = None if ended else write_cursor(walk, prepared.asked, segment.generation, position, mark)
    return Page(rows, cursor, ended or len(rows) == listing.limit, receipt)


def _with_log(
    segment: Segment, prepared: PreparedListing, found: list[Listed], ended: bool
) -> list[tuple[Listed | Written, Mark | None]]:
    """Rows of the generation, and those in the log that come up to the last of them, or behind it if the walk ended."""
    fresh, walk = segment.fresh, prepared.walk
    if fresh is None:
        return [(one, None) for one in found]
    most = prepared.listing.limit + len(found) + 1  # of each of those found there may be one that has its value
    rows = upcoming(fresh, walk, prepared.selection, prepared.mark, most)
    return [*merged(fresh, walk, found, rows, ended)]


def _of_log(segment: Segment, listing: Listing, place: int, attributes: dict[int, dict[str, Any]]) -> StoredRow | None:
    """A row in the log; None where there is no room for its attributes."""
    fresh = segment.fresh
    assert fresh is not None
    if listing.attributes and place not in attributes:
        return None
    vector = decode(fresh.rows.vector(place), segment.root.index.vector_kind) if listing.vectors else None
    return StoredRow(fresh.rows.ids[place], vector, attributes.get(place))


def _find(
    segment: Segment, prepared: PreparedListing, scan: RowScan, position: Position, budget: Budget, receipt: Receipt
) -> Steps[tuple[list[Listed], Position]]:
    """Rows from a position on, as many as are wanted and the budget and the time allow; and where they end."""
    walk, limit, later = prepared.walk, prepared.listing.limit, _later_waves(segment, prepared)
    reads, found, margin, room = _Reads(receipt, set()), list[Listed](), MARGIN, WALK_BYTES_MAX
    whole = walk.directory.places[walk.rendition].whole
    while len(found) < limit and position.group < len(walk.groups) and room > 0:
        wanted = unread(scan, position, margin * (limit - len(found)), room)
        left = receipt.left_of(budget, later)
        most = left.bytes // 2 if later else left.bytes  # the rest is for what is attached
        left = replace(left, gets=min(left.gets, GETS_MAX), bytes=max(most, min(left.bytes, whole[wanted[0]])))
        flags = segment.flags(walk.directory, (walk.rendition, walk.rendition))
        plan = plan_extents(walk.directory, walk.rendition, wanted, flags, left)
        if not plan.ranges and not plan.cached:
            break
        scan.wanted, reads.done, held = set(wanted), set(scan.held), len(scan.held)
        timely = yield from segment.scan(reads, plan, scan, walk.rendition)
        room -= sum(whole[i] for i in islice(scan.held, held, None))
        rows, position = scan.listed(position, limit - len(found))
        found += rows
        margin *= GROWTH
        if not timely:
            break
    return found, position


def _later_waves(segment: Segment, prepared: PreparedListing) -> int:
    """Those of what is attached, after blocks or chunks."""
    listing, root = prepared.listing, segment.root
    attributes = 0 if _with_attributes(root, prepared.walk) else 1 if root.index.by_row else 2
    return listing.vectors + attributes * (listing.attributes and bool(root.names))


def _with_attributes(root: Root, walk: Walk) -> bool:
    """Whether extents have the attributes of their rows."""
    return walk.projection is None and root.renditions[walk.rendition].attributes


def _attach(
    segment: Segment, prepared: PreparedListing, scan: RowScan, found: list[Listed], budget: Budget, receipt: Receipt,
    room: int,
) -> Steps[list[StoredRow]]:  # fmt: skip
    """The first of the rows found, as many as all that is wanted of them could be read for. room: for attributes."""
    listing, stored, root = prepared.listing, segment.rows, segment.root
    facts = {one.number: scan.row(one) for one in found}
    vectors: dict[int, bytes] = {}
    attributes: dict[int, dict[str, Any]] = {}
    if listing.vectors:
        later = _later_waves(segment, prepared) - 1
        checks = {row: check for row, (_, check, _) in facts.items()}
        vectors = yield from stored.first_vectors(checks, receipt.left_of(budget, later))
    if listing.attributes and root.names:
        if _with_attributes(root, prepared.walk):
            attributes = stored.parsed(list(facts), _texts(scan, found), room)
        else:
            spots = {row: spot for row, (_, _, spot) in facts.items() if spot is not None}
            if len(spots) < len(facts):
                spots = yield from stored.spots(list(facts), receipt.left_of(budget, 1))
            attributes = yield from stored.attributes(spots, receipt.left_of(budget), room)
    rows = list[StoredRow]()
    for row, (identifier, _, _) in facts.items():
        vector, own = vectors.get(row), attributes.get(row) if root.names else {}
        if (listing.vectors and vector is None) or (listing.attributes and own is None):
            break
        numbers = None if vector is None else decode(vector, root.index.vector_kind)
        rows.append(StoredRow(identifier, numbers, own if listing.attributes else None))
    return rows


def _texts(scan: RowScan, found: list[Listed]) -> Iterator[tuple[int, str, bytes]]:
    """As StoredRows.parsed takes them, of blocks with attributes; those of one block are inflated at a time."""
    raw, place = b"", -1
    for i, one in enumerate(found):
        (data, opened, _), where = scan.held[one.place].tail, scan.where(one.place)
        assert isinstance(opened, OpenBlock)
        if one.place != place:
            plane = plane_of(data, opened.planes, ATTRIBUTES_PLANE, where, opened.at.checks)
            raw, place = unpack_attributes(plane, opened.at.n, where), one.place
        yield i, where, attribute_bytes(raw, opened.at.n, one.inside, where)
