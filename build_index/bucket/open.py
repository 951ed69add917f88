"""Opens a published index as the edge opens it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vantage.errors import InputError, StoreError
from vantage.follow import Followed
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt

from .store import BucketStore, RemoteBucket, local, store_at

TRIES = 4  # generations in a row


def open_written(path: Path | str) -> Index:
    """As `open_index`, with what was written to the log since. Raises StoreError too where that goes on faster than it
    is read.
    """

    async def read(index: Index) -> Index | None:
        followed = Followed(index)
        return followed.index if await followed.follow(Receipt()) else None

    for _ in range(TRIES):
        if (index := asyncio.run(read(open_index(path)))) is not None:
            return index
    raise StoreError(f"the log of {path} went on faster than it was read", hint="try again")


def open_built(path: Path | str) -> Index:
    """As `open_index`, of an index in which rows were built. Raises InputError for an empty one."""
    index = open_index(path)
    if index.root.is_empty:
        raise InputError(f"{path} is empty: its rows are in its log", hint="`vantage compact` builds them in")
    return index


def open_index(path: Path | str, cache_bytes: int = 0) -> Index:
    """Opens an index: bucket/name in a folder, s3://bucket/name or r2://bucket/name.

    Raises NotFoundError, DamagedError when it does not hold together, or StoreError when a bucket fails.
    """
    where, name = store_at(str(path)), local(path).name
    bucket = RemoteBucket(where, name) if isinstance(where, BucketStore) else Folder(local(path).parent)
    return asyncio.run(Index.open(bucket, name, Cache(cache_bytes), Receipt()))
