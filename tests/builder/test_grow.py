"""What flushes make of fields and counts: keys of new texts, buckets of new values, numbers of blocks."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from build_index.filters import grow
from build_index.filters.columns import column_of
from build_index.filters.counts import STEP
from build_index.filters.grow import Buckets, CannotGrow, _counted, _with_new_texts, place_keys, with_room
from vantage.format import FieldCounts, FilterField
from vantage.format.filters import TEXT_KEYS


def texts_of(field: FilterField) -> dict[bytes, int]:
    return {field.text_at(rank): field.key(rank) for rank in range(len(field.ends) - 1)}


def text_field(*texts: bytes) -> FilterField:
    field = FilterField(0, "text", False, True, len(texts), 0, 0, 0)
    return replace(field.with_texts(sorted(texts)), totals=[1] * len(texts))


def test_new_texts_have_keys_between_their_neighbours() -> None:
    draw, field = Random(1), text_field()
    for _ in range(60):
        before = texts_of(field)
        new = {
            draw.choice("abcdef").encode() * draw.randrange(1, 9) + str(draw.randrange(99)).encode() for _ in "12345"
        }
        field = _with_new_texts(field, new)
        after = texts_of(field)
        assert after.keys() == before.keys() | new and before.items() <= after.items()
        keys = [after[text] for text in sorted(after)]
        assert keys == sorted(set(keys)) and keys[0] >= 0 and keys[-1] < TEXT_KEYS
        assert [
            rows for text, rows in zip(sorted(after), field.totals, strict=True) if text in new - before.keys()
        ] == [0] * len(new - before.keys())
    assert _with_new_texts(field, {b""}).key(0) < field.key(0)


def test_ranks_have_no_room_but_behind_the_last() -> None:
    field = text_field(b"a", b"c")
    assert texts_of(_with_new_texts(field, {b"a", b"d"})) == {b"a": 0, b"c": 1, b"d": 1 + grow.END_STEP}
    for text in (b"b", b""):
        with pytest.raises(CannotGrow, match="no key between two texts"):
            _with_new_texts(field, {text})
    with pytest.raises(CannotGrow, match="too many texts"):
        _with_new_texts(field, {b"d%07d" % i for i in range(8000)})
    column = with_room(column_of("x", field, [1, 0, 1], [1, 1, 1]))
    assert column.keys.tolist() == [column.field.key(1), column.field.key(0), column.field.key(1)]
    assert texts_of(_with_new_texts(column.field, {b"b", b""})).keys() == {b"", b"a", b"b", b"c"}


@pytest.mark.parametrize("seed", range(20))
def test_every_key_is_in_a_bucket(seed: int) -> None:
    draw = np.random.default_rng(seed)
    keys = np.unique(draw.integers(-200, 200, draw.integers(0, 40)))
    parts = np.array_split(keys, min(len(keys), 9) or 1)
    low, high = ([int(part[at]) for part in parts if len(part)] for at in (0, -1))
    rows = draw.integers(1, 900, len(low)).tolist()
    new = draw.integers(-300, 300, draw.integers(0, 400)).tolist()
    field = FilterField(0, "integer", False, True, 1, 1, 0, 0)
    most = int(draw.integers(max(1, len(low)), len(low) + 9))
    found = place_keys(low, high, rows, column_of("x", field, new, [1] * len(new)), most, 64)
    assert len(found.low) == len(found.high) == len(found.old) <= most
    ends = [key for pair in zip(found.low, found.high, strict=True) for key in pair]
    assert all(a <= b for a, b in zip(ends[::2], ends[1::2], strict=True))
    assert all(a < b for a, b in zip(ends[1::2], ends[2::2], strict=False))
    assert [j for j in found.old if j >= 0] == list(range(len(low)))
    for i, old in enumerate(found.old):
        assert old < 0 or found.low[i] <= low[old] <= high[old] <= found.high[i]
    for key in new:
        j = int(found.of(np.array([key]))[0])
        assert found.low[j] <= key <= found.high[j]


def test_counts_follow_single_rows_in_the_mean_and_never_end_at_nothing() -> None:
    field = FilterField(0, "integer", False, True, 1, 1, 7, 7)
    blocks, steps, none = 200, 60, column_of("x", field, [], [])
    every = column_of("x", field, [7] * blocks, [1] * blocks)
    buckets, home = Buckets([7], [7], [0]), np.arange(blocks)
    own = FieldCounts([7], [7], [0], bytes(blocks))
    for step in range(steps):  # a row more in each block, step by step
        own = _counted(own, buckets, every, 0, home, none, home[:0], blocks, [step])
    means = STEP ** (np.frombuffer(own.table, np.uint8).astype(float) - 1)
    assert own.totals == [blocks * steps] and abs(means.mean() / steps - 1) < 0.1 and own.about
    for step in range(steps - 1):
        own = _counted(own, buckets, none, 0, home[:0], every, home, blocks, [steps + step])
    assert min(own.table) > 0 and own.totals == [blocks]
    own = _counted(own, buckets, none, 0, home[:0], every, home, blocks, [999])
    assert not any(own.table) and own.totals == [0]
