"""Keeps what tasks have made, in a folder or a bucket, until the build is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import obstore

from vantage.kernels import crc32c

from ..bucket.store import BucketStore, FolderStore, store_at

Arrays = tuple[npt.NDArray[Any], ...]

_MAGIC = b"VANTAGE-STAGE-1\n"
OBJECT_BYTES_MAX = 16 << 30


@dataclass(frozen=True)
class Stage:
    """Results by name, below `address`: a folder, s3://bucket/prefix or r2://bucket/prefix.

    One that is not whole, or not what was put, counts as missing and is made again.
    """

    address: str

    def get(self, key: str) -> Arrays | None:
        found = self._store().get(key, OBJECT_BYTES_MAX)
        return None if found is None else unpack(found[0])

    def put(self, key: str, arrays: Arrays) -> None:
        self._store().put(key, pack(arrays))

    def kept(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """What is there of this name; else it is made, and put there."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def clear(self) -> None:
        """Removes everything."""
        store = self._store()
        if isinstance(store, FolderStore):
            shutil.rmtree(store.path, ignore_errors=True)
            return
        assert isinstance(store, BucketStore)
        for batch in obstore.list(store.client):
            obstore.delete(store.client, [entry["path"] for entry in batch])

    def _store(self) -> FolderStore | BucketStore:
        store = store_at(self.address)
        assert isinstance(store, FolderStore | BucketStore)
        return store


def pack(arrays: Arrays) -> bytes:
    """Bytes that `unpack` knows to be whole."""
    own = [np.ascontiguousarray(one) for one in arrays]
    head = json.dumps([[one.dtype.str, list(one.shape)] for one in own]).encode()
    body = b"".join([_MAGIC, len(head).to_bytes(4, "little"), head, *(one.tobytes() for one in own)])
    return body + crc32c(body).to_bytes(4, "little")


def unpack(data: bytes) -> Arrays | None:
    """The arrays, which can be written to; None of bytes that `pack` did not make."""
    if data[: len(_MAGIC)] != _MAGIC or crc32c(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    at = len(_MAGIC) + 4
    size = int.from_bytes(data[at - 4 : at], "little")
    out, at, head = [], at + size, json.loads(data[at : at + size])
    for kind, shape in head:
        count = int(np.prod(shape, dtype=np.int64))
        out.append(np.frombuffer(data, np.dtype(kind), count, at).reshape(shape).copy())
        at += out[-1].nbytes
    return tuple(out)
