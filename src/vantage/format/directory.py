"""Directories: where the extents of blocks are, in every rendition of them; in the root, or in pages of a router."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress, count, islice, pairwise, repeat
from operator import add, eq, le, lshift, ne
from typing import Any, NamedTuple

from .block import BLOCK
from .layout import BLOCK_ROWS_MAX, READ_BYTES_MAX, Cursor, aligned, damaged

_DIRECTORY = struct.Struct("<IHH")
_RUNS = struct.Struct("<II")
# Columns that follow from others, and are left out: the numbers of blocks, where extents lie, their bytes with planes.
WHOLE_BLOCKS, SIDE_BY_SIDE, NO_PLANES = 1, 2, 4
_RENDITIONS = struct.Struct("<I")
_RENDITION = struct.Struct("<II")
RENDITIONS_MAX = 16
PLACES = ("object", "offset", "size", "whole", "crc")
_OBJECT_SHIFT = 40  # an object has less than 1 TiB, so that (object, offset) is one number


class Rendition(NamedTuple):
    """A way in which blocks are stored: by which of the root's codecs, and whether attributes of rows lie in them."""

    codec: int
    attributes: bool


def pack_renditions(renditions: tuple[Rendition, ...]) -> bytes:
    """The section of renditions."""
    return _RENDITIONS.pack(len(renditions)) + b"".join(_RENDITION.pack(r.codec, r.attributes) for r in renditions)


def unpack_renditions(body: memoryview, codecs: int, label: str) -> tuple[Rendition, ...]:
    """All renditions; raises DamagedError where there is none, or one of a codec that is not there."""
    cursor = Cursor(body, label)
    (count,) = cursor.unpack(_RENDITIONS)
    if not 1 <= count <= RENDITIONS_MAX:
        raise damaged(label, f"{count} renditions, the limit is {RENDITIONS_MAX}")
    renditions = []
    for _ in range(count):
        codec, attributes = cursor.unpack(_RENDITION)
        if codec >= codecs or attributes > 1:
            raise damaged(label, f"a rendition of codec {codec} of {codecs}, attributes {attributes}")
        renditions.append(Rendition(codec, bool(attributes)))
    cursor.end()
    return tuple(renditions)


class Extent(NamedTuple):
    """A part of a block that is stored as one: `rows` of its rows, `homes` of them at home there.

    whole: bytes at `offset` of an object; the first `size` of them, with CRC-32C crc, hold all but its planes.
    """

    block: int
    rows: int
    object: int
    offset: int
    size: int
    whole: int
    crc: int


@dataclass(frozen=True)
class Places:
    """Where each of n extents is in one rendition, as Extent says: object u32, offset u64, size, whole and crc u32."""

    object: Any
    offset: Any
    size: Any
    whole: Any
    crc: Any

    def pack(self, left_out: int) -> bytes:
        """All columns but those `left_out`."""
        n, whole = len(self.size), () if left_out & NO_PLANES else self.whole
        if left_out & SIDE_BY_SIDE:
            firsts = [0, *self.changes()]
            where = _RUNS.pack(len(firsts), 0) + struct.pack(
                f"<{len(firsts)}Q{2 * len(firsts)}I", *(self.offset[i] for i in firsts),
                *(self.object[i] for i in firsts), *firsts,
            )  # fmt: skip
        else:
            where = struct.pack(f"<{n}Q{n}I", *self.offset, *self.object)
        return where + struct.pack(f"<{2 * n + len(whole)}I", *self.size, *whole, *self.crc)

    @classmethod
    def taken(cls, cursor: Cursor, n: int, left_out: int) -> Places:
        """Those of n extents at the cursor, unchecked but for what the others are told by."""
        where = cursor.at
        if left_out & SIDE_BY_SIDE:
            runs, zero = cursor.unpack(_RUNS)
            if zero:
                raise damaged(cursor.label, f"byte {where + 4} is not 0")
            starts, objects, firsts = cursor.column("Q", runs), cursor.column("I", runs), cursor.column("I", runs)
        else:
            offset, number = cursor.column("Q", n), cursor.column("I", n)
        size = cursor.column("I", n)
        whole = size if left_out & NO_PLANES else cursor.column("I", n)
        crc = cursor.column("I", n)
        if left_out & SIDE_BY_SIDE:
            ends = [*firsts, n]
            if not runs or ends[0] or not all(low < high for low, high in pairwise(ends)):
                raise damaged(cursor.label, f"runs of extents at byte {where} that do not follow each other up to {n}")
            if max(starts) >> _OBJECT_SHIFT:
                raise damaged(cursor.label, "an extent ends outside of its object")
            offset, number = array("Q"), array("I")
            for start, own, (low, high) in zip(starts, objects, pairwise(ends), strict=True):
                offset.extend(accumulate(map(aligned, whole[low : high - 1]), initial=start))
                number.extend(repeat(own, high - low))
        return cls(number, offset, size, whole, crc)

    def changes(self) -> list[int]:
        """The first extents of objects, but for the first of all."""
        return list(compress(range(1, len(self.size)), map(ne, self.object, islice(self.object, 1, None))))

    def side_by_side(self) -> bool:
        """Whether extents of an object follow each other with nothing but their padding between."""
        firsts, ends = {0, *self.changes()}, map(add, self.offset, map(aligned, self.whole))
        return all(
            start == end or i in firsts for i, (start, end) in enumerate(zip(self.offset[1:], ends, strict=False), 1)
        )


