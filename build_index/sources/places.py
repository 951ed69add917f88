"""Where files lie: folders of this machine, or an S3-compatible store by URL, s3://bucket/key or r2://bucket/key.

Credentials and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and CLOUDFLARE_ACCOUNT_ID.
They are read here, given to pyarrow and never shown.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs

from vantage.errors import InputError

from ..endpoint import endpoint_of

SCHEMES = ("s3", "r2")


@dataclass(frozen=True)
class Remote:
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


Place = Path | Remote


def place(text: str | Path) -> Place:
    """A path, or the object that a URL names. Raises InputError for a scheme that is not known."""
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    scheme, rest = text.split("://", 1)
    if scheme not in SCHEMES or not rest.strip("/"):
        raise InputError(f"{scheme}:// is not a source", hint="URLs are s3://bucket/key and r2://bucket/key")
    return Remote(scheme, rest.strip("/"))


def inside(folder: Place) -> list[Place] | None:
    """What lies in a folder, sorted by name; None for a file. Raises InputError where there is nothing."""
    if isinstance(folder, Path):
        if not folder.exists():
            raise InputError(f"no such file or folder: {folder}")
        return [*sorted(folder.iterdir())] if folder.is_dir() else None
    try:
        found = _store(folder.scheme).get_file_info(folder.key)
        if found.type == pa.fs.FileType.File:
            return None
        listed = _store(folder.scheme).get_file_info(pa.fs.FileSelector(folder.key, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error}", hint="check the bucket, and AWS_* variables") from None
    if not listed:
        raise InputError(f"no such object or folder: {folder}")
    return [Remote(folder.scheme, info.path) for info in sorted(listed, key=lambda info: str(info.path))]


def local_or_filesystem(path: Place) -> tuple[str, Any]:
    """What pyarrow opens: a path and None, or bucket/key and the store's file system."""
    return (str(path), None) if isinstance(path, Path) else (path.key, _store(path.scheme))


def _store(scheme: str) -> Any:
    endpoint = endpoint_of(scheme, os.environ)
    more: dict[str, Any] = {}
    if endpoint:
        address = urlsplit(endpoint)
        more = {"endpoint_override": address.netloc, "scheme": address.scheme or "https"}
    # Keys come from the environment (the SDK's own chain); R2 knows one region, "auto".
    return pa.fs.S3FileSystem(region=os.environ.get("AWS_REGION", "auto" if endpoint else "us-east-1"), **more)
