"""The log's own code under schedules by seed: every call to the bucket may stall, kill its caller or lose its answer.

    python -m bench.faults.log_schedules [--runs 10000] [--seed 0] [--without RULE] [--moto]

Direct writers, a sequencer with clients, two compactors, gc, rollbacks, readers and a follower share a bucket in memory
and a clock that only the schedule moves. The bucket knows the truth: a segment is committed when it appears in the log
that CURRENT names then, at its start or behind it. Compared with it are every acknowledgement (the request is there,
once, at the seq that was told), every condition (it held at that seq), every refusal (it was right at some moment of
the call), and every reader (it saw the state of one seq, none older than what was acknowledged before it began).
A create or swap whose answer is lost may take effect later; one of a seal within LATE_S or never.

Prints runs, what happened in them, and the wrong ones with their seeds; --seed goes on from there. --without breaks a
rule, to see that it is found. --moto takes moto's S3 server through our client for the bucket, and shorter runs; it
must answer as the one in memory does. Exit 1 where any run is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

from build_index.bucket.store import ConflictError, ObjectStore, store_at
from vantage.errors import ConditionError, StoreError, VantageError
from vantage.format import Current, ObjectName
from vantage.format.log import NO_KEY, SEGMENT_KEY, Ledger, Request, RowShape, Segment, unpack_ledger, unpack_segment
from vantage.log.collect import collect
from vantage.log.commit import commit
from vantage.log.conditions import BaseRow, Condition, Write
from vantage.log.move import advance, packed, swap, switch, unsealed
from vantage.log.state import LogState, follow, read_log, whole_state
from vantage.log.tail import DELETE, PATCH, members_of

SHAPE = RowShape(4, "i64", "u8")
GRACE_S = 100.0
LATE_S = 60.0
STEP_S = 0.3
WOKEN = math.inf  # seconds until the turn of an actor that another gives it
KEPT = 256  # objects that are held unpacked
CHUNK = 500  # runs, between lines that say how far it is
STALLS = (5.0, 20.0, 150.0, 400.0)
WORLD_S = 1500.0
S3_WORLD_S = 250.0
CALM_S = 3000.0  # and no faults, for whoever has not ended
Row = tuple[int, bytes, dict[str, Any]]  # seq, vector, attributes
Rows = dict[int, Row]


class Crash(BaseException):
    """The end of an actor."""


class Pause:
    """Gives the turn to others, for so many seconds at least."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


@dataclass(slots=True)
class Actor:
    """at: when its turn comes. make: begins it anew."""

    name: str
    make: Callable[[], Coroutine[Any, Any, None]]
    work: Coroutine[Any, Any, None]
    at: float = 0.0


@dataclass
class Promised:
    """What a client waits for: the outcome of a write by the sequencer. by: the actor."""

    write: Write
    by: str
    outcome: int | VantageError | None = None


@dataclass
class Truth:
    """What is committed: rows, and the snapshots of them by (log, seq) with their place in time."""

    rows: Rows = field(default_factory=dict)
    seq: int = 0
    log: str = ""
    snapshots: dict[tuple[str, int], tuple[int, Rows]] = field(default_factory=dict)
    versions: list[Rows] = field(default_factory=list)
    placed: dict[str, list[int]] = field(default_factory=dict)  # of each request its seqs

    def note(self) -> None:
        self.versions.append(dict(self.rows))
        self.snapshots[self.log, self.seq] = len(self.versions) - 1, self.versions[-1]


def fulfils(condition: Condition, row: Row | None) -> bool:
    if condition.absent and row is not None:
        return False
    if condition.seq is not None and (row is None or row[0] != condition.seq):
        return False
    return condition.takes is None or (row is not None and condition.takes(row[2]))


