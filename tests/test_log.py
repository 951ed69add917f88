"""The log: its bytes, what segments add up to, conditions, retries, switches; and slices of its model and schedules."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from doubles import MemoryLog
from fixtures import log_reader
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.faults import log_model, log_schedules
from vantage.errors import (
    ConditionError,
    DamagedError,
    InputError,
    LimitError,
    LogFullError,
    NotFoundError,
    StoreError,
    VantageError,
)
from vantage.format import Current, ObjectName
from vantage.format.current import LogName
from vantage.format.layout import HEADER, LOG_LEDGER, LOG_SEGMENT, SECTION, pack_object
from vantage.format.log import (
    LOG_MAGIC,
    NO_KEY,
    OPERATIONS_MAX,
    Id,
    Ledger,
    Request,
    RowShape,
    Segment,
    pack_ledger,
    pack_request,
    pack_seal,
    pack_segment,
    segment_key,
    unpack_ledger,
    unpack_segment,
)
from vantage.log import conditions as conditions_module
from vantage.log.collect import collect
from vantage.log.commit import check_request, commit
from vantage.log.conditions import BaseRow, Condition, Write
from vantage.log.move import advance, switch
from vantage.log.state import LogState, follow, read_log, whole_state
from vantage.log.tail import DELETE, PATCH, UPSERT, Fresh, Tail

quick = settings(max_examples=100, deadline=None)
SHAPE = RowShape(2, "i64", "f32")
VECTOR = struct.pack("<2f", 0.5, 2)
NONCE = bytes(range(16))
BASE = {100: BaseRow(0, {"n": 1}), 101: BaseRow(0, {"n": 2})}


def current(generation: str = "0123456789abcdef") -> Current:
    root, manifest = (ObjectName(f"{generation}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
    return Current(generation, root, manifest)


# Bytes.


@st.composite
def segments(draw: st.DrawFn) -> tuple[RowShape, list[Request]]:
    shape = RowShape(
        draw(st.integers(1, 5)),
        draw(st.sampled_from(["i64", "bytes"])),
        draw(st.sampled_from(["f16", "f32", "u8", "i8"])),
    )
    one = st.integers(-(2**63), 2**63 - 1) if shape.id_kind == "i64" else st.binary(max_size=20)
    requests = []
    for _ in range(draw(st.integers(1, 3))):
        ids: list[Any] = draw(st.lists(one, min_size=1, max_size=9, unique=True))
        u = draw(st.integers(0, len(ids)))
        p = draw(st.integers(0, len(ids) - u))
        width = u * shape.vector_bytes
        requests.append(
            Request(
                draw(st.binary(min_size=16, max_size=16)), draw(st.integers(-5, 2**50)), ids[:u],
                draw(st.binary(min_size=width, max_size=width)),
                [draw(st.sampled_from([b"", b"{}", b'{"a":1}'])) for _ in range(u)], ids[u : u + p],
                [b'{"b":"%d"}' % i for i in range(p)], ids[u + p :], draw(st.integers(0, 2**32 - 1)),
            )
        )  # fmt: skip
    return shape, requests


@quick
@given(segments())
def test_a_segment_and_the_reader_from_the_document(drawn: tuple[RowShape, list[Request]]) -> None:
    shape, requests = drawn
    data = pack_segment(NONCE, shape, [pack_request(r, shape) for r in requests])
    back = unpack_segment(data, "segment")
    assert (back.nonce, back.shape, back.sealed) == (NONCE, shape, b"")
    assert [replace(r, vectors=bytes(r.vectors)) for r in back.requests] == requests
    other = log_reader.segment(data)
    assert other["nonce"] == NONCE
    for request, seen in zip(requests, other["requests"], strict=True):
        width = shape.vector_bytes
        vectors = [bytes(request.vectors[i * width : (i + 1) * width]) for i in range(len(request.upserts))]
        assert seen == {
            "key": request.key, "ms": request.ms, "deletes": list(request.deletes),
            "upserts": dict(zip(request.upserts, zip(vectors, request.attributes, strict=True), strict=True)),
            "patches": dict(zip(request.patches, request.changes, strict=True)),
            "patched_bytes": request.patched_bytes,
        }  # fmt: skip


def test_a_seal_and_the_reader_from_the_document() -> None:
    data = pack_seal(NONCE, current().pack())
    assert unpack_segment(data, "seal") == Segment(NONCE, None, (), current().pack())
    assert log_reader.segment(data) == {"nonce": NONCE, "current": json.loads(current().pack())}


@quick
@given(
    st.dictionaries(st.integers(1, 2**63 - 1), st.binary(min_size=16, max_size=16), max_size=9),
    st.dictionaries(
        st.binary(min_size=16, max_size=16), st.tuples(st.integers(1, 2**63 - 1), st.integers(0, 2**50)), max_size=9
    ),
)
def test_a_ledger_and_the_reader_from_the_document(nonces: Any, keys: Any) -> None:
    ledger = Ledger(sorted(nonces.items()), keys)
    data = pack_ledger(ledger)
    assert unpack_ledger(data, "ledger") == ledger
    assert log_reader.ledger(data) == (dict(ledger.segments), keys)


REQUEST = Request(b"k" * 16, 5, (1, 2), 2 * VECTOR, (b'{"a":1}', b""), (3,), (b'{"b":2}',), (4, 5))
OBJECTS = {
    "segment": pack_segment(NONCE, SHAPE, [pack_request(REQUEST, SHAPE)] * 2),
    "seal": pack_seal(NONCE, current().pack()),
    "ledger": pack_ledger(Ledger([(1, NONCE), (2, NONCE[::-1])], {b"k" * 16: (2, 7)})),
}


def unpacked(name: str, data: bytes) -> Any:
    return unpack_ledger(data, name) if name == "ledger" else unpack_segment(data, name)


@pytest.mark.parametrize("name", OBJECTS)
def test_damage_of_the_log_is_an_error_or_changes_nothing(name: str) -> None:
    whole = OBJECTS[name]
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        for changed in (bytes(flipped), whole[:at]):
            try:
                assert unpacked(name, changed) == unpacked(name, whole)
            except DamagedError as error:
                assert error.message.startswith(name) and error.hint


@pytest.mark.parametrize("name", OBJECTS)
def test_wrong_contents_of_the_log_with_right_checksums_raise_nothing_else(name: str) -> None:
    length = SECTION.unpack_from(OBJECTS[name], HEADER.size)[3]
    kind, draw = LOG_LEDGER if name == "ledger" else LOG_SEGMENT, Random(0)
    for seed in range(500):
        body = bytearray(OBJECTS[name][HEADER.size + SECTION.size :][:length])
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(0, length - 3, 4)
            body[at : at + 4] = struct.pack("<I", draw.choice((0, 1, 2, 7, 1 << 16, 1 << 31, (1 << 32) - 1)))
        try:
            segment = unpacked(name, pack_object(LOG_MAGIC, [(kind, bytes(body[: draw.choice((length, length - 8))]))]))
            if name == "segment":
                Tail(1).apply(segment, 1, name)
        except DamagedError as error:
            assert error.message.startswith(name) and error.hint, seed


def test_current_names_its_log() -> None:
    plain = current()
    assert plain.log == LogName(plain.generation, 1, None) and b"log" not in plain.pack()
    key = f"log/{'ab' * 8}/ledger-{5:020}-{'cd' * 8}"
    moved = replace(plain, named_log=LogName("ab" * 8, 7, key), counter=3, nonce="xyz")
    assert Current.unpack(moved.pack(), "CURRENT") == moved
    assert json.loads(moved.pack())["log"] == {"id": "ab" * 8, "start": 7, "ledger": key}


@pytest.mark.parametrize(
    "member",
    [
        {"log": 1}, {"log": {}}, {"log": {"id": "a/b", "start": 1}}, {"log": {"id": "a", "start": 0}},
        {"log": {"id": "a", "start": True}}, {"log": {"id": "a", "start": 1 << 63}},
        {"log": {"id": "a", "start": 1, "ledger": "g/root.bin"}}, {"counter": -1}, {"counter": 1.5}, {"nonce": 3},
        {"log": {"id": "a", "start": 1, "ledger": f"log/b/ledger-{1:020}-{'0' * 16}"}},
        {"log": {"id": "a", "start": 1, "ledger": 3}},
    ],
)  # fmt: skip
def test_a_current_whose_log_is_wrong_is_damaged(member: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="CURRENT"):
        Current.unpack(json.dumps(json.loads(current().pack()) | member).encode(), "CURRENT")


# What segments add up to.


def put(*ids: int, key: bytes = NO_KEY, attributes: bytes = b'{"a":1}') -> Request:
    return Request(key, 5, ids, VECTOR * len(ids), [attributes] * len(ids))


def patch(i: int, change: bytes) -> Request:
    return Request(NO_KEY, 5, patches=[i], changes=[change])


def delete(*ids: int) -> Request:
    return Request(NO_KEY, 5, deletes=ids)


def tail_of(*groups: Sequence[Request]) -> Tail:
    tail = Tail(1)
    for requests in groups:
        data = pack_segment(NONCE, SHAPE, [pack_request(r, SHAPE) for r in requests])
        tail.apply(unpack_segment(data, "segment"), len(data), "segment")
    return tail


def rows_of(tail: Tail) -> dict[Id, Fresh]:
    return {i: fresh._replace(vector=bytes(fresh.vector)) for i, fresh in tail.rows.items()}


def test_segments_add_up() -> None:
    tail = tail_of(
        [put(1, 2), delete(2)],
        [patch(1, b'{"b":[2]}'), patch(2, b'{"b":3}'), patch(9, b'{"a":7}')],
        [patch(1, b'{"a":null}'), patch(9, b'{"c":8}'), put(3)],
        [delete(3, 8)],
    )
    assert rows_of(tail) == {
        1: Fresh(3, UPSERT, VECTOR, b'{"a":null,"b":[2]}'), 2: Fresh(1, DELETE), 3: Fresh(4, DELETE),
        8: Fresh(4, DELETE), 9: Fresh(3, PATCH, b"", b'{"a":7,"c":8}'),
    }  # fmt: skip
    assert tail.next == 5 and [size.operations for size in tail.sizes] == [3, 3, 3, 2]
    tail.drop(4)
    assert set(tail.rows) == {3, 8} and tail.held(1)[:2] == (1, 2) and len(tail.nonces) == 4


@pytest.mark.parametrize("change", [b"[]", b"{", b'{"a":NaN}', b"[" * 100])
def test_a_patch_that_is_no_object_is_damage(change: bytes) -> None:
    with pytest.raises(DamagedError, match="attributes"):
        tail_of([put(1)], [patch(1, change)])


def test_rows_of_another_shape_are_damage() -> None:
    tail = tail_of([put(1)])
    shape = replace_shape(dimension=3)
    data = pack_segment(NONCE, shape, [pack_request(delete(1), shape)])
    with pytest.raises(DamagedError, match="not like those"):
        tail.apply(unpack_segment(data, "segment"), len(data), "segment")


def replace_shape(**members: Any) -> RowShape:
    return SHAPE._replace(**members)


# Writes.


class Writer:
    """One that writes, in a bucket of its own or another's, by a clock that stands."""

    def __init__(self, store: MemoryLog) -> None:
        self.store, self.now = store, 0.0
        self.state = asyncio.run(self.opened())

    def clock(self) -> float:
        return self.now

    async def opened(self) -> LogState:
        return await whole_state(self.store, await read_log(self.store, self.clock), self.clock)

    async def lookup(self, _: Current, ids: Sequence[Id]) -> dict[Id, BaseRow | None]:
        return {i: BASE.get(i) for i in ids}  # type: ignore[call-overload]

    def write(self, *writes: Write) -> list[int | VantageError]:
        self.state, outcomes = asyncio.run(
            commit(self.store, self.state, writes, SHAPE, self.lookup, self.clock)
        )  # fmt: skip
        return outcomes

    def advance(self) -> None:
        state, old = asyncio.run(self.opened()), self.state.current
        assert asyncio.run(
            advance(self.store, state, old.generation, old.root, old.manifest, state.tail.next, now=1.0)
        )  # fmt: skip

    def switch(self) -> None:
        async def make(_: LogState) -> Current:
            return self.state.current

        asyncio.run(switch(self.store, asyncio.run(self.opened()), make, self.clock))


