"""Where files lie: folders of this machine, or an S3-compatible store by URL, s3://bucket/key or r2://bucket/key.

Credentials and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and CLOUDFLARE_ACCOUNT_ID.
They are read here, given to pyarrow and never shown.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from vantage.errors import InputError

from ...bucket.endpoint import endpoint_of

SCHEMES = ("s3", "r2")


@dataclass(frozen=True)
class RemoteFile:
    """An object of a store: scheme and "bucket/key"."""

    scheme: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    @property
    def name(self) -> str:
        return self.key.rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


Location = Path | RemoteFile


def location(text: str | Path) -> Location:
    """A path, or the object that a URL names. Raises InputError for a scheme that is not known."""
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    scheme, rest = text.split("://", 1)
    if scheme not in SCHEMES or not rest.strip("/"):
        raise InputError(f"{scheme}:// is not a source", hint="URLs are s3://bucket/key and r2://bucket/key")
    return RemoteFile(scheme, rest.strip("/"))


@dataclass(frozen=True)
class Part:
    """A file of a source.

    constants: columns that its location gives, one value for all of its rows
    absent: columns that it may lack; their rows are null then
    """

    location: Location
    constants: dict[str, pa.Scalar] = field(default_factory=dict)
    absent: pa.Schema | None = None


def suffix_of(where: Location) -> str:
    """The suffix in lower case: .PARQUET is .parquet."""
    return where.suffix.lower()


def shown(where: Location) -> str:
    """A place in messages; names that are no UTF-8 can be printed too."""
    return str(where).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def natural(where: Location) -> tuple[list[tuple[int, str]], str]:
    """Sorts by name, numbers in it by value: part-2 comes before part-10."""
    pieces = re.split(r"([0-9]+)", str(where))
    return [(int(p), "") if i % 2 else (0, p) for i, p in enumerate(pieces)], str(where)


def below(folder: Location, path: str) -> Location:
    """What lies at `path` (a/b) below a folder."""
    return folder / path if isinstance(folder, Path) else RemoteFile(folder.scheme, f"{folder.key}/{path}")


def above(where: Location) -> Location | None:
    """The folder that a file or folder lies in; None for a bucket."""
    if isinstance(where, Path):
        return where.absolute().parent
    return RemoteFile(where.scheme, where.key.rpartition("/")[0]) if "/" in where.key else None


def inside(folder: Location) -> tuple[list[Location], list[Location]] | None:
    """Files and folders in a folder, sorted by name; None for a file. Raises InputError where there is nothing."""
    try:
        if isinstance(folder, Path):
            if not folder.exists():
                raise InputError(f"no such file or folder: {shown(folder)}")
            if not folder.is_dir():
                return None
            entries: list[tuple[Location, bool]] = [(entry, entry.is_dir()) for entry in folder.iterdir()]
        else:
            info = _store(folder.scheme).get_file_info(folder.key)
            if info.type == pa.fs.FileType.File:
                return None
            listed = _store(folder.scheme).get_file_info(pa.fs.FileSelector(folder.key, allow_not_found=True))
            if not listed:
                raise InputError(f"no such object or folder: {folder}")
            entries = [(RemoteFile(folder.scheme, i.path), i.type == pa.fs.FileType.Directory) for i in listed]
    except OSError as error:
        hint = "" if isinstance(folder, Path) else "check the bucket, and AWS_* variables"
        raise InputError(f"{shown(folder)} cannot be listed: {error}", hint=hint) from None
    entries.sort(key=lambda one: natural(one[0]))
    return [where for where, is_folder in entries if not is_folder], [
        where for where, is_folder in entries if is_folder
    ]


def read_whole(where: Location, most: int) -> bytes:
    """The bytes of a file of at most `most` bytes. Raises InputError."""
    try:
        with open_file(where) as file:
            data: bytes = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{shown(where)} cannot be read: {error}") from None
    if len(data) > most:
        raise InputError(f"{shown(where)} has more than {most:,} bytes")
    return data


def open_file(where: Location) -> Any:
    """A file of pyarrow's, read plainly: mapped pages would count as this process's memory. Raises OSError."""
    if isinstance(where, Path):
        if not where.is_file():
            raise FileNotFoundError(f"{shown(where)} is no file")
        return pa.OSFile(os.fsencode(where))
    return _store(where.scheme).open_input_file(where.key)


def _store(scheme: str) -> Any:
    endpoint = endpoint_of(scheme, os.environ)
    more: dict[str, Any] = {}
    if endpoint:
        protocol, _, address = endpoint.partition("://")
        more = {"endpoint_override": address, "scheme": protocol}
    # Keys come from the environment (the SDK's own chain); R2 knows one region, "auto".
    return pa.fs.S3FileSystem(region=os.environ.get("AWS_REGION", "auto" if endpoint else "us-east-1"), **more)
