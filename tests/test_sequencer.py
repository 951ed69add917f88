"""The sequencer: groups, retries, what readers are told; and several of one log that race, fail and lose answers."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from doubles import MemoryLog

from vantage.admission import BusyError
from vantage.errors import (
    ChangedError,
    ConditionError,
    LimitError,
    LogFullError,
    NotFoundError,
    StoreError,
    VantageError,
)
from vantage.format import Current, ObjectName
from vantage.format.current import LogName
from vantage.format.log import Request, RowShape, unpack_segment
from vantage.log import conditions, tail
from vantage.log import sequencer as sequencer_module
from vantage.log.client import WriteClient
from vantage.log.conditions import BaseRow, Patched
from vantage.log.move import advance, switch
from vantage.log.relay import pack_news, relayed, unpack_news
from vantage.log.sequencer import News, Sequencer, answered
from vantage.log.state import LogState, follow, read_log, whole_state
from vantage.log.submission import (
    Asked,
    Done,
    Field,
    Submission,
    own_key,
    pack_outcome,
    pack_submission,
    request_key,
    unpack_outcome,
    unpack_submission,
)

SHAPE = RowShape(1, "i64", "f32")
GENERATION = "0123456789abcdef"
OTHER = "fedcba9876543210"


def current(generation: str = GENERATION, log: LogName | None = None) -> Current:
    root, manifest = (ObjectName(f"{generation}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
    return Current(generation, root, manifest, log)


def upsert(*ids: int, key: str = "", value: float = 1.0, **options: Any) -> Submission:
    own = request_key(key) if key else own_key(random.randbytes(16))
    vectors = struct.pack(f"<{len(ids)}f", *[value] * len(ids))
    request = Request(own, 0, list(ids), vectors, [b""] * len(ids))
    return Submission(request, SHAPE, options.pop("log", GENERATION), options.pop("generation", GENERATION), **options)


class Slow:
    """A store each of whose calls takes a while by the seed, and sometimes fails before or after its effect."""

    def __init__(self, store: MemoryLog, seed: int = 0, share: float = 0.0) -> None:
        self.store, self.draw, self.share = store, random.Random(seed), share

    async def _pass(self) -> None:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)
        if self.draw.random() < self.share:
            raise StoreError("not answered", hint="try again")

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        await self._pass()
        return await self.store.get(key, most)

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        await self._pass()
        return await self.store.get_several(keys, most)

    async def create(self, key: str, data: bytes) -> bool:
        await self._pass()
        done = await self.store.create(key, data)
        await self._pass()
        return done

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        await self._pass()
        done = await self.store.swap(key, data, etag)
        await self._pass()
        return done

    async def list(self, prefix: str) -> list[tuple[str, float]]:
        return await self.store.list(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        await self.store.delete(keys)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def outcome(work: Any) -> Any:
    try:
        return await work
    except VantageError as error:
        return error


def segments_of(store: MemoryLog) -> list[list[int]]:
    """Ids of the upserts of each segment, in order."""
    keys = sorted(key for key in store.objects if key.startswith(f"log/{GENERATION}/0"))
    return [[i for r in unpack_segment(store.objects[k], k).requests for i in r.upserts] for k in keys]


def test_what_arrives_during_a_put_goes_together() -> None:
    async def scenario() -> None:
        store = MemoryLog(current().pack())
        one = Sequencer(Slow(store), Clock())
        first = asyncio.ensure_future(one.submit(upsert(0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = await asyncio.gather(first, *(one.submit(upsert(i)) for i in range(1, 20)))
        seqs = [seq for seq, _ in done]
        assert seqs == sorted(seqs) and not any(retried for _, retried in done)
        held = segments_of(store)
        assert len(held) == 2 and sum(held, []) == list(range(20))
        assert [seq for seq, ids in enumerate(held, 1) for _ in ids] == seqs
        again = await one.submit(upsert(3, key="k"))
        assert [await one.submit(upsert(3, key="k")), again] == [Done(3, True), Done(3, False)]
        twice = await asyncio.gather(*(one.submit(upsert(4, key="same")) for _ in range(2)))
        assert sorted(twice) == [Done(4, False), Done(4, True)]

    asyncio.run(scenario())


def test_each_of_a_group_is_decided_alone() -> None:
    """Behind those before it in the group; what is refused keeps the others from nothing."""

    async def scenario() -> None:
        store = MemoryLog(current().pack())
        one = Sequencer(Slow(store), Clock())
        absent = {"asked": [Asked(0, absent=True, param="upsert[0]")]}
        group = [
            upsert(1, base={0: None}, **absent), upsert(1, base={0: None}, **absent),
            upsert(2, base={0: BaseRow(0, {})}, **absent), upsert(3, generation=OTHER, **absent),
            upsert(4, log=OTHER), upsert(5, at=0), upsert(6),
        ]  # fmt: skip
        await one.submit(upsert(0))
        found = await asyncio.gather(*(outcome(one.submit(submission)) for submission in group))
        kinds = [type(each) for each in found]
        assert kinds == [Done, ConditionError, ConditionError, ChangedError, ChangedError, ConditionError, Done]
        assert (found[1].id, found[1].seq, found[2].seq, found[5].id) == (1, 2, 0, None)
        assert sum(segments_of(store), []) == [0, 1, 6]

    asyncio.run(scenario())


def test_a_filter_is_asked_of_the_row_as_it_is() -> None:
    async def scenario() -> None:
        store = MemoryLog(current().pack())
        one = Sequencer(Slow(store), Clock())
        fields = [Field("n", "integer", False, False), Field("t", "text", True, True)]

        def patch(n: int, **options: Any) -> Submission:
            request = Request(own_key(random.randbytes(16)), 0, patches=[7], changes=[b'{"n":%d}' % n])
            asked = [Asked(0, filter={"n": n - 1, "t": {"$all": ["a", "b"]}}, param="patch[0]")]
            base = {0: BaseRow(0, {"n": 1, "t": ["b", None, "a"]})}
            return Submission(request, SHAPE, GENERATION, GENERATION, asked, base, fields)

        for n in (2, 3, 4):
            assert (await one.submit(patch(n))).seq == n - 1
        error = await outcome(one.submit(patch(4)))
        assert isinstance(error, ConditionError) and error.seq == 3

    asyncio.run(scenario())


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        one = Sequencer(Slow(MemoryLog(current().pack())), Clock())
        monkeypatch.setattr(sequencer_module, "WAITING_MAX", 5)
        found = await asyncio.gather(*(outcome(one.submit(upsert(i))) for i in range(8)))
        assert [type(each) for each in found] == [Done] * 5 + [BusyError] * 3
        monkeypatch.setattr(conditions, "OPERATIONS_MAX", 6)
        found = [await outcome(one.submit(upsert(i))) for i in range(2)]
        assert [type(each) for each in found] == [Done, LogFullError]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(40))
def test_several_race_and_nothing_is_lost_or_done_twice(seed: int) -> None:
    """Sequencers of one log over a bucket that fails and loses answers; they let go of what they hold; clients send
    again, with the same key. Of rows that several want to be the first to write, each is written once.
    """

    async def scenario() -> None:
        draw, store = random.Random(seed), MemoryLog(current().pack())
        several = [Sequencer(Slow(store, seed * 10 + i, 0.08), Clock()) for i in range(3)]
        acknowledged: dict[int, int] = {}

        async def client(number: int) -> None:
            for i in range(5):
                identifier = number * 100 + i
                for _ in range(30):
                    for _ in range(draw.randrange(6)):
                        await asyncio.sleep(0)
                    one = draw.choice(several)
                    if draw.random() < 0.2:
                        draw.choice([one.forget, one.shrink])()
                    if draw.random() < 0.3:
                        await outcome(one.since("", GENERATION, 0))
                    wanted = upsert(1000 + i, asked=[Asked(0, absent=True)], base={0: None})
                    assert isinstance(await outcome(one.submit(wanted)), Done | ConditionError | StoreError)
                    answer = await outcome(one.submit(upsert(identifier, key=f"{identifier}")))
                    if isinstance(answer, Done):
                        acknowledged[identifier] = answer.seq
                        break
                    assert isinstance(answer, StoreError), answer

        await asyncio.gather(*map(client, range(8)))
        held = segments_of(store)
        every = sum(held, [])
        assert len(every) == len(set(every)) and set(range(1000, 1005)) <= set(every)
        assert acknowledged.keys() <= set(every) and len(acknowledged) >= 38
        assert all(identifier in held[seq - 1] for identifier, seq in acknowledged.items())

    asyncio.run(scenario())


def follows(state: LogState, news: News) -> LogState:
    """What a reader makes of news."""
    if news.current is not None:
        live = Current.unpack(news.current, "CURRENT")
        if live.log.id != state.current.log.id or live.log.start > state.tail.next:
            state = LogState(news.current, news.etag, 0.0)
        else:
            state.renew(news.current, news.etag, 0.0)
    for data in news.segments:
        state.tail.apply(unpack_segment(data, "news"), len(data), "news")
    return state


def test_a_reader_knows_what_was_acknowledged() -> None:
    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        one = Sequencer(store, clock)
        state = LogState(store.objects["CURRENT"], "none", 0.0)
        for n in range(1, 31):
            await one.submit(upsert(n % 7, value=n))
            gets = store.gets
            if n % 3 == 0:
                state = follows(state, await one.since(state.etag, state.current.log.id, state.seq))
                assert store.gets == gets
                assert state.seq == n and state.tail.rows[n % 7].seq == n
        for most in (1, 200, 1 << 20):  # a cold reader, some of them at a time
            cold = LogState(store.objects["CURRENT"], "none", 0.0)
            while cold.seq < 30:
                cold = follows(cold, await one.since(cold.etag, cold.current.log.id, cold.seq, most))
            assert {i: row.seq for i, row in cold.tail.rows.items()} == {
                i: row.seq for i, row in state.tail.rows.items()
            }

    asyncio.run(scenario())


def test_a_reader_far_behind_reads_what_its_sequencer_has_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        monkeypatch.setattr(sequencer_module, "KEPT_BYTES", 600)
        one, before = Sequencer(store, clock), await read_log(store, clock)
        held = []
        for n in range(1, 21):
            await one.submit(upsert(n))
            held.append(one.nbytes)
        assert len(one._kept.segments) < 5 and max(held) < 12_000

        async def ask(name: str, etag: str, log: str, seq: int) -> News:
            return await one.since(etag, log, seq)

        gets = store.gets
        after = await follow(await relayed(ask, "name", before, store, clock), before, clock)
        assert after.seq == 20 and sorted(after.tail.rows) == list(range(1, 21)) and store.gets - gets < 20
        assert all(row.vector for row in after.tail.rows.values())
        assert one._state is not None and not any(row.vector for row in one._state.tail.rows.values())

    asyncio.run(scenario())


def test_who_is_only_asked_holds_no_rows_and_decides_as_if_it_had() -> None:
    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        first, absent = upsert(1, key="first"), {"asked": [Asked(0, absent=True)], "base": {0: None}}
        await Sequencer(store, clock).submit(first)
        one = Sequencer(store, clock)
        for _ in range(2):
            news = await one.since("", GENERATION, 0)
            assert (news.seq, len(news.segments), one.nbytes) == (1, 1, len(news.segments[0]))
            refused = await outcome(one.submit(upsert(1, **absent)))
            assert isinstance(refused, ConditionError) and one.nbytes > conditions.ROW_BYTES
            assert await one.submit(first) == Done(1, True)  # its key is known again
            one.shrink()
            assert one.nbytes == 0
            gets = store.gets
            assert (await one.since("", GENERATION, 0)).segments == [] and store.gets == gets  # the bucket has it
            one = Sequencer(store, clock)

        # One that lets go while it writes has decided by what it had.
        others = Sequencer(slow := Slow(store), clock)
        assert (await others.since("", GENERATION, 0)).seq == 1
        writing = asyncio.ensure_future(outcome(others.submit(upsert(1, **absent))))
        while not writing.done():
            others.shrink()
            await asyncio.sleep(0)
        assert isinstance(writing.result(), ConditionError) and slow.store is store
        assert await others.submit(upsert(2, **absent)) == Done(2, False)

    asyncio.run(scenario())


def test_another_writer_is_seen_within_a_second() -> None:
    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        one, other = Sequencer(store, clock), Sequencer(store, clock)
        assert (await one.since("", "", 0)).seq == 0
        await other.submit(upsert(1))
        assert (await one.since("", "", 0)).seq == 0
        clock.now += 0.6
        assert (await one.since("", "", 0)).seq == 0  # it looks beside the answer
        await asyncio.sleep(0.01)
        assert (await one.since("", "", 0)).seq == 1
        await other.submit(upsert(2))
        clock.now += 1.1
        assert (await one.since("", "", 0)).seq == 2

    asyncio.run(scenario())


def test_a_write_goes_to_the_bucket_where_its_sequencer_does_not_answer() -> None:
    """Whether it failed before it wrote, after, or is late: it is there once."""

    async def scenario() -> None:
        store = MemoryLog(current().pack())
        there = Sequencer(store, Clock())
        said = list[str]()

        async def before() -> None:
            said.append("bucket")

        async def after() -> None:
            said.append("waits")

        async def well(name: str, data: bytes) -> str:
            return await answered(there, data)

        async def broken(name: str, data: bytes) -> str:
            raise RuntimeError("the object is gone")

        async def deaf(name: str, data: bytes) -> str:
            await answered(there, data)
            raise RuntimeError("the answer is lost")

        async def late(name: str, data: bytes) -> str:
            await answered(there, data)
            await asyncio.sleep(60)
            return ""

        for i, (rpc, retried) in enumerate([(well, False), (broken, False), (deaf, True), (late, True), (None, False)]):
            client = WriteClient(lambda name: store, Clock(), rpc)
            assert await client.submit("name", upsert(i), before, after) == Done(i + 1, retried)
        assert said == ["bucket", "waits"] * 4 and segments_of(store) == [[0], [1], [2], [3], [4]]
        refused = upsert(0, asked=[Asked(0, absent=True, param="upsert[0]")], base={0: None})
        error = await outcome(WriteClient(lambda name: store, Clock(), well).submit("name", refused, before, after))
        assert isinstance(error, ConditionError) and (error.id, error.seq, error.param) == (0, 1, "upsert[0]")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vantage.log.client.SUBMIT_S", 0.05)
        patch.setattr("vantage.log.client.UNSEEN_S", 0.0)
        asyncio.run(scenario())


def test_what_went_past_a_sequencer_is_acknowledged_once_its_readers_see_it() -> None:
    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), asyncio.get_running_loop().time
        there = Sequencer(store, clock)

        async def deaf(name: str, data: bytes) -> str:
            raise RuntimeError("the answer is lost")

        async def before() -> None:
            assert (await there.since("", "", 0)).seq == 0

        client = WriteClient(lambda name: store, clock, deaf)
        assert await client.submit("name", upsert(1), before, before) == Done(1, False)
        assert (await there.since("", "", 0)).seq == 1

    asyncio.run(scenario())


def test_submissions_and_outcomes_travel() -> None:
    request = Request(
        request_key("k"), 5, [b"\xff", b"b"], struct.pack("<2f", 1, 2), [b"", b'{"a":1}'], [b"c"], [b"{}"], [b"d"]
    )
    asked = [Asked(1, False, 4, {"a": {"$gt": 0}}, "upsert[1]"), Asked(3, False, 0, None, "delete[0]")]
    base = {1: BaseRow(0, {"a": 1}), 3: None}
    one = Submission(
        request, RowShape(1, "bytes", "f32"), GENERATION, OTHER, asked, base,
        [Field("a", "integer", False, False)], 9, {2: Patched(7, {"a": [1]}), 0: Patched(5)},
    )  # fmt: skip
    back = unpack_submission(pack_submission(one))
    assert bytes(back.request.vectors) == request.vectors
    assert back.request.upserts == request.upserts and back.ids == one.ids
    assert (back.shape, back.log, back.generation, back.asked, back.base, back.fields, back.at) == (
        one.shape, one.log, one.generation, asked, base, one.fields, 9,
    )  # fmt: skip
    assert back.patched == one.patched and back.write().patched == {b"c": Patched(7, {"a": [1]}), b"\xff": Patched(5)}
    assert unpack_outcome(pack_outcome(Done(3, True))) == Done(3, True)
    for error in (
        ConditionError("c", b"\xff", None, hint="h", param="p"), ConditionError("c", 1 << 62, 5),
        LogFullError("full", hint="h"), LimitError("l", 5, "4 of 5", param="p"), NotFoundError("n"),
        StoreError("s"), BusyError("b"), ChangedError("x"),
    ):  # fmt: skip
        with pytest.raises(type(error)) as raised:
            unpack_outcome(pack_outcome(error))
        assert vars(raised.value) == vars(error)


def test_a_log_that_is_full_is_read_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequencer that is forgotten reads it again, and says the same."""

    async def scenario() -> None:
        store = MemoryLog(current().pack())
        one = Sequencer(store, Clock())
        monkeypatch.setattr(conditions, "SEGMENTS_MAX", 3)
        assert [type(await outcome(one.submit(upsert(i)))) for i in range(5)] == [Done] * 3 + [LogFullError] * 2
        one.forget()
        assert isinstance(await outcome(one.submit(upsert(9))), LogFullError)
        state = await read_log(store, Clock())
        logged = sum(len(v) for k, v in store.objects.items() if k != "CURRENT")
        rows = logged + 3 * (conditions.ROW_BYTES - SHAPE.vector_bytes)  # it holds no vectors of them
        assert state.seq == 3 and one.nbytes == logged + rows

    asyncio.run(scenario())


