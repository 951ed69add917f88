"""Opens a published index as the edge opens it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt

from .store import BucketStore, RemoteBucket, local, store_at


def open_index(path: Path | str, cache_bytes: int = 0) -> Index:
    """Opens an index: bucket/name in a folder, s3://bucket/name or r2://bucket/name.

    Raises NotFoundError, DamagedError when it does not hold together, or StoreError when a bucket fails.
    """
    where, name = store_at(str(path)), local(path).name
    bucket = RemoteBucket(where, name) if isinstance(where, BucketStore) else Folder(local(path).parent)
    return asyncio.run(Index.open(bucket, name, Cache(cache_bytes), Receipt()))
