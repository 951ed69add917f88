"""Requests enter in order, as many as there is room for; the others wait for a while, or are told to come back."""

import asyncio
import time

import pytest

from vantage import admission
from vantage.admission import Admission, BusyError, request_bytes


def test_no_more_enter_than_fit_and_in_order() -> None:
    entered: list[int] = []
    most = 0

    async def work(door: Admission, number: int) -> None:
        nonlocal most
        async with door.enter(3):
            entered.append(number)
            most = max(most, sum(t.nbytes for t in door._working))
            await asyncio.sleep(0.001)

    async def all_of_them() -> None:
        door = Admission(10)
        await asyncio.gather(*(work(door, n) for n in range(20)))
        assert not door._working and not door._waiting

    asyncio.run(all_of_them())
    assert entered == list(range(20))
    assert most == 9


def test_one_that_needs_more_than_all_works_alone() -> None:
    async def run() -> list[str]:
        door, said = Admission(10), list[str]()

        async def work(name: str, nbytes: int) -> None:
            async with door.enter(nbytes):
                said.append(f"{name} beside {len(door._working) - 1}")
                await asyncio.sleep(0.01)

        await asyncio.gather(work("small", 1), work("large", 100), work("late", 1))
        return said

    assert asyncio.run(run()) == ["small beside 0", "large beside 0", "late beside 0"]


def test_who_waits_too_long_and_who_finds_too_many_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "WAIT_S", 0.05)
    monkeypatch.setattr(admission, "WAITING_MAX", 2)

    async def run() -> list[str]:
        door = Admission(1)

        async def enter() -> None:
            async with door.enter(1):
                pass

        async with door.enter(1):
            found = await asyncio.gather(*(enter() for _ in range(3)), return_exceptions=True)
        await enter()  # there is room again
        assert all(isinstance(e, BusyError) and e.status == 503 for e in found)
        return [str(e) for e in found]

    said = asyncio.run(run())
    assert ["there was no room" in s for s in said] == [True, True, False]
    assert "2 requests wait already" in said[2]


def test_who_worked_long_without_a_pause_is_not_followed_by_one_that_waited_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Computing keeps the loop, so nobody who waits is heard of; each would work in turn, the last one far too late."""
    monkeypatch.setattr(admission, "WAIT_S", 0.05)

    async def run() -> list[str]:
        door = Admission(1)

        async def work() -> str:
            async with door.enter(1):
                await asyncio.sleep(0)
                time.sleep(0.06)
            return "answered"

        return [str(one) for one in await asyncio.gather(*(work() for _ in range(8)), return_exceptions=True)]

    answers = asyncio.run(run())
    assert answers[0] == "answered"
    assert answers[1:] == ["there was no room for this request in time; ask again in a second"] * 7


def test_a_request_whose_context_ended_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Worker no `finally` runs then: what it holds must run out by itself."""
    monkeypatch.setattr(admission, "SILENT_S", 0.02)

    async def run() -> None:
        door = Admission(1, 0.02)
        door._working.append(admission._Ticket(1, asyncio.get_running_loop().time()))
        door._waiting.append(admission._Ticket(1, asyncio.get_running_loop().time()))
        async with door.enter(1):
            assert len(door._working) == 1 and not door._waiting

    asyncio.run(run())


def test_a_body_is_priced_by_its_length() -> None:
    assert request_bytes(0) == admission.REQUEST_BYTES
    assert request_bytes(1000) == admission.REQUEST_BYTES + 1000 * admission.BODY_COPIES
