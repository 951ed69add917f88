"""Writes a generation that adds what the log says to the live one, and names the objects of that for all else."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.format import (
    ID_SEGMENTS_MAX,
    NUMBERED_MAX,
    Bounds,
    Centres,
    Dead,
    Directory,
    IdPages,
    Places,
    Projection,
    Root,
    RowPages,
    TwoLevelSection,
    centre_of,
    open_block,
)
from vantage.format.directory import PLACES
from vantage.format.log import Id
from vantage.format.objects import OBJECTS_MAX, PAGE_ROWS_MIN, PAGES_FREE
from vantage.log.tail import DELETE, PATCH, UPSERT, Tail, members_of
from vantage.read.waves import Item

from .audit.verify import id_pages
from .blocks.layout import Layout, centre_at, decode_centres
from .blocks.partition import Partition
from .bucket.rows import (
    Entries,
    Stored,
    find_ids,
    gather,
    is_dead,
    read_attributes,
    read_ids,
    read_vectors,
)
from .filters.codes import RowCodes
from .filters.counts import read_tables
from .filters.grow import CannotGrow, first_segments, grow, grow_projections, with_objects
from .ingest.arrays import Arrays, Ids
from .ingest.attributes import BLOCK_BYTES_MAX
from .ingest.formats.batch import DTYPES
from .ingest.rows import Ints, Rows
from .placing import MEASURED_ROWS, CopyRule, check_lengths, copy_rule, find_copies, find_homes, rule_name
from .progress import SILENT
from .successor import CENTRES_KEY, Live, holds_rows, named_from, object_of, priced, sources_of, write_successor
from .tune.living import UNMEASURED
from .write.blocks import write_blocks
from .write.contents import Contents, RowTable, longest, table_of
from .write.ids import write_ids
from .write.objects import ObjectList, sync
from .write.publish import Named
from .write.reopen import choice_of, stored_attributes
from .write.vectors import write_rows

OBJECTS_SHARE = OBJECTS_MAX // PAGES_FREE
RUN_ROWS = 64  # of a sample, that lie together
# Rows of earlier flushes are written to new extents with those of this one while they are at most so many times as
# many: then there are few objects that a query may have to read, and a row is written again a few times at most.
MERGED_TIMES = 8

I32 = npt.NDArray[np.int32]


class Changes(NamedTuple):
    """What a log does to a generation. coming: rows that get numbers, in the order of their last writes. gone i64:
    numbers that die, rising. lost: of each row that dies, where rows can be filtered by attributes, these, and which of
    the rows that come has its vector, -1 for none. upserted, patched, deleted: rows by their last write, those that are
    not there apart.
    """

    coming: Arrays
    gone: Ints
    lost: list[tuple[bytes, int]]
    upserted: int
    patched: int
    deleted: int


class Fit(NamedTuple):
    """What the writer of later rows needs of the fit. centres: of all blocks. source: one more than the last position
    of a row in the source. flushes: the generations that flushes made since; each has the extents and the ids of its
    rows in objects of its own.
    """

    centres: Centres
    copies: CopyRule
    source: int
    flushes: list[str]


class Moved(NamedTuple):
    """Rows of earlier flushes whose extents and ids are written anew, with the segments of ids that go."""

    rows: Arrays
    entries: Entries
    segments: tuple[IdPages, ...]


def unfit(root: Root) -> str:
    """Why an index takes no flush: what it has that a flush does not write. Nothing where it takes one."""
    if isinstance(root.router, TwoLevelSection):
        return "its router has two levels"
    if root.inline:
        return "it is so small that its root holds the blocks"
    if root.promises is None:
        return "it was built before indexes had promises"
    return ""


def pending_rows(root: Root) -> int:
    """Rows that came by flushes since blocks were written whole, and lie beside these."""
    return sum(segment.rows for segment in root.id_pages[1:])


def resolve(stored: Stored, tail: Tail) -> Changes:
    """What a log does to a generation; patched rows are read, with their vectors."""
    root, names = stored.root, stored.root.names
    index = root.index
    fresh = sorted(tail.rows.items(), key=lambda item: item[1].seq)
    found = find_ids(stored, [identifier for identifier, _ in fresh])
    patched = np.array([i for i, (_, f) in enumerate(fresh) if f.kind == PATCH and found.number[i] >= 0], np.int64)
    old_vectors = read_vectors(stored, found.some(patched))
    read = np.flatnonzero(found.number >= 0) if root.filters else patched
    old_records = dict(zip(read.tolist(), read_attributes(stored, found.some(read)), strict=True))
    place = {int(i): j for j, i in enumerate(patched)}
    ids, vectors, records, lost = list[Id](), list[npt.NDArray[Any]](), list[bytes](), list[tuple[bytes, int]]()
    counts = [0, 0, 0]
    for i, (identifier, own) in enumerate(fresh):
        label, there = f"row {identifier!r} in the log", found.number[i] >= 0
        if own.kind == UPSERT:
            vectors.append(np.frombuffer(own.vector, DTYPES[index.vector_kind]))
            records.append(record_of(members_of(own.attributes, label), names))
        elif own.kind == PATCH and there:
            vectors.append(old_vectors[place[i]])
            members = dict(zip(names, json.loads(old_records[i]), strict=True))
            records.append(record_of(members | members_of(own.attributes, label), names))
        if own.kind == UPSERT or own.kind == PATCH and there:
            ids.append(identifier)
        if there and root.filters:
            lost.append((old_records[i], len(ids) - 1 if own.kind == PATCH else -1))
        counts[0] += own.kind == UPSERT
        counts[1] += own.kind == PATCH and bool(there)
        counts[2] += own.kind == DELETE and bool(there)
    held = np.array(vectors) if vectors else np.zeros((0, index.dimension), DTYPES[index.vector_kind])
    known: Ids = [i for i in ids if isinstance(i, bytes)] if index.id_kind == "bytes" else np.array(ids, np.int64)
    gone = np.sort(found.number[found.number >= 0])
    return Changes(Arrays(held, index.vector_kind, known, records), gone, lost, *counts)


def record_of(members: dict[str, Any], names: list[str]) -> bytes:
    """Attributes as an index keeps them: a JSON array in the order of its columns."""
    return json.dumps([members.get(name) for name in names], ensure_ascii=False, separators=(",", ":")).encode()


def flush(live: Live, changes: Changes, folder: Path, *, briefly: bool = False) -> Named | str:
    """Writes a generation below a folder: new rows with their extents, and a root that names what is there already.

    Blocks, codecs, router stay. briefly: prices stay too, and so do rows of earlier flushes: all that queries scan is
    about to be written anew. A string says why a flush cannot: then all is to be written anew. Raises
    InputError for a row that the index cannot take, DamagedError, StoreError.
    """
    building = folder / "building"
    building.mkdir(parents=True)
    stored, root = live.stored, live.stored.root
    n, total = changes.coming.rows, root.index.rows + changes.coming.rows
    if total > NUMBERED_MAX:
        return f"it would have {total:,} numbers of rows, more than {NUMBERED_MAX:,}"
    bits = np.zeros(-(-total // 8), np.uint8)
    if root.dead is not None:
        bits[: len(root.dead.bits)] = np.frombuffer(root.dead.bits, np.uint8)
    np.bitwise_or.at(bits, changes.gone >> 3, (1 << (changes.gone & 7)).astype(np.uint8))
    count = int(np.bitwise_count(bits).sum())
    dead = Dead(count, bits.tobytes()) if count else None
    fit = fit_of(live)
    moved = _moved(stored, dead, changes.coming, fit.flushes, few=briefly)
    due = not briefly and _is_due(live, total, count, beside=bool(n) and not moved.segments)
    if n and len(root.id_pages) - len(moved.segments) == ID_SEGMENTS_MAX:
        return f"it has {ID_SEGMENTS_MAX} segments of ids"
    base, numbers = _without(root, live.current.generation, moved.segments, keep_held=not due)
    known = {key: size for key, size in zip(base.objects.keys, base.objects.sizes, strict=True)}
    objects = ObjectList(building, known)
    if root.centres is None and not any(key.endswith(f"/{CENTRES_KEY}") for key in known):
        _, path = objects.begin(CENTRES_KEY)
        with path.open("wb") as file:
            file.write(fit.centres.pack())
            objects.end(CENTRES_KEY, file.tell())
            sync(file)
    new = replace(base, dead=dead, counts=read_tables(root, stored.read))
    try:
        added = _add(live, new, changes, moved, fit, objects) if n else _without_lost(new, changes, objects)
    except CannotGrow as error:
        return error.message
    if isinstance(added, str):
        return added
    new = replace(added, objects=objects.pack())
    prices = dict[str, Any]()
    if due:
        new, prices = priced(live, new, objects, building)
    if max(len(new.rows.fact_crc) - total // PAGE_ROWS_MIN, len(new.objects.keys) // OBJECTS_SHARE) > PAGES_FREE:
        return "it has the rows of so many flushes, in as many pages and objects"
    flushed = {"copies": fit.copies._asdict(), "source": fit.source + n, "flushes": fit.flushes}
    return write_successor(live, new, building, numbers, flushed, prices)


def fit_of(live: Live) -> Fit:
    """What rows that come later need of the fit: as an earlier flush noted it, or measured now, from its objects."""
    stored, noted = live.stored, live.manifest.get("flushed")
    root = stored.root
    if noted is None:
        return _measured(live)
    centres = root.centres
    if centres is None:
        place = next(i for i, key in enumerate(root.objects.keys) if key.endswith(CENTRES_KEY))
        data = object_of(live, place)
        centres = Centres.unpack(memoryview(data), root.index, stored.keys[place])
    folders = {stored.keys[segment.object].partition("/")[0] for segment in root.id_pages[1:]}
    flushes = [name for name in (*noted["flushes"], live.current.generation) if name in folders]
    return Fit(centres, CopyRule(**noted["copies"]), noted["source"], flushes)


def _is_due(live: Live, total: int, dead: int, *, beside: bool) -> bool:
    """Whether prices are to be measured again in a generation of so many numbers of rows, dead ones among them; never
    of an index that holds no rows. beside: extents lie in one more object than before, which takes a range of most
    queries, however few rows it has: at the old price they find half a hundredth less.
    """
    if not holds_rows(live):
        return False
    known = live.manifest["living"]
    changed = known["changed"] + total - known["numbers"] + dead - known["gone"]
    return beside or bool(changed >= max(1, UNMEASURED * (total - dead)))


def _measured(live: Live) -> Fit:
    """The centres, from the blocks where the root has none; which rows of a sample have copies."""
    stored, root = live.stored, live.stored.root
    index, directory = root.index, root.directory
    assert directory is not None
    drawn = _sample(index.rows)
    drawn = drawn[~is_dead(root.dead, drawn)]
    home, copies = np.full(len(drawn), -1, np.int32), np.zeros(len(drawn), np.int64)
    checks, centres = np.zeros(len(drawn), np.uint32), list[Any]([None] * index.blocks)
    for i, data in gather(stored.store.read, _blocks(stored)):
        extent, own = directory.extent(i, 0), directory.homes[i]
        label = f"{stored.keys[extent.object]}, block {extent.block}"
        at = open_block(
            data, extent.rows, extent.size, root.codec.code_bytes, index.dimension, index.by_row, label, index.metric
        ).at
        if centres[extent.block] is None:
            centre = centre_of(data, at, index.dimension)
            centres[extent.block] = (centre.scale, centre.bias, bytes(centre.row))
        if not len(drawn):
            continue
        numbers = np.frombuffer(data, "<u4", extent.rows, at.rows).astype(np.int64)
        place = np.minimum(np.searchsorted(drawn, numbers), len(drawn) - 1)
        hit = drawn[place] == numbers
        home[place[:own][hit[:own]]] = extent.block
        np.add.at(copies, place[own:][hit[own:]], 1)
        checks[place[hit]] = np.frombuffer(data, "<u4", extent.rows, at.checks)[hit]
    table = b"".join(row for _, _, row in centres)
    scale, bias = (memoryview(array("f", column)) for column in list(zip(*centres, strict=True))[:2])
    section = root.centres or Centres(memoryview(table), scale, bias)
    name = rule_name(live.manifest.get("options", {}).get("copies"))
    most = int(copies.max(initial=0))
    rule = CopyRule(name, 0, 0.0)
    if most:
        entries = Entries(drawn, checks, np.zeros((len(drawn), 0), np.uint32))
        rows = _rows(root, Arrays(read_vectors(stored, entries), index.vector_kind, drawn, []))
        rule = copy_rule(rows, home, copies, most, decode_centres(section, index.dimension), name)
    return Fit(section, rule, _last_source(stored) + 1, [])


def _sample(rows: int) -> Ints:
    """Rising row numbers, all or MEASURED_ROWS of them, in runs that are read together."""
    if rows <= MEASURED_ROWS:
        return np.arange(rows)
    starts = np.linspace(0, rows - RUN_ROWS, MEASURED_ROWS // RUN_ROWS).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(RUN_ROWS))


def _blocks(stored: Stored) -> list[Item]:
    """All extents of the first rendition, without planes."""
    root, directory = stored.root, stored.root.directory
    assert directory is not None
    extents = (directory.extent(i, 0) for i in range(len(directory)))
    return [
        Item(stored.keys[e.object], e.offset, e.size, root.objects.sizes[e.object], e.crc, f"block {e.block}")
        for e in extents
    ]


def _last_source(stored: Stored) -> int:
    """The last position that a row had in the source."""
    return max((int(some.max()) for some in sources_of(stored)), default=-1)


def _rows(root: Root, stored: Arrays) -> Rows:
    """Rows in the scale of an index."""
    index = root.index
    return Rows(stored, index.metric, np.array(index.origin, np.float32), index.row_scale)


def _moved(stored: Stored, dead: Dead | None, coming: Arrays, flushes: list[str], *, few: bool) -> Moved:
    """Rows of earlier flushes that are written again with those that come: see MERGED_TIMES; of few only such as make
    room for a segment of ids.
    """
    root, total = stored.root, coming.rows
    taken = list[IdPages]()
    for segment in reversed(root.id_pages[1:] if total else ()):
        full = len(root.id_pages) - len(taken) == ID_SEGMENTS_MAX
        if stored.keys[segment.object].partition("/")[0] not in flushes:
            break
        if (few or segment.rows > MERGED_TIMES * total) and not full:
            break
        taken.append(segment)
        total += segment.rows
    pages = [page for segment in taken for page in id_pages(stored.store, root, stored.keys, segment)]
    spots = 3 * bool(root.names)
    empty = np.zeros(0, np.uint32)
    entries = Entries(
        np.concatenate([empty, *(numbers for _, numbers, _, _ in pages)]).astype(np.int64),
        np.concatenate([empty, *(checks for _, _, checks, _ in pages)]),
        np.concatenate([np.zeros((0, spots), np.uint32), *(spot.reshape(len(spot), spots) for _, _, _, spot in pages)]),
    )
    entries = entries.some(np.argsort(entries.number))
    entries = entries.some(~is_dead(dead, entries.number))
    rows = Arrays(
        read_vectors(stored, entries), root.index.vector_kind, read_ids(stored, entries.number),
        read_attributes(stored, entries),
    )  # fmt: skip
    return Moved(rows, entries, tuple(taken))


def _without(root: Root, generation: str, segments: Sequence[IdPages], *, keep_held: bool) -> tuple[Root, list[int]]:
    """(a root that names the objects of a generation from another one, without some segments of ids and the extents
    that were written with them; the numbers that these objects had). keep_held: the object of rows held stays.
    """
    keys = [key if key.startswith("../") else f"../{generation}/{key}" for key in root.objects.keys]
    folders = {keys[segment.object].rpartition("/")[0] for segment in segments}
    directory = root.directory
    assert directory is not None
    stay = [i for i, number in enumerate(directory.places[0].object) if keys[number].rpartition("/")[0] not in folders]
    if len(stay) < len(directory):
        directory = directory.some(stay)
    ids = tuple(segment for segment in root.id_pages if segment not in segments)
    projections = first_segments(with_objects(root), len(ids))  # they are of the same rows
    root = replace(root, directory=directory, id_pages=ids, projections=projections)
    return named_from(root, generation, keep_held=keep_held)


def _without_lost(base: Root, changes: Changes, objects: ObjectList) -> Root:
    """A root whose filters do not count rows that die; none comes."""
    if not base.filters:
        return base
    grown = grow(base, [], np.zeros(0, np.int64), 0, changes.lost, objects)
    return replace(base, filters=grown.fields, counts=grown.counts)


def _add(live: Live, base: Root, changes: Changes, moved: Moved, fit: Fit, objects: ObjectList) -> Root | str:
    """A root that has rows that come too, and earlier ones in new extents; their objects are written."""
    stored, index = live.stored, base.index
    first, n = index.rows, changes.coming.rows
    coming = replace(changes.coming, source=fit.source)
    schema = stored_attributes(stored)
    rows = _rows(base, coming)
    check_lengths(rows)
    centres = decode_centres(fit.centres, index.dimension)
    every = _rows(base, moved.rows.followed_by(coming))
    home = find_homes(every, centres, index.router, base.router)
    copy = find_copies(every, home, centres, fit.copies)
    blocks = np.unique(np.concatenate([home, copy[copy >= 0]]))
    number = np.full(index.blocks, -1, np.int32)
    number[blocks] = np.arange(len(blocks))
    small = np.where(copy >= 0, number[copy], np.int32(-1))
    section = _picked(fit.centres, blocks)

    def contents(of: Rows, low: int) -> Contents:
        layout = Layout(
            Partition(centres[blocks], number[home[low:]]), small[low:], index.router, base.router, section,
            centres[blocks],
        )  # fmt: skip
        return Contents(of, schema, choice_of(base, live.manifest, layout), index.vector_kind, {})

    grown, kept = None, None
    if base.filters:
        own_homes = [*home[moved.rows.rows :].tolist(), -1]
        lost = [(record, own_homes[place]) for record, place in changes.lost]
        records = every.stored.attributes(np.arange(every.count))
        grown = grow(base, records, home.astype(np.int64), moved.rows.rows, lost, objects)
        base = replace(base, filters=grown.fields, counts=grown.counts)
    if base.projections:
        kept = RowCodes.room(every.count, base.codec.code_bytes, len(blocks), objects.folder)
    own, all_of = contents(rows, moved.rows.rows), contents(every, 0)
    if base.names and not index.by_row and longest(all_of) > BLOCK_BYTES_MAX:
        return "attributes of the rows of a block are too long to lie in it"
    table = table_of(own, index.by_row, base.renditions, first)
    pages = write_rows(own, table, objects, SILENT)
    table = _with_moved(table, table_of(all_of, index.by_row, base.renditions), moved)
    columns, proves = grown.columns if grown else [], base.bounds is not None
    added, radius, _ = write_blocks(all_of, table, columns, objects, proves, kept, SILENT)
    projections: tuple[Projection, ...] = ()
    if grown is not None and kept is not None:
        projections = grow_projections(base.projections, grown, kept, every, table, blocks, fit.centres, objects)
    ids = write_ids(every, table, bool(base.names), objects)
    added = replace(added, block=array("I", blocks.tolist()))
    assert base.directory is not None
    directory = _followed(base.directory, added)
    nbytes = index.attribute_bytes * first + int(table.attribute_bytes.sum())
    return replace(
        base,
        index=replace(
            index, rows=first + n, slots=sum(directory.rows), attribute_bytes=-(-nbytes // (first + n))
        ),
        directory=directory,
        rows=_pages_followed(base.rows, pages),
        id_pages=(*base.id_pages, ids),
        bounds=_wider(base.bounds, blocks, radius) if base.bounds else None,
        projections=projections,
    )  # fmt: skip


def _wider(bounds: Bounds, blocks: npt.NDArray[np.integer], radius: array[float]) -> Bounds:
    """Bounds that hold of rows up to so far from the centres of some blocks too."""
    every = np.array(bounds.radius, np.float32)
    every[blocks] = np.maximum(every[blocks], np.asarray(radius, np.float32))
    return replace(bounds, radius=memoryview(every))


def _with_moved(new: RowTable, table: RowTable, moved: Moved) -> RowTable:
    """The table of rows that are moved and of new ones, with what is known of either: they come in this order."""
    count = moved.rows.rows
    at = table.number[:count]  # positions
    table.stored[at], table.checks[at] = moved.entries.number, moved.entries.check
    others = table.number[count:]
    table.stored[others], table.checks[others] = new.stored[new.number], new.checks[new.number]
    table.spots[others] = new.spots[new.number]
    if moved.entries.spot.shape[1]:
        table.spots[at] = moved.entries.spot
    return table


def _picked(centres: Centres, blocks: npt.NDArray[np.integer]) -> Centres:
    """The centres of some blocks."""
    own = [centre_at(centres, block) for block in blocks.tolist()]
    scale, bias = (memoryview(array("f", column)) for column in ([c.scale for c in own], [c.bias for c in own]))
    return Centres(memoryview(b"".join(bytes(c.row) for c in own)), scale, bias)


def _followed(first: Directory, second: Directory) -> Directory:
    """Extents of two directories; the objects of the second one are behind those of the first."""

    def both(one: Any, two: Any, code: str) -> array[int]:
        return array(code, [*one, *two])

    places = tuple(
        Places(*(both(getattr(a, name), getattr(b, name), "Q" if name == "offset" else "I") for name in PLACES))
        for a, b in zip(first.places, second.places, strict=True)
    )
    return Directory(
        both(first.block, second.block, "I"), both(first.rows, second.rows, "I"),
        both(first.homes, second.homes, "I"), places,
    )  # fmt: skip


def _pages_followed(first: RowPages, second: RowPages) -> RowPages:
    """Pages of rows, and of those behind them."""
    columns = {name: array(code, [*getattr(first, name), *getattr(second, name)]) for name, code in _PAGE_COLUMNS}
    return RowPages(array("I", [*first.first_row, *second.first_row[1:]]), **columns)


_PAGE_COLUMNS = [
    (f"{what}_{column}", code)
    for what in ("vector", "fact", "attribute")
    for column, code in (("object", "I"), ("offset", "Q"))
] + [("fact_crc", "I")]
