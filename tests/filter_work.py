"""Compiles a filter and evaluates it on the columns of blocks: what bench/filter_cpu.py times, here and in workerd."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from vantage import kernels
from vantage.filter.parse import parse_filter
from vantage.filter.program import compile_filter, resolve
from vantage.format import unpack_filters


def rows_taken(given: Mapping[str, Any], times: int) -> int:
    """How many rows the filter takes, found so many times.

    given: the `filter`; `names` of the attributes; `rows` of the index; `fields` as the root has them and `planes` of
    columns, in base64, with the rows of each in `sizes`.
    """
    names, found = given["names"], 0
    fields = unpack_filters(memoryview(b64decode(given["fields"])), len(names), given["rows"], "fields")
    planes = [b64decode(plane) for plane in given["planes"]]
    scratch = bytearray(kernels.filter_rows_size(max(given["sizes"])))
    for _ in range(times):
        node = parse_filter(given["filter"], fields, names)
        assert node is not None
        program, found = compile_filter(resolve(node, fields), fields).data, 0
        for n, plane in zip(given["sizes"], planes, strict=False):
            found += kernels.filter_rows(plane, n, len(fields), program, bytearray(2 * -(-n // 16)), scratch)
    return found
