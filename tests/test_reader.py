"""The store: lanes, bytes in flight, retries, and every wrong answer of a bucket detected."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from doubles import FAULTS, TRIED_AGAIN, Failing, Get, Plan, Recorder, always, never, nth, seeded

from vantage.cost import LANES
from vantage.errors import ChangedError, DamagedError, StoreError, VantageError
from vantage.read import reader as store
from vantage.read.bucket import Bucket, Folder
from vantage.read.reader import IN_FLIGHT_BYTES_MAX, Reader, read_small
from vantage.receipt import Receipt

Reads = list[tuple[str, int, int, int]]
SIZE = 10_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bucket folder of the objects a and b."""
    for name in "ab":
        (tmp_path / name).write_bytes(content(name))
    return tmp_path


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TIMEOUT_S", 0.05)


def content(name: str, size: int = SIZE) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def read(bucket: Bucket, reads: Reads, receipt: Receipt | None = None) -> list[bytes]:
    """One wave, in a loop of its own that must have nothing left to do at the end."""

    async def run() -> list[bytes]:
        out = [b""] * len(reads)

        def use(i: int, data: memoryview) -> None:
            out[i] = bytes(data)

        try:
            await Reader(bucket, {}, receipt or Receipt()).wave(reads, use)
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        return out

    return asyncio.run(run())


def test_every_read_arrives_and_is_counted(folder: Path) -> None:
    reads = [("ab"[i % 2], 37 * i, 101 * i + 1, SIZE) for i in range(20)]
    bucket, receipt = Recorder(Folder(folder)), Receipt()
    assert read(bucket, reads, receipt) == [content(k)[o : o + n] for k, o, n, _ in reads]
    assert (receipt.gets, receipt.bytes, receipt.waves) == (20, bucket.bytes, 1)
    assert receipt.wave_sizes == [[n for _, _, n, _ in reads]]
    assert [g.length for g in bucket.gets] == sorted((n for _, _, n, _ in reads), reverse=True)  # longest first


def test_no_reads_are_no_wave(folder: Path) -> None:
    receipt = Receipt()
    assert read(Folder(folder), [], receipt) == []
    assert receipt == Receipt()


def test_six_lanes_and_never_more(folder: Path) -> None:
    bucket = Recorder(Folder(folder), delay_s=0.001)
    read(bucket, [("a", i, 10, SIZE) for i in range(40)])
    assert bucket.running_max == LANES == 6


def test_lanes_belong_to_the_query(folder: Path) -> None:
    bucket = Recorder(Folder(folder), delay_s=0.001)

    async def both() -> None:
        reads = [("a", i, 10, SIZE) for i in range(12)]
        await asyncio.gather(*(Reader(bucket, {}, Receipt()).wave(reads, lambda i, data: None) for _ in range(2)))

    asyncio.run(both())
    assert bucket.running_max == 2 * LANES


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    size = 3 << 20
    (tmp_path / "a").write_bytes(bytes(size))
    bucket = Recorder(Folder(tmp_path), delay_s=0.001)
    read(bucket, [("a", 0, size, size)] * 5 + [("a", 0, 1 << 20, size)] * 4)
    assert size < bucket.in_flight_max <= IN_FLIGHT_BYTES_MAX


def test_a_read_larger_than_the_bound_goes_alone(tmp_path: Path) -> None:
    size = IN_FLIGHT_BYTES_MAX + 1
    for name in ("large", "small"):
        (tmp_path / name).write_bytes(bytes(size))
    bucket = Recorder(Folder(tmp_path), delay_s=0.001)
    read(bucket, [("large", 0, size, size), *[("small", i, 10, size) for i in range(5)]])
    assert bucket.beside == {"large": 0, "small": 4}


def test_one_buffer_is_used_again(folder: Path) -> None:
    async def run() -> tuple[set[int], list[bool]]:
        reader, buffers, writable = Reader(Folder(folder), {}, Receipt()), [], []

        def use(_: int, data: memoryview) -> None:
            buffers.append(data.obj)
            writable.append(not data.readonly)

        for _ in range(3):
            await reader.wave([("a", 0, SIZE - i, SIZE) for i in range(8)], use)
        return {id(b) for b in buffers}, writable

    buffers, writable = asyncio.run(run())
    assert len(buffers) == 1
    assert not any(writable)


