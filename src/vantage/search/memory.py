"""What answering takes in memory at the most, known before it starts: so requests wait, or are refused, in time."""

from __future__ import annotations

from collections.abc import Sequence

from ..filter.facet import DISTINCT_MAX, Facet
from ..format import ATTRIBUTE_ROW_BYTES_MAX, ID_PAGE_ROWS, VECTOR_BYTES, id_entry
from ..kernels import lrsq_tables_size, pool_size
from ..read.reader import IN_FLIGHT_BYTES_MAX
from . import paged, verified
from .listing import PreparedListing
from .query import Query
from .rows import ATTRIBUTES_BYTES_MAX, names_bytes
from .scan import capacity_for
from .segment import Segment
from .walk import WALK_BYTES_MAX

SCANS_BYTES_MAX = 4 << 20  # what the scans of a batch may hold at once; more queries are answered in groups
RANKED_BYTES = 1200  # what reading a row's full vector takes beside its bytes
CONTENDER_BYTES = 250
MATCH_BYTES = 500  # a row of an answer: as objects, and as JSON
LONGEST = 1000  # attributes of a row over the mean, where none is long
TAIL_BYTES = 24  # of a row in a block: check, place of its attributes, id
EXTENT_BYTES, PAGE_EXTENTS = 8, 4096  # what an extent takes in a plan; extents of routing pages
VALUE_BYTES = 21  # a number of a vector as JSON
ATTRIBUTE_COPIES = 4  # as read, as objects, as JSON, as sent
TALLY_BYTES = 160  # a value that is counted, and its place in the order
COLUMN_BYTES = 2 << 20  # of a block or chunk, as pairs
TEXTS_BYTES = 256 << 10  # of the values of a facet, mostly far less
LISTED_BYTES, ORDERED_BYTES = 24, 250  # of a row that a page looks at, and where it is put in order by its key
LOGGED_BYTES = 200  # a row in the log: its score, or its value and its hash, and where it stands
EXACT_BYTES = 2 << 20  # what an exact answer holds besides: intervals, ceilings, full vectors


def answers_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About the bytes that answering a request takes at the most at once, with the JSON of the answers."""
    index, d = segment.root.index, segment.root.index.dimension
    scans = min(sum(scan_bytes(segment, q) for q in queries), SCANS_BYTES_MAX)
    fresh = 0 if segment.fresh is None else segment.fresh.live_rows
    rows = sum(min(q.top_k, index.rows + fresh) for q in queries)
    match = MATCH_BYTES + queries[0].vectors * d * (VECTOR_BYTES[index.vector_kind] + VALUE_BYTES)
    attributes = _attributes_bytes(segment, rows) if queries[0].attributes else 0
    return tails_bytes(segment, queries) + scans + rows * match + attributes + log_bytes(segment)


def log_bytes(segment: Segment) -> int:
    """Likewise of looking through the rows of the log, one query after the other."""
    return 0 if segment.fresh is None else LOGGED_BYTES * segment.fresh.count


def row_bytes(segment: Segment) -> int:
    """Likewise of a row by its id."""
    longest = ATTRIBUTE_ROW_BYTES_MAX if segment.root.index.by_row else segment.root.index.attribute_bytes * LONGEST
    return _id_pages_bytes(segment) + ATTRIBUTE_COPIES * min(longest, ATTRIBUTES_BYTES_MAX)


def rows_bytes(segment: Segment, count: int, vectors: bool) -> int:
    """Likewise of so many rows by their ids."""
    index = segment.root.index
    own = MATCH_BYTES + vectors * index.dimension * (VECTOR_BYTES[index.vector_kind] + VALUE_BYTES)
    return _id_pages_bytes(segment) + count * own + _attributes_bytes(segment, count)


def _attributes_bytes(segment: Segment, rows: int) -> int:
    """Of the attributes of so many rows."""
    mean = max(segment.root.index.attribute_bytes, segment.fresh.attribute_bytes if segment.fresh else 0)
    return ATTRIBUTE_COPIES * min((2 * mean + names_bytes(segment.root.names)) * rows, ATTRIBUTES_BYTES_MAX)


def _id_pages_bytes(segment: Segment) -> int:
    """Of a page of each segment of ids."""
    return sum(min(own.rows, ID_PAGE_ROWS) for own in segment.root.id_pages) * id_entry(bool(segment.root.names))


def facets_bytes(segment: Segment, facets: Sequence[Facet]) -> int:
    """Likewise of counting facets: numbers by value, columns as pairs, and the answer."""
    nbytes, logged = COLUMN_BYTES, 0 if segment.fresh is None else segment.fresh.count
    for facet in facets:
        field = segment.root.filters[facet.field]
        shown = facet.top or len(facet.starts)
        nbytes += MATCH_BYTES * min(shown, field.distinct + 1) + ATTRIBUTE_COPIES * min(len(field.texts), TEXTS_BYTES)
        new = min(DISTINCT_MAX, logged * (DISTINCT_MAX if field.many else 1))
        nbytes += TALLY_BYTES * (field.distinct + new if facet.top else shown) + LOGGED_BYTES * logged
    return nbytes


def listing_bytes(segment: Segment, prepared: PreparedListing) -> int:
    """Likewise of a page of rows: what it keeps of extents, and what it makes of each of their rows."""
    walk, listing = prepared.walk, prepared.listing
    held = min(walk.nbytes, WALK_BYTES_MAX)
    rows = walk.rows * held // max(1, walk.nbytes)
    own = ORDERED_BYTES if walk.field is not None else LISTED_BYTES
    return held + rows * own + log_bytes(segment) + rows_bytes(segment, listing.limit, listing.vectors)


def in_flight_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About the bytes of reads under way, which are not in the heap."""
    nbytes = sum(min(_read_bytes(segment, q), q.budget.bytes) for q in queries)
    return min(round(nbytes), IN_FLIGHT_BYTES_MAX)