class World:
    """A bucket in memory (a LogStore), the truth of it, and the actors."""

    def __init__(self, seed: int, rules_off: Sequence[str] = ()) -> None:
        self.draw, self.now, self.off = Random(seed), 0.0, rules_off
        self.objects: dict[str, tuple[bytes, str, float]] = {}  # key -> bytes, etag, when
        self.version, self.calm = 0, False
        self.pace = self.draw.choice((0.1, 1.0))  # of those that compact and delete
        self.later: list[tuple[float, Callable[[], Any]]] = []
        self.truth, self.writes = Truth(), dict[str, Write]()
        self.generations: dict[str, Rows] = {}
        self.count, self.wrong = Counter[str](), list[str]()
        self.acknowledged = self.by_service = 0  # the newest version that was acknowledged, and by the sequencer
        self.sequencer: LogState | None = None
        self.idle = False  # the sequencer, until it is woken or looks at the log
        self.queue: list[Promised] = []
        self.actors: list[Actor] = []
        self.names = 0
        self.end_s = WORLD_S
        self.generations["g0"] = {}
        self.make("CURRENT", current("g0").pack())
        self.make("g0/root.bin", b"{}")
        self.truth.log = "g0"
        self.truth.note()

    def clock(self) -> float:
        return self.now

    def nonce(self, n: int) -> bytes:
        return self.draw.randbytes(n)

    def bad(self, what: str) -> None:
        self.wrong.append(f"{what} (at {self.now:.1f} s)")

    def wake(self, name: str, within: float) -> None:
        """Gives a turn to an actor that waits for it."""
        for actor in self.actors:
            if actor.name == name:
                actor.at = min(actor.at, self.now + within * self.draw.random())

    def keep(self, promised: Promised, outcome: int | VantageError) -> None:
        """Tells a client what came of its write."""
        promised.outcome = outcome
        self.wake(promised.by, 0.5)

    # The bucket.

    async def call(self, effect: Callable[[], Any], *, writes: bool = False, sealing: bool = False) -> Any:
        r = self.draw
        if self.calm:
            await Pause(0)
            return effect()
        if r.random() < 0.02:
            wait = r.choice(STALLS)
            await Pause(wait)
            if sealing and wait > LATE_S:
                raise StoreError("too late")
        else:
            await Pause(0)
        if r.random() < 0.012:
            raise Crash()
        if not writes:
            if r.random() < 0.01:
                raise StoreError("not answered")
            answer = effect()
        elif r.random() < 0.08:
            self.count["lost answers"] += 1
            kind = r.random()
            if kind < 0.4:
                effect()
            elif kind < 0.8:
                self.later.append(
                    (self.now + r.choice((1.0, 5.0, 20.0) if sealing else (1.0, 5.0, 20.0, 300.0)), effect)
                )
            if r.random() < 0.3:
                raise Crash()
            raise StoreError("not answered")
        else:
            answer = effect()
        if r.random() < 0.012:
            raise Crash()
        if r.random() < 0.02:
            await Pause(r.choice(STALLS))
        return answer

    def read(self, key: str) -> tuple[bytes, str] | None:
        found = self.objects.get(key)
        return found[:2] if found else None

    def make(self, key: str, data: bytes) -> bool:
        may = key not in self.objects
        if may:
            self._put(key, data)
        return may

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        may = self.objects[key][1] == etag or "etag" in self.off
        if may:
            self._put(key, data)
        return may

    def remove(self, key: str) -> None:
        self.objects.pop(key, None)

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        return await self.call(lambda: self.read(key))

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        order = list(range(len(keys)))
        self.draw.shuffle(order)
        found = {i: await self.get(keys[i], most) for i in order}
        return [found[i] for i in range(len(keys))]

    async def create(self, key: str, data: bytes) -> bool:
        def effect() -> bool:
            done = self.make(key, data)
            if done:
                self._created(key, data)
            return done

        sealing = bool(SEGMENT_KEY.fullmatch(key)) and bool(unpack_segment(data, key).sealed)
        return bool(await self.call(effect, writes=True, sealing=sealing))

    async def swap(self, key: str, data: bytes, etag: str) -> bool:
        def effect() -> bool:
            before = Current.unpack(self.objects[key][0], key)
            done = self.replace(key, data, etag)
            if done:
                self._swapped(before, Current.unpack(data, key))
            return done

        return bool(await self.call(effect, writes=True))

    async def list(self, prefix: str) -> list[tuple[str, float]]:
        return await self.call(lambda: [(k, v[2]) for k, v in self.objects.items() if k.startswith(prefix)])

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.call(lambda key=key: self.remove(key))
            self.count["deleted"] += 1

    def _put(self, key: str, data: bytes) -> None:
        self.version += 1
        self.objects[key] = data, str(self.version), self.now

    # The truth.

    def live(self) -> Current:
        return Current.unpack(self.objects["CURRENT"][0], "CURRENT")

    def _created(self, key: str, data: bytes) -> None:
        match = SEGMENT_KEY.fullmatch(key)
        if not match:
            return
        log, seq = self.live().log, int(match[2])
        if match[1] != log.id or seq < log.start:
            self.count["segments of nobody"] += 1
            return
        truth, segment = self.truth, unpack_segment(data, key)
        if segment.sealed:
            self.count["seals"] += 1
            return
        if seq != truth.seq + 1:
            self.bad(f"segment {seq} was committed behind {truth.seq}")
        for request in segment.requests:
            self._apply(request, seq)
        truth.seq = seq
        truth.note()

    def _apply(self, request: Request, seq: int) -> None:
        rows = self.truth.rows
        token = token_of(request)
        write = self.writes[token]
        placed = self.truth.placed.setdefault(token, [])
        if placed:
            self.bad(f"request {token} was committed at {placed[0]} and again at {seq}")
        placed.append(seq)
        for condition in write.conditions:
            if not fulfils(condition, rows.get(condition.id)):  # type: ignore[arg-type]
                self.bad(f"request {token} was committed at {seq} against its condition {condition}")
        if write.at is not None and write.at != self.truth.seq:
            self.bad(f"request {token} was committed at {seq}, not behind {write.at}")
        for i, identifier in enumerate(request.upserts):
            vector = bytes(request.vectors[4 * i : 4 * i + 4])
            rows[int(identifier)] = seq, vector, json.loads(request.attributes[i])
        for identifier, change in zip(request.patches, request.changes, strict=True):
            if identifier in rows:
                old = rows[int(identifier)]
                rows[int(identifier)] = seq, old[1], old[2] | json.loads(change)
        for identifier in request.deletes:
            rows.pop(int(identifier), None)

    def _swapped(self, old: Current, new: Current) -> None:
        truth = self.truth
        key = f"{new.generation}/root.bin"
        if key not in self.objects:
            self.bad(f"CURRENT names {new.generation}, which is gone")
        if new.log.ledger and new.log.ledger not in self.objects:
            self.bad(f"CURRENT names {new.log.ledger}, which is gone")
        if new.log.id != old.log.id:
            self.count["switches"] += 1
            truth.log, truth.seq = new.log.id, new.log.start - 1
            truth.rows = dict(self.generations[new.generation])
            truth.note()
        elif old.generation != new.generation:
            self.count["compactions"] += 1

    def acknowledge(self, write: Write, seq: int, service: bool) -> None:
        self.count["acknowledged"] += 1
        token = token_of(write.request)
        placed = self.truth.placed.get(token, [])
        if placed != [seq]:
            self.bad(f"request {token} was acknowledged at {seq}, and is at {placed}")
        for (_, known), (version, _) in self.truth.snapshots.items():
            if known == seq:
                self.acknowledged = max(self.acknowledged, version)
                if service:
                    self.by_service = max(self.by_service, version)

    def refuse(self, write: Write, error: VantageError, begun: int) -> None:
        self.count["refused"] += 1
        if not isinstance(error, ConditionError):
            self.bad(f"refused for {error}")
            return
        for version in self.truth.versions[begun:]:
            if write.at is not None or not all(fulfils(c, version.get(c.id)) for c in write.conditions):  # type: ignore[call-overload]
                return
        self.bad(f"request {token_of(write.request)} was refused for {error}, which never held")

    def check(self, state: LogState, rows: Rows, oldest: int, who: str) -> None:
        """What a reader saw: a state that was, none older than the version `oldest`."""
        self.count[f"read by {who}"] += 1
        found = self.truth.snapshots.get((state.current.log.id, state.seq))
        if found is None:
            self.bad(f"{who} saw {state.current.log.id} at {state.seq}, which never was")
        elif found[1] != rows:
            self.bad(f"{who} saw at {state.seq} {rows}, not {found[1]}")
        elif found[0] < oldest:
            self.bad(f"{who} saw version {found[0]}, when {oldest} was acknowledged before it began")

    # What actors share.

    async def generation(self, rows: Rows) -> Current:
        """Writes a generation of these rows."""
        self.names += 1
        name = f"g{self.names}"
        self.generations[name] = dict(rows)
        while not await self.create(f"{name}/root.bin", b"{}"):
            pass
        return current(name)

    async def base(self, of: Current) -> Rows | None:
        found = await self.get(f"{of.generation}/root.bin", 1 << 20)
        return None if found is None else self.generations[of.generation]

    async def lookup(self, of: Current, ids: Sequence[Any]) -> dict[Any, BaseRow | None]:
        rows = await self.base(of)
        if rows is None:
            raise StoreError("the generation is gone: read CURRENT again")
        return {i: BaseRow(rows[i][0], rows[i][2]) if i in rows else None for i in ids}

    async def seen(self, state: LogState) -> Rows | None:
        """Rows of a state with its generation; None where that is gone, and CURRENT is another."""
        base = await self.base(state.current)
        if base is None:
            found = await self.get("CURRENT", 1 << 16)
            assert found is not None
            if Current.unpack(found[0], "CURRENT").counter == state.current.counter:
                self.bad(f"the live generation {state.current.generation} is gone")
            return None
        return merged(base, state)