@pytest.mark.parametrize("fault", TRIED_AGAIN)
def test_one_failure_is_tried_again(folder: Path, fault: str) -> None:
    bucket, receipt = Failing(Folder(folder), nth(1, fault=fault)), Receipt()
    reads = [("a", 10 * i, 10, SIZE) for i in range(3)]
    assert read(bucket, reads, receipt) == [content("a")[10 * i : 10 * i + 10] for i in range(3)]
    assert (receipt.gets, receipt.retries, bucket.count) == (4, 1, 4)


@pytest.mark.parametrize("fault", TRIED_AGAIN)
def test_a_second_failure_names_the_object(folder: Path, fault: str) -> None:
    bucket, receipt = Failing(Folder(folder), always(fault, of="b")), Receipt()
    with pytest.raises(StoreError) as caught:
        read(bucket, [("a", 0, 10, SIZE), ("b", 0, 10, SIZE)], receipt)
    assert caught.value.message.startswith("b: ")
    assert caught.value.hint
    assert not isinstance(caught.value, ChangedError)
    assert (bucket.failed, receipt.gets, receipt.retries) == (2, 3, 1)


@pytest.mark.parametrize(
    ("fault", "kind"), [("changed", ChangedError), ("size", DamagedError), ("missing", DamagedError)]
)
def test_change_and_damage_are_not_tried_again(folder: Path, fault: str, kind: type[VantageError]) -> None:
    bucket, receipt = Failing(Folder(folder), always(fault)), Receipt()
    with pytest.raises(kind, match=r"^a: "):
        read(bucket, [("a", 0, 10, SIZE)], receipt)
    assert (bucket.count, receipt.gets, receipt.retries) == (1, 1, 0)


def test_messages_say_what_came(folder: Path) -> None:
    for fault, words in {
        "whole": "the whole object came for bytes 5 to 15",
        "short": "9 bytes came for bytes 5 to 15",
        "size": f"{SIZE + 1} bytes, expected {SIZE}",
        "hang": "no answer in",
        "error": "RuntimeError: get: We encountered an internal error",
        "missing": "no such object",
    }.items():
        with pytest.raises(VantageError, match=words):
            read(Failing(Folder(folder), always(fault)), [("a", 5, 10, SIZE)])


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"flip"}))
def test_after_a_failure_nothing_runs_and_nothing_is_used(folder: Path, fault: str) -> None:
    """The other lanes are slow; they must neither outlive the wave nor hand over bytes after it."""
    used: list[int] = []

    async def run() -> None:
        bucket = Failing(Recorder(Folder(folder), delay_s=0.3), always(fault, of="b"))
        reads = [("a", i, 10, SIZE) for i in range(9)] + [("b", 0, 20, SIZE)]
        with pytest.raises(VantageError):
            await Reader(bucket, {}, Receipt()).wave(reads, lambda i, data: used.append(i))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        before = len(used)
        await asyncio.sleep(0.05)
        assert len(used) == before

    asyncio.run(run())


def test_a_failing_use_ends_the_wave(folder: Path) -> None:
    async def run() -> int:
        calls = 0

        def use(i: int, data: memoryview) -> None:
            nonlocal calls
            calls += 1
            raise DamagedError("wrong")

        with pytest.raises(DamagedError, match="wrong"):
            await Reader(Recorder(Folder(folder), delay_s=0.001), {}, Receipt()).wave(
                [("a", i, 10, SIZE) for i in range(20)], use
            )
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return calls

    assert 1 <= asyncio.run(run()) <= LANES


def test_a_cancelled_wave_leaves_nothing(folder: Path) -> None:
    async def run() -> None:
        wave = Reader(Failing(Folder(folder), always("hang")), {}, Receipt()).wave(
            [("a", i, 10, SIZE) for i in range(9)], lambda i, data: None
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wave, 0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_reader_goes_on_after_a_failure(folder: Path) -> None:
    """Lanes and bytes in flight are given back by failed, cancelled and waiting reads alike."""

    async def run() -> None:
        size = IN_FLIGHT_BYTES_MAX // 2
        (folder / "a").write_bytes(bytes(size))
        failing = Failing(Recorder(Folder(folder), delay_s=0.002), nth(2, 3, 4, 5, fault="missing"))
        reader, used = Reader(failing, {}, Receipt()), []
        with pytest.raises(DamagedError):
            await reader.wave([("a", 0, size, size)] * 9, lambda i, data: None)
        failing.plan = never
        await asyncio.wait_for(reader.wave([("a", 0, size, size)] * 9, lambda i, data: used.append(i)), 5)
        assert sorted(used) == list(range(9))

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(12))
def test_drawn_faults_never_give_wrong_bytes(folder: Path, seed: int) -> None:
    reads = [("ab"[i % 2], 50 * i, 200, SIZE) for i in range(6)]
    faults = tuple(sorted(set(FAULTS) - {"flip"}))
    for plan in (seeded(seed, 0.2, faults), seeded(seed, 0.2)):
        receipt = Receipt()
        bucket = Failing(Folder(folder), plan)
        try:
            found = read(bucket, reads, receipt)
        except (StoreError, DamagedError) as error:
            assert error.message[:3] in ("a: ", "b: "), f"seed {seed}"
        else:
            assert found == [content(k)[o : o + n] for k, o, n, _ in reads], f"seed {seed}"
            assert receipt.retries == bucket.failed, f"seed {seed}"
        assert receipt.gets == bucket.count, f"seed {seed}"


