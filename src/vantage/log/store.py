"""What the log asks of a bucket; keys are relative to the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class LogReader(Protocol):
    """The objects of one index, strongly consistent. Each call raises StoreError when the bucket fails. Etags differ
    where bytes do.
    """

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        """An object and its etag; None when there is none. Raises DamagedError over so many bytes."""

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        """The same of a few, side by side, in any order."""


class LogStore(LogReader, Protocol):
    """The same with conditional writes. Where `create` or `swap` fails, nobody knows whether it took effect or will."""

    async def create(self, key: str, data: bytes) -> bool:
        """Puts an object where there is none (If-None-Match: *); whether it did."""

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        """Puts an object where the one there has this etag (If-Match); whether it did."""


class LogKeeper(LogStore, Protocol):
    """The same for who deletes what no CURRENT can name any more."""

    async def list(self, prefix: str) -> list[tuple[str, float]]:
        """Keys that begin with this, each with when it was last written, in seconds since 1970."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes objects, which may be gone already."""