@pytest.fixture
def writer() -> Writer:
    """Of an index whose log was named by the first write."""
    return Writer(MemoryLog(replace(current(), named_log=current().log).pack()))


def test_the_first_write_names_the_log(writer: Writer) -> None:
    first = Writer(MemoryLog(current().pack(), lost=(0,)))
    assert "log" not in json.loads(first.store.objects["CURRENT"])
    assert first.write(Write(put(1))) == [1]
    now = Current.unpack(first.store.objects["CURRENT"], "CURRENT")
    assert (now.named_log, now.counter) == (current().log, 1)
    assert first.write(Write(put(2))) == [2]
    assert json.loads(first.store.objects["CURRENT"])["counter"] == 1


def test_a_publisher_that_came_between_keeps_the_first_write(writer: Writer) -> None:
    """Both replace a CURRENT without a log on the etag that they read: one of the two looks again."""
    first = Writer(MemoryLog(current().pack()))
    other = current("fedcba9876543210")
    first.store.objects["CURRENT"] = other.pack()
    assert first.write(Write(put(1))) == [1]
    assert segment_key(other.log.id, 1) in first.store.objects
    assert Current.unpack(first.store.objects["CURRENT"], "CURRENT").generation == other.generation


def is_(i: int, **members: Any) -> Condition:
    return Condition(i, param="upsert[0]", **members)