class S3World(World):
    """The same with its objects in a store, too, which must answer as the memory does."""

    def __init__(self, seed: int, rules_off: Sequence[str], store: ObjectStore) -> None:
        self.store = store
        super().__init__(seed, rules_off)
        self.end_s = S3_WORLD_S

    def read(self, key: str) -> tuple[bytes, str] | None:
        found, known = self.store.get(key), super().read(key)
        if found != known:
            self.bad(f"{key}: the store has {found}, not {known}")
        return found

    def make(self, key: str, data: bytes) -> bool:
        return self._same(key, data, None, super().make(key, data))

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        return self._same(key, data, etag, super().replace(key, data, etag))

    def _same(self, key: str, data: bytes, etag: str | None, may: bool) -> bool:
        try:
            self.store.swap(key, data, etag)
            done = True
        except ConflictError:
            done = False
        if done != may:
            self.bad(f"{key}: the store did {'' if done else 'not '}put it")
        found = self.store.get(key)
        if found is not None:
            self.objects[key] = *found, self.objects[key][2]
        return done

    def remove(self, key: str) -> None:
        super().remove(key)
        self.store.delete(key)


@contextmanager
def s3() -> Iterator[Callable[[str], ObjectStore]]:
    """Empty stores by name, in moto's S3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    url = "http://{}:{}".format(*moto.get_host_and_port()).replace("0.0.0.0", "127.0.0.1")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_ENDPOINT_URL": url}
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="a-secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    yield lambda name: store_at(f"s3://bucket/{name}", keys)
    moto.stop()


def current(generation: str) -> Current:
    return Current(
        generation,
        ObjectName(f"{generation}/root.bin", 2, "00"),
        ObjectName(f"{generation}/manifest.json", 2, "00"),
    )


def token_of(request: Request) -> str:
    """Which request it is: its ms, that its client counted."""
    return str(request.ms)


def merged(base: Rows, state: LogState) -> Rows:
    """A generation and the tail behind it."""
    rows = dict(base)
    for identifier, fresh in state.tail.rows.items():
        i = int(identifier)
        if fresh.kind == DELETE:
            rows.pop(i, None)
        elif fresh.kind == PATCH:
            if i in rows:
                rows[i] = fresh.seq, rows[i][1], rows[i][2] | members_of(fresh.attributes, "patch")
        else:
            rows[i] = fresh.seq, bytes(fresh.vector), members_of(fresh.attributes, "row")
    return rows


# Actors. Each is started anew when it dies; what it must not forget is in the client's own list.


def drawn_write(world: World, me: int, known: Rows) -> Write:
    """A write of a client that has seen these rows."""
    r = world.draw
    number = len(world.writes) + 1
    key = number.to_bytes(16, "little") if r.random() < 0.6 else NO_KEY
    i = r.randrange(8)
    vector, text = number.to_bytes(4, "little"), json.dumps({"n": 0, "by": number}).encode()
    kind = r.random()
    conditions: tuple[Condition, ...] = ()
    at = None
    if kind < 0.3:
        request = Request(key, number, (i,), vector, (text,))
        if r.random() < 0.4:
            conditions = (Condition(i, absent=True),)
    elif kind < 0.7 and known:  # counts up what it saw
        i = r.choice(sorted(known))
        seq, _, attributes = known[i]
        change = json.dumps({"n": attributes.get("n", 0) + 1, "last": number}).encode()
        request = Request(key, number, patches=(i,), changes=(change,))
        n = attributes.get("n", 0)
        conditions = (
            Condition(i, seq=seq) if r.random() < 0.7 else Condition(i, takes=lambda row, n=n: row.get("n", 0) == n),
        )
    elif kind < 0.85:
        request = Request(key, number, deletes=(i, i + 8))
    else:
        other = (i + 1) % 8
        request = Request(key, number, (other,), vector, (text,), (i,), (b'{"n": 7}',))
        if r.random() < 0.3:
            at = world.truth.seq
    write = Write(request, conditions, at)
    world.writes[token_of(request)] = write
    return write


@dataclass
class Client:
    """What a client has to do: how many writes are left, and the one under way."""

    left: int
    write: Write | None = None
    begun: int = 0

    def next(self, world: World, me: int, known: Rows) -> Write:
        if self.write is None:
            self.write = drawn_write(world, me, known)
            self.begun = len(world.truth.versions) - 1
        return self.write

    def end(self, world: World, outcome: int | VantageError, *, service: bool) -> None:
        assert self.write is not None
        if isinstance(outcome, int):
            world.acknowledge(self.write, outcome, service)
        else:
            world.refuse(self.write, outcome, self.begun)
        self.write = None
        self.left -= 1

    def fail(self) -> None:
        """Nobody knows: with a key it is sent again."""
        if self.write is not None and self.write.request.key == NO_KEY:
            self.write = None
            self.left -= 1


async def direct(world: World, client: Client) -> None:
    if client.write is not None:
        client.fail()
    state = await whole_state(world, await read_log(world, world.clock), world.clock)
    while client.left:
        known = await world.seen(state)
        if known is None:
            state = await whole_state(world, await read_log(world, world.clock), world.clock)
            continue
        write = client.next(world, 0, known)
        state, (outcome,) = await commit(
            world, state, [write], SHAPE, world.lookup, world.clock, world.nonce
        )  # fmt: skip
        client.end(world, outcome, service=False)
        if world.draw.random() < 0.5:
            state.settle()
        await Pause(world.draw.choice((0.0, 5.0, 30.0)))


async def sequencer(world: World) -> None:
    world.sequencer = None
    taken, world.queue = world.queue, []
    try:
        for promised in taken:
            world.keep(promised, StoreError("the sequencer died"))
        taken = []
        state = await whole_state(world, await read_log(world, world.clock), world.clock)
        world.sequencer = state
        while True:
            if not world.queue:
                world.idle = True
                await Pause(world.draw.choice((2.0, 10.0, 30.0)))
                world.idle = False
                if not world.queue:
                    state = world.sequencer = await follow(world, state, world.clock)
                continue
            taken, world.queue = world.queue[:4], world.queue[4:]
            writes = [promised.write for promised in taken]
            state, outcomes = await commit(world, state, writes, SHAPE, world.lookup, world.clock, world.nonce)
            state.settle()
            world.sequencer = state
            for promised, outcome in zip(taken, outcomes, strict=True):
                world.keep(promised, outcome)
            taken = []
    finally:
        world.sequencer, world.idle = None, False
        for promised in taken:
            world.keep(promised, StoreError("the sequencer died"))


async def served(world: World, client: Client, name: str) -> None:
    if client.write is not None:
        client.fail()
    while client.left:
        state = world.sequencer
        known = merged(world.generations[state.current.generation], state) if state else {}
        promised = Promised(client.next(world, 1, known), name)
        world.queue.append(promised)
        if world.idle:
            world.wake("sequencer", 1.0)
        while promised.outcome is None:
            await Pause(WOKEN)
        if isinstance(promised.outcome, StoreError):
            client.fail()
            continue
        client.end(world, promised.outcome, service=True)
        await Pause(world.draw.choice((0.0, 2.0, 30.0)))


async def compactor(world: World) -> None:
    while True:
        await Pause(world.pace * world.draw.choice((20.0, 60.0)))
        state = await whole_state(world, await read_log(world, world.clock), world.clock)
        base = await world.base(state.current)
        start = state.tail.next
        if base is None or start == state.current.log.start:
            continue
        new = await world.generation(merged(base, state))
        args = new.generation, new.root, new.manifest, start, world.now
        world.count["compactions lost"] += not await advance(world, state, *args, draw=world.nonce)


async def deleter(world: World) -> None:
    unnamed: dict[str, float] = {}
    while True:
        await Pause(world.pace * 30.0)
        with suppress(StoreError):
            await collect(world, world.clock, world.now, GRACE_S, world.nonce)
        state = await unsealed(world, await read_log(world, world.clock), world.clock, world.nonce)
        listed = [key for key, _ in await world.list("g")]
        for key in listed:
            if key.startswith(f"{state.current.generation}/"):
                unnamed.pop(key, None)
            else:
                unnamed.setdefault(key, world.now)
        old = [key for key in listed if key in unnamed and world.now - unnamed[key] > GRACE_S]
        if not old:
            continue
        nonce = world.nonce(16).hex()
        log = state.current.log
        new = Current(
            state.current.generation, state.current.root, state.current.manifest, log, state.current.counter + 1, nonce
        )
        if await (unswapped if "fence" in world.off else swap)(world, packed(new, {}), state.etag, nonce):
            await world.delete(old)


async def roller(world: World) -> None:
    while True:
        await Pause(world.draw.choice((100.0, 300.0)))
        state = await whole_state(world, await read_log(world, world.clock), world.clock)

        async def make(at: LogState) -> Current:
            base = await world.base(at.current)
            if base is None:
                raise StoreError("the generation is gone: begin anew")
            rows = merged(base, at)
            if world.draw.random() < 0.3:
                rows = world.draw.choice(world.truth.versions)
            return await world.generation(rows)

        await switch(world, state, make, world.clock, world.nonce)


async def reader(world: World) -> None:
    while True:
        await Pause(world.draw.choice((1.0, 5.0, 12.0)))
        oldest = world.acknowledged
        state = await read_log(world, world.clock)
        rows = await world.seen(state)
        if rows is not None:
            world.check(state, rows, oldest, "a reader")


async def follower(world: World) -> None:
    state = await read_log(world, world.clock)
    while True:
        await Pause(world.draw.choice((1.0, 5.0, 12.0, 120.0)))
        oldest = world.acknowledged
        state = await follow(world, state, world.clock)
        rows = await world.seen(state)
        if rows is None:
            state = await read_log(world, world.clock)
        else:
            world.check(state, rows, oldest, "a follower")
            if world.draw.random() < 0.5:
                state.settle()


async def asker(world: World) -> None:
    """Reads what the sequencer holds."""
    while True:
        await Pause(world.draw.choice((1.0, 5.0, 12.0)))
        state = world.sequencer
        if state is not None:
            rows = merged(world.generations[state.current.generation], state)
            world.check(state, rows, world.by_service, "the sequencer")


OPTIONAL = ("direct 1", "served 1", "compactor 0", "compactor 1", "deleter", "roller", "reader 1")


def run(seed: int, rules_off: Sequence[str] = (), store: ObjectStore | None = None) -> World:
    """A world, to its end or to the first thing that is wrong. store: an empty one, None: in memory."""
    with broken(rules_off):
        world = World(seed, rules_off) if store is None else S3World(seed, rules_off, store)
        clients = [Client(8) for _ in range(4)]
        makers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "direct 0": lambda: direct(world, clients[0]),
            "direct 1": lambda: direct(world, clients[1]),
            "sequencer": lambda: sequencer(world),
            "served 0": lambda: served(world, clients[2], "served 0"),
            "served 1": lambda: served(world, clients[3], "served 1"),
            "compactor 0": lambda: compactor(world),
            "compactor 1": lambda: compactor(world),
            "deleter": lambda: deleter(world),
            "roller": lambda: roller(world),
            "reader 0": lambda: reader(world),
            "reader 1": lambda: reader(world),
            "follower": lambda: follower(world),
            "asker": lambda: asker(world),
        }
        for name in OPTIONAL:  # others meet more often where some are missing
            if world.draw.random() < 0.4:
                del makers[name]
        for i, name in enumerate(("direct 0", "direct 1", "served 0", "served 1")):
            clients[i].left *= name in makers
        world.actors = [Actor(name, make, make()) for name, make in makers.items()]
        try:
            while not world.wrong and (world.now < world.end_s or any(c.left for c in clients)):
                world.calm = world.now > world.end_s
                if world.now > world.end_s + CALM_S:
                    world.bad(f"some clients never ended: {clients}")
                    break
                step(world)
            if not world.wrong:
                world.calm = True
                finish(world)
        finally:
            for actor in world.actors:
                actor.work.close()
    world.count["seconds"] = int(world.now)
    return world


def step(world: World) -> None:
    """One turn of one actor."""
    now, actors = world.now, world.actors
    ready = [actor for actor in actors if actor.at <= now]
    if not ready:
        now = min([actor.at for actor in actors])
        ready = [actor for actor in actors if actor.at <= now]
    world.now = now = now + STEP_S * world.draw.random()
    if world.later:
        due = [effect for at, effect in world.later if at <= now]
        world.later = [entry for entry in world.later if entry[0] > now]
        for effect in due:
            effect()
    actor = ready[int(world.draw.random() * len(ready))]
    try:
        actor.at = now + actor.work.send(None)
    except StopIteration:
        actors.remove(actor)
    except (Crash, StoreError) as end:
        world.count["crashes" if isinstance(end, Crash) else "failures"] += 1
        actor.work, actor.at = actor.make(), now + world.draw.choice((0.0, 3.0, 60.0))
    except Exception as error:
        world.bad(f"{actor.name}: {type(error).__name__}: {error}")


def finish(world: World) -> None:
    """The last reader, alone."""

    async def last() -> None:
        state = await read_log(world, world.clock)
        rows = await world.seen(state)
        assert rows is not None
        world.check(state, rows, world.acknowledged, "the last reader")

    work = last()
    with suppress(StopIteration):
        while True:
            work.send(None)


@contextmanager
def broken(rules_off: Sequence[str]) -> Any:
    """The code without some of its rules; and what is unpacked again and again is so once, as it never changes."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(Current, "unpack", lru_cache(KEPT)(Current.unpack)))
        for module in ("state", "segment"):
            stack.enter_context(patch(f"vantage.log.{module}.unpack_segment", lru_cache(KEPT)(unpack_segment)))
        for rule in rules_off:
            for name, value in BROKEN.get(rule, {}).items():
                stack.enter_context(patch(f"vantage.log.{name}", value))
        yield


