"""The values of all rows as keys, an array an attribute; and what of them goes into the blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.filter.keys import KEY_MAX, KEY_MIN, float_key, text_hash, time_key
from vantage.format import FilterField, pack_columns

from ..ingest.rows import Ints, Rows
from ..progress import Progress
from .declare import Declared

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

LIST_MAX = 255  # values of a row, as a column counts them
TEXT_BYTES_MAX = 64 << 10  # of the sorted texts of an attribute, which lie in the root; of more the keys are hashes
HASHED_BYTES_MAX = 256  # the mean of such texts, where nobody named the attribute: longer ones are not asked for whole
DIGEST_BYTES = 12  # that tell two texts apart: 8 of the hash, and 4 that find two with one hash
BLOCK_ROW_BYTES_MAX = 8.0  # of all such attributes together
ROW_BYTES_MAX = 2.0  # of such an attribute in a block, which every query reads
JUDGED_BLOCKS = 64
READ_ROWS = 4096  # of attributes as JSON, at a time
LAST_DASH = 7  # where it is in a date


@dataclass(frozen=True)
class Column:
    """An attribute's keys by source row, in the narrowest integers that hold them. name: of the attribute.

    counts u8 (N): values of each row. Without lists keys (N) has one a row, 0 where there is none, and ends is None;
    with lists keys has those of all rows in turn, rising in each, and ends i64 (N): where those of each row begin.
    """

    name: str
    field: FilterField
    keys: npt.NDArray[np.signedinteger]
    counts: U8
    ends: I64 | None

    @property
    def places(self) -> int:
        """Rows of a projection: one for each value, and for each row without."""
        return int(self.counts.sum(dtype=np.int64)) + len(self.counts) - self.field.rows

    def values(self) -> tuple[Ints, npt.NDArray[np.signedinteger]]:
        """(source row, key) of every value."""
        rows = np.repeat(np.arange(len(self.counts)), self.counts)
        return rows, self.keys[rows] if self.ends is None else self.keys

    def some(self, rows: Ints) -> tuple[npt.NDArray[np.signedinteger], U8]:
        """The keys of these source rows in turn, and how many each has."""
        counts = self.counts[rows]
        if self.ends is None:
            return self.keys[rows[counts > 0]], counts
        before = np.cumsum(counts, dtype=np.int64) - counts
        at = np.repeat(self.ends[rows] - before, counts)
        return self.keys[at + np.arange(len(at))], counts


def column_of(name: str, field: FilterField, keys: Sequence[int], counts: Sequence[int]) -> Column:
    """The column of rows with so many keys each; keys: of all rows in turn."""
    flat, own = np.array(keys, np.int64), np.array(counts, np.uint8)
    if field.many:
        return Column(name, field, flat, own, np.cumsum(own, dtype=np.int64) - own)
    every = np.zeros(len(own), np.int64)
    every[own > 0] = flat
    return Column(name, field, every, own, None)


def lists_of(keys: npt.NDArray[np.signedinteger], counts: U8) -> list[list[int]]:
    """The keys of each row, as `pack_columns` takes them, of what Column.some gives."""
    flat, ends = keys.tolist(), np.cumsum(counts, dtype=np.int64).tolist()
    return [flat[end - n : end] for end, n in zip(ends, counts.tolist(), strict=True)]


class Unfit(Exception):
    """A value that no column can have: what is wrong with it."""


def refused(one: Declared, error: Unfit) -> InputError:
    """What to raise for an attribute that was named."""
    return InputError(f"{one.name!r} cannot be filtered by: {error}", hint="leave it out of --filter")


def read_columns(rows: Rows, declared: Sequence[Declared], note: Any, progress: Progress) -> list[Column]:
    """The columns of declared attributes. Leaves out, and notes, one that nobody named and that is not fit or too dear.

    Raises InputError for an attribute that was named and has a value that cannot be compared.
    """
    if not declared:
        return []
    parts: list[list[Part]] = [[] for _ in declared]
    for arrays in rows.tasks.map(_read, (rows, tuple(declared)), rows.cells(), progress):
        for i, part in enumerate(parts):
            part.append(Part(*arrays[len(Part._fields) * i : len(Part._fields) * (i + 1)]))
    out = []
    for i, one in enumerate(declared):
        part, parts[i] = parts[i], []  # what is joined is let go
        try:
            if unfit := next((bytes(p.wrong).decode() for p in part if len(p.wrong)), ""):
                raise Unfit(unfit)
            column = _joined(one, part)
        except Unfit as error:
            if one.asked:
                raise refused(one, error) from None
            note(f"{one.name!r} is not filterable: {error}; name it with --filter to have it whatever it takes")
            continue
        if column.field.hashed:
            note(f"{one.name!r} has {column.field.distinct:,} different strings: filters take it by whole ones alone, "
                 "with $eq, $ne, $in, $nin, $all and $exists")  # fmt: skip
        out.append(column)
    return out


class Part(NamedTuple):
    """An attribute in a cell of rows. keys: of all values in turn, of texts their places among the distinct ones.
    counts u8: values of each row. hashes i64, checks u32: the first 8 bytes of the SHA-256 of each text, and the next
    four. lengths: their bytes; texts: these themselves, none where they are too many for the root. wrong: what is
    with a value, in UTF-8.
    """

    keys: npt.NDArray[np.signedinteger]
    counts: U8
    hashes: I64
    checks: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.signedinteger]
    texts: U8
    wrong: U8


class _Texts:
    """The distinct texts of a cell, by their digests; themselves only while the root could hold them."""

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self._lengths, self._nbytes, self._texts = list[int](), 0, list[bytes]()

    def places(self, texts: Sequence[str]) -> list[int]:
        """Of each, in the order in which they came first."""
        known = {text: self._placed(text.encode()) for text in dict.fromkeys(texts)}
        return [known[text] for text in texts]

    def _placed(self, text: bytes) -> int:
        place = self._place.setdefault(sha256(text).digest()[:DIGEST_BYTES], len(self._lengths))
        if place == len(self._lengths):
            self._lengths.append(len(text))
            self._nbytes += len(text) + 4
            self._texts.append(text)
            if self._nbytes > TEXT_BYTES_MAX:
                self._texts.clear()
        return place

    def arrays(self) -> tuple[I64, npt.NDArray[np.uint32], npt.NDArray[np.signedinteger], U8]:
        """hashes, checks, lengths and texts, as in a Part."""
        digests = np.frombuffer(b"".join(self._place), np.uint8).reshape(-1, DIGEST_BYTES)
        hashes = np.ascontiguousarray(digests[:, :8]).view("<i8")[:, 0]
        checks = np.ascontiguousarray(digests[:, 8:]).view("<u4")[:, 0]
        lengths = narrow(np.array(self._lengths, np.int64))
        return hashes, checks, lengths, np.frombuffer(b"".join(self._texts), np.uint8)


def _read(given: tuple[Rows, tuple[Declared, ...]], cell: tuple[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """A Part of each attribute, one after the other."""
    rows, declared = given
    known = [_Texts() for _ in declared]
    keys: list[list[npt.NDArray[np.signedinteger]]] = [[] for _ in declared]
    counts: list[list[U8]] = [[] for _ in declared]
    wrong = [""] * len(declared)
    for low in range(*cell, READ_ROWS):
        records = rows.stored.attributes(np.arange(low, min(low + READ_ROWS, cell[1])))
        columns = list(zip(*map(json.loads, records), strict=True))
        for i, one in enumerate(declared):
            try:
                values, own = _values(columns[one.attribute], one)
            except (Unfit, ValueError, OverflowError):
                wrong[i] = wrong[i] or _wrong(columns[one.attribute], one, low)
                continue
            if one.kind == "text":
                values = np.array(known[i].places(values), np.int64)
            keys[i].append(narrow(values))
            counts[i].append(own)
    out = list[npt.NDArray[Any]]()
    for i, some in enumerate(known):
        flat = np.concatenate([np.zeros(0, np.int8), *keys[i]])
        own = np.concatenate([np.zeros(0, np.uint8), *counts[i]])
        out += Part(flat, own, *some.arrays(), np.frombuffer(wrong[i].encode(), np.uint8))
    return tuple(out)


def _values(column: Sequence[Any], one: Declared) -> tuple[Any, U8]:
    """(the keys of the values of rows, texts as they are; how many each row has), as `keys_of` has them, at once."""
    if one.many:
        lists = [keys_of(value, one.kind, True) for value in column]
        return [v for own in lists for v in own], np.fromiter(map(len, lists), np.uint8, len(lists))
    counts = np.fromiter((value is not None for value in column), np.uint8, len(column))
    values = [value for value in column if value is not None]
    if one.kind == "text":
        if not {str}.issuperset(map(type, values)):
            raise Unfit
        return values, counts
    if one.kind == "number":
        bits = (np.array(values, np.float64) + 0.0).view(np.int64)
        return np.where(bits >= 0, bits, bits ^ KEY_MAX), counts
    if one.kind == "time":
        return _times(values), counts
    return np.array(values, np.int64), counts


def _times(values: Sequence[str]) -> I64:
    """The keys of times; at once, where they are as a build has them: numpy knows no zones but UTC, and no small z."""
    if not any("+" in value or value.rfind("-") > LAST_DASH for value in values):
        try:
            return np.array([value.removesuffix("Z") for value in values], "M8[us]").astype(np.int64)
        except ValueError:
            pass
    return np.array([time_key(value) for value in values], np.int64)


def _wrong(column: Sequence[Any], one: Declared, first: int) -> str:
    """What is wrong with the first value that is no key; first: the number of the first row."""
    for row, value in enumerate(column, first):
        try:
            keys_of(value, one.kind, one.many)
        except Unfit as error:
            return f"row {row} {error}"
    raise AssertionError(one.name)


def narrow(keys: I64) -> npt.NDArray[np.signedinteger]:
    """The same in the narrowest integers that hold all."""
    low, high = (int(keys.min()), int(keys.max())) if len(keys) else (0, 0)
    kind = next(
        k for k in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(k).min <= low and high <= np.iinfo(k).max
    )
    return keys.astype(kind)


def keys_of(value: Any, kind: str, many: bool) -> list[Any]:
    """The keys of a value as JSON has it, each once; texts as they are. Raises Unfit for one that no column takes."""
    if value is None:
        return []
    if many:
        some = sorted({v for v in value if v is not None}, key=str.encode)
        if len(some) > LIST_MAX:
            raise Unfit(f"has {len(some)} values, the limit is {LIST_MAX}")
        return some
    if kind == "text" and not isinstance(value, str):  # of an index that was loaded: objects are texts in its schema
        raise Unfit("has a value that is no string")
    if kind == "number":
        return [float_key(float(value))]
    if kind == "time":
        return [time_key(value)]
    if kind == "integer" and not KEY_MIN <= value <= KEY_MAX:
        raise Unfit(f"has {value}, which is no integer of 64 bits")
    return [value if kind == "text" else int(value)]


def text_keys(field: FilterField) -> Callable[[bytes], int]:
    """What gives the key of a text of an index; raises KeyError for one that its rows do not have, or takes any."""
    if field.hashed:
        return text_hash
    return {field.text_at(i): field.key(i) for i in range(len(field.ends) - 1)}.__getitem__


def _joined(one: Declared, parts: list[Part]) -> Column:
    """The column of all cells; lets go of them."""
    texts, hashed, distinct = list[bytes](), False, 0
    if one.kind == "text":
        texts, hashed, distinct = _rank(one, parts)
    counts = np.concatenate([part.counts for part in parts])
    known = [part.keys for part in parts if len(part.keys)]
    low, high = (min(int(k.min()) for k in known), max(int(k.max()) for k in known)) if known else (0, 0)
    if one.many:
        keys = np.concatenate([part.keys for part in parts])
        ends = np.cumsum(counts, dtype=np.int64) - counts
    else:
        kind = np.result_type(*{part.keys.dtype for part in parts})
        keys, ends, at = np.zeros(len(counts), kind), None, 0
        for part in parts:
            keys[at : at + len(part.counts)][part.counts > 0] = part.keys
            at += len(part.counts)
    if one.kind != "text":
        distinct = _distinct(keys if counts.all() else keys[counts > 0])
    totals = list[int]()
    if texts:
        totals = np.bincount(keys if one.many else keys[counts > 0], minlength=len(texts)).tolist()
    text_ends = [0, *accumulate(map(len, texts))]
    field = FilterField(
        one.attribute, one.kind, one.many, True, int((counts > 0).sum()), distinct, low, high, text_ends,
        b"".join(texts), totals, hashed=hashed,
    )  # fmt: skip
    return Column(one.name, field, keys, counts, ends)


def _distinct(keys: npt.NDArray[np.signedinteger]) -> int:
    rising = np.sort(keys)
    return int(np.count_nonzero(rising[1:] != rising[:-1])) + bool(len(rising))


def _rank(one: Declared, parts: list[Part]) -> tuple[list[bytes], bool, int]:
    """(sorted texts, whether there are too many of them for the root so that hashes are the keys, how many there are).

    Makes keys of the places that parts have. Raises Unfit for two texts with one hash, which no filter tells apart.
    """
    hashes, checks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("hashes", "checks"))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    again = np.flatnonzero(hashes[1:] == hashes[:-1])
    if (checks[order[again]] != checks[order[again + 1]]).any():
        raise Unfit("two of its strings have the same hash")
    first = np.ones(len(order), bool)
    first[again + 1] = False
    lengths = np.concatenate([part.lengths for part in parts])[order[first]]
    hashes, texts = hashes[first], list[bytes]()
    count, nbytes = len(hashes), int(lengths.sum()) + 4 * len(hashes)
    hashed = nbytes > TEXT_BYTES_MAX
    if hashed and not one.asked and nbytes > HASHED_BYTES_MAX * count:
        raise Unfit(f"its {count:,} different strings are of {nbytes // count:,} bytes, longer than names are")
    if not hashed:
        texts = sorted({text for part in parts for text in _texts_of(part)})
        rank = np.zeros(count, np.int64)
        rank[np.searchsorted(hashes, [text_hash(text) for text in texts])] = np.arange(count)
    for i, part in enumerate(parts):
        keys = part.hashes if hashed else narrow(rank[np.searchsorted(hashes, part.hashes)])
        own = keys[part.keys] if len(part.keys) else part.keys
        if one.many and hashed:  # texts of a row were in their own order
            own = own[np.lexsort((own, np.repeat(np.arange(len(part.counts)), part.counts)))]
        nothing = part.hashes[:0]
        parts[i] = part._replace(keys=own, hashes=nothing, checks=part.checks[:0], lengths=nothing)
    return texts, hashed, count


def _texts_of(part: Part) -> list[bytes]:
    ends = np.cumsum(part.lengths).tolist()
    data = part.texts.tobytes()
    return [data[end - n : end] for end, n in zip(ends, part.lengths.tolist(), strict=True)]


def fit_blocks(
    columns: Sequence[Column],
    declared: Sequence[Declared],
    members: Sequence[Ints],
    projected: Collection[str],
    every: bool,
    note: Any,
) -> list[Column]:
    """Says which go into the blocks: those that take little of what every query reads, every one where answers are
    proven by blocks or the root holds these, and those that were named and have no projection.

    projected: names of those that have one. What then is nowhere is left out, and noted.
    """
    asked = {one.name: one.asked for one in declared}
    some = [members[i] for i in np.linspace(0, len(members) - 1, min(JUDGED_BLOCKS, len(members))).astype(int)]
    out, left = list[Column](), BLOCK_ROW_BYTES_MAX
    for column in columns:
        try:
            plane = [pack_columns([(column.field.many, lists_of(*column.some(rows)))]) for rows in some]
            nbytes = sum(map(len, plane)) / max(1, sum(map(len, some)))
        except ValueError:  # more values than a block's table has codes
            nbytes = math.inf
        cheap = nbytes <= ROW_BYTES_MAX and (asked[column.name] or nbytes <= left)
        wanted = every or (asked[column.name] and column.name not in projected)
        if cheap or (wanted and nbytes < math.inf):
            left -= nbytes
            out.append(replace(column, field=replace(column.field, row_bytes=float(np.float32(nbytes)))))
        elif column.name in projected:
            out.append(replace(column, field=replace(column.field, in_blocks=False)))
        elif asked[column.name]:
            raise InputError(
                f"{column.name!r} cannot be filtered by: a block has too many of its values",
                hint="leave it out of --filter",
            )
        else:
            note(f"{column.name!r} is not filterable: {too_dear(nbytes)}")
    return out


def too_dear(nbytes: float) -> str:
    """Why an attribute that nobody named is left out that would take so many bytes of a row in a block."""
    why = f"it would take {nbytes:.1f} bytes of each row that a query scans"
    if nbytes <= ROW_BYTES_MAX:
        why = f"attributes before it take most of {BLOCK_ROW_BYTES_MAX:.0f} bytes of each row that a query scans"
    return f"{why}, and projections enough of the bucket; name it with --filter to have it all the same"


def fields_of(columns: Sequence[Column]) -> tuple[FilterField, ...]:
    """What the root says of them."""
    return tuple(column.field for column in columns)