@pytest.mark.parametrize(
    ("condition", "seq"),
    [
        (is_(1, absent=True), 1), (is_(1, seq=2), 1), (is_(7, seq=0), None), (is_(2, seq=1), 2), (is_(100, seq=1), 0),
        (is_(100, absent=True), 0), (is_(1, takes=lambda row: row["a"] == 2), 1),
        (is_(7, takes=lambda row: True), None),
        (is_(101, takes=lambda row: row["n"] != 3), 2),
        (is_(101, seq=0), 2),
    ],
)  # fmt: skip
def test_a_condition_that_fails_says_of_which_row(writer: Writer, condition: Condition, seq: int | None) -> None:
    assert writer.write(Write(put(1, 2))) == [1]
    assert writer.write(Write(delete(2)), Write(patch(101, b'{"n":3}'))) == [2, 2]
    (error,) = writer.write(Write(put(9), [condition]))
    assert isinstance(error, ConditionError) and (error.id, error.seq, error.param) == (condition.id, seq, "upsert[0]")
    assert error.hint and error.status == 409 and writer.state.seq == 2


def test_conditions_that_hold(writer: Writer) -> None:
    first = Write(put(1, 2), [is_(1, absent=True), is_(100, seq=0), is_(101, takes=lambda row: row["n"] == 2)], at=0)
    assert writer.write(first) == [1]
    assert writer.write(Write(patch(1, b'{"a":2}'), [is_(1, seq=1)], at=1)) == [2]
    assert writer.write(Write(delete(1), [is_(1, seq=2, takes=lambda row: row["a"] == 2)])) == [3]
    assert writer.write(Write(put(1), [is_(1, absent=True)])) == [4]


