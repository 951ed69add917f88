"""Hedged reads, on a virtual clock: a slow one gets a second request, seldom enough, and nothing is used twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from virtual import Slow, run

from bench.hedging import waits
from vantage.errors import StoreError
from vantage.read import hedge, reader
from vantage.read.bucket import Folder
from vantage.read.hedge import HEDGE_BURST, HEDGE_MARGIN, LATENCIES_KEPT, LATENCIES_MIN, Hedging
from vantage.read.reader import Reader
from vantage.receipt import Receipt

SIZE = 1000
Plan = Callable[[int, str, "int | None"], float]


@pytest.fixture(autouse=True)
def _new_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here reads are hedged: no clock runs but the virtual one."""
    monkeypatch.setattr(reader, "_HEDGING", Hedging())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "a").write_bytes(bytes(i % 251 for i in range(SIZE)))
    return Folder(tmp_path)


def learnt(reads: int = 200, seconds: float = 0.04) -> None:
    """As after so many reads of this latency."""
    for _ in range(reads):
        reader._HEDGING.note(seconds, 0)


async def wave(bucket: Slow, count: int) -> tuple[float, list[int], Receipt]:
    """(seconds, the reads used in their order, receipt) of one wave."""
    used: list[int] = []
    receipt, began = Receipt(), asyncio.get_running_loop().time()

    def use(i: int, data: memoryview) -> None:
        assert bytes(data) == bytes((i + j) % 251 for j in range(10))
        used.append(i)

    assert await Reader(bucket, {}, receipt).wave([("a", i, 10, SIZE) for i in range(count)], use)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return asyncio.get_running_loop().time() - began, used, receipt


def slow(*numbers: int, by: float = 0.4) -> Plan:
    return lambda i, key, length: by if i in numbers else 0.04


def test_a_slow_read_gets_a_second_request_and_is_used_once(folder: Folder) -> None:
    learnt()
    seconds, used, receipt = run(wave(Slow(folder, slow(2)), 6))
    assert seconds == pytest.approx(HEDGE_MARGIN * 0.04 + 0.04, abs=0.002)
    assert sorted(used) == list(range(6))
    assert (receipt.gets, receipt.hedged, receipt.retries, receipt.bytes) == (7, 1, 0, 60)


def test_the_first_one_wins_where_it_is_sooner(folder: Folder) -> None:
    learnt()
    bucket = Slow(folder, lambda i, key, length: (0.06, 0.4)[i])
    seconds, used, receipt = run(wave(bucket, 1))
    assert (used, receipt.hedged, bucket.ended) == ([0], 1, 1)
    assert seconds == pytest.approx(0.06)


def test_nothing_is_hedged_before_the_latency_is_known(folder: Folder) -> None:
    learnt(LATENCIES_MIN - 1)
    reader._HEDGING._tokens = 6.0
    seconds, _, receipt = run(wave(Slow(folder, slow(0)), 1))
    assert (seconds, receipt.hedged) == (pytest.approx(0.4), 0)


def test_a_second_request_waits_for_a_free_lane(folder: Folder) -> None:
    learnt()
    reader._HEDGING._tokens = 6.0
    bucket = Slow(folder, lambda i, key, length: 0.2 if i < 6 else 0.04)
    seconds, used, receipt = run(wave(bucket, 6))
    assert receipt.hedged == 0  # all six were busy until the first answers came
    assert (seconds, len(used)) == (pytest.approx(0.2, abs=0.05), 6)


def test_no_more_second_requests_than_saved_up(folder: Folder) -> None:
    learnt(LATENCIES_KEPT)

    async def many() -> list[int]:
        bucket = Slow(folder, lambda i, key, length: 0.4)
        return [(await wave(bucket, 1))[2].hedged for _ in range(7)]

    assert run(many()) == [1] * int(HEDGE_BURST) + [0]


@pytest.mark.parametrize("first_fails", [True, False])
def test_one_good_answer_is_enough(folder: Folder, first_fails: bool) -> None:
    """The first fails for good after its retry, or the second one does: the other answers."""
    learnt()

    class Failing(Slow):
        async def get(self, key: str, offset: int, length: int | None, etag: str | None):  # type: ignore[no-untyped-def]
            number = self.count
            body = await super().get(key, offset, length, etag)
            if (number == 0) == first_fails:
                raise StoreError("a: broken")
            return body

    _, used, receipt = run(wave(Failing(folder, lambda i, key, length: 0.1 if i == 0 else 0.05), 1))
    assert (used, receipt.hedged) == ([0], 1)


def test_failures_on_every_lane_end_the_wave(folder: Folder) -> None:
    """Six slow reads fail while their second requests wait for a lane: an error, not a wait for ever."""
    learnt()

    class Failing(Slow):
        async def get(self, key: str, offset: int, length: int | None, etag: str | None):  # type: ignore[no-untyped-def]
            await super().get(key, offset, length, etag)
            raise StoreError("a: broken")

    with pytest.raises(StoreError, match="broken"):
        run(wave(Failing(folder, lambda i, key, length: 0.2), 6))


def test_with_one_read_in_fifty_ten_times_slower_p99_halves_for_few_more_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    worst, more = [], 0.0
    for share in (0.0, hedge.HEDGE_SHARE):
        monkeypatch.setattr(hedge, "HEDGE_SHARE", share)
        monkeypatch.setattr(reader, "_HEDGING", Hedging())
        ms, receipt = run(waits(1500, 6, 1, 0.02))
        worst.append(sorted(ms)[int(0.99 * len(ms))])
        more = receipt.hedged / (receipt.gets - receipt.hedged)
    assert worst[0] >= 2 * worst[1] and 0 < more <= 0.05
