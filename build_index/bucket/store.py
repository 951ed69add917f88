"""Stores of published indexes: a folder, s3://bucket/prefix or r2://bucket/prefix, by the same few operations."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, NotFoundError, PreconditionError
from obstore.store import S3Store

from vantage.errors import ChangedError, DamagedError, InputError, StoreError
from vantage.format.current import MANIFEST_BYTES_MAX
from vantage.read.bucket import Body, Bytes, beneath, open_beneath

from .endpoint import endpoint_of
from .names import kind_of

if TYPE_CHECKING:
    from obstore import GetOptions

CHUNK_BYTES = 8 << 20  # of an upload or a read-back, each of a few at a time
PARTS = 2  # of one upload, at a time
# scheme, bucket, prefix: no query or fragment that would be lost, nothing that parsers read in two ways
_ADDRESS = re.compile(r"(s3|r2)://([A-Za-z0-9][A-Za-z0-9._-]{0,254})/([^\x00-\x20\x7f-\xa0?#%\\]+?)/*")


class ConflictError(StoreError):
    """Another writer came first: the object is not the one that was read."""


@dataclass(frozen=True)
class StoredObject:
    """An object in a bucket: key, bytes, and seconds since 1970 when it was last written."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """The objects of one index; keys are relative to it. Each raises StoreError when the bucket fails, and where it is
    a folder DamagedError for a link or what is no plain file.
    """

    def get(self, key: str, most: int = MANIFEST_BYTES_MAX) -> tuple[bytes, str] | None:
        """A small object and its etag; None when there is none. Raises DamagedError over so many bytes."""

    def stated(self, key: str) -> tuple[int, str] | None:
        """Size and SHA-256 as the bucket knows them: noted at the upload, or read back; None without the object."""

    def digest(self, key: str) -> tuple[int, str] | None:
        """Size and SHA-256 of the bytes that are there, read whole in chunks; None without the object."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """So many bytes of an object from `offset` on, fewer at its end; StoreError without the object."""

    def upload(self, key: str, file: BinaryIO, sha256: str) -> None:
        """Puts a file, in parts; the object appears whole or not at all."""

    def put(self, key: str, data: bytes) -> None:
        """Puts a small object over what is there."""

    def swap(self, key: str, data: bytes, etag: str | None) -> None:
        """Puts a small object where the one there has this etag (None: where there is none), else ConflictError."""

    def list(self, below: str = "") -> list[StoredObject]:
        """What has a name that the format knows: all, or those below a folder. Others may be there, and stay."""

    def delete(self, key: str) -> None:
        """Deletes an object, which may be gone already."""


def local(address: str | Path) -> Path:
    """The folder at an address by a name of its own: "." and ".." have none."""
    path = Path(address)
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def store_at(address: str, environment: Mapping[str, str] = os.environ) -> ObjectStore:
    """The index at an address. Raises InputError for an address or an environment that names no bucket."""
    if "://" not in address:
        return FolderStore(local(address))
    match = _ADDRESS.fullmatch(address)
    if match is None or any(part in ("", ".", "..") for part in match[3].split("/")):
        raise InputError(
            "that is not the address of an index",
            hint="s3://bucket/name, r2://bucket/name or a folder; of letters, digits and usual signs",
        )
    scheme, bucket, prefix = match.groups()
    endpoint = endpoint_of(scheme, environment)
    missing = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environment.get(n)]
    if missing:
        raise InputError(f"{address}: no keys", hint=f"set {' and '.join(missing)}")
    region = environment.get("AWS_REGION", "auto" if scheme == "r2" else "us-east-1")
    client = S3Store(
        bucket, prefix=prefix, endpoint=endpoint, region=region,
        access_key_id=environment["AWS_ACCESS_KEY_ID"], secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": endpoint is not None and not endpoint.startswith("https://")},
    )  # fmt: skip
    return BucketStore(client, address)


def _failed(address: str, key: str, error: Exception) -> StoreError:
    """What went wrong in a word: a client's own text may hold a whole request."""
    status = re.search(r"status code: (\d{3} [A-Za-z ]+)", str(error))
    what = status[1].strip() if status else type(error).__name__
    return StoreError(f"{address}/{key}: {what}", hint="check keys, permissions and the network, and run it again")


