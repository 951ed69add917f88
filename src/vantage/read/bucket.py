"""A bucket as the reads see it, and a folder as one; what a body is."""

from __future__ import annotations

import os
from errno import EISDIR
from heapq import nsmallest
from io import BufferedReader
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Protocol

from ..errors import ChangedError, DamagedError, StoreError

LIST_MAX = 1000  # entries of a listing, as many as R2 and S3 give at once


class Body(Protocol):
    """An answer of a bucket: `length` bytes of an object of `size` bytes with this etag."""

    length: int
    size: int
    etag: str

    def into(self, target: memoryview) -> None:
        """Copies the bytes; len(target) == length."""


class Bucket(Protocol):
    """Where objects are. `get` gives None when there is no such object, and raises ChangedError when the etag differs,
    StoreError (or anything else) when the bucket fails."""

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None: ...

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        """Names of top folders, in the order of their keys: those among the first `limit` entries (1 to LIST_MAX) that
        begin with `prefix` and lie behind the key `after`. With the key to go on behind; None where nothing is left.
        """


def folder_end(name: str) -> str:
    """The first key behind all keys of a top folder: of "docs" whatever begins with "docs/" lies before "docs0"."""
    return name + chr(ord("/") + 1)


class Bytes:
    """A body that is already here."""

    def __init__(self, data: bytes, size: int, etag: str) -> None:
        self.data, self.length, self.size, self.etag = data, len(data), size, etag

    def into(self, target: memoryview) -> None:
        target[:] = self.data


def beneath(folder: Path, key: str) -> Path:
    """The path of `key` (a/b/c) below a folder. Raises DamagedError where a part of it is a link or leads elsewhere."""
    path = folder
    for name in key.split("/"):
        if name in ("", ".", "..") or "\0" in name:
            raise DamagedError(f"{key!r} cannot be the name of an object", hint="build the index again")
        path = path / name
        if path.is_symlink():
            raise DamagedError(f"{path} is a link, and links are not followed", hint="put the file itself there")
    return path


def open_beneath(folder: Path, key: str) -> BufferedReader:
    """The file `key` below a folder, to read. Raises OSError; DamagedError as `beneath`, or where it is no file."""
    path = beneath(folder, key)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    mode = os.fstat(file).st_mode
    if S_ISREG(mode):
        return os.fdopen(file, "rb")
    os.close(file)
    if S_ISDIR(mode):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    raise DamagedError(f"{path} is no plain file", hint="build the index again")  # a pipe, or a device without an end


class Folder:
    """A folder as a bucket; an object's etag is its size and time of change. An index in it may be a link to a folder,
    what is in an index may not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        name, _, rest = key.partition("/")
        if name in ("", ".", ".."):  # the folder that a system's root lies in, say
            return None
        try:
            with open_beneath(self.path / name, rest) if rest else open_beneath(self.path, key) as file:
                stat = os.fstat(file.fileno())
                own = f"{stat.st_size}-{stat.st_mtime_ns}"
                if etag is not None and etag != own:
                    raise ChangedError(f"{key}: changed under its name", hint="open the index again")
                file.seek(offset)
                return Bytes(file.read(-1 if length is None else length), stat.st_size, own)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{key}: {error.strerror or error}", hint="check the folder and try again") from None

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        if not self.path.is_dir():
            return [], None
        with os.scandir(self.path) as entries:
            folders = (e.name for e in entries if e.name.startswith(prefix) and e.name.isprintable() and e.is_dir())
            first = nsmallest(limit + 1, (key for key in map("{}/".format, folders) if key > after))
        names = [key[:-1] for key in first[:limit]]
        return names, folder_end(names[-1]) if len(first) > limit else None
