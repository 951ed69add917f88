"""src/entry.py under CPython, with stand-ins for what exists only in a Worker: the Durable Object and its fallbacks."""

import asyncio
import hashlib
import importlib.util
import json
import random
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles import Built
from fixtures.grown import grown_folder
from fixtures.variants import OTHER

from vantage import arrival
from vantage.arrival import RequestTimeoutError
from vantage.errors import DamagedError, StoreError
from vantage.format import Current, ObjectName
from vantage.format.log import Request, RowShape
from vantage.http.request import BODY_BYTES_MAX, TooLargeError
from vantage.log.relay import unpack_news
from vantage.log.submission import Submission, own_key, pack_submission
from vantage.read.bucket import Folder
from vantage.search.query import Query

ENTRY = Path(__file__).resolve().parents[1] / "src" / "entry.py"


class Base:
    """What the SDK's base classes do: keep ctx and env."""

    def __init__(self, ctx: Any, env: Any) -> None:
        self.ctx, self.env = ctx, env


class Context:
    """Runs what is handed to waitUntil when `settle` is called."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def waitUntil(self, work: Any) -> None:
        self.work.append(work)

    async def settle(self) -> None:
        await asyncio.gather(*self.work, return_exceptions=True)
        self.work.clear()


class Bytes(bytes):
    """An array of JavaScript."""

    byteLength = property(len)
    to_bytes = bytes.__bytes__  # type: ignore[assignment]


class Told(dict[str, Any]):
    """An object of JavaScript."""

    def object_entries(self) -> Any:
        return [(k, Bytes(v) if isinstance(v, bytes) else v) for k, v in self.items()]


class Stub:
    """What a binding hands out of an object: methods and `fetch` of `_binding`, as JavaScript sees them."""

    def __init__(self, one: Any) -> None:
        self._binding, self.one = self, one

    def __getattr__(self, method: str) -> Any:
        async def call(*given: Any) -> Any:
            told = await getattr(self.one, method)(*given)
            return told if told is None else Told(told)

        return call

    async def fetch(self, url: str, options: Any) -> Any:
        async def text() -> str:
            return str(said)

        said = await self.one.fetch(handed(url, options["body"]))
        return types.SimpleNamespace(text=text)


def handed(url: str, data: bytes) -> Any:
    """A request with a body."""

    async def buffer() -> Bytes:
        return Bytes(data)

    return types.SimpleNamespace(url=url, js_object=types.SimpleNamespace(arrayBuffer=buffer))


def blocks(ranges: str, data: bytes) -> Any:
    """A request that hands blocks over."""
    return handed("https://object/?name=words", struct.pack("<I", len(ranges)) + ranges.encode() + data)


class Proxy:
    """create_proxy of a task: awaitable, and destroyed once it has settled."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __await__(self) -> Any:
        return self.task.__await__()

    def destroy(self) -> None:
        pass


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    workers = types.ModuleType("workers")
    workers.DurableObject = workers.WorkerEntrypoint = Base  # type: ignore[attr-defined]
    workers.Response = lambda said, **_: said  # type: ignore[attr-defined]
    pyodide, ffi = types.ModuleType("pyodide"), types.ModuleType("pyodide.ffi")
    ffi.create_proxy, ffi.to_js = Proxy, lambda one, dict_converter: one  # type: ignore[attr-defined]
    js = types.ModuleType("js")
    js.Object = types.SimpleNamespace(fromEntries=None)  # type: ignore[attr-defined]
    for name, module in (("workers", workers), ("pyodide", pyodide), ("pyodide.ffi", ffi), ("js", js)):
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("entry_of_tests", ENTRY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_joined", b"".join)
    yield module


def warm_index(entry: Any, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(entry, "R2Bucket", lambda binding: binding)
    return entry.WarmIndex(Context(), types.SimpleNamespace(BUCKET=Folder(bucket)))


def test_the_warm_object_answers_at_once_and_reads_in_the_background(
    entry: Any, bucket: Path, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        warm = warm_index(entry, bucket, monkeypatch)
        assert await warm.root("words") is None
        await warm.ctx.settle()
        held = await warm.root("words")
        assert held["current"] == (bucket / "words" / "CURRENT").read_bytes()
        assert held["root"] == next((bucket / "words").glob("*/root.bin")).read_bytes()
        assert not warm.ctx.work  # nothing to do again before it is stale
        monkeypatch.setattr(entry.time, "time", lambda: warm.checked + entry.REVALIDATE_S + 1)
        assert await warm.root("words") == held
        assert warm.ctx.work
        await warm.ctx.settle()

    asyncio.run(scenario())


def test_the_warm_object_leaves_a_large_root_to_the_bucket(
    entry: Any, words: Built, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = next((bucket / "words").glob("*/root.bin")).stat().st_size

    async def held(most: int) -> Any:
        monkeypatch.setattr(entry, "WARM_ROOT_BYTES_MAX", most)
        monkeypatch.setattr(entry, "_warm_blocks", None)
        warm = warm_index(entry, bucket, monkeypatch)
        await warm.root("words")
        await warm.ctx.settle()
        return await warm.root("words")

    assert asyncio.run(held(size)) is not None
    assert asyncio.run(held(size - 1)) is None


@pytest.mark.parametrize("index", ["words", "absent"])
@pytest.mark.parametrize("most", [0, 8 << 20])
def test_blocks_of_another_generation_go(
    entry: Any, words: Built, bucket: Path, monkeypatch: pytest.MonkeyPatch, index: str, most: int
) -> None:
    """Whether the root is small enough to be kept or not, and where there is no generation any more."""
    monkeypatch.setattr(entry, "_warm_blocks", None)
    monkeypatch.setattr(entry, "WARM_ROOT_BYTES_MAX", most)

    async def scenario() -> int:
        warm = warm_index(entry, bucket, monkeypatch)
        ranges = f'[["{index}/old/shard-00000.bin", 0, 4], ["other/old/shard-00000.bin", 0, 3]]'
        await warm.fetch(blocks(ranges, b"olds" + b"oth"))
        await warm.root(index)
        await warm.ctx.settle()
        held: int = warm._warm_blocks().held
        return held

    assert asyncio.run(scenario()) == 3


def test_blocks_of_an_older_generation_stay_that_the_live_one_names(
    entry: Any, words: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown_folder(words.bucket / "words", tmp_path / "words")
    monkeypatch.setattr(entry, "_warm_blocks", None)

    async def scenario() -> int:
        warm = warm_index(entry, tmp_path, monkeypatch)
        named, gone = f"words/{OTHER}/shard-00000.bin", f"words/{OTHER}/shard-00001.bin"
        await warm.fetch(blocks(json.dumps([[named, 0, 4], [gone, 0, 3]]), b"named" + b"go"))
        await warm.root("words")
        await warm.ctx.settle()
        held: int = warm._warm_blocks().held
        return held

    assert asyncio.run(scenario()) == 4


def test_the_warm_object_forgets_an_index_that_is_gone(
    entry: Any, bucket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        warm = warm_index(entry, bucket, monkeypatch)
        warm._warm_blocks().keep_root("absent", b"old", b"root")
        await warm.root("absent")
        await warm.ctx.settle()
        assert await warm.root("absent") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [False, True])
def test_the_warm_objects_of_an_isolate_share_what_their_roots_may_take(
    entry: Any, words: Built, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    names, size = [f"copy-{n}" for n in range(12)], next((bucket / "words").glob("*/root.bin")).stat().st_size
    for name in names:
        (tmp_path / name).symlink_to(bucket / "words")
    monkeypatch.setattr("vantage.read.warm.ROOTS_BYTES", 3 * size + 1)

    async def scenario() -> list[str]:
        warm = {name: warm_index(entry, tmp_path, monkeypatch) for name in names}
        for name in names:
            assert await warm[name].root(name) is None
            if not at_once:
                await warm[name].ctx.settle()
        for one in warm.values():
            await one.ctx.settle()
        return [name for name in names if await warm[name].root(name) is not None]

    kept = asyncio.run(scenario())
    assert len(kept) == 3 and (at_once or kept == names[-3:])


@pytest.mark.parametrize("how", ["holds", "empty", "late", "broken"])
def test_the_worker_takes_what_is_warm_and_falls_back_otherwise(entry: Any, how: str) -> None:
    class Warm:
        async def root(self, name: str) -> Any:
            if how == "late":
                await asyncio.sleep(60)
            if how == "broken":
                raise RuntimeError("the object is gone")
            return {"current": b"c", "root": b"r"} if how == "holds" else None

    env = types.SimpleNamespace(WARM=types.SimpleNamespace(getByName=lambda name: Stub(Warm())))
    worker = entry.Default(Context(), env)
    got = asyncio.run(asyncio.wait_for(worker._warm_root("words"), 5))
    assert got == ((b"c", b"r") if how == "holds" else None)


@pytest.mark.parametrize(("value", "public"), [("1", True), ("0", False), ("", False), ("false", False), ("no", False)])
def test_only_one_value_opens_the_service(
    entry: Any, monkeypatch: pytest.MonkeyPatch, value: str, public: bool
) -> None:
    seen: list[Any] = []

    async def handle(method: str, path: str, headers: Any, body: Any, service: Any, access: Any, runtime: Any) -> Any:
        seen.append(access)
        return types.SimpleNamespace(after=[], body=None, parts=[], status=200, headers={})

    monkeypatch.setattr(entry, "handle", handle)
    monkeypatch.setattr(entry, "heap_bytes", lambda: 0)
    env = types.SimpleNamespace(PUBLIC_READ=value, BUCKET=None)
    request = types.SimpleNamespace(
        url="http://a/v1/indexes", js_object=types.SimpleNamespace(method="GET"), headers={}
    )
    asyncio.run(entry.Default(Context(), env).fetch(request))
    assert (seen[0].public, seen[0].token) == (public, None)


@pytest.mark.parametrize(("setting", "asks"), [("", True), ("1000000", True), ("0", False)])
def test_blocks_go_to_the_warm_object_and_come_back(
    entry: Any, bucket: Path, words: Any, monkeypatch: pytest.MonkeyPatch, setting: str, asks: bool
) -> None:
    """The calls as the binding sees them: text and bytes; the memory is that of the isolate, whatever the object."""
    monkeypatch.setattr(entry, "R2Bucket", lambda binding: binding)
    env = types.SimpleNamespace(BUCKET=Folder(bucket), VANTAGE_WARM_BYTES=setting)
    env.WARM = types.SimpleNamespace(getByName=lambda name: Stub(entry.WarmIndex(Context(), env)))
    query = Query(words.queries[0].tolist())

    async def cold() -> Any:
        entry._service = None
        service = entry.Default(Context(), env)._service()
        answer = await service.query("words", query)
        if service.warm_client is not None:
            await service.warm_client.send()
        return answer

    first, second = asyncio.run(cold()), asyncio.run(cold())
    assert second.matches == first.matches
    assert (first.receipt.gets > 0, second.receipt.gets > 0) == (True, not asks)
    assert (second.receipt.warm_bytes > 0, second.receipt.warm_rpc > 0) == (asks, asks)


def test_a_new_generation_drops_the_blocks_of_the_old(
    entry: Any, bucket: Path, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        warm = warm_index(entry, bucket, monkeypatch)
        await warm.fetch(blocks('[["words/old/shard", 0, 4]]', b"1234"))
        assert entry._warm_blocks.held == 4
        await warm.root("words")
        await warm.ctx.settle()
        assert entry._warm_blocks.held == 0

    asyncio.run(scenario())


class Stream:
    """A body as a JavaScript stream: pieces, then its end, or nothing any more."""

    def __init__(self, pieces: list[bytes], ends: bool) -> None:
        self.pieces, self.ends = list(pieces), ends

    def getReader(self) -> "Stream":
        return self

    async def read(self) -> Any:
        if self.pieces:
            piece = self.pieces.pop(0)
            value = types.SimpleNamespace(byteLength=len(piece), to_bytes=lambda: piece)
            return types.SimpleNamespace(done=False, value=value)
        if not self.ends:
            await asyncio.Event().wait()
        return types.SimpleNamespace(done=True)


@pytest.mark.parametrize(
    ("pieces", "ends", "found"),
    [
        ([b"{", b"}"], True, [b"{", b"}"]),
        ([], True, []),
        (None, True, []),
        ([bytes(3 << 20)] * 20, True, TooLargeError),  # dropped as it comes
        ([], False, RequestTimeoutError),
        ([b"{"], False, RequestTimeoutError),
        ([bytes(3 << 20)] * 2, False, RequestTimeoutError),
    ],
)
def test_a_body_is_read_in_pieces_and_not_for_longer_than_it_comes(
    entry: Any, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes] | None, ends: bool, found: Any
) -> None:
    monkeypatch.setattr(arrival, "SILENT_S", 0.05)
    monkeypatch.setattr(arrival, "POLL_S_MAX", 0.01)
    stream = None if pieces is None else Stream(pieces, ends)
    request, bodies = types.SimpleNamespace(js_object=types.SimpleNamespace(body=stream)), arrival.Bodies()

    async def receive() -> Any:
        async with bodies.enter() as arriving:
            try:
                return await entry._body(request, arriving)
            except (TooLargeError, RequestTimeoutError) as error:
                assert arriving.held <= BODY_BYTES_MAX
                return type(error)

    assert asyncio.run(receive()) == found
    assert not bodies.arriving


class R2:
    """The binding of a bucket, as far as a log uses it; `broken` calls raise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.broken = 0

    async def _answer(self) -> None:
        if self.broken:
            self.broken -= 1
            raise RuntimeError("put: internal error. (10001)")

    async def get(self, key: str) -> Any:
        await self._answer()
        data = self.objects.get(key)
        if data is None:
            return None

        async def buffer() -> Any:
            return types.SimpleNamespace(to_bytes=lambda: data)

        etag = hashlib.md5(data).hexdigest()
        return types.SimpleNamespace(size=len(data), etag=etag, _binding=types.SimpleNamespace(arrayBuffer=buffer))

    async def put(self, key: str, data: bytes, options: Any) -> Any:
        await self._answer()
        there, condition = self.objects.get(key), options["onlyIf"]
        etag = None if there is None else hashlib.md5(there).hexdigest()
        if condition.get("etagMatches", etag) != etag or (there is not None and "etagDoesNotMatch" in condition):
            return None
        self.objects[key] = data
        return object()


def test_a_log_in_r2(entry: Any) -> None:
    async def scenario() -> None:
        binding = R2()
        log = entry.R2Log(binding, "words")
        assert await log.get("a", 9) is None
        assert [await log.create("a", b"one"), await log.create("a", b"two")] == [True, False]
        data, etag = await log.get("a", 9)
        assert data == b"one" and list(binding.objects) == ["words/a"]
        assert [await log.swap("a", b"three", etag), await log.swap("a", b"four", etag)] == [True, False]
        assert [found and found[0] for found in await log.get_several(["a", "b"], 9)] == [b"three", None]
        with pytest.raises(DamagedError, match="limit is 4"):
            await log.get("a", 4)
        binding.broken = entry.LOG_TRIES - 1
        assert (await log.get("a", 9))[0] == b"three"
        binding.broken = entry.LOG_TRIES
        with pytest.raises(StoreError, match="words/a: the bucket did not answer"):
            await log.get("a", 9)
        binding.broken = 1
        with pytest.raises(StoreError):  # a put is not sent again: what came of the first is to be read
            await log.create("c", b"x")
        assert binding.broken == 0

    asyncio.run(scenario())


def test_the_logs_that_an_isolate_holds_are_bounded(entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used longest ago is let go, and read again for the next write; nothing of it is lost."""
    monkeypatch.setattr(entry, "LOGS_BYTES", 3000)

    async def scenario() -> None:
        binding, shape = R2(), RowShape(1, "bytes", "f32")
        root, manifest = (ObjectName(f"{'0' * 16}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
        names = [f"i{n}" for n in range(5)]
        objects = {name: entry.IndexLog(Context(), types.SimpleNamespace(BUCKET=binding)) for name in names}
        for name in names:
            binding.objects[f"{name}/CURRENT"] = Current("0" * 16, root, manifest).pack()

        async def write(name: str, seq: int) -> None:
            request = Request(own_key(random.randbytes(16)), 0, deletes=[b"x" * 300])
            packed = pack_submission(Submission(request, shape, "0" * 16, "0" * 16))
            assert json.loads(await objects[name].submit(name, packed)) == {"seq": seq, "retried": False}

        for round_ in range(3):
            for name in names:
                await write(name, round_ + 1)
        held = [one.sequencer.nbytes for one in objects.values()]
        assert sum(held) < 3000 + 1500 and held[-1] and not held[0]
        news = unpack_news(await objects["i0"].since("i0", "", "0" * 16, 0))
        assert (news.seq, news.first, len(news.segments)) == (3, 4, 0)  # the bucket has them
        await write("i0", 4)
        news = unpack_news(await objects["i0"].since("i0", "", "0" * 16, 0))
        assert (news.seq, news.first, len(news.segments)) == (4, 1, 4)

    asyncio.run(scenario())