def _small(where: str, size: int, most: int) -> None:
    if size > most:
        raise DamagedError(f"{where}: {size:,} bytes, the limit is {most:,}", hint="publish the index again")


def _unwilling(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: {error.strerror or error}", hint="check the folder, its permissions and its space")


class Ranged(io.RawIOBase):
    """An object as a file that is read in ranges."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        self.store, self.key, self.size, self.at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, target: Any) -> int:
        data = self.store.read(self.key, self.at, max(0, min(len(target), self.size - self.at)))
        target[: len(data)] = data
        self.at += len(data)
        return len(data)


class BucketStore:
    """An S3 or R2 bucket."""

    def __init__(self, client: S3Store, address: str) -> None:
        self.client, self.address = client, address.rstrip("/")

    def get(self, key: str, most: int = MANIFEST_BYTES_MAX) -> tuple[bytes, str] | None:
        try:
            found = obstore.get(self.client, key)
            _small(f"{self.address}/{key}", found.meta["size"], most)
            return bytes(found.bytes()), found.meta["e_tag"] or ""
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def stated(self, key: str) -> tuple[int, str] | None:
        try:
            found = obstore.get(self.client, key, options={"head": True})
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None
        noted = found.attributes.get("sha256")
        return (found.meta["size"], noted) if noted else self.digest(key)

    def digest(self, key: str) -> tuple[int, str] | None:
        try:
            total, sha = 0, hashlib.sha256()
            for chunk in obstore.get(self.client, key).stream(min_chunk_size=CHUNK_BYTES):
                sha.update(chunk)
                total += len(chunk)
            return total, sha.hexdigest()
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def read(self, key: str, offset: int, length: int) -> bytes:
        try:
            return bytes(obstore.get_range(self.client, key, start=offset, length=length)) if length else b""
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def upload(self, key: str, file: BinaryIO, sha256: str) -> None:
        try:
            obstore.put(
                self.client, key, file, attributes={"sha256": sha256}, chunk_size=CHUNK_BYTES, max_concurrency=PARTS
            )
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def put(self, key: str, data: bytes) -> None:
        try:
            obstore.put(self.client, key, data, attributes={"sha256": hashlib.sha256(data).hexdigest()})
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def swap(self, key: str, data: bytes, etag: str | None) -> None:
        try:
            obstore.put(self.client, key, data, mode="create" if etag is None else {"e_tag": etag}, use_multipart=False)
        except (AlreadyExistsError, FileExistsError, PreconditionError):
            raise ConflictError(f"{self.address}/{key}: changed meanwhile", hint="run it again") from None
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None

    def list(self, below: str = "") -> list[StoredObject]:
        try:
            return [
                StoredObject(entry["path"], entry["size"], entry["last_modified"].timestamp())
                for batch in obstore.list(self.client, below or None)
                for entry in batch
                if kind_of(entry["path"])
            ]
        except InvalidPathError:
            raise StoreError(
                f"{self.address}: a key below it has an empty part, '..' or a control character and cannot be listed",
                hint="nothing here writes such keys: delete it with the bucket's own tools",
            ) from None
        except (BaseError, OSError) as error:
            raise _failed(self.address, "", error) from None

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self.client, key)
        except (NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise _failed(self.address, key, error) from None


class RemoteBucket:
    """An index in an S3 or R2 bucket as the bucket of a reader, in which it is the only one."""

    def __init__(self, store: BucketStore, name: str) -> None:
        self.store, self.name = store, name

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        key = key.removeprefix(f"{self.name}/")
        options: GetOptions = {} if length is None else {"range": (offset, offset + length)}
        if etag is not None:
            options["if_match"] = etag
        try:
            found = await obstore.get_async(self.store.client, key, options=options)
            data = bytes(await found.bytes_async())
            return Bytes(data if length is not None else data[offset:], found.meta["size"], found.meta["e_tag"] or "")
        except (NotFoundError, FileNotFoundError):
            return None
        except PreconditionError:
            raise ChangedError(f"{key}: changed under its name", hint="open the index again") from None
        except (BaseError, OSError) as error:
            raise _failed(self.store.address, key, error) from None

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return [self.name], None


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps other builds, publishes and gcs out of a folder, which is made; until this ends, or the process dies.

    Raises InputError at once where one is at work, OSError where the folder cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out, fcntl.LOCK_EX):
        yield


@contextmanager
def beside(store: ObjectStore, *, make: bool = False) -> Iterator[None]:
    """Keeps builds out of a store that is a folder; others that change it may come beside. make: the folder, first.

    Raises InputError at once where a build is at work.
    """
    if not isinstance(store, FolderStore) or not (make or store.path.is_dir()):
        yield
        return
    try:
        store.path.mkdir(parents=True, exist_ok=True)
        with _locked(store.path, fcntl.LOCK_SH):
            yield
    except OSError as error:
        raise _unwilling(store.path, error) from None


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, how | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "a build" if how == fcntl.LOCK_SH else "another build"
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
                what = "a publish, rollback or gc"
            raise InputError(f"{what} is writing {path}", hint="let it end, or name another folder") from None
        yield
    finally:
        os.close(folder)


def _sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class FolderStore:
    """A folder, which may be named by a link: links in it are not followed. An object's etag is the SHA-256 of its
    bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str, most: int = MANIFEST_BYTES_MAX) -> tuple[bytes, str] | None:
        try:
            with open_beneath(self.path, key) as file:
                _small(str(self.path / key), os.fstat(file.fileno()).st_size, most)
                data = file.read(most)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unwilling(self.path / key, error) from None
        return data, hashlib.sha256(data).hexdigest()

    def stated(self, key: str) -> tuple[int, str] | None:
        return self.digest(key)

    def digest(self, key: str) -> tuple[int, str] | None:
        try:
            with open_beneath(self.path, key) as file:
                return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unwilling(self.path / key, error) from None

    def read(self, key: str, offset: int, length: int) -> bytes:
        with self.open(key) as file:
            try:
                file.seek(offset)
                return file.read(length)
            except OSError as error:
                raise _unwilling(self.path / key, error) from None

    def open(self, key: str) -> BinaryIO:
        """An object as a file. StoreError without it."""
        try:
            return open_beneath(self.path, key)
        except OSError as error:
            raise _unwilling(self.path / key, error) from None

    def upload(self, key: str, file: BinaryIO, sha256: str) -> None:
        self._write(key, file)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, io.BytesIO(data))

    def _write(self, key: str, source: BinaryIO) -> None:
        target = self.path / key
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            beneath(self.path, key).parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            part.replace(target)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise _unwilling(target, error) from None

    def swap(self, key: str, data: bytes, etag: str | None) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
        except OSError as error:
            raise _unwilling(self.path, error) from None
        with lock:  # file systems have no conditional rename
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = self.get(key)
            if (None if there is None else there[1]) != etag:
                raise ConflictError(f"{self.path / key}: changed meanwhile", hint="run it again")
            self.put(key, data)
            try:
                for path in (self.path / key, (self.path / key).parent):
                    _sync(path)
            except OSError as error:
                raise _unwilling(self.path / key, error) from None

    def list(self, below: str = "") -> list[StoredObject]:
        out = []
        start = beneath(self.path, below) if below else self.path
        for folder, _, names in os.walk(start, onerror=self._walked):
            for path in (Path(folder, name) for name in names):
                key = path.relative_to(self.path).as_posix()
                if kind_of(key) is None:
                    continue
                try:
                    stat = path.lstat()
                except FileNotFoundError:  # another process may be deleting
                    continue
                except OSError as error:
                    raise _unwilling(path, error) from None
                if S_ISREG(stat.st_mode):
                    out.append(StoredObject(key, stat.st_size, stat.st_mtime))
        return sorted(out, key=lambda entry: entry.key)

    def _walked(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # as above
            raise _unwilling(Path(error.filename or self.path), error) from None

    def delete(self, key: str) -> None:
        target = self.path / key
        try:
            beneath(self.path, key).unlink(missing_ok=True)
            for folder in takewhile(lambda folder: folder != self.path, target.parents):
                folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                raise _unwilling(target, error) from None
