"""Rows as extents and chunks have them: decoded, merged in an order, and with factors in other ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.format import GROUP, BlockPlanes, aligned, id_at
from vantage.format.projections import ChunkPlanes

from .ingest.rows import F32

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
Objects = npt.NDArray[np.object_]
Table = tuple[npt.NDArray[Any], ...]  # columns of as many rows each; by the first one it is ordered


class Slots(NamedTuple):
    """n rows of an extent or a chunk. number, check u32 (n); codes u8 (n, c); f, h u8 (n); spot u32 (n, 3), where
    blocks say where attributes are, else (n, 0); id: bytes of each, as an extent packs them.
    """

    number: U32
    codes: U8
    f: U8
    h: U8
    check: U32
    spot: U32
    id: Objects

    def some(self, which: npt.NDArray[Any]) -> Slots:
        """Some of them, by a mask or in an order."""
        return Slots(*(column[which] for column in self))

    @classmethod
    def joined(cls, parts: Sequence[Slots]) -> Slots:
        """Those of all parts, one at least, in turn."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


def slots_of(
    data: bytes, at: BlockPlanes | ChunkPlanes, width: int, code_bytes: int, kind: str, label: str, *, by_row: bool
) -> Slots:
    """The rows of an extent or a chunk that is open; width, kind: of its ids."""
    n = at.n
    groups = np.frombuffer(data, np.uint8, at.f - at.codes, at.codes).reshape(-1, code_bytes, GROUP)
    spot = np.zeros((n, 0), np.uint32)
    if by_row:
        spot = np.frombuffer(data, "<u4", 3 * aligned(n, GROUP), at.spots).reshape(3, -1)[:, :n].T
    ids = memoryview(data)[at.ids :]
    if kind == "i64":
        own = [bytes(ids[8 * i : 8 * i + 8]) for i in range(n)]
    else:
        own = [id_at(ids, width, n, i, kind, label) for i in range(n)]  # type: ignore[misc]
    return Slots(
        np.frombuffer(data, "<u4", n, at.rows), groups.transpose(0, 2, 1).reshape(-1, code_bytes)[:n],
        np.frombuffer(data, np.uint8, n, at.f), np.frombuffer(data, np.uint8, n, at.h),
        np.frombuffer(data, "<u4", n, at.checks), spot, objects_of(own),
    )  # fmt: skip


def objects_of(values: Sequence[Any]) -> Objects:
    """One object a row, lists too."""
    out = np.empty(len(values), np.object_)
    for i, value in enumerate(values):
        out[i] = value
    return out


def range_of(parts: Sequence[tuple[F32, U8]]) -> F32:
    """f32 (2), low and step, by which bytes say the numbers of all parts, which are bytes by ranges of their own: the
    range of the first part that has any, where it holds those of the others, so that its bytes stay.
    """
    some = [(own, codes) for own, codes in parts if len(codes)]
    if not some:
        return parts[0][0]
    ends = [decoded(own, np.array([codes.min(), codes.max()])) for own, codes in some]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    first = some[0][0]
    if len(some) == 1 or (first[0] <= low and high <= first[0] + first[1] * np.float32(255)):
        return first
    return np.array([low, (high - low) / np.float32(255)], np.float32)


def decoded(own: F32, codes: U8) -> F32:
    """f32 (n): numbers of bytes (n), as a scan has them. own f32 (2) or (n, 2): their ranges."""
    out: F32 = own[..., 0] + own[..., 1] * codes.astype(np.float32)
    return out


def in_range(codes: U8, own: F32, new: F32) -> U8:
    """u8 (n): the bytes (n) of ranges f32 (2) or (n, 2) in other ranges, at most half a step away."""
    same = (own == new).all(-1)
    low, step = new[..., 0].astype(np.float64), new[..., 1].astype(np.float64)
    value = (decoded(own, codes).astype(np.float64) - low) / np.where(step > 0, step, 1)
    moved: U8 = np.where(same, codes, np.rint(value).clip(0, 255)).astype(np.uint8)
    return moved


def merged(streams: Iterable[Iterator[Table]]) -> Iterator[Table]:
    """The rows of several streams, in each of which the first column rises, in its order. Holds one table of each."""
    sources = [(table for table in stream if len(table[0])) for stream in streams]
    held = [next(source, None) for source in sources]
    while there := [i for i, table in enumerate(held) if table is not None]:
        end, taken = min(held[i][0][-1] for i in there), list[Table]()  # type: ignore[index]
        for i in there:
            table = held[i]
            assert table is not None
            cut = int(np.searchsorted(table[0], end, "right"))
            taken.append(tuple(column[:cut] for column in table))
            held[i] = tuple(column[cut:] for column in table) if cut < len(table[0]) else next(sources[i], None)
        both = joined(taken)
        order = np.argsort(both[0], kind="stable")
        yield tuple(column[order] for column in both)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of tables, one at least, in turn."""
    return tuple(map(np.concatenate, zip(*tables, strict=True)))


def cut(tables: Iterable[Table], rows: int) -> Iterator[Table]:
    """The same rows in tables of so many each, the last one of what is left."""
    held, count = list[Table](), 0
    for table in tables:
        held.append(table)
        count += len(table[0])
        if count >= rows:
            every = joined(held)
            whole = count - count % rows
            for low in range(0, whole, rows):
                yield tuple(column[low : low + rows] for column in every)
            held, count = [tuple(column[whole:] for column in every)], count - whole
    if count:
        yield joined(held)
