"""The section of dead rows: numbers that no row has any more, though blocks may hold what is left of it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from .layout import Cursor, damaged

NUMBERED_MAX = 1 << 26  # rows of an index that has dead ones: 8 MiB of bits
SLICE = 1 << 20  # of bits that are counted at a time
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
        if zero or not 1 <= count <= rows:
            raise damaged(label, f"{count} of {rows} rows are dead, then {zero}")
        if rows > NUMBERED_MAX:
            raise damaged(label, f"{rows} rows with dead ones among them, the limit is {NUMBERED_MAX}")
        size, inflater = -(-rows // 8), zlib.decompressobj()
        try:
            bits = inflater.decompress(cursor.take(len(body) - cursor.at), size + 1)
        except zlib.error as error:
            raise damaged(label, f"does not inflate ({error})") from None
        if len(bits) != size or not inflater.eof or inflater.unused_data:
            raise damaged(label, f"does not inflate to the {size} bytes of {rows} rows")
        found = sum(int.from_bytes(bits[at : at + SLICE]).bit_count() for at in range(0, size, SLICE))
        if found != count or bits[-1] >> ((rows - 1) % 8 + 1):
            raise damaged(label, f"{found} bits for {count} dead rows of {rows}, or one behind them")
        return cls(count, bits)
