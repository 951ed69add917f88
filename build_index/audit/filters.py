"""What filters read, against the Parquet files and the blocks: columns, counts and projections."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError
from vantage.format import (
    COLUMNS_PLANE,
    GROUP,
    OpenBlock,
    OpenChunk,
    Projection,
    Root,
    centre_of,
    id_at,
    joined_pages,
    open_chunk,
    plane_of,
    unpack_chunk_page,
    unpack_columns,
)
from vantage.kernels import crc32c
from vantage.search.rows import id_hash

from ..filters.columns import Unfit, keys_of, text_keys
from ..filters.counts import count_codes

COLUMNS = [("columns", "<u4"), ("inside", "<u4"), ("code", "<u4")]  # of a row: digests of its keys, all and in blocks
Keys = Sequence[Sequence[int]]  # of each field, those of a row
Note = Callable[[str], None]
RANGES_AT = 8


class FilterCheck:
    """Gathers what columns must hold while rows are read, and counts while blocks are; then compares."""

    def __init__(self, root: Root, gone: npt.NDArray[np.bool_]) -> None:
        """gone (N): dead rows, of which what is said does not matter."""
        self.root, self.fields, self.gone = root, root.filters, gone
        self.text_keys = [text_keys(f) for f in self.fields]
        self.known = np.zeros(len(self.fields), np.int64)
        self.ends = [[f.high, f.low] for f in self.fields]  # of the keys seen
        self.ranges: list[set[bytes]] = [set() for _ in range(root.index.blocks)]  # of the extents of each block
        self.centres = np.zeros(root.index.blocks, np.uint32)  # digests
        self.home = np.zeros(root.index.rows, np.int32)
        self.totals = [np.zeros(len(f.totals), np.int64) for f in self.fields]
        counts = root.counts.fields if root.counts else ()
        self.low = [np.asarray(c.low, np.int64) for c in counts]
        self.apart = [0] * len(counts)  # values that are in no bucket
        self.counted = [np.zeros((len(c.low), root.index.blocks), np.int64) for c in counts]

    def row(self, number: int, record: Sequence[Any], where: str, note: Note) -> tuple[int, int]:
        """Digests of the keys of a row's attributes: of all fields, and of those that blocks have."""
        if self.gone[number]:
            return 0, 0
        keys: list[Sequence[int]] = []
        for f, key_of in zip(self.fields, self.text_keys, strict=True):
            own: list[int] = []
            try:
                values = keys_of(record[f.attribute], f.kind, f.many)
                own = sorted(key_of(key.encode()) for key in values) if f.kind == "text" else values
            except (Unfit, KeyError):
                note(f"{where}: a value of {self.root.names[f.attribute]!r} is none that root.bin knows")
            keys.append(own)
        for i, some in enumerate(keys):
            self.known[i] += bool(some)
            if self.fields[i].kind == "text" and not self.fields[i].hashed:
                self.totals[i][[r for key in some for r in self.fields[i].ranks(key, key)]] += 1
            for key in some:
                self.ends[i] = [min(self.ends[i][0], key), max(self.ends[i][1], key)]
        return self._digests(keys)

    def _digests(self, keys: Keys) -> tuple[int, int]:
        inside = [own for own, f in zip(keys, self.fields, strict=True) if f.in_blocks]
        return _digest(keys), _digest(inside)

    def block(
        self, data: bytes, opened: OpenBlock, block: int, own: int, first: bool, rows: npt.NDArray[Any], numbers: Any,
        label: str, note: Callable[[str, Any, str], None],
    ) -> None:  # fmt: skip
        """The columns of an extent whose rows are in range, the first `own` at home; first: of the first rendition."""
        n = opened.at.n
        columns = unpack_columns(plane_of(data, opened.planes, COLUMNS_PLANE, label), n, label)
        there = [column for column in columns if column is not None]
        inside = [f.in_blocks for f in self.fields]
        if [column is not None for column in columns] != inside:
            note(label, numbers[:1], "other columns are there, beginning with that")
            return
        digests = np.array([_digest([column[i] for column in there]) for i in range(n)], np.uint32)
        live = ~self.gone[numbers]
        note(label, numbers[live & (rows["inside"][numbers] != digests)], "columns have other values")
        if not first:
            return
        for i, column in enumerate(columns):
            if column is not None:
                self._count(i, block, [keys for keys, here in zip(column[:own], live, strict=False) if here])
        at, homes = opened.at, numbers[:own]
        c = (at.f - at.codes) // (-(-n // GROUP) * GROUP)
        groups = np.frombuffer(data, np.uint8, at.f - at.codes, at.codes).reshape(-1, c, GROUP)
        codes = groups.transpose(0, 2, 1).reshape(-1, c)
        f, h = (np.frombuffer(data, np.uint8, n, a) for a in (at.f, at.h))
        ranges = data[RANGES_AT : RANGES_AT + 16]
        digests = np.array([crc32c(codes[i].tobytes() + bytes((f[i], h[i])) + ranges) for i in range(own)], np.uint32)
        rows["code"][homes[live[:own]]] = digests[live[:own]]
        self.home[homes[live[:own]]] = block
        self.ranges[block].add(ranges)
        centre = centre_of(data, at, self.root.index.dimension)
        self.centres[block] = crc32c(struct.pack("<2f", centre.scale, centre.bias) + bytes(centre.row))

    def _count(self, field: int, block: int, column: Sequence[Sequence[int]]) -> None:
        if self.root.counts is None:
            return
        low, high = self.low[field], self.root.counts.fields[field].high
        for own in column:
            places = {key: int(np.searchsorted(low, key, side="right")) - 1 for key in own}
            self.apart[field] += sum(j < 0 or key > high[j] for key, j in places.items())
            for bucket in {*places.values()}:
                self.counted[field][bucket, block] += 1

    def chunks(
        self, read: Callable[[int, int, int], bytes], projection: Projection, rows: npt.NDArray[Any], what: str,
        note: Callable[[str, Any, str], None], add: Note,
    ) -> None:  # fmt: skip
        """A projection: its chunks hold every row under its value, with the codes and columns that it has elsewhere."""
        root, index, directory = self.root, self.root.index, projection.directory
        field, code_bytes = self.fields[projection.field], root.codec.code_bytes
        seen = np.zeros(index.rows, np.int64)
        places, n_buckets = directory.places[0], len(projection.low)
        bucket_of = {c: j for j in range(n_buckets + 1) for own in projection.chunks(j) for c in own}
        for chunk in range(len(directory)):
            label = f"{what}, chunk {chunk}"
            data = read(places.object[chunk], places.offset[chunk], places.size[chunk])
            if crc32c(data) != places.crc[chunk] or places.size[chunk] != places.whole[chunk]:
                add(f"{label}: CRC-32C differs from what root.bin says")
                continue
            n = directory.rows[chunk]
            opened = open_chunk(data, n, len(data), code_bytes, index, root.paged, label)
            at = opened.at
            numbers = np.frombuffer(data, "<u4", n, at.rows).astype(np.int64)
            if (numbers >= index.rows).any():
                add(f"{label}: a row is none of {index.rows}")
                continue
            known, homes = rows[numbers], np.frombuffer(data, "u1", n, at.homes)
            if (homes >= len(opened.blocks)).any():
                add(f"{label}: a row is of no block of the chunk")
                continue
            blocks = np.array(opened.blocks)[homes]
            live = ~self.gone[numbers]
            note(label, numbers[live & (blocks != self.home[numbers])], "another block is the home")
            ranges = [data[at.ranges + 16 * i :][:16] for i in range(len(opened.blocks))]
            others = any(own not in self.ranges[b] for own, b in zip(ranges, opened.blocks, strict=True))
            if others or blocks[0] != projection.block[chunk]:
                add(f"{label}: its blocks have other ranges, or the first one is another")
            if root.paged and _centres(data, opened) != self.centres[np.array(opened.blocks)].tolist():
                add(f"{label}: its blocks have other centres")
            checks = np.frombuffer(data, "<u4", n, at.checks)
            note(label, numbers[live & (checks != known["check"])], "ids.bin has another check")
            ids = [id_at(memoryview(data)[at.ids :], opened.id_width, n, j, index.id_kind, label) for j in range(n)]
            hashes = np.array([id_hash(i) for i in ids], np.uint64)
            note(label, numbers[live & (hashes != known["hash"])], "ids.bin has another id")
            columns = unpack_columns(memoryview(data)[at.columns : at.columns_end], n, label)
            if any(column is None for column in columns):
                add(f"{label}: a column is missing")
                continue
            digests = [_digest([column[i] for column in columns if column is not None]) for i in range(n)]
            others = known["columns"] != np.array(digests, np.uint32)
            note(label, numbers[live & others], "columns have other values")
            groups = np.frombuffer(data, np.uint8, at.f - at.codes, at.codes).reshape(-1, code_bytes, GROUP)
            codes = groups.transpose(0, 2, 1).reshape(-1, code_bytes)
            f, h = (np.frombuffer(data, np.uint8, n, a) for a in (at.f, at.h))
            own_ranges = [ranges[home] for home in homes.tolist()]
            crcs = np.array(
                [crc32c(codes[i].tobytes() + bytes((f[i], h[i])) + own_ranges[i]) for i in range(n)], np.uint32
            )
            note(label, numbers[live & (crcs != known["code"])], "the code is not that of its block,")
            bucket = bucket_of[chunk]
            column = columns[projection.field]
            assert column is not None
            if bucket == n_buckets:
                astray = [bool(own) for own in column]
            else:
                low, high = projection.low[bucket], projection.high[bucket]
                astray = [not any(low <= key <= high for key in own) for own in column]
            note(label, numbers[astray], "the value is not one of its bucket,")
            seen[numbers] += 1
            if not field.in_blocks and not field.many:
                for block, own, here in zip(blocks.tolist(), column, live.tolist(), strict=True):
                    self._count(projection.field, block, [own] * here)
        note(what, np.flatnonzero((seen == 0) & ~self.gone), "there is no place")
        if not field.many:
            note(what, np.flatnonzero((seen > 1) & ~self.gone), "there are several places")

    def whole(self, read: Callable[[int, int, int], bytes], projection: Projection, what: str) -> Projection:
        """A projection with the directory of all of its chunks, which pages of a large index have."""
        if not self.root.paged:
            return projection
        places, blocks, pages = projection.directory.places[0], self.root.index.blocks, list[Projection]()
        for page in range(len(projection.block)):
            label, data = f"{what}, page {page}", read(places.object[page], places.offset[page], places.size[page])
            if crc32c(data) != places.crc[page]:
                raise DamagedError(f"{label}: CRC-32C differs from what root.bin says")
            sizes = self.root.objects.sizes
            pages.append(unpack_chunk_page(data, projection, page, blocks, sizes, label))
        segments = [*map(projection.segment, range(len(pages)))]
        return joined_pages(pages, segments, [blocks - 1] * len(pages), blocks)

    def end(self, read: Callable[[int, int, int], bytes], add: Note) -> None:
        """What the root says of fields, and its counts. Where rows came or went since the build, least and largest
        values may be further apart, and what counts say of a block is about right, but none only where there is none.
        """
        grown = self.root.dead is not None or len(self.root.id_pages) > 1
        for i, f in enumerate(self.fields):
            name = self.root.names[f.attribute]
            if self.known[i] != f.rows:
                add(f"root.bin: {f.rows} rows have {name!r}, {self.known[i]} do")
            low, high = self.ends[i]
            if f.rows and (low < f.low or high > f.high if grown else [low, high] != [f.low, f.high]):
                add(f"root.bin: {name!r} has other least or largest values")
            if self.totals[i].tolist() != list(f.totals):
                add(f"root.bin: texts of {name!r} have other numbers of rows")
        for i, counted in enumerate(self.counted):
            f = self.fields[i]
            name = self.root.names[f.attribute]
            if self.apart[i]:
                add(f"root.bin: {self.apart[i]} values of {name!r} are in no bucket of its counts")
            if f.in_blocks or any(p.field == i for p in self.root.projections) and not f.many:
                assert self.root.counts is not None
                own, blocks = self.root.counts.fields[i], self.root.index.blocks
                table, sound = bytes(own.table), True
                if own.pages is not None:
                    table = read(own.pages.object, own.pages.offset, len(own.low) * blocks)
                    crcs = [crc32c(table[at : at + blocks]) for at in range(0, len(table), blocks)]
                    sound = crcs == list(own.pages.crc)
                if grown:
                    same = all(held for held, rows in zip(table, counted.ravel().tolist(), strict=True) if rows)
                else:
                    same = table == count_codes(counted).tobytes()
                if not same or list(own.totals) != counted.sum(1).tolist() or not sound:
                    add(f"root.bin: counts of {name!r} are not those of the blocks")


def _centres(data: bytes, chunk: OpenChunk) -> list[int]:
    """Digests of the centres of a chunk."""
    count, at = len(chunk.blocks), chunk.at.centres
    numbers = struct.unpack_from(f"<{2 * count}f", data, at)
    rows = data[at + 8 * count : chunk.at.codes]
    each = [rows[i : i + len(rows) // count] for i in range(0, len(rows), len(rows) // count)]
    return [crc32c(struct.pack("<2f", numbers[i], numbers[count + i]) + row) for i, row in enumerate(each)]


def _digest(keys: Keys) -> int:
    return crc32c(b"".join(struct.pack(f"<I{len(own)}q", len(own), *own) for own in keys))