def _read_bytes(segment: Segment, query: Query) -> float:
    """Of extents, of a mean query of its kind."""
    if segment.root.is_empty:
        return 0.0
    means = [segment.promise(query).nbytes]
    if query.filter:
        means += [segment.filter_promise(query, by_chunks=one).nbytes for one in (False, True)]
    return max(means)


def shared_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """What a group of scans sets aside for what they share. A batch is not parted for more: it would read twice."""
    return min(tails_bytes(segment, queries), SCANS_BYTES_MAX // 2)


def tails_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About what the scans of a batch share: checks, ids and attributes of blocks with contenders.

    Of all blocks at the most, of one a contender, and of those that the promises read.
    """
    root = segment.root
    if root.is_empty:
        return 0
    contenders = sum(capacity_for(q.top_k, distinct=q.distinct is not None) for q in queries)
    tail = TAIL_BYTES + root.index.attribute_bytes * bool(queries[0].attributes)
    nbytes = root.index.slots * tail
    read = sum(_read_bytes(segment, q) for q in queries) / (root.codec.code_bytes + tail)
    return min(nbytes, nbytes * contenders // root.index.blocks, round(read * tail))


def scan_bytes(segment: Segment, query: Query) -> int:
    """About the bytes that a query's own scan holds: tables, pool, numbers a block, full vectors."""
    root = segment.root
    if root.is_empty:
        return 0
    codec, ranked = root.codec, max(query.rerank, segment.promise(query).rerank)
    if query.filter:
        ranked = max(ranked, *(segment.filter_promise(query, by_chunks=one).rerank for one in (False, True)))
    tables = lrsq_tables_size(codec.code_bytes, codec.fine)
    pool = pool_size(capacity_for(max(query.top_k, ranked), distinct=query.distinct is not None))
    pool *= 1 + bool(root.dead is not None or (segment.fresh is not None and segment.fresh.ids))  # see Scan.lost
    width = VECTOR_BYTES[root.index.vector_kind] * root.index.dimension
    vectors = ranked * (width + RANKED_BYTES) + query.exact * EXACT_BYTES
    contenders = CONTENDER_BYTES * max(query.top_k, ranked)
    if query.filter:  # rows that may be looked at, and what of their attributes is
        contenders += verified.ROWS_MAX * (CONTENDER_BYTES + 2 * round(root.index.attribute_bytes))
    extents = len(segment.resident) if segment.resident is not None else PAGE_EXTENTS
    pages = paged.memory_bytes(root.index.blocks) if root.paged and query.filter else 0
    return tables + pool + contenders + EXTENT_BYTES * extents + vectors + pages
