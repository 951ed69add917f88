"""Scans the blocks that an index has stored, once for many queries: what `full_scans` finds in rows, by extents."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Self

import numpy as np

from vantage import kernels
from vantage.errors import DamagedError
from vantage.format import RANGES_AT, ROOT_KEY, VECTOR_BYTES, Root, centre_of, open_block
from vantage.read.waves import Item
from vantage.search.plan import spread
from vantage.search.prepare import Prepared
from vantage.search.route import ROUTERS
from vantage.search.scan import SCANS

from ..bucket.rows import Read, Span, gather, is_dead, read_ahead
from ..ingest.formats.batch import DTYPES
from ..ingest.rows import F32, Ints
from ..ingest.staging import GAP_BYTES
from .edge import HeldOutQueries, P
from .measure import ENTRY, KEPT, Bools, Candidates, judge

AGAIN = "`vantage verify` tells what is damaged; publish or build the index again"


class Opened:
    """Objects in the folder of a generation, opened as they are read. Not mapped: pages would count as memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._files, self._opening = folder, dict[str, int](), Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.close(file)

    def read(self, key: str, offset: int, nbytes: int) -> bytes:
        """See Read."""
        with self._opening:
            if key not in self._files:
                self._files[key] = os.open(self.folder / key, os.O_RDONLY)
        return os.pread(self._files[key], nbytes, offset)


def extent_probabilities(root: Root, queries: Sequence[Prepared]) -> P:
    """u32 (Q, E) in 2^-20, by the edge's own router: of each extent of a root that has the directory of all."""
    directory = root.directory
    assert directory is not None
    router, out = (
        ROUTERS[root.index.router](root.router, root.index),
        np.zeros((len(queries), len(directory)), np.uint32),
    )
    for line, query in zip(out, queries, strict=True):
        line[:] = spread(router.probabilities(query), directory).dense(len(directory))
    return out


def starts(root: Root, rendition: int) -> Bools:
    """bool (E): extents that are the first ones of their objects, over whose begin no range goes."""
    assert root.directory is not None
    out = np.zeros(len(root.directory), bool)
    out[[low for _, low, _ in root.directory.runs[rendition]]] = True
    return out


def scan_stored(
    root: Root, read: Read, held: HeldOutQueries, asked: Bools, rendition: int = 0, kept: int = KEPT
) -> Candidates:
    """The best copies of rows for each query among the extents asked for, bool (Q, E); dead rows and the query's own
    left out. held.rows and its truth are by row number. Base is 0 of extents that a query does not ask for.

    Each extent is read once, and held until its queries have scanned it. Raises DamagedError for one that is not whole.
    """
    directory, index, queries = root.directory, root.index, held.queries
    assert directory is not None
    scans = [SCANS[index.codec](root, directory, rendition, query, kept) for query in queries]
    code_bytes, dot = root.codecs[root.renditions[rendition].codec].code_bytes, array("i", [0])
    base, row_of_slot, first = np.zeros(asked.shape, np.float32), np.zeros(index.slots, np.int64), 0
    for e, raw in _extents(root, read, np.flatnonzero(asked.any(0)), rendition):
        extent, label, data = directory.extent(e, rendition), f"extent {e}", memoryview(bytearray(raw))
        key = root.objects.keys[extent.object]
        opened = open_block(
            data, extent.rows, extent.size, code_bytes, index.dimension, index.by_row, f"{key}, {label}", index.metric
        )
        at, centre = opened.at, centre_of(data, opened.at, index.dimension)
        # A pool keeps one entry a row, and each copy is wanted: they are numbered for it.
        slots = slice(first, first + at.n)
        row_of_slot[slots] = np.frombuffer(data, "<u4", at.n, at.rows)
        np.frombuffer(data, "<u4", at.n, at.rows)[:] = np.arange(slots.start, slots.stop)
        first += at.n
        for q in np.flatnonzero(asked[:, e]).tolist():
            query, scan = queries[q], scans[q]
            kernels.matvec_i8(query.i16, centre.row, 1, index.dimension, dot)
            own = dot[0] * (centre.scale * query.i16_scale) + centre.bias
            base[q, e] = own
            kernels.lrsq_scan(data, RANGES_AT, at.codes, at.f, at.h, at.rows, at.n, own, e, scan.tables, scan.pool)
    block, row = np.full((len(queries), kept), -1, np.int32), np.full((len(queries), kept), -1, np.int32)
    score, entries = np.zeros((len(queries), kept), np.float32), np.empty(kept, ENTRY)
    for q, scan in enumerate(scans):
        found = entries[: kernels.pool_finish(scan.pool, entries)]
        rows = row_of_slot[found["slot"]]
        live = (rows != held.rows[q]) & ~is_dead(root.dead, rows)
        n = np.count_nonzero(live)
        block[q, :n], row[q, :n] = found["block"][live], rows[live]
        score[q, :n] = found["score"][live] / queries[q].unit
    out = judge(block, row, held.truth)
    return Candidates(out.block, out.row, out.twin, out.rank, out.truth, score, base)


def _extents(root: Root, read: Read, wanted: Ints, rendition: int) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of extents (n), without planes, in the order in which they lie."""
    assert root.directory is not None
    items = list[Item]()
    for e in wanted.tolist():
        own = root.directory.extent(e, rendition)
        key = root.objects.keys[own.object]
        items.append(Item(key, own.offset, own.size, root.objects.sizes[own.object], own.crc, f"extent {e}"))

    def read_or_root(key: str, offset: int, nbytes: int) -> bytes:
        return bytes(root.inline[offset : offset + nbytes]) if key == ROOT_KEY else read(key, offset, nbytes)

    for i, data in gather(read_or_root, items):
        yield int(wanted[i]), data


def stored_vectors(root: Root, read: Read, rows: Ints) -> F32:
    """f32 (n, d): the full vectors of these rows, as they are stored; those that lie close are read together."""
    index, pages, order = root.index, root.rows, np.argsort(rows)
    width, out = index.dimension * VECTOR_BYTES[index.vector_kind], np.empty((len(rows), index.dimension), np.float32)
    page = np.searchsorted(np.asarray(pages.first_row), rows[order], side="right") - 1
    cuts = np.flatnonzero((np.diff(rows[order]) > GAP_BYTES // width) | (np.diff(page) > 0)) + 1
    parts, spans = np.split(np.arange(len(rows)), cuts) if len(rows) else [], list[Span]()
    for some in parts:
        own, on = rows[order[some]], int(page[some[0]])
        at = pages.vector_offset[on] + (int(own[0]) - pages.first_row[on]) * width
        spans.append(Span(root.objects.keys[pages.vector_object[on]], at, int(own[-1] - own[0] + 1) * width))
    for some, span, data in zip(parts, spans, read_ahead(read, spans), strict=True):
        own = rows[order[some]]
        if len(data) != span.nbytes:
            raise DamagedError(f"the vectors of rows {own[0]} to {own[-1]}: an object ends within them", hint=AGAIN)
        out[order[some]] = np.frombuffer(data, DTYPES[index.vector_kind]).reshape(-1, index.dimension)[own - own[0]]
    return out
