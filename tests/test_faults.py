"""The faulty bucket itself: each fault does what it says, the same seed does the same, and queries survive them."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults import RATES, Faults, FaultyBucket

from vantage.errors import ChangedError, DamagedError, NotFoundError, StoreError, VantageError
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.read.reader import Reader
from vantage.receipt import Receipt
from vantage.search.query import Query


def read(bucket: Path, fault: str, key: str = "words/CURRENT") -> Any:
    """One read of a few bytes, every get of which meets the fault."""
    size = (bucket / key).stat().st_size
    faulty = FaultyBucket(Folder(bucket), Faults(1, {fault: 1.0}))
    out = bytearray()
    asyncio.run(Reader(faulty, {}, Receipt()).wave([(key, 1, 20, size)], lambda _, data: out.extend(data)))
    return bytes(out)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("error", StoreError), ("cut", StoreError), ("long", StoreError), ("size", DamagedError),
     ("missing", DamagedError)],
)  # fmt: skip
def test_a_fault_that_stays_is_an_error(words: Any, bucket: Path, fault: str, error: type[VantageError]) -> None:
    with pytest.raises(error):
        read(bucket, fault)


def test_a_late_byte_is_waited_for_and_a_flipped_bit_is_one_bit(words: Any, bucket: Path) -> None:
    whole = (bucket / "words/CURRENT").read_bytes()[1:21]
    assert read(bucket, "slow") == whole
    assert sum((a ^ b).bit_count() for a, b in zip(read(bucket, "flip"), whole, strict=True)) == 1


def test_no_answer_ever_ends_in_time(words: Any, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.read.reader.TIMEOUT_S", 0.01)
    with pytest.raises(StoreError, match="no answer"):
        read(bucket, "hang")


def test_the_same_seed_meets_the_same_faults() -> None:
    first, second, third = (Faults(seed, RATES) for seed in (5, 5, 6))
    met = [[f.next() for _ in range(2000)] for f in (first, second, third)]
    assert met[0] == met[1] != met[2]
    assert set(first.counts) == set(RATES)
    with pytest.raises(ValueError, match="rates"):
        Faults(0, {"earthquake": 0.1})


def test_a_switch_and_a_stale_current(generations: tuple[Any, Any]) -> None:
    bodies = [(g.bucket / "live/CURRENT").read_bytes() for g in generations]
    faults = Faults(0, {}, bodies)
    faulty = FaultyBucket(Folder(generations[0].bucket), faults)

    async def current() -> bytes:
        body = await faulty.get("live/CURRENT", 0, None, None)
        assert body is not None
        data = bytearray(body.length)
        body.into(memoryview(data))
        return bytes(data)

    assert asyncio.run(current()) == bodies[0]
    faults.switch()
    assert asyncio.run(current()) == bodies[1]
    faults.rates = {"stale": 1.0}
    assert asyncio.run(current()) == bodies[0]


def test_answers_under_faults_are_right_or_errors(words: Any) -> None:
    """In-process, without a cache; ten times the usual chances."""
    whole = [asyncio.run(words.open().query(Query(v.tolist(), 5))).matches for v in words.queries[:30]]
    rates = {k: 5 * v for k, v in RATES.items() if k not in ("hang", "slow", "stale", "switch")}
    service, met = Service(FaultyBucket(Folder(words.bucket), Faults(7, rates)), 0), Counter[str]()

    async def ask() -> None:
        for vector, want in zip(words.queries[:30], whole, strict=True):
            try:
                found = await service.query("words", Query(vector.tolist(), 5))
            except (StoreError, ChangedError, DamagedError, NotFoundError) as error:
                met[error.code] += 1
                continue
            assert found.matches == want and found.complete
            met["right"] += 1

    asyncio.run(ask())
    assert met["right"] and met.total() > met["right"]
