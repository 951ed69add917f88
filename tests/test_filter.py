"""Filters: what the dialect says, held by plain Python; and what is refused, by name."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

import pytest
from filters import NAMES, columns_of, fields_of, matching, random_filter, random_row

from vantage import kernels
from vantage.errors import DamagedError, InputError, LimitError
from vantage.filter.keys import KEY_MAX, KEY_MIN, float_key, key_float, key_time, time_key
from vantage.filter.parse import BYTES_MAX, DEPTH_MAX, VALUES_MAX, parse_filter
from vantage.filter.program import AND, NOT, OR, STACK_MAX, TERM, compile_filter, resolve
from vantage.format import FilterField, pack_columns, pack_filters, unpack_columns, unpack_filters


def rows_taken(value: Any, rows: list[dict[str, Any]], fields: tuple[FilterField, ...], plane: bytes) -> list[bool]:
    """Which rows the kernel takes."""
    node = parse_filter(value, fields, NAMES)
    if node is None:
        return [True] * len(rows)
    program, n = compile_filter(resolve(node, fields), fields), len(rows)
    mask, scratch = bytearray(2 * -(-n // 16)), bytearray(kernels.filter_rows_size(n))
    found = kernels.filter_rows(plane, n, len(fields), program.data, mask, scratch)
    bits = int.from_bytes(mask, "little")
    assert found == bits.bit_count() and bits < 1 << n
    return [bool(bits >> i & 1) for i in range(n)]


@pytest.mark.parametrize("seed", range(12))
def test_as_plain_python(seed: int) -> None:
    draw = Random(seed)
    rows = [random_row(draw) for _ in range(draw.choice((1, 15, 16, 17, 100, 700)))]
    fields = fields_of(rows, draw if seed % 2 else None)
    columns = columns_of(rows, fields)
    plane = pack_columns(columns)
    assert unpack_columns(plane, len(rows), "plane") == [values for _, values in columns]
    for _ in range(150):
        value = random_filter(draw)
        assert rows_taken(value, rows, fields, plane) == matching(value, rows), value
    body = memoryview(pack_filters(fields))
    again = unpack_filters(body, len(NAMES), len(rows), "filters")
    columns_again = [{"ends": list(f.ends), "totals": list(f.totals), "keys": list(f.keys)} for f in again]
    assert [replace(f, texts=bytes(f.texts), **own) for f, own in zip(again, columns_again, strict=True)] == list(
        fields
    )


def test_keys_rise_with_values() -> None:
    values = [-1.7e308, -2.5, -5e-324, 0.0, 5e-324, 1.0, 1.0000000000000002, 1.7e308]
    keys = [float_key(v) for v in values]
    assert keys == sorted(set(keys)) and [key_float(k) for k in keys] == values and float_key(-0.0) == float_key(0.0)
    assert time_key("2024-05-01T12:00:00+02:00") == time_key("2024-05-01 10:00:00z") == 1714557600 * 10**6
    assert key_time(time_key("0001-01-01T00:00:00.25Z")) == "0001-01-01T00:00:00.25Z"
    for text in (
        "2024",
        "2024-02-30",
        "2024-01-01T24:00:00Z",
        "2024-01-01T10:00:60Z",
        "2024-01-01T10:00Z+1",
        "٢٠٢٤-01-01",
    ):
        with pytest.raises(ValueError, match=r"."):
            time_key(text)


FIELDS = fields_of([random_row(Random(3)) for _ in range(30)])


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("year = 3", "filter"),
        ([], "filter"),
        ({"note": "x"}, "filter.note"),
        ({"colour": "red"}, "filter.colour"),
        ({"$nor": []}, "filter.$nor"),
        ({"$and": []}, "filter.$and"),
        ({"$or": [{}]}, "filter.$or[0]"),
        ({"$or": {"year": 1}}, "filter.$or"),
        ({"$not": [1]}, "filter.$not"),
        ({"year": {}}, "filter.year"),
        ({"year": [1, 2]}, "filter.year"),
        ({"year": None}, "filter.year"),
        ({"year": "2020"}, "filter.year"),
        ({"year": True}, "filter.year"),
        ({"year": float("nan")}, "filter.year"),
        ({"price": {"$lt": float("inf")}}, "filter.price.$lt"),
        ({"year": {"$regex": "2"}}, "filter.year.$regex"),
        ({"year": {"$prefix": "2"}}, "filter.year.$prefix"),
        ({"year": {"$exists": 1}}, "filter.year.$exists"),
        ({"year": {"$in": []}}, "filter.year.$in"),
        ({"year": {"$in": 3}}, "filter.year.$in"),
        ({"year": {"$in": [1, "x"]}}, "filter.year.$in[1]"),
        ({"year": {"$nin": list(range(VALUES_MAX + 1))}}, "filter.year.$nin"),
        ({"year": {"$all": [1]}}, "filter.year.$all"),
        ({"year": {"$not": 3}}, "filter.year.$not"),
        ({"stock": {"$gt": False}}, "filter.stock.$gt"),
        ({"stock": 1}, "filter.stock"),
        ({"lang": 3}, "filter.lang"),
        ({"lang": None}, "filter.lang"),
        ({"lang": "\ud800"}, "filter"),
        ({"at": "yesterday"}, "filter.at"),
        ({"at": 1714557600000}, "filter.at"),
        ({"at": {"$lt": 10**4000}}, "filter.at.$lt"),
        ({"at": 1.5}, "filter.at"),
        ({"tags": {"$all": []}}, "filter.tags.$all"),
        ({"code": {"$prefix": "https"}}, "filter.code.$prefix"),
        ({"code": {"$in": ["x", 3]}}, "filter.code.$in[1]"),
        ({"refs": {"$not": {"$gte": "a"}}}, "filter.refs.$not.$gte"),
    ],
)
def test_refused(value: Any, param: str) -> None:
    with pytest.raises(InputError) as error:
        parse_filter(value, FIELDS, NAMES)
    assert error.value.param == param and error.value.hint
    assert len(str(error.value)) < 700


def test_limits_and_one_more() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"year": 1} if depth == 1 else {"$and": [nested(depth - 1)]}

    assert parse_filter(nested(DEPTH_MAX), FIELDS, NAMES)
    with pytest.raises(LimitError, match=f"depth of filter is {DEPTH_MAX + 1}"):
        parse_filter(nested(DEPTH_MAX + 1), FIELDS, NAMES)
    many = {"year": {"$in": list(range(VALUES_MAX))}}
    assert parse_filter(many, FIELDS, NAMES)
    text = "x" * (BYTES_MAX - len('{"lang":""}'))
    assert parse_filter({"lang": text}, FIELDS, NAMES)
    with pytest.raises(LimitError, match=str(BYTES_MAX + 1)):
        parse_filter({"lang": text + "x"}, FIELDS, NAMES)
    assert parse_filter({}, FIELDS, NAMES) is None


def test_as_many_sets_at_once_as_a_filter_can_have() -> None:
    """Of lists, whose terms stay apart, an `and` in an `or` at every depth."""
    value: dict[str, Any] = {"tags": {"$gt": "a", "$lt": "zz"}, "lang": "de"}
    for _ in range(DEPTH_MAX - 1):
        value = {"tags": {"$prefix": "d"}, "$or": [{"lang": {"$exists": False}}, value]}
    draw = Random(8)
    rows = [random_row(draw) for _ in range(300)]
    fields = fields_of(rows)
    node = parse_filter(value, fields, NAMES)
    assert node is not None
    data = compile_filter(resolve(node, fields), fields).data
    codes = data[8 : 8 + 8 * struct.unpack_from("<I", data)[0] : 8]
    depths = list(accumulate({TERM: 1, AND: -1, OR: -1, NOT: 0}[code] for code in codes))
    assert max(depths) == STACK_MAX and depths[-1] == 1
    assert rows_taken(value, rows, fields, pack_columns(columns_of(rows, fields))) == matching(value, rows)


def test_large_columns() -> None:
    """More values than a table has codes, and the widest keys."""
    for keys in ([KEY_MIN, KEY_MAX, 0], list(range(0, 300_000, 3)), [7], []):
        rows = [[key] for key in keys] * 2 + [[]]
        plane = pack_columns([None, (False, rows)])
        assert unpack_columns(plane, len(rows), "plane") == [None, rows]


def damaged_planes() -> list[tuple[bytes, str]]:
    good = pack_columns([(False, [[5], [6], [5], []]), (True, [[1, 2], [], [2], [1]])])

    def put(at: int, data: bytes) -> bytes:
        return good[:at] + data + good[at + len(data) :]

    body = 4 + 2 * 16
    return [
        (put(0, struct.pack("<I", 3)), "has 3 columns"),
        (put(4, b"\x04"), "coding 4"),
        (put(5, b"\x02"), "flags 2"),
        (put(6, b"\x11"), "17 bits"),
        (put(7, b"\x03"), "width 3"),
        (put(8, struct.pack("<I", 1 << 17)), "131072 entries"),
        (put(8, struct.pack("<I", 9)), r"ends outside|do not rise"),
        (put(body, b"\x01\x00"), "do not rise"),
        (put(body + 2, b"\xff"), "code 3"),
        (good[:-8], "ends outside"),
    ]


@pytest.mark.parametrize(("plane", "what"), damaged_planes())
def test_damaged_planes_are_refused(plane: bytes, what: str) -> None:
    node = parse_filter({"year": {"$gt": 1}, "tags": "b"}, FIELDS, NAMES)
    assert node
    steps = struct.pack("<II", 3, 2) + struct.pack("<BBHI", 0, 0, 0, 1) + struct.pack("<BBHI", 0, 0, 1, 1)
    program = steps + struct.pack("<BBHI", 1, 0, 0, 0) + struct.pack("<4q", 5, 6, 1, 2)
    with pytest.raises(ValueError, match=what):
        kernels.filter_rows(plane, 4, 2, program, bytearray(2), bytearray(kernels.filter_rows_size(4)))
    if "columns" not in what:
        with pytest.raises((DamagedError, ValueError)):
            unpack_columns(plane, 4, "plane")


@pytest.mark.parametrize(
    ("steps", "spans", "what"),
    [
        ([], [], "leaves 0 sets"),
        ([(0, 0, 1), (0, 0, 0)], [(1, 2)], "leaves 2 sets"),
        ([(1, 0, 0)], [], "step 0"),
        ([(3, 0, 0)], [], "step 0"),
        ([(0, 9, 0)], [], "column 9"),
        ([(0, 1, 0)], [], "column 1 is not in the plane"),
        ([(0, 0, 2)], [(1, 2)], "step 0"),
        ([(0, 0, 0)], [(1, 2)], "leaves 1 sets and 1 spans"),
        ([(0, 0, 1)], [(2, 1)], "span 0 of the program does not rise"),
        ([(0, 0, 2)], [(1, 2), (2, 3)], "span 1 of the program does not rise"),
        ([(4, 0, 0)], [], "step 0"),
        ([(0, 0, 0)] * 17 + [(1, 0, 0)] * 16, [], "at depth 16"),
    ],
)
def test_programs_that_do_not_fit_are_refused(steps: list[Any], spans: list[Any], what: str) -> None:
    plane = pack_columns([(False, [[5], [6]]), None])
    program = struct.pack("<II", len(steps), len(spans))
    program += b"".join(struct.pack("<BBHI", code, 0, column, count) for code, column, count in steps)
    program += b"".join(struct.pack("<qq", *span) for span in spans)
    with pytest.raises(ValueError, match=what):
        kernels.filter_rows(plane, 2, 2, program, bytearray(2), bytearray(kernels.filter_rows_size(2)))
