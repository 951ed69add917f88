"""Keys of all rows, read a cell at a time, against those of each value alone; and what no column takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from filters import HASHED, KINDS, LISTS, random_row

from build_index.filters import columns
from build_index.filters.columns import Column, keys_of, lists_of, read_columns, text_keys
from build_index.filters.declare import Declared
from build_index.ingest import rows as ingest
from build_index.ingest.arrays import Arrays
from build_index.ingest.json_rows import json_rows
from build_index.ingest.rows import Rows
from build_index.progress import SILENT
from vantage.errors import InputError

MANY = 1000


def read(table: pa.Table, declared: Sequence[Declared], notes: list[str]) -> tuple[list[Column], list[bytes]]:
    """The columns of a table, and the attributes of its rows as JSON."""
    records = json_rows(table, len(table))
    stored = Arrays(np.ones((len(table), 2), np.float32), "f32", np.arange(len(table)), records)
    return read_columns(Rows(stored, "cosine", np.zeros(0, np.float32), 1.0), declared, notes.append, SILENT), records


def texts(values: Sequence[Any]) -> pa.Table:
    return pa.table({"code": pa.array(values)})


def code(*, many: bool = False, asked: bool = True) -> list[Declared]:
    return [Declared(0, "code", "text", many, asked)]


@pytest.mark.parametrize("limit", [4000, 20_000])  # less than a cell has of some attributes, and more
def test_keys_are_those_of_each_value(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "TEXT_BYTES_MAX", limit)
    monkeypatch.setattr(ingest, "CELL_ROWS", 300)
    monkeypatch.setattr(columns, "READ_ROWS", 64)
    draw = Random(3)
    rows = [random_row(draw) for _ in range(MANY)]
    at = [None if row["at"] is None else draw.randrange(-(1 << 55), 1 << 57) for row in rows]
    table = pa.table({name: [row[name] for row in rows] for name in KINDS if name != "at"})
    for unit, zone in (("us", "UTC"), ("ns", None)):
        table = table.append_column(f"at {unit}", pa.array(at, pa.timestamp(unit, zone)))
    table = table.append_column("day", pa.array([None if v is None else v % 20_000 for v in at], pa.date32()))
    table = table.append_column("nothing", pa.nulls(MANY, pa.int64()))
    kinds = {name: KINDS.get(name, "integer" if name == "nothing" else "time") for name in table.column_names}
    declared = [Declared(i, name, kind, name in LISTS, True) for i, (name, kind) in enumerate(kinds.items())]
    notes: list[str] = []
    made, records = read(table, declared, notes)
    assert [column.field.hashed for column in made] == [name in HASHED for name in kinds]
    assert len(notes) == len(HASHED) and all("with $eq, $ne, $in" in note for note in notes)
    order = np.random.default_rng(3).permutation(MANY)
    for one, column in zip(declared, made, strict=True):
        want, key_of, field = list[list[int]](), text_keys(column.field), column.field
        for record in records:
            own = keys_of(json.loads(record)[one.attribute], one.kind, one.many)
            want.append(sorted(key_of(key.encode()) for key in own) if one.kind == "text" else own)
        assert lists_of(*column.some(order)) == [want[row] for row in order], one.name
        assert list(zip(*(a.tolist() for a in column.values()), strict=True)) == [
            (row, key) for row, own in enumerate(want) for key in own
        ]
        every = {key for own in want for key in own}
        assert (field.rows, field.distinct) == (sum(map(bool, want)), len(every))
        assert (field.low, field.high) == ((min(every), max(every)) if every else (0, 0))
        assert column.places == sum(max(1, len(own)) for own in want)


def test_texts_are_in_the_root_up_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, hashed in ((70, False), (69, True)):  # ten of three bytes, and four of each for where it ends
        monkeypatch.setattr(columns, "TEXT_BYTES_MAX", limit)
        [column], _ = read(texts([f"é{i % 10}" for i in range(50)]), code(), [])
        assert column.field.hashed == hashed and column.field.distinct == 10
        assert len(column.field.texts) == 30 * (not hashed)


def test_two_strings_with_one_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alike:
        """SHA-256 whose first eight bytes are those of the first letter."""

        def __init__(self, text: bytes) -> None:
            self.text = text

        def digest(self) -> bytes:
            return sha256(self.text[:1]).digest()[:8] + sha256(self.text).digest()[8:]

    monkeypatch.setattr(ingest, "CELL_ROWS", 7)
    monkeypatch.setattr(columns, "sha256", Alike)
    values = [f"{chr(97 + i)}{i}" for i in range(20)]
    read(texts(values * 2), code(), [])
    with pytest.raises(InputError, match="'code' cannot be filtered by: two of its strings have the same hash"):
        read(texts([*values, "b17"]), code(), [])
    notes: list[str] = []
    assert read(texts([*values, "b17"]), code(asked=False), notes)[0] == [] and "'code' is not filterable" in notes[0]


def test_what_no_column_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "READ_ROWS", 8)
    wide = pa.table({"code": pa.array([*range(20), 1 << 63], pa.uint64())})
    with pytest.raises(InputError, match="row 20 has 9223372036854775808, which is no integer of 64 bits"):
        read(wide, [Declared(0, "code", "integer", False, True)], [])
    lists = texts([["a"], [str(i) for i in range(256)]])
    with pytest.raises(InputError, match="row 1 has 256 values, the limit is 255"):
        read(lists, code(many=True), [])
    long = texts([f"{i:0300}" for i in range(300)])
    notes: list[str] = []
    assert read(long, code(asked=False), notes)[0] == [] and "of 304 bytes, longer than names are" in notes[0]
    assert read(long, code(), [])[0][0].field.hashed
