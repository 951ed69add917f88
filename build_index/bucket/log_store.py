"""The store of a published index as the log asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .store import ConflictError, ObjectStore


class StoreLog:
    """A folder, or an S3 or R2 bucket, as a `vantage.log.store.LogKeeper`. Calls wait in threads."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        return await asyncio.to_thread(self.store.get, key, most)

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        return await asyncio.gather(*(self.get(key, most) for key in keys))

    async def create(self, key: str, data: bytes) -> bool:
        return await self._swap(key, data, None)

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        return await self._swap(key, data, etag)

    async def _swap(self, key: str, data: bytes, etag: str | None) -> bool:
        try:
            await asyncio.to_thread(self.store.swap, key, data, etag)
        except (
            ConflictError
        ):  # S3 says it too where another's call was under way (409), and object_store does on creation
            return False
        return True

    async def list(self, prefix: str) -> list[tuple[str, float]]:
        found = await asyncio.to_thread(self.store.list, prefix.rstrip("/"))
        return [(entry.key, entry.modified) for entry in found]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await asyncio.to_thread(self.store.delete, key)
