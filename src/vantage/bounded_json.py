"""JSON from outside, parsed within bounds: depth and parts are counted before the parser recurses or allocates.

In Wasm the stack ends before Python's recursion limit does, and takes the isolate with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from math import isfinite
from typing import Any

Pairs = Callable[[dict[str, Any]], dict[str, Any]]

_OPENS, _CLOSES = b"[{", b"]}"
_LEVELS = bytes.maketrans(_OPENS + _CLOSES, b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes; quotes stay
_OTHERS = bytes(set(range(256)) - set(_OPENS + _CLOSES + b'"'))
_SLICE = 1 << 16  # of brackets and quotes at a time: many short strings must not become many objects
# High without low, low without high; every `\u` is an escape once pairs of backslashes are gone.
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)  # fmt: skip


def loads(
    data: bytes | memoryview | str,
    depth_max: int,
    parts_max: int | None = None,
    *,
    finite: bool = True,
    pairs: Pairs | None = None,
) -> Any:
    """The value of a JSON text in UTF-8 (RFC 8259), a byte order mark allowed.

    Lists and objects are open in each other at most `depth_max` deep; lists, objects and texts are at most `parts_max`
    in all (None: as many as there are). Refused too: a name twice in an object, half a surrogate pair, an integer of
    more than 4,300 digits, and NaN, infinities and what overflows to one. With finite=False those numbers are left to
    a caller that checks each: lists of numbers are then parsed three times as fast. pairs: what makes an object of its
    members then, once they are told apart.

    Raises ValueError. Beside the parser's own it takes a few bytes for each bracket and quote, and one pass for each
    kind of character looked for.
    """
    text = data.encode() if isinstance(data, str) else bytes(data)
    text = text.removeprefix(b"\xef\xbb\xbf")
    opened = text.count(b"[") + text.count(b"{")
    if opened > depth_max or (parts_max is not None and opened + text.count(b'"') > parts_max):  # never too few
        depth, parts = _measured(text)
        if depth > depth_max:
            raise ValueError(f"nested more than {depth_max} deep")
        if parts_max is not None and parts > parts_max:
            raise ValueError(f"{parts} lists, objects and texts, the limit is {parts_max}")
    if b"\\u" in text and _HALF_PAIR.search(text.replace(b"\\\\", b"__")):
        raise ValueError("half a surrogate pair")
    try:
        if pairs is None:
            return (_FINITE if finite else _ANY_NUMBER).decode(text.decode())
        return json.JSONDecoder(object_pairs_hook=lambda members: pairs(_object(members))).decode(text.decode())
    except ValueError as error:
        if "int_max_str_digits" in str(error):  # advice to a program; a parse_int here would triple the time of a list
            raise ValueError("an integer of more than 4300 digits") from None
        raise


def _measured(text: bytes) -> tuple[int, int]:
    """(most brackets open at once, brackets and strings begun). Exact up to where the text stops to be JSON."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # All quotes are now ends of strings. Two side by side hold nothing between: without them the others stay in step.
    marks, parts = text.translate(_LEVELS, _OTHERS), (text.count(b'"') + 1) // 2
    marks = marks.replace(b'""', b"")
    depth = deepest = inside = 0
    for at in range(0, len(marks), _SLICE):
        pieces = marks[at : at + _SLICE].split(b'"')
        levels = b"".join(pieces[inside::2])
        inside = (inside + len(pieces) - 1) % 2
        deepest = max(deepest, max(accumulate(memoryview(levels).cast("b"), initial=depth)))
        opened = levels.count(b"\x01")
        parts += opened
        depth += 2 * opened - len(levels)
    return deepest, parts


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return fields


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("a number is not finite")
    return value


_FINITE = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
_ANY_NUMBER = json.JSONDecoder(object_pairs_hook=_object)