def test_the_first_etag_is_sent_afterwards(folder: Path) -> None:
    async def run() -> list[Get]:
        bucket, etags = Recorder(Folder(folder)), {}
        for _ in range(2):
            await Reader(bucket, etags, Receipt()).wave([("a", 0, 10, SIZE)], lambda i, data: None)
        (folder / "a").write_bytes(content("c"))
        with pytest.raises(ChangedError, match=r"^a: changed under its name"):
            await Reader(bucket, etags, Receipt()).wave([("a", 0, 10, SIZE)], lambda i, data: None)
        return bucket.gets

    first, second, third = asyncio.run(run())
    assert first.etag is None
    assert second.etag == third.etag is not None


def whole(bucket: Bucket, size: int, sha256: str) -> bytes:
    return asyncio.run(Reader(bucket, {}, Receipt()).whole("a", size, sha256))


def test_whole_checks_size_and_sha256(folder: Path) -> None:
    right = hashlib.sha256(content("a")).hexdigest()
    assert whole(Folder(folder), SIZE, right) == content("a")
    with pytest.raises(DamagedError, match="a: SHA-256 differs"):
        whole(Folder(folder), SIZE, hashlib.sha256(content("b")).hexdigest())
    with pytest.raises(DamagedError, match="a: SHA-256 differs"):
        whole(Failing(Folder(folder), always("flip")), SIZE, right)
    with pytest.raises(DamagedError, match=f"{SIZE} bytes, expected {SIZE + 1}"):
        whole(Folder(folder), SIZE + 1, right)


@pytest.fixture
def short_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CURRENT_BYTES_MAX", 100)


def small(bucket: Bucket, plan: Plan = never) -> tuple[bytes | None, Receipt]:
    receipt = Receipt()
    return asyncio.run(read_small(Failing(bucket, plan), "a", receipt)), receipt


@pytest.mark.usefixtures("short_current")
@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_read_small(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(content("a", size))
    found, receipt = small(Folder(tmp_path))
    assert found == content("a", size)
    assert (receipt.gets, receipt.bytes) == (1, size)


@pytest.mark.usefixtures("short_current")
def test_read_small_refuses_what_is_too_large(tmp_path: Path) -> None:
    assert small(Folder(tmp_path))[0] is None
    for size in (101, 100_000):
        (tmp_path / "a").write_bytes(bytes(size))
        with pytest.raises(DamagedError, match=f"a: {size} bytes, the limit is 100"):
            small(Folder(tmp_path))


def test_read_small_tries_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    found, receipt = small(Folder(tmp_path), nth(0))
    assert (found, receipt.gets, receipt.retries) == (b"12345", 2, 1)
    with pytest.raises(StoreError, match=r"^a: "):
        small(Folder(tmp_path), always("error"))
    with pytest.raises(StoreError, match=r"a: \d bytes came of 5"):
        small(Folder(tmp_path), always("short"))


def test_a_folder_is_a_bucket(folder: Path) -> None:
    async def run() -> None:
        bucket = Folder(folder)
        assert await bucket.get("none", 0, 1, None) is None
        assert await bucket.get("a/under/an/object", 0, 1, None) is None
        (folder / "an-index").mkdir()
        assert await bucket.get("an-index", 0, 1, None) is None
        assert await bucket.list("", "", 10) == (["an-index"], None)
        assert await Folder(folder / "none").list("", "", 10) == ([], None)
        body = await bucket.get("a", SIZE - 5, 100, None)
        assert body is not None
        assert (body.length, body.size) == (5, SIZE)

    asyncio.run(run())
