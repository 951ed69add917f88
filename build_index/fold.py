"""Writes what queries scan of an index anew from what is stored: one extent a block, one segment of ids and of each
projection, without the rows that died. Codes are copied; vectors and attributes by row stay where they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import (
    ATTRIBUTES_PLANE,
    COLUMNS_PLANE,
    GROUP,
    ID_PAGE_ROWS,
    NORMS_PLANE,
    RANGES_AT,
    READ_BYTES_MAX,
    Centre,
    Directory,
    IdPages,
    Root,
    aligned,
    attribute_bytes,
    centre_of,
    damaged,
    norms_of,
    open_block,
    pack_attributes,
    pack_block,
    pack_columns,
    pack_ids,
    plane_of,
    unpack_attributes,
    unpack_columns,
)
from vantage.kernels import crc32c
from vantage.read.waves import Item

from .audit.verify import id_pages
from .bucket.rows import Stored, gather, is_dead
from .codecs.error_norms import Norms
from .codecs.planes import Codec, Encoded
from .filters.counts import Counted, write_tables
from .filters.merge import merge_segments
from .flush import fit_of
from .ingest.attributes import BLOCK_BYTES_MAX
from .ingest.rows import F32
from .progress import Progress
from .slots import U8, Objects, Slots, Table, cut, in_range, merged, objects_of, range_of, slots_of
from .successor import Live, holds_rows, named_from, priced, write_successor
from .write.contents import check_block
from .write.objects import ObjectList, sync
from .write.publish import Named
from .write.reopen import codec_of
from .write.shard import Shards

PENDING_SHARE, DEAD_SHARE = 0.25, 0.2  # of the rows that live, that may come by flushes, and that may be dead
RUN_BLOCKS, RUN_BYTES = 32, 16 << 20  # that are read together, but for a block that is longer by itself


class _Coded(NamedTuple):
    """What a rendition has of n rows of a block: codes u8 (n, c), f and h u8 (n), by ranges f32 (4)."""

    ranges: F32
    codes: U8
    f: U8
    h: U8

    def some(self, which: npt.NDArray[np.integer]) -> _Coded:
        """Some rows."""
        return _Coded(self.ranges, self.codes[which], self.f[which], self.h[which])

    def encoded(self) -> Encoded:
        """As the writer of blocks has them."""
        low, step, h_low, h_step = self.ranges.tolist()
        return Encoded((low, step, h_low, h_step), self.codes, self.f, self.h)

    def ranged(self, ranges: F32) -> _Coded:
        """With factors in other ranges."""
        f, h = in_range(self.f, self.ranges[:2], ranges[:2]), in_range(self.h, self.ranges[2:], ranges[2:])
        return _Coded(ranges, self.codes, f, h)


class _Part(NamedTuple):
    """An extent of a block, or some of its rows; the first `homes` of them are at home there. slots: as the first
    rendition has them; coded: of each rendition. keys: the values of all fields of each row, in an index with filters;
    None of a field that blocks do not have. texts: attributes of each row, where a rendition has them. norms: of an
    index with error norms.
    """

    homes: int
    slots: Slots
    coded: tuple[_Coded, ...]
    keys: Objects
    texts: Objects
    centre: Centre
    norms: Norms | None

    def some(self, which: npt.NDArray[np.integer], homes: int) -> _Part:
        """Some rows."""
        coded, norms = tuple(own.some(which) for own in self.coded), self.norms and self.norms.some(which)
        keys, texts = (column[which] if len(column) else column for column in (self.keys, self.texts))
        return _Part(homes, self.slots.some(which), coded, keys, texts, self.centre, norms)


def dead_rows(root: Root) -> int:
    """Rows that died, and have entries left in ids, blocks and projections."""
    return sum(segment.rows for segment in root.id_pages) - root.live_rows


def why_due(left: int, pending: int, dead: int) -> str:
    """Why an index of so many rows is to be folded; nothing where it need not be. pending: of them that lie beside the
    blocks; dead: see `dead_rows`.
    """
    if pending > PENDING_SHARE * left:
        return f"{pending:,} of {left:,} rows came by flushes"
    return f"{dead:,} rows are dead, beside {left:,}" if dead > DEAD_SHARE * left else ""


def fold(live: Live, folder: Path, progress: Progress) -> Named | str:
    """Writes a generation below a folder that has the rows of the live one. A string says why it cannot: then all is to
    be written anew.

    Needs memory for a run of blocks as they are stored (RUN_BYTES, or one block) and one block decoded; then for
    BUFFER_BYTES of each segment of ids; then for READ_CHUNKS decoded chunks of each segment of a projection, and the
    directory of its chunks; beside the root, counts, the centres of a large index, and what prices are measured with.
    Raises DamagedError, StoreError.
    """
    building = folder / "building"
    building.mkdir(parents=True)
    stored, root = live.stored, live.stored.root
    directory = root.directory
    assert directory is not None
    bare = replace(root, directory=directory.some(()), id_pages=(), projections=())
    base, numbers = named_from(bare, live.current.generation, keep_held=False)
    known = dict(zip(base.objects.keys, base.objects.sizes, strict=True))
    objects = ObjectList(building, known)
    counted = Counted(root.counts.fields, root.index.blocks) if root.counts is not None else None
    share = 1 / (2 + len(root.projections))
    try:
        folded, ranges = _fold_blocks(stored, counted, objects, progress.part(0, share))
    except InputError as error:
        return error.message
    ids, centres = _fold_ids(stored, objects), fit_of(live).centres if root.paged else None
    projections = []
    for i, projection in enumerate(root.projections):
        assert counted is not None
        part = progress.part(share * (1 + i), share * (2 + i))
        projections.append(merge_segments(stored, projection, ranges, centres, counted, objects, part))
    counts = root.counts
    if counts is not None and counted is not None:
        counts = replace(counts, fields=counted.counts())
        counts = write_tables(counts, root.index.blocks, objects) if root.paged else counts
    new = replace(
        base,
        index=replace(root.index, slots=sum(folded.rows)), directory=folded, id_pages=(ids,),
        projections=tuple(projections), counts=counts, objects=objects.pack(),
    )  # fmt: skip
    prices = dict[str, Any]()
    if holds_rows(live):
        new, prices = priced(live, new, objects, building)
    progress(1)
    return write_successor(live, new, building, numbers, live.manifest["flushed"] | {"flushes": []}, prices)


def _fold_blocks(
    stored: Stored, counted: Counted | None, objects: ObjectList, progress: Progress
) -> tuple[Directory, F32]:  # fmt: skip
    """(the directory of the blocks that are written, f32 (B, 4): their ranges in the first rendition). Raises
    InputError for a block that no reader takes.
    """
    root, blocks = stored.root, stored.root.index.blocks
    shards = [Shards(objects, r) for r in range(len(root.renditions))]
    columns, ranges = (array("I"), array("I"), array("I")), np.zeros((blocks, 4), np.float32)
    codec = codec_of(root) if root.bounds is not None else None
    for b, parts in _blocks(stored):
        parts = _in_one_range([_living(root, part) for part in parts], codec)
        ranges[b] = parts[0].coded[0].ranges
        together = _merged(parts)
        extents = [(together, _packed(root, together))]
        if len(parts) > 1 and not _fits(*extents[0]):
            extents = [(part, _packed(root, part)) for part in parts]
        for part, packed in extents:
            n = len(part.slots.number)
            for shard, (data, size) in zip(shards, packed, strict=True):
                check_block(b, n, len(data))
                shard.add(data, size)
            for column, value in zip(columns, (b, n, part.homes), strict=True):
                column.append(value)
            rows = part.keys[: part.homes].tolist()
            for i, field in enumerate(root.filters):
                if counted is not None and field.in_blocks:
                    counted.add(i, np.full(part.homes, b), [own[i] for own in rows])
        progress((b + 1) / blocks)
    return Directory(*columns, tuple(shard.close() for shard in shards)), ranges


def _blocks(stored: Stored) -> Iterator[tuple[int, list[_Part]]]:
    """Each block with its extents, oldest first. Those of some neighbours are read together."""
    root, directory = stored.root, stored.root.directory
    assert directory is not None
    block, blocks, renditions = np.asarray(directory.block, np.int64), root.index.blocks, range(len(root.renditions))
    order = np.argsort(block, kind="stable").tolist()
    ends = np.concatenate([[0], np.cumsum(np.bincount(block, minlength=blocks))]).tolist()
    sizes = np.zeros(blocks, np.int64)
    for places in directory.places:
        np.add.at(sizes, block, np.asarray(places.whole, np.int64))
    low = 0
    while low < blocks:
        high, held = low + 1, int(sizes[low])
        while high < blocks and high - low < RUN_BLOCKS and held + sizes[high] <= RUN_BYTES:
            high, held = high + 1, held + int(sizes[high])
        extents, items = order[ends[low] : ends[high]], list[Item]()
        for own in (directory.extent(e, r) for r in renditions for e in extents):
            key, whole = stored.keys[own.object], root.objects.sizes[own.object]
            items.append(Item(key, own.offset, own.whole, whole, own.crc, f"block {own.block}", own.size))
        data = dict(gather(stored.store.read, items))
        for b in range(low, high):
            places_of = range(ends[b] - ends[low], ends[b + 1] - ends[low])
            yield (
                b,
                [
                    _part(root, extents[i], [data[i + r * len(extents)] for r in renditions], items[i].key)
                    for i in places_of
                ],
            )
        low = high


def _part(root: Root, number: int, data: Sequence[bytes], key: str) -> _Part:
    """An extent by its number, from what its renditions hold, the first of which is in the object `key`."""
    index, directory = root.index, root.directory
    assert directory is not None
    n, coded, every = directory.rows[number], list[_Coded](), list[Slots]()
    keys = texts = objects_of([])
    norms = None
    for r, (own, rendition) in enumerate(zip(data, root.renditions, strict=True)):
        extent, code_bytes = directory.extent(number, r), root.codecs[rendition.codec].code_bytes
        label = f"{key}, block {extent.block}" + f", rendition {r}" * bool(r)
        opened = open_block(own, n, extent.size, code_bytes, index.dimension, index.by_row, label, index.metric)
        slots = slots_of(own, opened.at, opened.id_width, code_bytes, index.id_kind, label, by_row=index.by_row)
        every.append(slots)
        coded.append(_Coded(np.frombuffer(own, "<f4", 4, RANGES_AT), slots.codes, slots.f, slots.h))
        if not np.array_equal(slots.number, every[0].number):
            raise damaged(label, "it has other rows than the first rendition")
        if rendition.attributes and not len(texts):
            raw = unpack_attributes(plane_of(own, opened.planes, ATTRIBUTES_PLANE, label), n, label)
            texts = objects_of([attribute_bytes(raw, n, i, label) for i in range(n)])
        if root.filters and not r:
            columns = unpack_columns(plane_of(own, opened.planes, COLUMNS_PLANE, label), n, label)
            if [column is not None for column in columns] != [f.in_blocks for f in root.filters]:
                raise damaged(label, "other columns are there than root.bin says")
            none = [None] * n
            keys = objects_of([*zip(*(none if column is None else column for column in columns), strict=True)])
        if root.bounds is not None and not r:
            norms = Norms.of(norms_of(plane_of(own, opened.planes, NORMS_PLANE, label), n, label))
        centre = centre_of(own, opened.at, index.dimension)
    return _Part(directory.homes[number], every[0], tuple(coded), keys, texts, centre, norms)


def _living(root: Root, part: _Part) -> _Part:
    """Without rows that died."""
    live = ~is_dead(root.dead, part.slots.number)
    return part if live.all() else part.some(np.flatnonzero(live), int(live[: part.homes].sum()))


def _in_one_range(parts: list[_Part], codec: Codec | None) -> list[_Part]:
    """Parts of a block, with factors in the same ranges. codec: of the first rendition, with error norms."""
    coded = [list(part.coded) for part in parts]
    for r in range(len(coded[0])):
        every = [own[r] for own in coded]
        f = range_of([(one.ranges[:2], one.f) for one in every])
        h = range_of([(one.ranges[2:], one.h) for one in every])
        for own in coded:
            own[r] = own[r].ranged(np.concatenate([f, h]))
    out = [part._replace(coded=tuple(own)) for part, own in zip(parts, coded, strict=True)]
    return out if codec is None else [_with_room(old, new, codec) for old, new in zip(parts, out, strict=True)]


def _with_room(old: _Part, new: _Part, codec: Codec) -> _Part:
    """A part with error norms that hold of its new factors."""
    assert new.norms is not None
    row = np.frombuffer(new.centre.row, np.int8)[: codec.axes.shape[1]]
    before, after = old.coded[0].encoded(), new.coded[0].encoded()
    return new._replace(norms=new.norms.moved(codec, before, after, row * np.float64(new.centre.scale)))


def _merged(parts: list[_Part]) -> _Part:
    """Parts of a block that have the same ranges as one: rows at home, then copies, each by rising number."""
    homes = np.concatenate([np.arange(len(part.slots.number)) < part.homes for part in parts])
    coded = []
    for own in zip(*(part.coded for part in parts), strict=True):
        columns = (np.concatenate([getattr(one, name) for one in own]) for name in ("codes", "f", "h"))
        coded.append(_Coded(own[0].ranges, *columns))
    keys, texts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "texts"))
    slots, norms = Slots.joined([part.slots for part in parts]), [part.norms for part in parts if part.norms]
    every = _Part(
        len(homes), slots, tuple(coded), keys, texts, parts[0].centre, Norms.joined(norms) if norms else None
    )  # fmt: skip
    return every.some(np.lexsort((slots.number, ~homes)), int(homes.sum()))


def _fits(part: _Part, packed: list[tuple[bytes, int]]) -> bool:
    """Whether a reader takes an extent."""
    return max(len(data) for data, _ in packed) <= READ_BYTES_MAX and sum(map(len, part.texts)) <= BLOCK_BYTES_MAX


def _packed(root: Root, part: _Part) -> list[tuple[bytes, int]]:
    """Of each rendition an extent, and its bytes without planes."""
    slots, n = part.slots, len(part.slots.number)
    pad, ids = bytes(4 * (aligned(n, GROUP) - n)), slots.id.tolist()
    width, id_plane = pack_ids(ids) if root.index.id_kind == "bytes" else (8, b"".join(ids))
    others = [np.ascontiguousarray(own).tobytes() + pad for own in (slots.number, slots.check, *slots.spot.T)]
    columns, attributes = list[tuple[int, bytes]](), list[tuple[int, bytes]]()
    if root.filters:
        rows = part.keys.tolist()
        keys = [(f.many, [row[i] for row in rows]) if f.in_blocks else None for i, f in enumerate(root.filters)]
        columns = [(COLUMNS_PLANE, pack_columns(keys))]
    if any(rendition.attributes for rendition in root.renditions):
        attributes = [(ATTRIBUTES_PLANE, pack_attributes(part.texts.tolist()))]
    norms = [(NORMS_PLANE, part.norms.plane())] if part.norms is not None else []
    out = list[tuple[bytes, int]]()
    for rendition, coded in zip(root.renditions, part.coded, strict=True):
        encoded = coded.encoded()
        own = columns + norms * (not out) + (attributes if rendition.attributes else [])
        planes = [*encoded.planes(), *others]
        out.append(pack_block(n, width, encoded.ranges, part.centre, planes, id_plane, own))
    return out


def _fold_ids(stored: Stored, objects: ObjectList) -> IdPages:
    """Writes all segments of ids as one."""
    store, root, keys = stored

    def living(segment: IdPages) -> Iterator[Table]:
        for page in id_pages(store, root, keys, segment):
            live = ~is_dead(root.dead, page[1])
            yield tuple(column[live] for column in page)

    first, crc, rows = array("Q"), array("I"), 0
    number, path = objects.begin("ids.bin")
    with path.open("wb") as file:
        for hashes, *columns, spots in cut(merged(map(living, root.id_pages)), ID_PAGE_ROWS):
            page = b"".join(np.ascontiguousarray(column).tobytes() for column in (hashes, *columns, *spots.T))
            first.append(int(hashes[0]))
            crc.append(crc32c(page))
            rows += len(hashes)
            file.write(page)
        objects.end("ids.bin", file.tell())
        sync(file)
    return IdPages(number, rows, first, crc)