@dataclass(frozen=True)
class Directory:
    """n extents in file order, which is the same in every rendition: by object, then by offset.

    block u32: the block it is of; rows u32: its rows, copies too; homes u32: those that are at home in the block.
    """

    block: Any
    rows: Any
    homes: Any
    places: tuple[Places, ...]

    def __len__(self) -> int:
        return len(self.block)

    def pack(self) -> bytes:
        n, left_out = len(self), self._follows()
        numbers = () if left_out & WHOLE_BLOCKS else self.block
        columns = struct.pack(f"<{2 * n + len(numbers)}I", *numbers, *self.rows, *self.homes)
        places = b"".join(p.pack(left_out) for p in self.places)
        return _DIRECTORY.pack(n, len(self.places), left_out) + columns + places

    def _follows(self) -> int:
        """Which columns need not be stored."""
        left_out = WHOLE_BLOCKS if self.single else 0
        left_out |= SIDE_BY_SIDE if all(p.side_by_side() for p in self.places) else 0
        return left_out | (NO_PLANES if all(all(map(eq, p.size, p.whole)) for p in self.places) else 0)

    @classmethod
    def taken(cls, cursor: Cursor, blocks: int, renditions: int, sizes: tuple[int, ...]) -> Directory:
        """The one at the cursor, of blocks below `blocks` and objects of these sizes; more may follow.

        Raises DamagedError where an extent is outside of its object, is too long to be read, or lies before another.
        """
        label = cursor.label
        n, own, left_out = cursor.unpack(_DIRECTORY)
        if own != renditions:
            raise damaged(label, f"a directory of {own} renditions, the root has {renditions}")
        numbers = None if left_out & WHOLE_BLOCKS else cursor.column("I", n)
        rows, homes = cursor.column("I", n), cursor.column("I", n)
        if not n or left_out > WHOLE_BLOCKS + SIDE_BY_SIDE + NO_PLANES:
            raise damaged(label, f"{n} extents, with columns left out as {left_out:#x} says")
        block = array("I", range(n)) if numbers is None else numbers
        places = tuple(Places.taken(cursor, n, left_out) for _ in range(renditions))
        if max(block) >= blocks:
            raise damaged(label, f"{n} extents, of {blocks} blocks, or of one that is not there")
        if max(rows) > BLOCK_ROWS_MAX or not all(map(le, homes, rows)):
            raise damaged(label, f"an extent has over {BLOCK_ROWS_MAX} rows, or more at home than rows")
        directory = cls(block, rows, homes, places)
        directory.check(sizes, label)
        return directory

    def check(self, sizes: tuple[int, ...], label: str) -> None:
        """Raises DamagedError where an extent is not inside of an object of these sizes, is too long, or overlaps."""
        for p in self.places:
            if max(p.object) >= len(sizes):
                raise damaged(label, f"an extent in object {max(p.object)} of {len(sizes)}")
            if min(p.size) < BLOCK.size or max(p.whole) > READ_BYTES_MAX or not all(map(le, p.size, p.whole)):
                shortest, longest = min(p.size), max(p.whole)
                raise damaged(label, f"extents of {shortest} to {longest} bytes, the limit is {READ_BYTES_MAX}")
            bases = list(map(lshift, p.object, repeat(_OBJECT_SHIFT)))
            starts = list(map(add, bases, p.offset))
            ends = list(map(add, starts, p.whole))
            if max(p.offset) >> _OBJECT_SHIFT or not all(
                map(le, ends, map(add, bases, map(sizes.__getitem__, p.object)))
            ):
                raise damaged(label, "an extent ends outside of its object")
            if not all(map(le, ends, islice(starts, 1, None))):
                raise damaged(label, "an extent lies before the one before it, or overlaps it")

    def extent(self, i: int, rendition: int) -> Extent:
        """One of them."""
        p = self.places[rendition]
        return Extent(self.block[i], self.rows[i], p.object[i], p.offset[i], p.size[i], p.whole[i], p.crc[i])

    @cached_property
    def runs(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Of each rendition (object, first extent, after the last) of every run of extents in one object."""
        out = []
        for p in self.places:
            ends = [0, *p.changes(), len(self)]
            out.append(tuple((p.object[low], low, high) for low, high in pairwise(ends) if low < high))
        return tuple(out)

    def ends(self, rendition: int) -> tuple[int, ...]:
        """The extent after the last of each object."""
        return tuple(high for _, _, high in self.runs[rendition])

    @cached_property
    def at_home(self) -> int:
        """Rows at home in its extents."""
        return sum(self.homes)

    @cached_property
    def single(self) -> bool:
        """Whether extent i is all of block i, so that no number of a block has to be looked up."""
        return len(self) > 0 and self.block[len(self) - 1] == len(self) - 1 and all(map(eq, self.block, count()))

    @cached_property
    def block_rows(self) -> array[int]:
        """u32 (n): of each extent the rows of its block, in all extents."""
        rows = Counter[int]()
        for b, own in zip(self.block, self.rows, strict=True):
            rows[b] += own
        return array("I", [rows[b] for b in self.block])

    @cached_property
    def later(self) -> bytes:
        """u8 (n): 1 for each extent behind the first one of its block."""
        seen, out = set[int](), bytearray()
        for b in self.block:
            out.append(b in seen)
            seen.add(b)
        return bytes(out)

    def some(self, numbers: Sequence[int]) -> Directory:
        """Of these extents, in rising order."""

        def column(values: Any, code: str) -> array[int]:
            return array(code, [values[i] for i in numbers])

        places = tuple(
            Places(*(column(getattr(p, name), "Q" if name == "offset" else "I") for name in PLACES))
            for p in self.places
        )
        return Directory(column(self.block, "I"), column(self.rows, "I"), column(self.homes, "I"), places)

    def span(self, rendition: int) -> int:
        """Bytes from the first to the last extent of each object, together."""
        p = self.places[rendition]
        return sum(p.offset[high - 1] + p.whole[high - 1] - p.offset[low] for _, low, high in self.runs[rendition])


def joined(directories: Sequence[Directory], sizes: tuple[int, ...], label: str) -> Directory:
    """One directory of what several name, each extent once. Raises DamagedError where they do not fit together."""
    if len(directories) == 1:
        return directories[0]
    origin: dict[int, tuple[int, int]] = {}  # its place in the first rendition -> (directory, number)
    for d, one in enumerate(directories):
        p = one.places[0]
        keys = map(add, map(lshift, p.object, repeat(_OBJECT_SHIFT)), p.offset)
        origin.update((key, (d, i)) for i, key in enumerate(keys) if key not in origin)
    order = [origin[key] for key in sorted(origin)]

    def column(name: str, code: str, rendition: int | None = None) -> array[int]:
        columns = [getattr(one if rendition is None else one.places[rendition], name) for one in directories]
        return array(code, [columns[d][i] for d, i in order])

    places = tuple(
        Places(*(column(name, "Q" if name == "offset" else "I", r) for name in PLACES))
        for r in range(len(directories[0].places))
    )
    directory = Directory(column("block", "I"), column("rows", "I"), column("homes", "I"), places)
    directory.check(sizes, label)
    return directory
