"""A filter takes a row by its attributes as plain Python does, and so as the kernel does by columns."""

from __future__ import annotations

from random import Random

import pytest
from filters import NAMES, fields_of, matching, random_filter, random_row

from vantage.filter.parse import parse_filter
from vantage.filter.row import takes
from vantage.format import FilterField


@pytest.mark.parametrize("seed", range(6))
def test_as_plain_python(seed: int) -> None:
    """Also of fields of which a filter's parser is told no more than it asks, as a sequencer is."""
    draw = Random(seed)
    rows = [random_row(draw) for _ in range(60)]
    fields = fields_of(rows)
    bare = [FilterField(f.attribute, f.kind, f.many, False, 0, 0, 0, 0, hashed=f.hashed) for f in fields]
    for _ in range(200):
        value = random_filter(draw)
        for some in (fields, bare):
            node = parse_filter(value, some, NAMES)
            assert [takes(node, some, NAMES, row) for row in rows] == matching(value, rows), value
