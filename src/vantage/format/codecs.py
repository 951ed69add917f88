"""Sections of the codecs, one class each."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from .layout import CODECS, Cursor, damaged, finite

_LRSQ = struct.Struct("<IIIIII")
SEGMENT = 32  # code bytes whose table entries share one step
FINE_MAX = 16
NIBBLES_MAX = 16  # that an axis lies in
LEVELS_MAX, LEVELS_FREE = 16, 64  # of a field, and that no field has
FIELD = struct.Struct("<HBBI")  # axis, shift in the nibble, width in bits, first of its 2^width levels


@dataclass(frozen=True)
class LrsqSection:
    """All codecs: 2 * code_bytes nibbles; nibble n is fields starts[n] up to starts[n + 1].

    A field is worth levels[level_at + its bits] * deviation[axis]; fields of a nibble may share bits. Low nibble of a
    code byte first. The tables of the first `fine` segments of 32 code bytes have 16-bit entries, others 8-bit ones.
    """

    code_bytes: int
    fine: int
    deviation: Any  # f32 column
    fields: Any  # FIELD each
    starts: Any  # u32 column
    levels: Any  # f32 column

    def pack(self) -> bytes:
        return (
            _LRSQ.pack(
                self.code_bytes, self.fine, len(self.deviation), len(self.fields) // FIELD.size, len(self.levels), 0
            )
            + bytes(self.fields)
            + struct.pack(f"<{len(self.deviation)}f", *self.deviation)
            + struct.pack(f"<{len(self.starts)}I", *self.starts)
            + struct.pack(f"<{len(self.levels)}f", *self.levels)
        )

    @classmethod
    def unpack(cls, body: memoryview, axes: int, label: str) -> LrsqSection:
        cursor = Cursor(body, label)
        code_bytes, fine, width, fields, levels, _ = cursor.unpack(_LRSQ)
        if width != axes or not 1 <= code_bytes <= 7680 or fine > min(FINE_MAX, -(-code_bytes // SEGMENT)):
            raise damaged(label, f"{code_bytes} bytes, {fine} fine segments, {width} axes; the rotation has {axes}")
        # A nibble has a field of each of its axes, and an axis lies in up to 16 nibbles.
        if fields > NIBBLES_MAX * axes or levels > LEVELS_MAX * fields + LEVELS_FREE:
            raise damaged(label, f"{fields} fields and {levels} levels for {axes} axes")
        table = cursor.take(fields * FIELD.size)
        deviation = cursor.column("f", axes)
        starts = cursor.column("I", 2 * code_bytes + 1)
        level = cursor.column("f", levels)
        cursor.end()
        finite(label, deviation, level)
        if (
            starts[0]
            or starts[2 * code_bytes] != fields
            or any(a > b for a, b in zip(starts, starts[1:], strict=False))
        ):
            raise damaged(label, "the nibbles do not cover the fields")
        for axis, shift, bits, at in FIELD.iter_unpack(table):
            if axis >= axes or not 1 <= bits <= 4 or shift + bits > 4 or at + (1 << bits) > levels:
                raise damaged(label, f"a field of {bits} bits at {shift} of axis {axis} is outside")
        return cls(code_bytes, fine, deviation, table, starts, level)


# Codecs differ in how their tables are trained, not in what a reader does with them.
CODEC_SECTIONS: dict[str, Any] = dict.fromkeys(CODECS, LrsqSection)
