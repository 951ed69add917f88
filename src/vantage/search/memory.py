"""What answering takes in memory at the most, known before it starts: so requests wait, or are refused, in time."""

from __future__ import annotations

from collections.abc import Sequence

from ..format import ATTRIBUTE_ROW_BYTES_MAX, ID_PAGE_ROWS, VECTOR_BYTES, id_entry
from ..kernels import lrsq_tables_size, pool_size
from ..read.reader import IN_FLIGHT_BYTES_MAX
from . import paged
from .query import Query
from .rows import ATTRIBUTES_BYTES_MAX
from .scan import CONTENDERS_MIN
from .segment import Segment

SCANS_BYTES_MAX = 4 << 20  # what the scans of a batch may hold at once; more queries are answered in groups
RANKED_BYTES = 1200  # what reading a row's full vector takes beside its bytes
CONTENDER_BYTES = 250
MATCH_BYTES = 500  # a row of an answer: as objects, and as JSON
LONGEST = 1000  # attributes of a row over the mean, where none is long
TAIL_BYTES = 24  # of a row in a block: check, place of its attributes, id
EXTENT_BYTES, PAGE_EXTENTS = 8, 4096  # what an extent takes in a plan; extents of routing pages
VALUE_BYTES = 21  # a number of a vector as JSON
ATTRIBUTE_COPIES = 4  # as read, as objects, as JSON, as sent
EXACT_BYTES = 2 << 20  # what an exact answer holds besides: intervals, ceilings, full vectors


def answers_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About the bytes that answering a request takes at the most at once, with the JSON of the answers."""
    index, d = segment.root.index, segment.root.index.dimension
    scans = min(sum(scan_bytes(segment, q) for q in queries), SCANS_BYTES_MAX)
    rows = sum(min(q.top_k, index.rows) for q in queries)
    match = MATCH_BYTES + queries[0].vectors * d * (VECTOR_BYTES[index.vector_kind] + VALUE_BYTES)
    attributes = 0
    if queries[0].attributes:
        mean = index.attribute_bytes
        attributes = ATTRIBUTE_COPIES * min(round(2 * mean * rows), ATTRIBUTES_BYTES_MAX)
    return tails_bytes(segment, queries) + scans + rows * match + attributes


def row_bytes(segment: Segment) -> int:
    """Likewise of a row by its id."""
    longest = ATTRIBUTE_ROW_BYTES_MAX if segment.root.index.by_row else segment.root.index.attribute_bytes * LONGEST
    entries = ID_PAGE_ROWS * id_entry(bool(segment.root.names))
    return entries + ATTRIBUTE_COPIES * min(longest, ATTRIBUTES_BYTES_MAX)


def rows_bytes(segment: Segment, count: int, vectors: bool) -> int:
    """Likewise of so many rows by their ids."""
    index, entries = segment.root.index, ID_PAGE_ROWS * id_entry(bool(segment.root.names))
    own = MATCH_BYTES + vectors * index.dimension * (VECTOR_BYTES[index.vector_kind] + VALUE_BYTES)
    attributes = ATTRIBUTE_COPIES * min(round(2 * index.attribute_bytes * count), ATTRIBUTES_BYTES_MAX)
    return entries + count * own + attributes


def in_flight_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About the bytes of reads under way, which are not in the heap."""
    nbytes = sum(min(segment.promise(q).nbytes, q.budget.bytes) for q in queries)
    return min(round(nbytes), IN_FLIGHT_BYTES_MAX)


def shared_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """What a group of scans sets aside for what they share. A batch is not parted for more: it would read twice."""
    return min(tails_bytes(segment, queries), SCANS_BYTES_MAX // 2)


def tails_bytes(segment: Segment, queries: Sequence[Query]) -> int:
    """About what the scans of a batch share: checks, ids and attributes of blocks with contenders.

    Of all blocks at the most, of one a contender, and of those that the promises read.
    """
    root = segment.root
    contenders = sum(max(3 * q.top_k, CONTENDERS_MIN) for q in queries)
    tail = TAIL_BYTES + root.index.attribute_bytes * bool(queries[0].attributes)
    nbytes = root.index.slots * tail
    read = sum(segment.promise(q).nbytes for q in queries) / (root.codec.code_bytes + tail)
    return min(nbytes, nbytes * contenders // root.index.blocks, round(read * tail))


def scan_bytes(segment: Segment, query: Query) -> int:
    """About the bytes that a query's own scan holds: tables, pool, numbers a block, full vectors."""
    root = segment.root
    codec, ranked = root.codec, max(query.rerank, segment.promise(query).rerank)
    tables = lrsq_tables_size(codec.code_bytes, codec.fine)
    pool = pool_size(max(3 * max(query.top_k, ranked), CONTENDERS_MIN))
    width = VECTOR_BYTES[root.index.vector_kind] * root.index.dimension
    vectors = ranked * (width + RANKED_BYTES) + query.exact * EXACT_BYTES
    contenders = CONTENDER_BYTES * max(query.top_k, ranked)
    extents = len(segment.resident) if segment.resident is not None else PAGE_EXTENTS
    pages = paged.memory_bytes(root.index.blocks) if root.paged and query.filter else 0
    return tables + pool + contenders + EXTENT_BYTES * extents + vectors + pages