async def unswapped(*_: Any) -> bool:
    return True


def nameless(data: bytes, name: str) -> Segment:
    return replace(unpack_segment(data, name), nonce=NO_KEY)


def keyless(data: bytes, name: str) -> Ledger:
    return replace(unpack_ledger(data, name), keys={})


# What takes the place of what without a rule; those of the bucket and of gc are asked for where they matter.
BROKEN: dict[str, dict[str, Any]] = {
    "verify": {"commit.FRESH_S": 1e9},
    "restart": {"state.FRESH_S": 1e9},
    "nonce": {"state.unpack_segment": nameless, "segment.unpack_segment": nameless},
    "keys": {"state.unpack_ledger": keyless},
    "etag": {},
    "fence": {"collect.swap": unswapped},
    "grace": {"state.FRESH_S": 3 * GRACE_S, "commit.FRESH_S": 3 * GRACE_S},
}


def main() -> int:
    """Prints a line for all runs, and one for each wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--without", choices=BROKEN, action="append", default=[])
    parser.add_argument("--moto", action="store_true", help="moto's S3 instead of memory")
    given = parser.parse_args()
    total, wrong, begun = Counter[str](), 0, time.process_time()
    with s3() if given.moto else nullcontext() as stores:
        for seed in range(given.seed, given.seed + given.runs):
            world = run(seed, given.without, stores and stores(f"run-{seed}"))
            total.update(world.count)
            if world.wrong:
                wrong += 1
                print(f"seed {seed}: {world.wrong[0]}", flush=True)
            if (seed + 1) % (CHUNK // 10 if given.moto else CHUNK) == 0:
                print(f"up to seed {seed}: {wrong} wrong", flush=True)
    print(f"{given.runs} runs, {wrong} wrong, {time.process_time() - begun:.0f} s:", dict(sorted(total.items())))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
