"""Writes blocks into shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from vantage.format import ATTRIBUTES, HEADER, SCAN, SECTION, SHARD_MAGIC, aligned, pack_head
from vantage.kernels import crc32c


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


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
