"""Writes blocks into shards, and keeps what the directory says of each."""

from __future__ import annotations

from array import array
from typing import BinaryIO

from vantage.format import HEADER, ROOT_KEY, SCAN, SECTION, SHARD_MAGIC, Places, aligned, pack_head
from vantage.format.directory import PLACES
from vantage.kernels import crc32c

from .objects import ObjectList, sync

SHARD_BYTES = 256 << 20  # of one, unless a single block takes more
START = aligned(HEADER.size + SECTION.size)  # of its one section


class Shards:
    """Blocks of one rendition, or chunks of a projection, in order, in as many shards as they take: objects of one
    section.
    """

    def __init__(self, objects: ObjectList, rendition: int, name: str = "") -> None:
        self.objects, self.count = objects, 0
        self.name = name or ("shard" if not rendition else f"rendition-{rendition}")
        self.places = no_places()
        self._begin()

    def _begin(self) -> None:
        self.key = f"{self.name}-{self.count:05d}.bin"
        self.number, path = self.objects.begin(self.key)
        self.file: BinaryIO = path.open("w+b")
        self.file.write(bytes(START))
        self.crc = self.size = 0
        self.count += 1

    def add(self, data: bytes, size: int) -> None:
        """Appends a block, of which the first `size` bytes are before its planes."""
        if self.size and self.size + len(data) > SHARD_BYTES:
            self._finish()
            self._begin()
        put(self.places, self.number, START + self.size, size, data)
        data += bytes(aligned(len(data)) - len(data))
        self.file.write(data)
        self.crc, self.size = crc32c(data, self.crc), self.size + len(data)

    def _finish(self) -> None:
        total = START + self.size
        self.file.seek(0)
        self.file.write(pack_head(SHARD_MAGIC, total, [(SCAN, START, self.size, self.crc)]))
        sync(self.file)
        self.objects.end(self.key, total)

    def close(self) -> Places:
        """Where all blocks are."""
        self._finish()
        return self.places


class Inline:
    """Blocks in order, for the inline section of the root."""

    def __init__(self, objects: ObjectList) -> None:
        self.objects, self.data = objects, bytearray()
        self.places = no_places()
        self.number, _ = objects.begin(ROOT_KEY)

    def add(self, data: bytes, size: int) -> None:
        """Appends a block, of which the first `size` bytes are before its planes."""
        put(self.places, self.number, len(self.data), size, data)
        self.data += data + bytes(aligned(len(data)) - len(data))

    def close(self) -> Places:
        """Where all blocks are."""
        self.objects.end(ROOT_KEY, len(self.data))
        return self.places


def no_places() -> Places:
    """Places that grow."""
    return Places(array("I"), array("Q"), array("I"), array("I"), array("I"))


def put(places: Places, number: int, offset: int, size: int, data: bytes) -> None:
    """Notes that a block begins at `offset` of the object with this number, its planes behind `size` bytes."""
    row = number, offset, size, len(data), crc32c(memoryview(data)[:size])
    for name, value in zip(PLACES, row, strict=True):
        getattr(places, name).append(value)