def test_writes_of_a_group_stand_behind_each_other(writer: Writer) -> None:
    one, two, three, four = writer.write(
        Write(put(1), [is_(1, absent=True)]), Write(put(1), [is_(1, absent=True)]),
        Write(patch(1, b'{"n":5}'), [is_(1, takes=lambda row: row == {"a": 1})]), Write(put(2), at=0),
    )  # fmt: skip
    assert (one, three) == (1, 1) and isinstance(two, ConditionError) and two.seq == 1
    assert isinstance(four, ConditionError) and four.id is None and four.seq == 1
    assert rows_of(writer.state.tail) == {1: Fresh(1, UPSERT, VECTOR, b'{"a":1,"n":5}')}


def test_conditions_are_decided_behind_another_writer(writer: Writer) -> None:
    other = Writer(writer.store)
    assert other.write(Write(put(1))) == [1]
    refused, done = writer.write(Write(put(1), [is_(1, absent=True)]), Write(put(2)))
    assert isinstance(refused, ConditionError) and refused.seq == 1 and done == 2
    assert other.write(Write(patch(2, b"{}"), [is_(2, seq=2)])) == [3]
    (stale,) = writer.write(Write(put(9), [is_(2, seq=2)]))
    assert isinstance(stale, ConditionError) and stale.seq == 3


