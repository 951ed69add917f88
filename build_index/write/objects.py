"""The objects of a generation as they are written: their numbers, keys and bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from vantage.format import Objects


class ObjectList:
    """Objects by number, in the order in which they are begun, in the folder of a generation.

    known: the sizes of objects of other generations that come before, by key.
    """

    def __init__(self, folder: Path, known: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self.sizes = dict(known or {})

    def begin(self, key: str) -> tuple[int, Path]:
        """(number, path) of a new object."""
        self.sizes[key] = 0
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return len(self.sizes) - 1, path

    def end(self, key: str, size: int) -> None:
        """Notes the bytes of an object that is whole."""
        self.sizes[key] = size

    def pack(self) -> Objects:
        """The directory of objects."""
        return Objects(tuple(self.sizes), tuple(self.sizes.values()))


def sync(file: BinaryIO) -> None:
    """Closes a file whose bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
