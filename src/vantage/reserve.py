"""A reserve in the heap: bytes in a row that are kept from what comes and goes, for a request that needs them in a row.

What a log and a cache hold is in many parts, made and dropped in any order. After a while half of the memory may be
free, and no part of it as long as a body.
"""

from __future__ import annotations

from contextlib import suppress

LEAST_BYTES = 1 << 20


class Reserve:
    """So many bytes in a row, held while nobody uses them."""

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes
        self._kept: bytearray | None = None
        self.close()

    @property
    def held(self) -> int:
        """Bytes that nobody else can have now."""
        return 0 if self._kept is None else len(self._kept)

    def open(self) -> None:
        """Lets whoever asks for memory next have them."""
        self._kept = None

    def close(self) -> None:
        """Holds them again, or half as many, where no more are to be had in a row."""
        nbytes = self.nbytes
        while self._kept is None and nbytes >= LEAST_BYTES:
            with suppress(MemoryError):
                self._kept = bytearray(nbytes)
            nbytes //= 2