def test_a_retry_is_told_the_seq_of_the_first(writer: Writer) -> None:
    key = b"k" * 16
    once = Write(put(1, key=key), [is_(1, absent=True)])
    assert writer.write(once, once, Write(put(2))) == [1, 1, 1]
    assert writer.write(once) == [1]
    writer.advance()
    late = Writer(writer.store)
    assert late.state.current.log.start == 2 and not late.state.tail.rows
    assert late.write(once, Write(put(3))) == [1, 2]
    writer.switch()
    assert Writer(writer.store).write(once, Write(put(4))) == [1, 4]
    assert rows_of(Writer(writer.store).state.tail) == {4: Fresh(4, UPSERT, VECTOR, b'{"a":1}')}


@pytest.mark.parametrize("lost", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize("failed", [(), (0,), (0, 1, 2)])
def test_an_answer_that_is_lost_commits_once(lost: tuple[int, ...], failed: tuple[int, ...]) -> None:
    writer = Writer(MemoryLog(current().pack(), lost=lost, failed=failed))
    assert writer.write(Write(put(1))) == [1] and writer.write(Write(put(2))) == [2]
    assert set(writer.store.objects) == {"CURRENT", *(segment_key("0123456789abcdef", n) for n in (1, 2))}


def test_a_bucket_that_does_not_answer_leaves_it_open(writer: Writer) -> None:
    writer.store.failed = tuple(range(100))
    with pytest.raises(StoreError, match="is not known"):
        writer.write(Write(put(1)))
    writer.store.failed = ()
    assert writer.write(Write(put(1))) == [1]


def test_a_writer_that_comes_too_late_is_told_so(writer: Writer) -> None:
    late = Writer(writer.store)
    assert [writer.write(Write(put(i)))[0] for i in (1, 2)] == [1, 2]
    writer.advance()
    for seq in (1, 2):  # as gc does
        del writer.store.objects[segment_key("0123456789abcdef", seq)]
    late.now = 11.0  # or it may trust that nobody can have
    assert late.write(Write(put(3))) == [3]
    assert segment_key("0123456789abcdef", 1) in writer.store.objects  # of nobody
    assert set(Writer(writer.store).state.tail.rows) == {3}


def test_a_writer_that_a_generation_overtook_is_told_its_seq(writer: Writer) -> None:
    real = writer.store.create

    async def overtaken(key: str, data: bytes) -> bool:
        done = await real(key, data)
        writer.store.create = real  # type: ignore[method-assign]
        state = await writer.opened()
        old = state.current
        assert await advance(writer.store, state, old.generation, old.root, old.manifest, 2, now=1.0)
        writer.now += 11
        return done

    writer.store.create = overtaken  # type: ignore[method-assign]
    assert writer.write(Write(put(1))) == [1] and writer.write(Write(put(2))) == [2]


def test_a_log_that_is_full_takes_nothing(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions_module, "OPERATIONS_MAX", 3)
    one, two, three = writer.write(Write(put(1, 2)), Write(put(3, 4)), Write(delete(3)))
    assert (one, three) == (1, 1) and isinstance(two, LogFullError) and two.status == 429
    monkeypatch.setattr(conditions_module, "OPERATIONS_MAX", 100)
    monkeypatch.setattr(conditions_module, "SEGMENTS_MAX", 1)
    (full,) = writer.write(Write(put(1)))
    assert isinstance(full, LogFullError)
    writer.advance()
    assert Writer(writer.store).write(Write(put(1))) == [2]


def test_rows_that_are_patched_fill_the_log_too(writer: Writer) -> None:
    """A reader holds them whole; and it reads a log as full as one may be."""
    one = replace(patch(100, b'{"n":1}'), patched_bytes=7 << 20)
    assert writer.write(Write(one), Write(one)) == [1, 1]
    [error] = writer.write(Write(one))
    assert isinstance(error, LogFullError) and "16 MiB" in error.message
    assert writer.write(Write(put(1))) == [2] and Writer(writer.store).state.seq == 2


def test_a_group_that_is_too_long_is_refused_whole(writer: Writer) -> None:
    long = put(1, attributes=b'{"a":"' + b"x" * 999_000 + b'"}')
    writes = [Write(replace(long, upserts=[i])) for i in range(5)]
    with pytest.raises(LimitError):
        writer.write(*writes)
    assert writer.write(*writes[:4]) == [1] * 4


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(NO_KEY, 5), LimitError), (put(*range(OPERATIONS_MAX + 1)), LimitError), (put(1, 1), InputError),
        (Request(NO_KEY, 5, deletes=[b"a"]), InputError), (delete(1 << 63), InputError), (delete(True), InputError),
        (Request(NO_KEY, 5, [1], VECTOR[:-1], [b""]), InputError), (Request(NO_KEY, 5, [1], VECTOR), InputError),
        (replace(put(1), attributes=[bytes(1 << 21)]), LimitError),
    ],
)  # fmt: skip
def test_requests_that_are_no_writes(request_: Request, error: type[InputError]) -> None:
    with pytest.raises(error) as caught:
        check_request(request_, SHAPE)
    assert type(caught.value) is error and caught.value.hint and caught.value.param


