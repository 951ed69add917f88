"""The Worker: Default answers HTTP; of Durable Objects, WarmIndex keeps roots and blocks warm, and IndexLog groups
writes.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from workers import DurableObject, Response, WorkerEntrypoint

from vantage.admission import Admission
from vantage.arrival import Arriving
from vantage.cost import Limits
from vantage.errors import ChangedError, DamagedError, StoreError
from vantage.format import Current, objects_of
from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.request import BODY_BYTES_MAX, TooLargeError
from vantage.http.routes import handle
from vantage.indexes import REVALIDATE_S, Service
from vantage.log.client import WriteClient
from vantage.log.relay import pack_news, unpack_news
from vantage.log.sequencer import News, Sequencer, answered
from vantage.read.bucket import Body, folder_end
from vantage.read.reader import Reader, at_once, read_small
from vantage.read.warm import WarmBlocks, WarmClient
from vantage.receipt import Receipt
from vantage.reserve import Reserve

WARM_TIMEOUT_S = 0.025  # past this the bucket is as quick
CACHE_BYTES = 20 << 20
RESERVE_BYTES = 2 * (BODY_BYTES_MAX + 1024)  # a body as it came and as text
WARM_ROOT_BYTES_MAX = 8 << 20  # a larger root is read from the bucket: one call hands it out
LOG_MS = 1000  # what is known of a log may be so old
WARM_BYTES = 6 << 20  # objects may share their isolate with each other and with Default, whose cache it also holds

LOG_CALL_S = 10.0  # a call to the bucket that takes longer is taken for failed
LOG_TRIES = 3  # of a read
LOGS_BYTES = 24 << 20  # of logs that are held by the sequencers of an isolate; one alone may hold more

HEAD = struct.Struct("<I")  # of what is handed to a warm object: the bytes of ranges

# Of this isolate; made by the first request: no global may hold a JavaScript object when the memory snapshot is taken.
_service: Service | None = None
_warm_blocks: WarmBlocks | None = None  # by all objects of this isolate: the budget is of its memory
_loading = Admission(WARM_ROOT_BYTES_MAX)  # of roots, by all of them
_sequencers: dict[str, Sequencer] = {}  # by the name of the index; the one used last stands last


class R2Body:
    """Bytes that R2 sent, still on the JavaScript side."""

    def __init__(self, obj: Any, buffer: Any) -> None:
        self.buffer, self.length, self.size, self.etag = buffer, int(buffer.byteLength), int(obj.size), str(obj.etag)

    def into(self, target: memoryview) -> None:
        """One copy, straight to where the caller wants them."""
        if self.length:
            self.buffer.assign_to(target)


class R2Bucket:
    """The R2 binding as a bucket."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        byte_range: dict[str, Any] = {"offset": offset}
        if length is not None:
            byte_range["length"] = length
        options: dict[str, Any] = {"range": byte_range}
        if etag is not None:
            options["onlyIf"] = {"etagMatches": etag}
        obj = await self.binding.get(key, options)
        if obj is None:
            return None
        if not hasattr(obj, "body"):
            raise ChangedError(f"{key}: changed under its name", hint="open the index again")
        # The raw object: the SDK would copy the bytes into the heap once more.
        return R2Body(obj, await obj._binding.arrayBuffer())

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        options = {"delimiter": "/", "prefix": prefix, "startAfter": after, "limit": limit}
        page = await self.binding.list({name: value for name, value in options.items() if value != ""})
        names = [str(p)[:-1] for p in page.delimitedPrefixes]
        if not page.truncated:
            return names, None
        return names, max([after, *map(folder_end, names), *(str(o.key) for o in page.objects)])