def test_patches_add_up_to_no_more_than_a_reader_takes() -> None:
    """Else one of them would make the log one that nobody can read."""

    async def scenario() -> None:
        store = MemoryLog(current().pack())
        one = Sequencer(store, Clock())

        def patch(name: str) -> Submission:
            change = b'{"%s":"%s"}' % (name.encode(), b"x" * 600_000)
            return Submission(Request(own_key(random.randbytes(16)), 0, patches=[7], changes=[change]), SHAPE,
                              GENERATION, GENERATION)  # fmt: skip

        assert isinstance(await one.submit(patch("a")), Done)
        assert isinstance(await outcome(one.submit(patch("b"))), LimitError)
        assert isinstance(await one.submit(patch("a")), Done)
        assert (await read_log(store, Clock())).seq == 2

    asyncio.run(scenario())


def test_a_reader_follows_what_its_sequencer_tells_without_a_get() -> None:
    """Through a new generation, a log that is sealed, a sequencer that is gone, and more than one call tells."""

    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        one, well = Sequencer(store, clock), [True]

        async def ask(name: str, etag: str, log: str, seq: int) -> News:
            if not well[0]:
                raise RuntimeError("the object is gone")
            return unpack_news(pack_news(await one.since(etag, log, seq, 1500)))

        state = await read_log(store, clock)

        async def read(gets: int | None) -> LogState:
            before = store.gets
            after = await follow(await relayed(ask, "name", state, store, clock), state, clock)
            assert gets is None or store.gets - before == gets
            return after

        for n in range(1, 4):
            await one.submit(upsert(n))
            state = await read(0)
            assert (state.seq, state.tail.rows[n].seq) == (n, n)
        await asyncio.gather(*(one.submit(upsert(n)) for n in range(9)))
        clock.now += 20  # also of CURRENT, which is asked for again
        await one.submit(upsert(9))
        assert (await read(0)).seq == 5
        well[0] = False
        await Sequencer(store, clock).submit(upsert(10))
        state = await read(None)
        assert state.seq == 6
        well[0], clock.now = True, clock.now + 2
        for n in range(20, 30):
            await one.submit(upsert(n))
        state = await read(None)  # no more than 1,500 bytes of it are told
        assert state.seq == 16
        moved = await advance(store, await whole_state(store, await read_log(store, clock), clock), OTHER,
                              *(ObjectName(f"{OTHER}/{name}", 1, "00") for name in ("root.bin", "manifest.json")),
                              15, 0.0)  # fmt: skip
        assert moved
        clock.now += 20
        await one.submit(upsert(31, generation=OTHER))
        state = await read(0)
        assert (state.seq, state.current.generation, state.current.log.start) == (17, OTHER, 15)

        async def make(_: LogState) -> Current:
            return current("00000000000000aa")

        await switch(store, await read_log(store, clock), make, clock)
        clock.now += 2
        assert (await one.since("", "", 0)).log != GENERATION
        state = await read(None)
        assert (state.seq, state.current.generation) == (18, "00000000000000aa")

    asyncio.run(scenario())


