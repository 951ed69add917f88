"""What filters of a large index read before they plan, in one wave: rows of counts, and directories of chunks.

The root knows how many rows there are in each bucket of a field, and the pages of each projection. The condition that
takes the fewest rows is what chunks are found by: its pages say how its rows lie over the blocks, and counts are read
of the other fields alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

from .. import kernels
from ..filter.expect import expected_rows
from ..filter.parse import Node
from ..filter.program import Span
from ..format import Counts, Projection, Root, check_prices, joined_pages, unpack_chunk_page
from ..read.gather import plan_gather, plan_shared
from ..read.waves import Item, Steps, Wave
from .filtered import Base, Selection, bases
from .matching import share_for
from .projected import runs
from .route.common import Page

if TYPE_CHECKING:
    from .prepare import Prepared
    from .query import Query
    from .run import Run
    from .segment import Segment

TABLES_BYTES_MAX = 256 << 10  # of counts that a query reads
CHUNK_BYTES = 3  # what a byte of such a page takes once it is unpacked
PAGES_BYTES_MAX = 256 << 10  # of directories of chunks
SCATTERED_BYTES_MAX = 128 << 10  # of pages of several values, which a wide range has: it is read by blocks
WRESERVE_BYTES = 96 << 10  # pages of so many bytes in all are all read
GETS_MAX = 4
LOST_SHARE = 0.25  # of what a plan may leave unread, that may lie in pages which are not read
DENSITY_MIN = 1e-12  # what is left of a sum of densities where there are no rows
REST_MIN = 0.02  # of the rows with a value: less than that, told by the others, is not sure

Table = tuple[int, int]  # a field and a bucket of it: a row of its counts
Part = Table | int  # or a page of the base's projection, by its number


@dataclass(frozen=True)
class Need:
    """What a filter is to be told by. base: of a projection of pages, None where it goes by blocks alone; pages: those
    to read, rising. tables: rows of counts. whole: no other page has rows of the base.
    """

    base: Base | None
    pages: tuple[int, ...]
    tables: tuple[Table, ...]
    whole: bool


class Lying(NamedTuple):
    """Rows of a base that a page or a chunk has, about: at home in the blocks `first` to `last`, both included."""

    rows: float
    first: int
    last: int


def memory_bytes(blocks: int) -> int:
    """About what a query of an index of so many blocks holds of what was read, at the most."""
    return TABLES_BYTES_MAX + CHUNK_BYTES * PAGES_BYTES_MAX + 16 * blocks


def read(run: Run) -> Steps[None]:
    """Reads what a filter needs, and puts what it is told into the run. A budget without room for it and for one read
    more, or time that is up, leaves the filter as the root alone knows it.
    """
    segment, selection = run.segment, run.prepared.selection
    assert selection is not None
    need = needed(segment, run.query, run.prepared)
    if need is None:
        return
    parts, lacking = _parts(segment, need)
    left = run.left()
    if lacking:
        places = [item[:3] for _, item in lacking]
        spans = plan_shared(places)
        most = GETS_MAX + _segments(need) - 1
        if len(spans) > most:
            spans = plan_gather(places, most, left.bytes) or []
        if not spans or left.gets < 1 + len(spans) or left.waves < 2 or left.bytes < sum(span.size for span in spans):
            return

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for n, view in zip(numbers, views, strict=True):
                part, item = lacking[n]
                parts[part] = memoryview(bytes(view))
                segment.cache.put(item.key, item.offset, view)

        if not (yield Wave([item for _, item in lacking], spans, use, hot=True)):
            return
    run.prepared = replace(run.prepared, selection=told(segment, selection, need, parts))


def peek(segment: Segment, query: Query, prepared: Prepared) -> tuple[Prepared, list[Page]]:
    """The same as far as no read is needed, and the pages that `read` would read first."""
    need = needed(segment, query, prepared)
    if need is None:
        return prepared, []
    parts, lacking = _parts(segment, need)
    if lacking:
        return prepared, [Page(n, segment.keys.index(item.key), item) for n, (_, item) in enumerate(lacking)]
    assert prepared.selection is not None
    return replace(prepared, selection=told(segment, prepared.selection, need, parts)), []


def needed(segment: Segment, query: Query, prepared: Prepared) -> Need | None:
    """What a filter needs that the root does not have; None where there is nothing, or it takes no row."""
    root, selection = segment.root, prepared.selection
    if selection is None or not root.paged or not any(selection.rows):
        return None
    assert root.counts is not None
    base = _base(selection, root, root.counts)
    if base is not None and not _lying(base, root.index.blocks):
        return Need(base, (), (), True)
    pages = () if base is None else _likely(segment, query, prepared, selection, base)
    whole = base is None or len(pages) == len(_lying(base, root.index.blocks))
    known = None if base is None else (base.projection.field, base.spans)
    return Need(base, pages, _tables(selection.node, root, root.counts, known), whole)


def _segments(need: Need) -> int:
    """How many segments have pages to read, each in an object of its own; 1 where none has."""
    return 1 if need.base is None else max(1, len(set(map(need.base.projection.segment, need.pages))))


def _base(selection: Selection, root: Root, counts: Counts) -> Base | None:
    """The condition that takes the fewest rows, of those that few pages have, or whose values have their own pages."""
    found, blocks = bases(selection.node, selection.program, root), root.index.blocks

    def scattered(base: Base) -> int:
        p, size = base.projection, base.projection.directory.places[0].whole
        return sum(size[page] for page in _lying(base, blocks) if len(set(p.keys(page))) > 1)

    able = [base for base in found if scattered(base) <= SCATTERED_BYTES_MAX]
    if not able and not selection.in_blocks(root):
        able = found
    return min(able, key=lambda base: _rows(base, root, counts)) if able else None


def _rows(base: Base, root: Root, counts: Counts) -> float:
    """How many a base takes, about: by the buckets of counts, and at most those of its pages."""
    own, field = counts.fields[base.projection.field], root.filters[base.projection.field]
    known = float(base.nulls * (root.live_rows - field.rows))
    known += sum(own.totals[j] * share for j, share in own.touched(base.spans, field.distinct))
    return float(min(known, sum(one.rows for one in _lying(base, root.index.blocks).values())))


def _lying(base: Base, blocks: int) -> dict[int, Lying]:
    """By their numbers, the pages that may hold a row of a base: rows of one value lie in the order of blocks, up to
    the first of the next page; those of several in any blocks.
    """
    p, out = base.projection, dict[int, Lying]()
    rows = p.directory.rows
    for run in runs(base):
        valued, one = p.first[run.segment][-1], len(set(run.keys)) <= 1
        for page in range(run.first, run.end):
            first, last = p.block[page] if one else 0, blocks - 1
            goes_on = page + 1 < run.end or (page + 1 < valued and p.keys(page + 1)[0] == run.keys[1])
            if one and goes_on:
                last = max(first, p.block[page + 1])
            out[page] = Lying(rows[page] * max(run.share, 1 / max(1, rows[page])), first, last)
    return out


def _likely(segment: Segment, query: Query, prepared: Prepared, selection: Selection, base: Base) -> tuple[int, ...]:
    """The pages of a base to read, rising: all of few, else those that most answers are expected in, by the router."""
    size, lying = base.projection.directory.places[0].whole, _lying(base, segment.root.index.blocks)
    if sum(size[page] for page in lying) <= WRESERVE_BYTES:
        return tuple(lying)
    rows = _spread(lying.values(), segment.homes)
    share = min(1.0, sum(selection.rows) / (sum(rows) or 1.0))
    routed, _ = segment.peek(query, replace(prepared, selection=replace(selection, rows=[n * share for n in rows])))
    p = routed.dense(segment.root.index.blocks)
    each = [value / n if n else 0.0 for value, n in zip(p, rows, strict=True)]  # of a row of the base in a block
    sums, homes = (
        list(accumulate(map(mul, each, segment.homes), initial=0.0)),
        list(accumulate(segment.homes, initial=0)),
    )
    value = {
        page: one.rows * (sums[one.last + 1] - sums[one.first]) / max(1, homes[one.last + 1] - homes[one.first])
        for page, one in lying.items()
    }
    left, lost = PAGES_BYTES_MAX, sum(value.values())
    allowed = lost * LOST_SHARE * (1 - share_for(segment.filter_promise(query, by_chunks=True), sum(selection.rows)))
    picked = list[int]()
    for page in sorted(lying, key=lambda page: (-value[page], page)):
        if lost <= allowed or left < size[page]:
            break
        picked.append(page)
        left, lost = left - size[page], lost - value[page]
    return tuple(sorted(picked))


def _tables(node: Node, root: Root, counts: Counts, known: tuple[int, Sequence[Span]] | None) -> tuple[Table, ...]:
    """Rows of counts: of the buckets that each condition touches, or of the others where these are fewer; without those
    of the base, and of conditions for which there is no room.
    """
    wanted, left = dict[Table, None](), TABLES_BYTES_MAX // root.index.blocks

    def rows_of(field: int, spans: Sequence[Span]) -> list[float]:
        nonlocal left
        if known is None or (field, tuple(spans)) != (known[0], tuple(known[1])):
            fresh = [(field, j) for j in _buckets(root, counts, field, spans) if (field, j) not in wanted]
            if len(fresh) <= left:
                left -= len(fresh)
                wanted.update(dict.fromkeys(fresh))
        return [1.0]

    expected_rows(node, root.filters, rows_of, [1])
    return tuple(sorted(wanted))


def _buckets(root: Root, counts: Counts, field: int, spans: Sequence[Span]) -> list[int]:
    own = counts.fields[field]
    touched = dict(own.touched(spans, root.filters[field].distinct))
    others = [j for j in range(len(own.low)) if touched.get(j, 0) < 1]
    fewer = len(others) < len(touched) and not root.filters[field].many
    return others if fewer else list(touched)


def _parts(segment: Segment, need: Need) -> tuple[dict[Part, memoryview], list[tuple[Part, Item]]]:
    """(what is in memory of it, what is not, in the order of objects)."""
    root, held, lacking = segment.root, dict[Part, memoryview](), list[tuple[Part, Item]]()
    assert root.counts is not None
    blocks, sizes, names = root.index.blocks, root.objects.sizes, root.names

    def add(part: Part, number: int, offset: int, size: int, crc: int, what: str) -> None:
        view = segment.part(number, offset)
        if view is None:
            lacking.append((part, Item(segment.keys[number], offset, size, sizes[number], crc, what)))
        else:
            held[part] = view

    for field, bucket in need.tables:
        pages = root.counts.fields[field].pages
        assert pages is not None
        what = f"counts {bucket} of {names[root.filters[field].attribute]!r}"
        add((field, bucket), pages.object, pages.offset + bucket * blocks, blocks, pages.crc[bucket], what)
    if need.base is not None:
        places = need.base.projection.directory.places[0]
        name = names[root.filters[need.base.projection.field].attribute]
        for page in need.pages:
            what = f"page {page} of the projection of {name!r}"
            add(page, places.object[page], places.offset[page], places.whole[page], places.crc[page], what)
    return held, lacking


def told(segment: Segment, selection: Selection, need: Need, parts: Mapping[Part, memoryview]) -> Selection:
    """The filter with what the parts that it needs say of it. Raises DamagedError where a page is none."""
    key = need.pages, need.tables  # the base follows from the filter
    if key in selection.told:
        return selection.told[key]
    root, homes, base = segment.root, segment.homes, need.base
    counts, own, live = root.counts, tuple[Base, ...](), segment.live_share
    known: Sequence[float] = []
    assert counts is not None
    if base is not None:
        every = _lying(base, root.index.blocks)
        lying = [one for page, one in every.items() if page not in set(need.pages)]
        if need.pages:
            own = (replace(base, projection=_joined(segment, base.projection, need.pages, every, parts)),)
            lying += _chunks(own[0], root.index.blocks)
        known = _spread((one._replace(rows=live * one.rows) for one in lying), homes)

    def rows_of(field: int, spans: Sequence[Span]) -> Sequence[float]:
        if base is not None and (field, tuple(spans)) == (base.projection.field, tuple(base.spans)):
            return known
        return _counted(root, counts, homes, field, spans, parts)

    rows = array("d", expected_rows(selection.node, root.filters, rows_of, homes, root.live_rows))
    selection.told.clear()
    selection.told[key] = replace(selection, rows=rows, bases=own, whole=need.whole)
    return selection.told[key]


def _joined(
    segment: Segment, of: Projection, numbers: Sequence[int], lying: Mapping[int, Lying],
    parts: Mapping[Part, memoryview],
) -> Projection:  # fmt: skip
    """The chunks of these pages of a projection."""
    root, places = segment.root, of.directory.places[0]
    blocks, sizes = root.index.blocks, root.objects.sizes
    labels = [f"{segment.keys[places.object[n]]}, page {n}" for n in numbers]
    pages = [unpack_chunk_page(parts[n], of, n, blocks, sizes, label) for n, label in zip(numbers, labels, strict=True)]
    joined = joined_pages(pages, [*map(of.segment, numbers)], [lying[n].last for n in numbers], blocks)
    joined.directory.check(sizes, labels[0])
    check_prices(root, joined.directory, labels[0])
    return joined


def _chunks(base: Base, blocks: int) -> list[Lying]:
    """Of the chunks that may hold a row of a base: rows lie in the blocks from that of the first one to that of the
    first one of the next.
    """
    p, out = base.projection, list[Lying]()
    rows = p.directory.rows
    for run in runs(base):
        share = max(run.share, 1 / max(1, sum(rows[run.first : run.end])))
        firsts = p.block[run.first : run.end]
        ends = [*firsts[1:], min(run.until, blocks - 1)]
        out += [
            Lying(rows[c] * share, first, max(first, last))
            for c, first, last in zip(range(run.first, run.end), firsts, ends, strict=True)
        ]
    return out


def _spread(lying: Iterable[Lying], homes: Sequence[int]) -> list[float]:
    """Rows of each block (B): those of one lie in its blocks as all rows do."""
    total, steps = list(accumulate(homes, initial=0)), [0.0] * (len(homes) + 1)
    for rows, first, last in lying:
        density = rows / max(1, total[last + 1] - total[first])
        steps[first] += density
        steps[last + 1] -= density
    density_of = [d if d > DENSITY_MIN else 0.0 for d in accumulate(steps[:-1])]
    return list(map(mul, density_of, homes))


def _counted(
    root: Root, counts: Counts, homes: Sequence[int], field: int, spans: Sequence[Span],
    parts: Mapping[Part, memoryview],
) -> Sequence[float]:  # fmt: skip
    """Rows of each block (B) with a key in the spans, by the counts that were read; else as many in all blocks."""
    own, blocks = counts.fields[field], len(homes)
    touched = dict(own.touched(spans, root.filters[field].distinct))
    if all((field, j) in parts for j in touched):
        return _summed(field, touched, blocks, parts)
    others = {j: 1 - touched.get(j, 0) for j in range(len(own.low)) if touched.get(j, 0) < 1}
    if not root.filters[field].many and all((field, j) in parts for j in others):
        valued = root.filters[field].rows / sum(homes)
        rest = zip(_summed(field, others, blocks, parts), homes, strict=True)
        return [max(valued * home - n, REST_MIN * valued * home) for n, home in rest]
    share = sum(own.totals[j] * part for j, part in touched.items()) / sum(homes)
    return [share * home for home in homes]


def _summed(field: int, shares: Mapping[int, float], blocks: int, parts: Mapping[Part, memoryview]) -> array[float]:
    """f32 (B): rows in so much of each of these buckets."""
    out = array("f", bytes(4 * blocks))
    for bucket, share in shares.items():
        kernels.sum_counts(parts[field, bucket], array("f", [share]), out)
    return out
