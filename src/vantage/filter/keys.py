"""Values as keys: integers of 64 bits that compare as the values do, so that one kernel compares all types.

A text is known by its rank among the sorted distinct texts of its attribute, in the order of UTF-8 bytes, which is that
of code points; of an attribute with too many texts for the root to list, by its hash, which has no order. An integer is
its own key, a bool 0 or 1, a time its microseconds since 1970 in UTC, and a float64 its bits, turned so that they rise
with it.
"""

from __future__ import annotations

import math
import re
import struct
from datetime import date
from hashlib import sha256

KEY_MIN, KEY_MAX = -(1 << 63), (1 << 63) - 1
EPOCH = date(1970, 1, 1).toordinal()
SECOND = 1_000_000  # of the keys of times
SECONDS_MIN, SECONDS_MAX = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
# RFC 3339, with two liberties: a date alone is its midnight, and a time without a zone is UTC.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)


def float_key(value: float) -> int:
    """Of a finite float64; -0.0 is 0.0."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value + 0.0))
    return int(bits) if bits >= 0 else int(bits) ^ KEY_MAX


def key_float(key: int) -> float:
    """The float64 of a key."""
    return float(struct.unpack("<d", struct.pack("<q", key if key >= 0 else key ^ KEY_MAX))[0])


def float_at_least(value: float) -> int:
    """The key of the least float64 that is not below an integer or float; KEY_MAX where there is none."""
    nearest = _nearest(value)
    if nearest < value:
        nearest = math.nextafter(nearest, math.inf)
    return KEY_MAX if nearest == math.inf else float_key(nearest)


def _nearest(value: float) -> float:
    """The float64 next to an integer of any size, or a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def text_hash(text: bytes) -> int:
    """Of a text in UTF-8: the first 8 bytes of its SHA-256, with a sign. No two texts of an attribute have the same."""
    return int.from_bytes(sha256(text).digest()[:8], "little", signed=True)


def time_key(text: str) -> int:
    """Of a time as RFC 3339 has it; digits past the microsecond are cut. Raises ValueError for anything else."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError("not a time of RFC 3339")
    year, month, day, hour, minute, second = (int(match[i] or 0) for i in range(1, 7))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("no such time of a day")
    days = date(year, month, day).toordinal() - EPOCH
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second
    zone = match[8]
    if zone and zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError("no such offset from UTC")
        seconds -= (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
    return seconds * SECOND + int((match[7] or "").ljust(6, "0")[:6])


def key_time(key: int) -> str:
    """The time of a key, in UTC."""
    seconds, micros = divmod(key, SECOND)
    days, rest = divmod(seconds, 86_400)
    day = date.fromordinal(days + EPOCH).isoformat()
    part = f".{micros:06}".rstrip("0") if micros else ""
    return f"{day}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{part}Z"
