"""The section of dead rows: numbers that no row has any more, though blocks may hold what is left of it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from .layout import Cursor, damaged

NUMBERED_MAX = 1 << 27  # rows of an index that has dead ones: 16 MiB of bits
_DEAD = struct.Struct("<II")


@dataclass(frozen=True)
class Dead:
    """count: of dead rows, at least one. bits (ceil(N / 8)): bit r % 8 of byte r / 8 is set where row r is dead."""

    count: int
    bits: bytes

    def __contains__(self, row: int) -> bool:
        return bool(self.bits[row >> 3] >> (row & 7) & 1)

    def pack(self) -> bytes:
        return _DEAD.pack(self.count, 0) + zlib.compress(self.bits, 9)

    @classmethod
    def unpack(cls, body: memoryview, rows: int, label: str) -> Dead:
        """Of an index of so many numbers of rows."""
        cursor = Cursor(body, label)
        count, zero = cursor.unpack(_DEAD)
        if zero or not 1 <= count <= rows <= NUMBERED_MAX:
            raise damaged(label, f"{count} of {rows} rows are dead; the limit is {NUMBERED_MAX}, then {zero}")
        size, inflater = -(-rows // 8), zlib.decompressobj()
        try:
            bits = inflater.decompress(cursor.take(len(body) - cursor.at), size + 1)
        except zlib.error as error:
            raise damaged(label, f"does not inflate ({error})") from None
        if len(bits) != size or not inflater.eof or inflater.unused_data:
            raise damaged(label, f"does not inflate to the {size} bytes of {rows} rows")
        number = int.from_bytes(bits, "little")
        if number >> rows or number.bit_count() != count:
            raise damaged(label, f"{number.bit_count()} bits for {count} dead rows of {rows}")
        return cls(count, bits)
