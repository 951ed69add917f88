"""The Worker as it is, with its bucket under /bucket for whoever asks: main of the project that commands write beside
(bench/faults/open_bucket.py). POST /faults as faulty_entry.py has it: here the log's calls fail too, and CURRENT, which
nothing but the bucket vouches for, comes as it is or not at all.

GET and DELETE /bucket/KEY, PUT with If-Match or If-None-Match or neither; GET /bucket?prefix= lists [key, bytes, ms].
"""

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import faulty_entry
from faults import Faults, FaultyBinding, FaultyBucket
from js import Response as Answer
from js import Uint8Array
from workers import Response

import entry
from entry import IndexLog, WarmIndex  # noqa: F401  wrangler looks for the classes of the Worker here

_R2Log, _faulty_get = entry.R2Log, FaultyBucket.get


def _log(binding: Any, name: str) -> Any:
    shared = faulty_entry._Shared
    shared.faults = shared.faults or Faults(0, {})
    return _R2Log(FaultyBinding(binding, shared.faults), name)


async def _get(self: FaultyBucket, key: str, offset: int, length: int | None, etag: str | None) -> Any:
    if not key.endswith("/CURRENT"):
        return await _faulty_get(self, key, offset, length, etag)
    if self.faults.next()[0] == "error":
        raise RuntimeError("get: We encountered an internal error. Please try again. (10001)")
    return await self.bucket.get(key, offset, length, etag)


entry.R2Log, FaultyBucket.get = _log, _get  # type: ignore[method-assign, assignment]


class Default(faulty_entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        url = urlsplit(request.url)
        if not url.path.startswith("/bucket"):
            return await super().fetch(request)
        key, bucket, method = (
            unquote(url.path.removeprefix("/bucket").removeprefix("/")),
            self.env.BUCKET,
            request.method,
        )
        if not key:
            return await self._list(parse_qs(url.query)["prefix"][0])
        if method == "DELETE":
            await bucket.delete(key)
            return Response("")
        if method == "PUT":
            condition = {}
            if request.headers.get("if-none-match"):
                condition = {"etagDoesNotMatch": "*"}
            elif request.headers.get("if-match"):
                condition = {"etagMatches": request.headers.get("if-match")}
            data = Uint8Array.new(await request.js_object.arrayBuffer())
            done = await bucket.put(key, data, {"onlyIf": condition} if condition else {})
            return Response("", status=412 if done is None else 200)
        options = {}
        if asked := request.headers.get("range"):
            first, last = asked.removeprefix("bytes=").split("-")
            options = {"range": {"offset": int(first)} | ({"length": int(last) - int(first) + 1} if last else {})}
        found = await bucket.get(key, options)
        if found is None:
            return Response("", status=404)
        answer = Answer.new(await found._binding.arrayBuffer())
        answer.headers.set("x-etag", str(found.etag))
        answer.headers.set("x-size", str(found.size))
        return answer

    async def _list(self, prefix: str) -> Any:
        found, cursor = [], None
        while True:
            page = await self.env.BUCKET.list({"prefix": prefix} | ({"cursor": cursor} if cursor else {}))
            found += [[str(one.key), int(one.size), float(one.uploaded.getTime())] for one in page.objects]
            if not page.truncated:
                return Response(json.dumps(found), headers={"content-type": "application/json"})
            cursor = str(page.cursor)
