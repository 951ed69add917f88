"""What filtering by each attribute will take, estimated from some of the rows before the work of a build begins."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vantage.filter.keys import text_hash
from vantage.filter.schema import BUCKET_BYTES, CHUNK_BYTES
from vantage.format import BUCKETS_MAX, CHUNK_ROWS, pack_columns

from ..ingest.attributes import TYPE_CHARS_MAX, spot_bytes
from ..ingest.rows import Rows
from .columns import (
    BLOCK_ROW_BYTES_MAX,
    HASHED_BYTES_MAX,
    ROW_BYTES_MAX,
    TEXT_BYTES_MAX,
    Unfit,
    keys_of,
    refused,
    too_dear,
)
from .declare import OPERATOR, Declared, declare, kind_of
from .projections import BUCKETS_MIN, ROW_BYTES, SHARE_MAX

SAMPLED = 1 << 15  # rows: of an index of no more all values are known
PIECE_ROWS, PIECES = 256, 16  # rows that are packed as if they were blocks
# As builds usually choose: bits of a code for each dimension, slots for each row, rows of a block.
CODE_BITS, SLOTS, BLOCK_ROWS = 4.5, 2.5, 240
NAME_IT = "name it with --filter to have it all the same"


@dataclass(frozen=True)
class FilterEstimate:
    """An attribute. kind: of its values, or its type where that does not compare; distinct: values; blocks, root,
    projection: bytes of its columns in all blocks, of what the root says of it, and of its projection. left_out: why
    it will not be filterable, or nothing.
    """

    name: str
    kind: str
    distinct: int = 0
    blocks: int = 0
    root: int = 0
    projection: int = 0
    left_out: str = ""


def kind_name(kind: str, many: bool) -> str:
    """For people."""
    return f"list of {kind}s" if many else kind


def estimate_filters(
    rows: Rows, attributes: pa.Schema, names: Sequence[str] | None, number_bytes: int, codecs: int
) -> list[FilterEstimate]:
    """Of every attribute. names: those to filter by, None for all that cost little; number_bytes: of a number of the
    stored vectors; codecs: lengths of codes. Decides as `read_columns`, `to_project` and `fit_blocks` do. Raises as
    `declare` and `read_columns` do.
    """
    declared = {one.attribute: one for one in declare(attributes, names)}
    budget, own = SHARE_MAX * plain_bytes(rows, attributes, number_bytes, codecs), _own_bytes(rows, attributes)
    renditions = _renditions(rows, attributes, codecs)
    numbers = np.unique(np.linspace(0, rows.count - 1, min(SAMPLED, rows.count)).astype(np.int64))
    records = [json.loads(record) for record in rows.stored.attributes(numbers)] if declared else []
    out = {i: _undeclared(field, names) for i, field in enumerate(attributes) if i not in declared}
    samples, projected, row_bytes = dict[int, _Sample](), set[int](), BLOCK_ROW_BYTES_MAX
    for number, one in sorted(declared.items()):
        try:
            samples[number] = _of_sample(one, [record[number] for record in records], rows.count)
        except Unfit as error:
            if one.asked:
                raise refused(one, error) from None
            out[number] = FilterEstimate(one.name, kind_name(one.kind, one.many), left_out=f"{error}; {NAME_IT}")
    for number in sorted(samples, key=lambda number: samples[number].hashed):
        budget -= own * samples[number].places
        if declared[number].asked or budget >= 0:
            projected.add(number)
    for number, (found, places, in_row, _) in samples.items():
        inside = in_row <= ROW_BYTES_MAX and (declared[number].asked or in_row <= row_bytes)
        if inside:
            row_bytes -= in_row
        elif number not in projected:
            out[number] = replace(found, root=0, left_out=too_dear(in_row))
            continue
        out[number] = replace(
            found, blocks=round(in_row * SLOTS * rows.count * renditions) * inside,
            projection=round(own * places) * (number in projected),
        )  # fmt: skip
    return [out[number] for number in sorted(out)]


def plain_bytes(rows: Rows, attributes: pa.Schema, number_bytes: int, codecs: int) -> float:
    """What an index takes without projections, about, as `estimate_filters` has it."""
    held = float(rows.stored.attribute_sizes().mean()) if len(attributes) else 0.0
    blocks = SLOTS * _own_bytes(rows, attributes) * _renditions(rows, attributes, codecs)
    copies = 1 if spot_bytes(rows.stored, attributes.names) else 2  # of attributes
    return rows.count * (rows.dimension * number_bytes + blocks + held * copies)


def _own_bytes(rows: Rows, attributes: pa.Schema) -> float:
    """Of a row in a block or a chunk."""
    return rows.dimension * CODE_BITS / 8 + ROW_BYTES + spot_bytes(rows.stored, attributes.names)


def _renditions(rows: Rows, attributes: pa.Schema, codecs: int) -> int:
    return codecs * (1 if spot_bytes(rows.stored, attributes.names) else 2)


class _Sample(NamedTuple):
    """What some rows say of an attribute. found: what it would take of the root, places: rows of its projection,
    in_row: bytes of a row in a block, of all rows; hashed: whether its keys are hashes.
    """

    found: FilterEstimate
    places: float
    in_row: float
    hashed: bool


def _undeclared(field: pa.Field, names: Sequence[str] | None) -> FilterEstimate:
    kind = kind_of(field.type)
    if kind is None:
        return FilterEstimate(field.name, str(field.type)[:TYPE_CHARS_MAX], left_out="a type that does not compare")
    if field.name.startswith(OPERATOR):
        return FilterEstimate(
            field.name, kind_name(*kind), left_out=f"its name begins with {OPERATOR}, as operators do"
        )
    why = "not named with --filter" if names is not None else f"a list; {NAME_IT}"
    return FilterEstimate(field.name, kind_name(*kind), left_out=why)


def _of_sample(one: Declared, values: Sequence[Any], count: int) -> _Sample:
    """Of an attribute of so many rows in all, by some values. Raises Unfit as `read_columns` does."""
    keys = [keys_of(value, one.kind, one.many) for value in values]
    seen = Counter(key for own in keys for key in own)
    distinct, share = _distinct(seen, len(keys), count), count / len(keys)
    text_bytes, hashed = 0, False
    if one.kind == "text":
        mean = sum(len(text.encode()) + 4 for text in seen) / max(1, len(seen))
        text_bytes = round(mean * distinct)
        key_of = {text: i for i, text in enumerate(sorted(seen, key=str.encode))}
        hashed = text_bytes > TEXT_BYTES_MAX
        if hashed:
            if mean > HASHED_BYTES_MAX and not one.asked:
                raise Unfit(f"its {distinct:,} different strings are of {mean:,.0f} bytes, longer than names are")
            text_bytes, key_of = 0, {text: text_hash(text.encode()) for text in seen}
        keys = [sorted(key_of[text] for text in own) for own in keys]
    places = share * sum(max(1, len(own)) for own in keys)
    step = max(1, len(keys) // PIECE_ROWS)  # rows that lie apart: blocks hold no more values than these
    parts = [part for i in range(min(PIECES, step)) if (part := keys[i::step][:PIECE_ROWS])]
    in_row = sum(len(pack_columns([(one.many, part)])) for part in parts) / sum(map(len, parts))
    counted, chunks = min(BUCKETS_MAX, distinct), places / CHUNK_ROWS
    apart = min(distinct, max(chunks, BUCKETS_MIN))  # buckets of the projection, of one chunk at least
    in_root = text_bytes + counted * (BUCKET_BYTES + math.ceil(count / BLOCK_ROWS))
    in_root += round(apart * BUCKET_BYTES + max(chunks, apart) * CHUNK_BYTES)
    found = FilterEstimate(one.name, kind_name(one.kind, one.many), distinct, root=in_root)
    return _Sample(found, places, in_row, hashed)


def _distinct(seen: Counter[Any], sampled: int, count: int) -> int:
    """Distinct values of all rows by those of a sample (Charikar et al. 2000): values that came once stand for the root
    of as many as rows that were not drawn do; where all came once, all rows have one of their own.
    """
    once = sum(n == 1 for n in seen.values())
    scale = count / sampled if once == len(seen) else math.sqrt(count / sampled)
    return round(len(seen) - once + once * scale)