def test_requests_that_are_writes() -> None:
    check_request(REQUEST, SHAPE)
    check_request(put(*range(OPERATIONS_MAX)), SHAPE)


# Moves.


def test_reading_takes_few_gets(writer: Writer) -> None:
    for i in range(10):
        writer.write(Write(put(i)))
    writer.store.gets = 0
    assert asyncio.run(read_log(writer.store, writer.clock)).seq == 10
    assert writer.store.gets == 1 + 1 + 2 + 4 + 4  # CURRENT, then one, two and four at a time: 11 segments


def test_a_follower_sees_what_comes_and_what_a_generation_took(writer: Writer) -> None:
    other = Writer(writer.store)
    writer.write(Write(put(1)))
    assert asyncio.run(follow(writer.store, other.state, other.clock)) is other.state and other.state.seq == 1
    writer.write(Write(put(2)))
    assert asyncio.run(follow(writer.store, other.state, other.clock)).seq == 2
    writer.advance()
    other.now = 11.0
    assert asyncio.run(follow(writer.store, other.state, other.clock)) is other.state
    assert set(other.state.tail.rows) == {1, 2} and other.state.current.log.start == 3
    other.state.settle()
    assert not other.state.tail.rows
    writer.write(Write(put(3)))
    writer.advance()
    other.now = 22.0  # what it did not see in time may be gone: it begins anew
    anew = asyncio.run(follow(writer.store, other.state, other.clock))
    assert anew is not other.state and anew.seq == 3 and not anew.tail.rows


def test_advance_moves_from_the_current_that_was_read(writer: Writer) -> None:
    writer.write(Write(put(1)))
    state, old = asyncio.run(writer.opened()), writer.state.current
    writer.advance()
    args = old.generation, old.root, old.manifest, 2
    assert not asyncio.run(advance(writer.store, state, *args, now=1.0))
    with pytest.raises(ValueError, match="starts behind"):
        asyncio.run(advance(writer.store, state, *args[:3], 9, now=1.0))
    assert json.loads(writer.store.objects["CURRENT"])["counter"] == 1