def test_what_was_checked_against_a_newer_generation_is_not_refused() -> None:
    """CURRENT is asked for where a write knows more than the sequencer; what knows less is to be checked anew."""

    async def scenario() -> None:
        store, clock = MemoryLog(current().pack()), Clock()
        one = Sequencer(store, clock)
        await one.submit(upsert(1))
        names = (ObjectName(f"{OTHER}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
        state = await whole_state(store, await read_log(store, clock), clock)
        assert await advance(store, state, OTHER, *names, 2, 0.0)
        absent = {"asked": [Asked(0, absent=True, param="upsert[0]")], "base": {0: None}}
        gets = store.gets
        assert await one.submit(upsert(2, generation=OTHER, **absent)) == Done(2, False)
        assert store.gets == gets + 1
        assert isinstance(await outcome(one.submit(upsert(3, **absent))), ChangedError)
        change = Request(own_key(random.randbytes(16)), 0, patches=[1], changes=[b"{}"])
        assert isinstance(await outcome(one.submit(Submission(change, SHAPE, GENERATION, GENERATION))), ChangedError)
        assert await one.submit(Submission(change, SHAPE, GENERATION, OTHER)) == Done(3, False)

    asyncio.run(scenario())


def test_keys_that_clients_chose_are_known_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(tail, "LEDGER_KEYS_MAX", 3)
        store, clock = MemoryLog(current().pack()), Clock()
        one = Sequencer(store, clock)
        for n in range(8):
            await one.submit(upsert(n, key=f"{n}" if n < 3 else ""))
        names = (ObjectName(f"{OTHER}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
        state = await whole_state(store, await read_log(store, clock), clock)
        assert await advance(store, state, OTHER, *names, 9, 0.0)
        another = Sequencer(store, clock)
        for n in range(3):
            assert await another.submit(upsert(n, key=f"{n}", generation=OTHER)) == Done(n + 1, True)
        assert one._state is not None and len(one._state.tail.keys) == 8
        clock.now += 11.0
        await one.submit(upsert(9, generation=OTHER))
        await one.submit(upsert(10, generation=OTHER))
        assert len(one._state.tail.keys) == 5  # one that goes on for long holds no more of them than it would read
        assert await one.submit(upsert(0, key="0", generation=OTHER)) == Done(1, True)

    asyncio.run(scenario())
