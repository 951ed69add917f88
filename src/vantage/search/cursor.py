"""Cursors of listings: where a page ended, and of which generation and what listing that is a place."""

from __future__ import annotations

import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

from ..errors import InputError
from .walk import Position, Walk, is_within

_CURSOR = struct.Struct("<B8s8sIqI")  # version, generation, listing, position
_VERSION = 1


def write_cursor(walk: Walk, asked: Any, generation: str, position: Position) -> str:
    """base64url, so that it stands in a URL as it is. asked: what the listing is of, as JSON has it."""
    data = _CURSOR.pack(_VERSION, _digest(generation), _digest([asked, _source(walk)]), *position)
    return urlsafe_b64encode(data).decode().rstrip("=")


def read_cursor(cursor: str, walk: Walk, asked: Any, generation: str) -> Position:
    """The position that it stands for. Raises InputError for one of another generation or listing, or none."""
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        version, made, listing, *position = _CURSOR.unpack(data)
        known = version == _VERSION and urlsafe_b64encode(data).decode().rstrip("=") == cursor
    except (ValueError, struct.error):
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
    return place


def _digest(value: Any) -> bytes:
    return sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8]


def _source(walk: Walk) -> list[int | None]:
    """What a position counts: a later release may walk in another order."""
    return [None if walk.projection is None else walk.projection.field, walk.field, len(walk.groups)]