def test_a_current_keeps_its_other_members() -> None:
    store = MemoryLog(json.dumps(json.loads(current().pack()) | {"previous": "fedc"}).encode())
    writer = Writer(store)
    writer.write(Write(put(1)))
    writer.advance()
    assert json.loads(store.objects["CURRENT"])["previous"] == "fedc"


def test_anybody_finishes_a_switch(writer: Writer) -> None:
    writer.write(Write(put(1)))
    to_be = replace(writer.state.current, named_log=LogName("ab" * 8, 3))
    writer.store.objects[segment_key("0123456789abcdef", 2)] = pack_seal(NONCE, to_be.pack())
    reading = asyncio.run(read_log(writer.store, writer.clock))
    assert reading.seal is not None and reading.seq == 1
    assert writer.write(Write(put(2))) == [3] and writer.state.current.log.id == "ab" * 8
    assert dict(Writer(writer.store).state.tail.nonces)[2] == NONCE


def test_a_seal_that_names_no_other_log_is_damage(writer: Writer) -> None:
    writer.store.objects[segment_key("0123456789abcdef", 1)] = pack_seal(NONCE, current().pack())
    with pytest.raises(DamagedError, match="seals the log"):
        writer.write(Write(put(2)))


def test_a_ledger_that_is_gone_is_damage(writer: Writer) -> None:
    writer.write(Write(put(1)))
    writer.advance()
    ledger = asyncio.run(read_log(writer.store, writer.clock)).current.log.ledger
    assert ledger
    del writer.store.objects[ledger]
    assert asyncio.run(read_log(writer.store, writer.clock)).seq == 1  # readers need none
    with pytest.raises(DamagedError, match="is missing"):
        Writer(writer.store)


def test_no_index_is_not_found() -> None:
    store = MemoryLog(b"")
    del store.objects["CURRENT"]
    with pytest.raises(NotFoundError):
        asyncio.run(read_log(store, lambda: 0.0))


def test_collect_takes_what_was_not_named_for_long(writer: Writer) -> None:
    def collected(now: float) -> int:
        return asyncio.run(collect(writer.store, writer.clock, now))

    for i in range(3):
        writer.write(Write(put(i)))
        writer.advance()
        writer = Writer(writer.store)
    writer.write(Write(put(9)))
    assert collected(3600) == 0
    assert collected(3601) == 4  # two segments, and two ledgers; that the third is unnamed for long, nothing proves
    keys = sorted(key for key in writer.store.objects if "ledger" not in key)
    assert keys == ["CURRENT", segment_key("0123456789abcdef", 3), segment_key("0123456789abcdef", 4)]
    writer.switch()
    late = Writer(writer.store)
    late.write(Write(put(10)))
    late.advance()
    Writer(writer.store).write(Write(put(11)))
    assert collected(9999) > 0
    assert not any(key.startswith("log/0123456789abcdef/") for key in writer.store.objects)
    assert set(Writer(writer.store).state.tail.rows) == {11}


# Slices of what bench/faults runs longer.

MODEL_RUNS, SCHEDULES = 300, 60


def test_the_model_holds() -> None:
    told: list[str] = []
    assert log_model.runs(0, MODEL_RUNS, (), told.append)[0] == 0, told


@pytest.mark.parametrize(("rule", "seed"), [("nonce", 0), ("keys", 0), ("restart", 0), ("again", 0)])
def test_the_model_breaks_without_a_rule(rule: str, seed: int) -> None:
    assert log_model.runs(seed, 60, [rule], lambda _: None)[0]


def test_the_log_holds_under_schedules() -> None:
    wrong = {seed: world.wrong[0] for seed in range(SCHEDULES) if (world := log_schedules.run(seed)).wrong}
    assert not wrong


@pytest.mark.parametrize("rule", ["nonce", "etag"])
def test_schedules_find_a_broken_rule(rule: str) -> None:
    assert any(log_schedules.run(seed, [rule]).wrong for seed in range(100))
