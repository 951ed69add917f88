"""Cursors of listings: where a page ended, and of which generation and what listing that is a place."""

from __future__ import annotations

import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

from ..bounded_json import loads
from ..errors import InputError
from .walk import Position, Walk, is_within
from .written import TEXT_BYTES, Mark

_CURSOR = struct.Struct("<B8s8sIqI")  # version, generation, listing, position
_VERSION = 1
_MARK_BYTES_MAX = 6 * TEXT_BYTES + 64


def write_cursor(walk: Walk, asked: Any, generation: str, position: Position, mark: Mark | None) -> str:
    """base64url, so that it stands in a URL as it is. asked: what the listing is of, as JSON has it. mark: of the last
    row, where rows in the log come too.
    """
    data = _CURSOR.pack(_VERSION, _digest(generation), _digest([asked, _source(walk)]), *position)
    if mark is not None:
        value = mark.value.decode("latin-1") if isinstance(mark.value, bytes) else mark.value
        data += json.dumps([value, mark.id_hash]).encode()
    return urlsafe_b64encode(data).decode().rstrip("=")


def read_cursor(cursor: str, walk: Walk, asked: Any, generation: str, texts: bool) -> tuple[Position, Mark | None]:
    """The position and the mark that it stands for, whose value is a text where `texts` says so. Raises InputError for
    one of another generation or listing, or none.
    """
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        version, made, listing, *position = _CURSOR.unpack_from(data)
        mark = _mark(walk, data[_CURSOR.size :], texts)
        known = version == _VERSION and urlsafe_b64encode(data).decode().rstrip("=") == cursor
    except (ValueError, TypeError, struct.error):
        known = False
    if not known:
        raise InputError("that is no cursor", hint="send the cursor of the page before as it came", param="cursor")
    if made != _digest(generation):
        raise InputError(
            "the index has changed since the page before", hint="list it again from the first page", param="cursor"
        )
    place = Position(*position)
    if listing != _digest([asked, _source(walk)]) or not is_within(walk, place):
        hint = "send filter, order_by and distinct as for the page before, or leave cursor out"
        raise InputError("the cursor is of another listing", hint=hint, param="cursor")
    return place, mark


def _mark(walk: Walk, data: bytes, texts: bool) -> Mark | None:
    """Raises ValueError."""
    if not data:
        return None
    if len(data) > _MARK_BYTES_MAX:
        raise ValueError("too long")
    value, own_hash = loads(data, 2, 2)
    if type(own_hash) is not int or not -1 <= own_hash < 1 << 64:
        raise ValueError("no hash of an id")
    if value is not None and (type(value) is not (str if texts else int) or walk.field is None):
        raise ValueError("no value of the field")
    return Mark(value.encode("latin-1") if isinstance(value, str) else value, own_hash)


def _digest(value: Any) -> bytes:
    return sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8]


def _source(walk: Walk) -> list[int | None]:
    """What a position counts: a later release may walk in another order."""
    return [None if walk.projection is None else walk.projection.field, walk.field, len(walk.groups)]
