"""Writes blocks into shards, and keeps what the directory says of each."""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vantage.format import ATTRIBUTES, HEADER, SCAN, SECTION, SHARD_MAGIC, Directory, aligned, pack_head
from vantage.kernels import crc32c

from ..ingest.rows import Ints

SHARD_BYTES = 256 << 20  # of one, unless a single block takes more


class ShardWriter:
    """shard-NNNNN.bin: the scan section as blocks come, then the attributes from a scratch file."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"shard-{number:05d}.bin"
        self.file: BinaryIO = self.path.open("w+b")
        self.scratch: BinaryIO = (folder / "attributes.scratch").open("w+b")
        self.start = aligned(HEADER.size + 2 * SECTION.size)
        self.file.write(bytes(self.start))
        self.crc = {SCAN: 0, ATTRIBUTES: 0}
        self.size = {SCAN: 0, ATTRIBUTES: 0}

    def add(self, kind: int, pieces: Iterable[bytes]) -> tuple[int, int, int]:
        """Appends an aligned block; (offset in its section, bytes, CRC-32C)."""
        file = self.file if kind == SCAN else self.scratch
        crc, at, size = 0, self.size[kind], 0
        for data in pieces:
            file.write(data)
            crc, size = crc32c(data, crc), size + len(data)
            self.crc[kind] = crc32c(data, self.crc[kind])
        padding = bytes(aligned(size) - size)
        file.write(padding)
        self.crc[kind] = crc32c(padding, self.crc[kind])
        self.size[kind] += size + len(padding)
        return at, size, crc

    def close(self) -> tuple[int, int]:
        """Finishes the object; (its bytes, where its attributes start)."""
        attributes_at = self.start + self.size[SCAN]
        self.scratch.seek(0)
        shutil.copyfileobj(self.scratch, self.file, 1 << 20)
        total = attributes_at + self.size[ATTRIBUTES]
        sections = ((SCAN, self.start), (ATTRIBUTES, attributes_at))
        head = pack_head(SHARD_MAGIC, total, [(kind, at, self.size[kind], self.crc[kind]) for kind, at in sections])
        self.file.seek(0)
        self.file.write(head)
        sync(self.file)
        self.scratch.close()
        os.unlink(self.scratch.name)
        return total, attributes_at


class Shards:
    """Blocks in order, in as many shards as they take."""

    def __init__(self, folder: Path, blocks: int, attributes: bool) -> None:
        self.folder, self.attributes = folder, attributes
        self.sizes, self.first_block = list[int](), [0]
        self.columns = {
            name: np.zeros(blocks, np.uint64) for name in ("offset", "size", "crc", "a_offset", "a_size", "a_crc")
        }
        self.writer = ShardWriter(folder, 0)

    def add(self, block: int, data: bytes, attributes: Iterable[bytes]) -> None:
        """Appends a block, and what it has of attributes where rows have any."""
        size, columns = self.writer.size, self.columns
        if size[SCAN] and size[SCAN] + len(data) + size[ATTRIBUTES] > SHARD_BYTES:
            self._finish(block)
            self.writer = ShardWriter(self.folder, len(self.sizes))
        columns["offset"][block], columns["size"][block], columns["crc"][block] = self.writer.add(SCAN, [data])
        if self.attributes:
            columns["a_offset"][block], columns["a_size"][block], columns["a_crc"][block] = self.writer.add(
                ATTRIBUTES, attributes
            )

    def _finish(self, last: int) -> None:
        """Ends a shard before block `last`."""
        total, attributes_at = self.writer.close()
        part = slice(self.first_block[-1], last)
        self.columns["offset"][part] += np.uint64(self.writer.start)
        self.columns["a_offset"][part] += np.uint64(attributes_at if self.attributes else 0)
        self.sizes.append(total)
        self.first_block.append(last)

    def close(self, first_row: Ints, rows: Ints) -> tuple[Directory, list[int]]:
        """(directory, bytes of each shard); first_row i64 (B + 1) and rows i64 (B) of the blocks."""
        self._finish(len(rows))

        def stored(name: str) -> memoryview:
            return memoryview(array("Q" if "offset" in name else "I", self.columns[name].tolist()))

        return (
            Directory(
                memoryview(array("I", self.first_block)), memoryview(array("I", first_row.tolist())), stored("offset"),
                stored("size"), memoryview(array("I", rows.tolist())), stored("crc"), stored("a_offset"),
                stored("a_size"), stored("a_crc"),
            ),
            self.sizes,
        )  # fmt: skip


def sync(file: BinaryIO) -> None:
    """Closes a file whose bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