class R2Log:
    """The objects of an index in R2, as a vantage.log.store.LogStore."""

    def __init__(self, binding: Any, name: str) -> None:
        self.binding, self.name = binding, name

    async def _call(self, key: str, work: Callable[[], Awaitable[Any]], tries: int = 1) -> Any:
        what = ""
        for _ in range(tries):
            try:
                return await asyncio.wait_for(work(), LOG_CALL_S)
            except Exception as error:  # R2 has no types of errors
                what = type(error).__name__
        raise StoreError(f"{self.name}/{key}: the bucket did not answer ({what})", hint="try again in a second")

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        """See LogReader."""
        where = f"{self.name}/{key}"

        async def read() -> tuple[int, str, bytes] | None:
            obj = await self.binding.get(where)
            if obj is None:
                return None
            data = (await obj._binding.arrayBuffer()).to_bytes() if obj.size <= most else b""
            return int(obj.size), str(obj.etag), data

        found = await self._call(key, read, LOG_TRIES)
        if found is None:
            return None
        size, etag, data = found
        if size > most:
            raise DamagedError(f"{where}: {size} bytes, the limit is {most}", hint="a writer is broken")
        return data, etag

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        """See LogReader."""
        return await asyncio.gather(*(self.get(key, most) for key in keys))

    async def create(self, key: str, data: bytes) -> bool:
        """See LogStore."""
        return await self._put(key, data, {"etagDoesNotMatch": "*"})

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        """See LogStore."""
        return await self._put(key, data, {"etagMatches": etag})

    async def _put(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        """Whether it did: R2 answers null where the condition does not hold."""
        where, options = f"{self.name}/{key}", {"onlyIf": condition}
        return await self._call(key, lambda: self.binding.put(where, data, options)) is not None


def _background(context: Any, work: Awaitable[Any]) -> None:
    """waitUntil for Python work; a failure is logged and harms nobody."""
    from pyodide.ffi import create_proxy

    task = asyncio.ensure_future(work)
    proxy = create_proxy(task)

    def done(finished: asyncio.Future[Any]) -> None:
        if not finished.cancelled() and finished.exception() is not None:
            print(f"background work failed: {finished.exception()}", file=sys.stderr)
        proxy.destroy()

    task.add_done_callback(done)
    context.waitUntil(proxy)


def _setting(env: Any, name: str) -> str:
    value = getattr(env, name, None)
    return value if isinstance(value, str) else ""


def _names(env: Any, name: str) -> tuple[str, ...]:
    """Of a setting with commas or blanks between."""
    return tuple(part.rstrip("/") for part in _setting(env, name).lower().replace(",", " ").split())


def _number(env: Any, name: str, usual: int) -> int:
    setting = _setting(env, name)
    return int(setting) if setting.isdigit() else usual


def _limits(env: Any) -> Limits:
    """What a request may ask for: what is built in, or less by settings; "0" for VANTAGE_EXACT switches that off."""
    usual = Limits()
    return Limits(
        vectors=min(usual.vectors, _number(env, "VANTAGE_VECTORS_MAX", usual.vectors)),
        top_k=min(usual.top_k, _number(env, "VANTAGE_TOP_K_MAX", usual.top_k)),
        rerank=min(usual.rerank, _number(env, "VANTAGE_RERANK_MAX", usual.rerank)),
        gets=min(usual.gets, _number(env, "VANTAGE_GETS_MAX", usual.gets)),
        bytes=min(usual.bytes, _number(env, "VANTAGE_READ_BYTES_MAX", usual.bytes)),
        exact=_setting(env, "VANTAGE_EXACT") != "0",
    )


def _joined(parts: list[bytes]) -> Any:
    """Bytes on the JavaScript side, None for none: a copy, as the SDK would hand out a view of the heap."""
    if not parts:
        return None
    from js import Uint8Array

    whole, at = Uint8Array.new(sum(map(len, parts))), 0
    for part in parts:
        whole.subarray(at, at + len(part)).assign(part)
        at += len(part)
    return whole


async def _asked(stub: Any, method: str, *given: Any) -> dict[str, Any] | None:
    """What a method of an object answers, by name; None for null.

    Bytes come by `to_bytes`, which raises MemoryError where memory ends. The SDK takes them by Pyodide's `to_py`, which
    does not look whether it got any, and then writes them over the interpreter, from address 0 on.
    """
    told = await getattr(stub._binding, method)(*given)
    if not hasattr(told, "object_entries"):
        return None
    return {str(k): v.to_bytes() if hasattr(v, "byteLength") else v for k, v in told.object_entries()}


async def _handed(stub: Any, name: str, parts: list[bytes]) -> str:
    """What an object says to bytes for an index: they are the body of a request, as what methods are given comes by
    `to_py` too.
    """
    from js import Object
    from pyodide.ffi import to_js

    options = to_js({"method": "POST", "body": _joined(parts)}, dict_converter=Object.fromEntries)
    return str(await (await stub._binding.fetch(f"https://object/?name={quote(name)}", options)).text())


async def _given(request: Any) -> tuple[str, bytes]:
    """(name of the index, bytes) of what was handed over."""
    name = parse_qs(urlsplit(request.url).query)["name"][0]
    return name, (await request.js_object.arrayBuffer()).to_bytes()


async def _body(request: Any, arriving: Arriving) -> list[bytes]:
    """The body in pieces. What is past the limit is dropped as it comes: an answer before its end would break the
    connection.
    """
    if request.js_object.body is None:
        return []
    reader, pieces, length = request.js_object.body.getReader(), list[bytes](), 0
    while not (piece := await arriving.next(_piece(reader))).done:
        length += piece.value.byteLength
        keep = length <= BODY_BYTES_MAX
        await arriving.take(piece.value.byteLength, keep)
        if keep:
            pieces.append(piece.value.to_bytes())
    if length > BODY_BYTES_MAX:
        raise TooLargeError(length)
    return pieces


async def _piece(reader: Any) -> Any:
    return await reader.read()


def heap_bytes() -> int:
    """Size of the Wasm heap; it never shrinks."""
    import pyodide_js

    return int(pyodide_js._module.HEAP8.length)


def _give_back(everything: bool) -> None:
    """Lets go of what warm objects hold here: whoever asks them next reads it. everything: of what the next write has
    to read again too.
    """
    if _warm_blocks is not None:
        _warm_blocks.clear()
    for sequencer in _sequencers.values() if everything else ():
        sequencer.shrink()


class Default(WorkerEntrypoint):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        url = urlsplit(request.url)
        service = self._service()
        headers = {str(k).lower(): str(v) for k, v in request.headers.items()}

        async def body(arriving: Arriving) -> list[bytes]:
            return await _body(request, arriving)

        access = Access(
            _setting(self.env, "VANTAGE_TOKEN") or None,
            _setting(self.env, "PUBLIC_READ") == "1",
            _names(self.env, "VANTAGE_CORS_ORIGINS"),
            _names(self.env, "VANTAGE_HOSTS"),
            _setting(self.env, "VANTAGE_WRITE_TOKEN") or None,
        )
        runtime = {"runtime": f"Python {sys.version.split()[0]} on {sys.platform}", "heap_bytes": heap_bytes()}
        path = f"{url.path}?{url.query}"
        method = str(request.js_object.method)  # the SDK knows some methods alone
        reply: Reply = await handle(method, path, headers, body, service, access, runtime)
        for work in reply.after:
            _background(self.ctx, work)
        return Response(_joined(reply.parts), status=reply.status, headers=reply.headers)

    def _service(self) -> Service:
        """The isolate's service."""
        global _service
        if _service is None:
            cache_bytes = _number(self.env, "VANTAGE_CACHE_BYTES", CACHE_BYTES)
            _service = Service(R2Bucket(self.env.BUCKET), cache_bytes)
            _service.limits = _limits(self.env)
            _service.give_back = _give_back
            at_once()
            _service.reserve = Reserve(
                RESERVE_BYTES if cache_bytes <= CACHE_BYTES else 0
            )  # beside more there is no room
            _service.beside = lambda: sum(one.nbytes for one in _sequencers.values())
            if log_ms := _number(self.env, "VANTAGE_LOG_MS", LOG_MS):
                _service.stale_s = log_ms / 1000
            if _setting(self.env, "VANTAGE_WRITE_TOKEN") and not _setting(self.env, "VANTAGE_LOG_MS"):
                _service.stale_s = 0.0  # what is acknowledged here is seen at once: one call to the sequencer a request
            if _number(self.env, "VANTAGE_WARM_BYTES", WARM_BYTES):
                _service.warm_client = WarmClient(self._ask, self._give)
            _service.write_client = WriteClient(lambda name: R2Log(self.env.BUCKET, name), time.monotonic)
        _service.warm_root = self._warm_root
        if _service.write_client is not None:
            _service.write_client.rpc = self._submit
        if _setting(self.env, "VANTAGE_WRITE_TOKEN"):
            _service.since_rpc = self._since
        if _service.warm_client is not None:  # a stub belongs to its request
            _service.warm_client.ask_rpc, _service.warm_client.give_rpc = self._ask, self._give
        return _service

    async def _ask(self, name: str, ranges: str) -> tuple[str, memoryview]:
        answer = await _asked(self.env.WARM.getByName(name), "blocks", ranges) or {}
        return str(answer["reply"]), memoryview(answer["data"])

    async def _submit(self, name: str, data: bytes) -> str:
        return await _handed(self.env.LOG.getByName(name), name, [data])

    async def _since(self, name: str, etag: str, log: str, seq: int) -> News:
        return unpack_news(await _asked(self.env.LOG.getByName(name), "since", name, etag, log, seq) or {})

    async def _give(self, name: str, ranges: str, parts: list[bytes]) -> None:
        text = ranges.encode()
        await _handed(self.env.WARM.getByName(name), name, [HEAD.pack(len(text)), text, *parts])

    async def _warm_root(self, name: str) -> tuple[bytes, bytes] | None:
        try:
            root = await asyncio.wait_for(_asked(self.env.WARM.getByName(name), "root", name), WARM_TIMEOUT_S)
            return (root["current"], root["root"]) if root is not None else None
        except Exception:  # late, gone or broken: the bucket answers instead
            return None


class WarmIndex(DurableObject):
    """CURRENT, root and hot blocks of one index, kept in memory across isolates and handed out by RPC.

    What is kept is the isolate's, which objects share: a hundred indexes would fill it with their roots.
    """

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.checked = 0.0

    async def root(self, name: str) -> dict[str, bytes] | None:
        """What is kept, at once; None (and a reading of the bucket in the background) when nothing is."""
        if time.time() - self.checked > REVALIDATE_S:
            self.checked = time.time()
            _background(self.ctx, self._load(name))
        kept = self._warm_blocks().root(name)
        return {"current": kept[0], "root": kept[1]} if kept else None

    async def blocks(self, ranges: str) -> dict[str, Any]:
        """See WarmBlocks.answer."""
        reply, data = self._warm_blocks().answer(ranges)
        return {"reply": reply, "data": data}

    async def fetch(self, request: Any) -> Any:
        """Takes blocks that are handed over: see WarmBlocks.take. The length of their ranges stands before these."""
        _, data = await _given(request)
        end = HEAD.size + HEAD.unpack_from(data)[0]
        self._warm_blocks().take(data[HEAD.size : end].decode(), memoryview(data)[end:])
        return Response("")

    def _warm_blocks(self) -> WarmBlocks:
        global _warm_blocks
        if _warm_blocks is None:
            _warm_blocks = WarmBlocks(_number(self.env, "VANTAGE_WARM_BYTES", WARM_BYTES))
        return _warm_blocks

    async def _load(self, name: str) -> None:
        bucket, receipt, warm = R2Bucket(self.env.BUCKET), Receipt(), self._warm_blocks()
        data, kept = await read_small(bucket, f"{name}/CURRENT", receipt), warm.root(name)
        if kept is not None and kept[0] == data:
            return
        warm.forget_root(name)
        current = None if data is None else Current.unpack(data, f"{name}/CURRENT")
        if data is None or current is None or current.deleted:
            warm.forget_blocks(name, lambda key: False)
        elif current.root.size > WARM_ROOT_BYTES_MAX:
            warm.forget_blocks(name, lambda key: key.startswith(f"{name}/{current.generation}/"))
        else:
            async with _loading.enter(current.root.size):
                key, root = f"{name}/{current.root.key}", current.root
                whole = await Reader(bucket, {}, receipt).whole(key, root.size, root.sha256)
                named = objects_of(whole, key).resolve(name, current.generation)  # some of an older generation
                warm.forget_blocks(name, set(named).__contains__)
                warm.keep_root(name, data, whole)


class IndexLog(DurableObject):
    """The sequencer of one index: it groups writes, and holds the log for those that read it."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self.sequencer: Sequencer | None = None

    async def fetch(self, request: Any) -> Any:
        """What comes of a packed submission that is handed over."""
        return Response(await self.submit(*await _given(request)))

    async def submit(self, name: str, data: bytes) -> str:
        """See vantage.log.sequencer.answered."""
        return await answered(self._sequencer(name), data)

    async def since(self, name: str, etag: str, log: str, seq: int) -> dict[str, Any]:
        """See Sequencer.since and pack_news."""
        return pack_news(await self._sequencer(name).since(etag, log, seq))

    def _sequencer(self, name: str) -> Sequencer:
        """This object's; others that were used longest ago let go of rows where all hold too much."""
        if self.sequencer is None:  # one that an earlier object of this name has left may wait for what never comes
            self.sequencer = Sequencer(R2Log(self.env.BUCKET, name), time.monotonic)
        _sequencers.pop(name, None)
        for other in list(_sequencers):
            if sum(one.nbytes for one in _sequencers.values()) + self.sequencer.nbytes > LOGS_BYTES:
                _sequencers.pop(other).shrink()
        _sequencers[name] = self.sequencer
        return self.sequencer
