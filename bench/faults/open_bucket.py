"""The bucket of a local Worker, for commands and readers beside it: of one whose main is tests/edge/open_entry.py."""

from __future__ import annotations

import asyncio
import hashlib
from typing import BinaryIO
from urllib.parse import quote

import httpx

from build_index.bucket.names import kind_of
from build_index.bucket.store import CHUNK_BYTES, ConflictError, StoredObject
from vantage.errors import ChangedError, DamagedError, StoreError
from vantage.format.current import MANIFEST_BYTES_MAX
from vantage.read.bucket import Body, Bytes

TIMEOUT_S = 120.0  # of a call: an object of 50 MB on a busy machine


class OpenBucket:
    """What a Worker's bucket has. Every call that the Worker does not answer raises StoreError: whether it was done is
    not known then. url: of the Worker, asked each time, as it may be started anew at another one.
    """

    def __init__(self, url: list[str]) -> None:
        self.url = url
        self.http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def ask(self, method: str, key: str, data: bytes | BinaryIO | None = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = data if data is None or isinstance(data, bytes) else data.read()
        try:
            answer = self.http.request(method, f"{self.url[0]}/bucket/{quote(key)}", content=content, headers=sent)
        except httpx.HTTPError as error:
            raise StoreError(f"{key}: {type(error).__name__}", hint="try again") from None
        if answer.status_code not in (200, 404, 412):
            raise StoreError(f"{key}: {answer.status_code}", hint="try again")
        return answer

    def list(self, prefix: str) -> list[StoredObject]:
        """All whose keys begin so."""
        try:
            answer = self.http.get(f"{self.url[0]}/bucket", params={"prefix": prefix}).raise_for_status()
        except httpx.HTTPError as error:
            raise StoreError(f"{prefix}: {type(error).__name__}", hint="try again") from None
        return [StoredObject(key, size, ms / 1000) for key, size, ms in answer.json()]


class OpenStore:
    """An index there, as a build_index.bucket.store.ObjectStore."""

    def __init__(self, bucket: OpenBucket, name: str) -> None:
        self.bucket, self.name = bucket, name

    def get(self, key: str, most: int = MANIFEST_BYTES_MAX) -> tuple[bytes, str] | None:
        answer = self.bucket.ask("GET", f"{self.name}/{key}")
        if answer.status_code == 404:
            return None
        if len(answer.content) > most:
            raise DamagedError(f"{key}: {len(answer.content)} bytes, the limit is {most}", hint="publish it again")
        return answer.content, answer.headers["x-etag"]

    def stated(self, key: str) -> tuple[int, str] | None:
        return self.digest(key)

    def digest(self, key: str) -> tuple[int, str] | None:
        answer = self.bucket.ask("GET", f"{self.name}/{key}", range=f"bytes=0-{CHUNK_BYTES - 1}")
        if answer.status_code == 404:
            return None
        size, sha, at = int(answer.headers["x-size"]), hashlib.sha256(answer.content), len(answer.content)
        while at < size:
            sha.update(part := self.read(key, at, min(CHUNK_BYTES, size - at)))
            at += len(part)
        return size, sha.hexdigest()

    def read(self, key: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        answer = self.bucket.ask("GET", f"{self.name}/{key}", range=f"bytes={offset}-{offset + length - 1}")
        if answer.status_code != 200:
            raise StoreError(f"{key}: is missing", hint="publish the index again")
        return answer.content

    def upload(self, key: str, file: BinaryIO, sha256: str) -> None:
        self.bucket.ask("PUT", f"{self.name}/{key}", file)

    def put(self, key: str, data: bytes) -> None:
        self.bucket.ask("PUT", f"{self.name}/{key}", data)

    def swap(self, key: str, data: bytes, etag: str | None) -> None:
        condition = {"if_none_match": "*"} if etag is None else {"if_match": etag}
        if self.bucket.ask("PUT", f"{self.name}/{key}", data, **condition).status_code == 412:
            raise ConflictError(f"{key}: changed meanwhile", hint="run it again")

    def list(self, below: str = "") -> list[StoredObject]:
        found = self.bucket.list(f"{self.name}/{below}")
        own = [StoredObject(one.key.removeprefix(f"{self.name}/"), one.size, one.modified) for one in found]
        return [one for one in own if kind_of(one.key)]

    def delete(self, key: str) -> None:
        self.bucket.ask("DELETE", f"{self.name}/{key}")


class OpenReader:
    """The same as a vantage.read.bucket.Bucket."""

    def __init__(self, bucket: OpenBucket, names: list[str]) -> None:
        self.bucket, self.names = bucket, names

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        asked = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        answer = await asyncio.to_thread(self.bucket.ask, "GET", key, None, range=asked)
        if answer.status_code == 404:
            return None
        if etag is not None and answer.headers["x-etag"] != etag:
            raise ChangedError(f"{key}: changed under its name", hint="open the index again")
        return Bytes(answer.content, int(answer.headers["x-size"]), answer.headers["x-etag"])

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return self.names, None
