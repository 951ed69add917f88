"""A model of the log's protocol, apart from its code: writers, compactors, gc, rollbacks and readers by seed.

    python -m bench.faults.log_model [--runs 10000] [--seed 0] [--rules]

Two direct writers, a sequencer that groups the writes of two clients (a cache that dies and returns), two compactors,
gc, rollbacks and branches, two readers and a follower call a bucket in which any call may stall, kill its caller, lose
its answer or take effect late. docs/format.md, section 11, has the rules in words. Checked are
- every acknowledgement: the request is in the log, once, at the seq that was told;
- counters that are only ever counted up by one, on the condition that they were not written since: in the end each
  stands at the number of its acknowledged steps, and of those at most whose client was told that nobody knows;
- every condition at the seq of its write, and every refusal against the states between its beginning and its end;
- every reader: it saw the state of one seq, none older than what was acknowledged before it began; no object that it
  needed was gone.

Runs are printed with what happened and the wrong ones; --seed goes on from there. --rules prints a table instead: as
many runs without each of the rules. Exit 1 where a run with all rules is wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

GRACE, FRESH, LATE = 100.0, 10.0, 60.0  # seconds: gc waits, CURRENT is trusted, a seal's call is under way at most
STALLS = (5.0, 20.0, 150.0, 400.0)
TURN = 0.3
WOKEN = math.inf
CHUNK = 1000  # runs, between lines that say how far it is
END, CALM = 1200.0, 3000.0
COUNTERS, ROWS = ("c0", "c1"), ("r0", "r1", "r2", "r3")
RULES = {
    "verify": "before it acknowledges, a writer that read CURRENT long ago reads it again",
    "nonce": "a writer whose answer is lost, or who came late, goes by whose nonce its segment has",
    "ledger": "the nonces of segments behind the start are kept, and where they are not, nobody knows",
    "keys": "request keys behind the start are kept",
    "restart": "a reader that read CURRENT long ago reads it again before it uses what came",
    "first": "of what came, what lies before the start then does not count",
    "sealed": "behind a seal, CURRENT is read again",
    "seal": "a log is sealed before another goes on from it",
    "fence": "gc replaces CURRENT before it deletes",
    "etag": "CURRENT is replaced where it is the one that the base was read with",
    "again": "conditions are decided anew where another writer came first",
    "end": "a refusal is decided at the log's end",
    "grace": "gc waits longer than CURRENT is trusted",
}

Steps = Generator[float, None, Any]  # seconds until its next turn at least, WOKEN: until another gives it one
Row = tuple[int, int]  # seq of its last write, and a value


class Crash(Exception):
    """The end of an actor."""


class Lost(Exception):
    """An answer that never came."""


@dataclass(frozen=True)
class Write:
    """A request: an op on an id. put and patch set the value, step adds one to it; patch and step want the row to be
    there. key: whether a retry is known; seq, absent: its condition.
    """

    token: int
    op: str
    id: str
    value: int
    key: bool
    seq: int | None = None
    absent: bool = False

    def holds(self, rows: dict[str, Row]) -> bool:
        row = rows.get(self.id)
        if self.absent and row is not None:
            return False
        return self.seq is None or (row is not None and row[0] == self.seq)

    def apply(self, rows: dict[str, Row], seq: int) -> None:
        if self.op == "del":
            rows.pop(self.id, None)
        elif self.op == "put":
            rows[self.id] = seq, self.value
        elif self.id in rows:
            rows[self.id] = seq, rows[self.id][1] + 1 if self.op == "step" else self.value


@dataclass(frozen=True)
class Segment:
    """writes: () of a seal, which has the CURRENT that is to be."""

    nonce: int
    writes: tuple[Write, ...] = ()
    sealed: Current | None = None


@dataclass(frozen=True)
class Current:
    """nonces and keys: the ledger, inline."""

    gen: str
    log: str
    start: int
    counter: int
    nonces: dict[int, int] = field(default_factory=dict)
    keys: dict[int, int] = field(default_factory=dict)


@dataclass
class State:
    """What somebody knows of the log: rows with those of the generation."""

    current: Current
    etag: int
    read_at: float
    rows: dict[str, Row]
    next: int
    nonces: dict[int, int]
    keys: dict[int, int]
    seal: Segment | None = None

    def apply(self, segment: Segment) -> None:
        for write in segment.writes:
            write.apply(self.rows, self.next)
            if write.key:
                self.keys[write.token] = self.next
        self.nonces[self.next] = segment.nonce
        self.next += 1


@dataclass(slots=True)
class Actor:
    """at: when its turn comes. make: begins it anew."""

    name: str
    make: Callable[[], Steps]
    steps: Steps
    at: float = 0.0


@dataclass
class Asked:
    """A write that a client waits for, until it has a seq, None where it is refused; or `lost`."""

    write: Write
    by: str
    ended: bool = False
    lost: bool = False
    seq: int | None = None


class World:
    """The bucket, what is true of it, and how its calls go."""

    def __init__(self, seed: int, off: Iterable[str] = ()) -> None:
        self.r, self.off, self.now, self.calm = Random(seed), frozenset(off), 0.0, False
        self.pace = self.r.choice((0.1, 1.0))
        self.bucket: dict[str, tuple[int, Any]] = {}
        self.version = self.names = 0
        self.later: list[tuple[float, Callable[[], Any]]] = []
        self.wrong, self.count = "", Counter[str]()
        self.rows: dict[str, Row] = {}
        self.versions: list[dict[str, Row]] = []
        self.seen: dict[tuple[str, int], int] = {}  # (log, seq) -> version
        self.last = ("a", 0)
        self.placed: dict[int, list[int]] = {}
        self.steps = {c: [0, 0] for c in COUNTERS}  # acknowledged, and of unknown end
        self.acked = self.served = 0
        self.rolled = False
        self.sequencer: State | None = None
        self.queue: list[Asked] = []
        self.actors: list[Actor] = []
        first = {c: (0, 0) for c in COUNTERS}
        self.bucket["g0"] = 0, dict(first)
        self.bucket["CURRENT"] = 0, Current("g0", "a", 1, 0)
        self.rows = dict(first)
        self.note()

    def bad(self, what: str) -> None:
        self.wrong = self.wrong or f"{what} (at {self.now:.1f} s)"

    def wake(self, name: str, within: float) -> None:
        """Gives a turn to an actor that waits for it."""
        for actor in self.actors:
            if actor.name == name and actor.at == WOKEN:
                actor.at = self.now + within * self.r.random()

    def end(self, asked: Asked, seq: int | None, lost: bool = False) -> None:
        """Tells a client what came of its write."""
        asked.ended, asked.seq, asked.lost = True, seq, lost
        self.wake(asked.by, 0.5)

    def note(self) -> None:
        self.versions.append(dict(self.rows))
        self.seen[self.last] = len(self.versions) - 1

    # Calls.

    def call(self, effect: Callable[[], Any], *, writes: bool = False, sealing: bool = False) -> Steps:
        r = self.r.random
        if self.calm:
            yield 0.0
            return effect()
        if r() < 0.02:
            wait = self.r.choice(STALLS)
            yield wait
            if sealing and wait > LATE:
                raise Lost
        else:
            yield 0.0
        if r() < 0.012:
            raise Crash
        if writes and r() < 0.08:
            kind = r()
            if kind < 0.4:
                effect()
            elif kind < 0.8:
                self.later.append(
                    (self.now + self.r.choice((1.0, 5.0, 20.0) if sealing else (1.0, 20.0, 300.0)), effect)
                )
            raise Crash if r() < 0.3 else Lost
        answer = effect()
        if r() < 0.012:
            raise Crash
        if r() < 0.02:
            yield self.r.choice(STALLS)
        return answer

    def get(self, key: str) -> Steps:
        return self.call(lambda: self.bucket.get(key))

    def create(self, key: str, value: Any) -> Steps:
        def effect() -> bool:
            if key in self.bucket:
                return False
            self.version += 1
            self.bucket[key] = self.version, value
            if isinstance(value, Segment):
                self.committed(key, value)
            return True

        return self.call(effect, writes=True, sealing=isinstance(value, Segment) and value.sealed is not None)

    def swap(self, new: Current, etag: int) -> Steps:
        def effect() -> bool:
            version, old = self.bucket["CURRENT"]
            if version != etag and "etag" not in self.off:
                return False
            self.version += 1
            self.bucket["CURRENT"] = self.version, new
            if new.gen not in self.bucket:
                self.bad(f"CURRENT names {new.gen}, which is gone")
            elif new.log != old.log:
                self.count["switches"] += 1
                self.last, self.rows = (new.log, new.start - 1), dict(self.bucket[new.gen][1])
                self.note()
            return True

        return self.call(effect, writes=True)

    # The truth.

    def committed(self, key: str, segment: Segment) -> None:
        _, log, number = key.split("/")
        live, seq = self.bucket["CURRENT"][1], int(number)
        if log != live.log or seq < live.start or segment.sealed:
            self.count["segments of nobody"] += not segment.sealed
            return
        if seq != self.last[1] + 1:
            self.bad(f"segment {seq} behind {self.last[1]}")
        for write in segment.writes:
            if not write.holds(self.rows):
                self.bad(f"{write} at {seq} against its condition")
            if self.placed.setdefault(write.token, []):
                self.bad(f"{write} at {self.placed[write.token]} and at {seq}")
            self.placed[write.token].append(seq)
            write.apply(self.rows, seq)
        self.last = log, seq
        self.note()

    def acknowledge(self, write: Write, seq: int, service: bool) -> None:
        self.count["acknowledged"] += 1
        if self.placed.get(write.token) != [seq]:
            self.bad(f"{write} acknowledged at {seq}, is at {self.placed.get(write.token)}")
        if write.op == "step":
            self.steps[write.id][0] += 1
        version = max((v for (_, s), v in self.seen.items() if s == seq), default=0)
        self.acked = max(self.acked, version)
        if service:
            self.served = max(self.served, version)

    def refuse(self, write: Write, begun: int) -> None:
        self.count["refused"] += 1
        if all(write.holds(version) for version in self.versions[begun:]):
            self.bad(f"{write} refused, and its condition always held")

    def read(self, state: State, oldest: int, who: str) -> None:
        self.count["reads"] += 1
        version = self.seen.get((state.current.log, state.next - 1))
        if version is None:
            self.bad(f"{who} at {state.next - 1} of {state.current.log}, which never was")
        elif self.versions[version] != state.rows:
            self.bad(f"{who} saw {state.rows}, not {self.versions[version]}")
        elif version < oldest:
            self.bad(f"{who} saw version {version}, {oldest} was acknowledged before it began")


# The protocol.


def read_log(w: World) -> Steps:
    while True:
        at = w.now
        etag, current = yield from w.get("CURRENT")
        gen = yield from w.get(current.gen)
        if gen is None:
            again = yield from w.get("CURRENT")
            if again[1].counter == current.counter:
                w.bad(f"{current.gen} is live, and gone")
            continue
        state = State(
            current, etag, at, dict(gen[1]), current.start, dict(current.nonces), dict(current.keys)
        )  # fmt: skip
        if "ledger" in w.off:
            state.nonces.clear()
        if "keys" in w.off:
            state.keys.clear()
        if (yield from read_on(w, state)):
            return state


def read_on(w: World, state: State) -> Steps:
    """To the end; False where the log went away."""
    while state.seal is None:
        found = yield from w.get(f"log/{state.current.log}/{state.next}")
        most = state.next + ("first" in w.off)
        late = w.now - state.read_at > fresh(w) and "restart" not in w.off
        if late and not (yield from look_again(w, state, most)):
            return False
        if found is None:
            return True
        if found[1].sealed:
            state.seal = found[1]
        else:
            state.apply(found[1])
    return "sealed" in w.off or (yield from look_again(w, state, state.next))


def fresh(w: World) -> float:
    return 3 * GRACE if "grace" in w.off else FRESH


def look_again(w: World, state: State, most: int) -> Steps:
    at = w.now
    etag, current = yield from w.get("CURRENT")
    if current.log != state.current.log or current.start > most:
        return False
    state.current, state.etag, state.read_at = current, etag, at
    return True


def follow(w: World, state: State) -> Steps:
    whole = yield from read_on(w, state)
    return state if whole else (yield from read_log(w))


def put(w: World, key: str, segment: Segment, tries: int = 8) -> Steps:
    """Whether it is there; Lost where nobody knows."""
    for _ in range(tries):
        try:
            if (yield from w.create(key, segment)):
                return True
        except Lost:
            pass
        found = yield from w.get(key)
        if found is not None:
            return found[1].nonce == segment.nonce and "nonce" not in w.off
    raise Lost


def commit(w: World, state: State, writes: list[Write]) -> Steps:
    """(state, of each write its seq or None where it is refused)."""
    decided: list[int | None] | None = None
    while True:
        while state.seal is not None:
            yield from finish(w, state)
            state = yield from read_log(w)
        if decided is None or "again" not in w.off:
            rows, decided, mine = dict(state.rows), [], []
            for write in writes:
                if write.key and write.token in state.keys:
                    decided.append(state.keys[write.token])
                elif write.holds(rows):
                    write.apply(rows, state.next)
                    mine.append(write)
                    decided.append(-1)
                else:
                    decided.append(None)
        log, seq = state.current.log, state.next
        if not mine:
            if "end" in w.off:
                return state, decided
            state = yield from follow(w, state)
            if (state.current.log, state.next, state.seal) == (log, seq, None):
                return state, decided
            continue
        segment = Segment(w.r.getrandbits(64), tuple(mine))
        won = yield from put(w, f"log/{log}/{seq}", segment)
        done = [seq if d == -1 else d for d in decided]
        if won and ("verify" in w.off or w.now - state.read_at <= fresh(w) or (yield from look_again(w, state, seq))):
            state.apply(segment)
            return state, done
        state = yield from follow(w, state)
        owner = state.nonces.get(seq)
        if owner == segment.nonce and "nonce" not in w.off:
            return state, done
        if owner is None and (state.seal is None or state.next != seq) and "ledger" not in w.off:
            raise Lost


def finish(w: World, state: State) -> Steps:
    assert state.seal is not None and state.seal.sealed is not None
    new, seq = state.seal.sealed, state.next
    while True:
        etag, now = yield from w.get("CURRENT")
        if now.log != state.current.log or now.start > seq:
            return
        nonces = {**state.nonces, seq: state.seal.nonce}
        made = Current(new.gen, new.log, new.start, now.counter + 1, nonces, dict(state.keys))
        try:
            if (yield from w.swap(made, etag)):
                return
        except Lost:
            pass


# Actors.


def drawn(w: World, rows: dict[str, Row]) -> Write:
    token = len(w.placed) + w.r.getrandbits(48)
    kind, key = w.r.random(), w.r.random() < 0.6
    if kind < 0.4:
        counter = w.r.choice(COUNTERS)
        return Write(token, "step", counter, 0, key, seq=rows[counter][0] if counter in rows else 0)
    row = w.r.choice(ROWS)
    if kind < 0.7:
        return Write(token, "put", row, token, key, absent=w.r.random() < 0.4)
    if kind < 0.85:
        return Write(token, "patch", row, token, key, seq=rows[row][0] if row in rows and w.r.random() < 0.5 else None)
    return Write(token, "del", row, 0, key)


@dataclass
class Client:
    left: int
    write: Write | None = None
    begun: int = 0

    def next(self, w: World, rows: dict[str, Row]) -> Write:
        if self.write is None:
            self.write, self.begun = drawn(w, rows), len(w.versions) - 1
        return self.write

    def end(self, w: World, seq: int | None, service: bool) -> None:
        assert self.write is not None
        if seq is None:
            w.refuse(self.write, self.begun)
        else:
            w.acknowledge(self.write, seq, service)
        self.write = None
        self.left -= 1

    def fail(self, w: World) -> None:
        """Nobody knows: with a key it is sent again."""
        if self.write is not None and not self.write.key:
            if self.write.op == "step":
                w.steps[self.write.id][1] += 1
            self.write = None
            self.left -= 1


def direct(w: World, client: Client) -> Steps:
    client.fail(w)
    state = yield from read_log(w)
    while client.left:
        write = client.next(w, state.rows)
        state, (seq,) = yield from commit(w, state, [write])
        client.end(w, seq, False)
        yield w.r.choice((0.0, 5.0, 30.0))


def sequencer(w: World) -> Steps:
    taken = w.queue[:]
    w.queue.clear()
    try:
        for asked in taken:
            w.end(asked, None, lost=True)
        taken = []
        state = w.sequencer = yield from read_log(w)
        while True:
            if not w.queue:
                yield WOKEN
                continue
            taken, w.queue[:] = w.queue[:4], w.queue[4:]
            state, seqs = yield from commit(w, state, [asked.write for asked in taken])
            w.sequencer = state
            for asked, seq in zip(taken, seqs, strict=True):
                w.end(asked, seq)
            taken = []
    finally:
        w.sequencer = None
        for asked in taken:
            w.end(asked, None, lost=True)


def served(w: World, client: Client, name: str) -> Steps:
    client.fail(w)
    while client.left:
        state = w.sequencer
        asked = Asked(client.next(w, state.rows if state else {}), name)
        w.queue.append(asked)
        w.wake("sequencer", 1.0)
        while not asked.ended:
            yield WOKEN
        if asked.lost:
            client.fail(w)
            continue
        client.end(w, asked.seq, True)
        yield w.r.choice((0.0, 2.0, 30.0))


def compactor(w: World) -> Steps:
    while True:
        yield w.pace * w.r.choice((20.0, 60.0))
        state = yield from read_log(w)
        if state.next == state.current.start:
            continue
        w.names += 1
        gen = f"g{w.names}"
        if not (yield from w.create(gen, dict(state.rows))):
            continue
        old = state.current
        new = Current(gen, old.log, state.next, old.counter + 1, dict(state.nonces), dict(state.keys))
        w.count["compacted"] += yield from w.swap(new, state.etag)


def deleter(w: World) -> Steps:
    unnamed: dict[str, float] = {}
    while True:
        yield w.pace * 30.0
        asked = w.now  # what is old is so before the log is read: a seal that names it may come later
        state = yield from read_log(w)
        if state.seal:
            yield from finish(w, state)
            continue
        now = state.current
        listed = yield from w.call(lambda: [k for k in w.bucket if k != "CURRENT"])
        for key in listed:
            part = key.split("/")
            if key == now.gen or (len(part) > 1 and part[1] == now.log and int(part[2]) >= now.start):
                unnamed.pop(key, None)
            else:
                unnamed.setdefault(key, w.now)
        old = [k for k in listed if k in unnamed and asked - unnamed[k] > GRACE]
        if not old:
            continue
        if "fence" not in w.off:
            new = Current(now.gen, now.log, now.start, now.counter + 1, now.nonces, now.keys)
            if not (yield from w.swap(new, state.etag)):
                continue
        for key in old:
            yield from w.call(lambda key=key: w.bucket.pop(key, None))
            w.count["deleted"] += 1


def roller(w: World) -> Steps:
    """Branches: the same rows in another log; or rolls back to an older state."""
    while True:
        yield w.r.choice((100.0, 300.0))
        state = yield from read_log(w)
        if state.seal:
            yield from finish(w, state)
            continue
        made_at = w.now
        w.names += 1
        gen, log = f"g{w.names}", f"b{w.names}"
        back = w.r.random() < 0.3
        rows = w.r.choice(w.versions) if back else state.rows
        if not (yield from w.create(gen, dict(rows))) or w.now - made_at > FRESH:
            continue
        w.rolled = w.rolled or back
        new = Current(gen, log, state.next + 1, 0)
        segment = Segment(w.r.getrandbits(64), sealed=new)
        key = f"log/{state.current.log}/{state.next}"
        if "seal" in w.off or (yield from put(w, key, segment, tries=1)):
            state.seal = segment
            yield from finish(w, state)


def reader(w: World) -> Steps:
    while True:
        yield w.r.choice((1.0, 5.0, 12.0))
        oldest = w.acked
        w.read((yield from read_log(w)), oldest, "a reader")


def follower(w: World) -> Steps:
    state = yield from read_log(w)
    while True:
        yield w.r.choice((1.0, 5.0, 12.0, 120.0))
        oldest = w.acked
        state = yield from follow(w, state)
        w.read(state, oldest, "a follower")


def asker(w: World) -> Steps:
    while True:
        yield w.r.choice((1.0, 5.0, 12.0))
        if w.sequencer is not None:
            w.read(w.sequencer, w.served, "the sequencer")


def run(seed: int, off: Iterable[str] = ()) -> World:
    """A world, to its end or to the first thing that is wrong."""
    w = World(seed, off)
    clients = [Client(8) for _ in range(4)]
    makers: dict[str, Callable[[], Steps]] = {
        "direct 0": lambda: direct(w, clients[0]), "direct 1": lambda: direct(w, clients[1]),
        "served 0": lambda: served(w, clients[2], "served 0"), "served 1": lambda: served(w, clients[3], "served 1"),
        "sequencer": lambda: sequencer(w), "compactor 0": lambda: compactor(w), "compactor 1": lambda: compactor(w),
        "deleter": lambda: deleter(w), "roller": lambda: roller(w), "reader 0": lambda: reader(w),
        "reader 1": lambda: reader(w), "follower": lambda: follower(w), "asker": lambda: asker(w),
    }  # fmt: skip
    for name in ("direct 1", "served 1", "compactor 0", "compactor 1", "deleter", "roller", "reader 1"):
        if w.r.random() < 0.4:
            del makers[name]
    for client, name in zip(clients, ("direct 0", "direct 1", "served 0", "served 1"), strict=True):
        client.left *= name in makers
    w.actors = [Actor(name, make, make()) for name, make in makers.items()]
    while not w.wrong and (w.now < END or any(c.left for c in clients)):
        w.calm = w.now > END
        if w.now > END + CALM:
            w.bad("some clients never ended")
        turn(w)
    for actor in w.actors:
        actor.steps.close()
    if not w.wrong:
        w.calm = True
        last = read_log(w)
        try:
            while not w.wrong:
                next(last)
        except StopIteration as end:
            w.read(end.value, w.acked, "the last reader")
            count_steps(w, end.value.rows)
    return w


def count_steps(w: World, rows: dict[str, Row]) -> None:
    """Applied once: what clients were told of their steps, beside where the counters stand."""
    for counter, (told, unknown) in w.steps.items():
        if not w.rolled and not told <= rows[counter][1] <= told + unknown:
            w.bad(f"{counter} stands at {rows[counter][1]}, {told} steps were acknowledged and {unknown} unknown")


def turn(w: World) -> None:
    """Of one actor."""
    now, actors = w.now, w.actors
    ready = [actor for actor in actors if actor.at <= now]
    if not ready:
        now = min([actor.at for actor in actors])
        ready = [actor for actor in actors if actor.at <= now]
    w.now = now = now + TURN * w.r.random()
    if w.later:
        due = [effect for at, effect in w.later if at <= now]
        w.later = [entry for entry in w.later if entry[0] > now]
        for effect in due:
            effect()
    actor = ready[int(w.r.random() * len(ready))]
    try:
        actor.at = now + next(actor.steps)
    except StopIteration:
        actors.remove(actor)
    except (Crash, Lost) as end:
        w.count["crashes" if isinstance(end, Crash) else "unknown ends"] += 1
        actor.steps, actor.at = actor.make(), now + w.r.choice((0.0, 3.0, 60.0))


def runs(first: int, count: int, off: Iterable[str], tell: Callable[[str], None]) -> tuple[int, Counter[str]]:
    """(wrong runs, what happened in all)."""
    wrong, total = 0, Counter[str]()
    for seed in range(first, first + count):
        world = run(seed, off)
        total.update(world.count)
        if world.wrong:
            wrong += 1
            tell(f"seed {seed}: {world.wrong}")
    return wrong, total


def main() -> int:
    """Prints a line for all runs, or one for each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--rules", action="store_true", help="the table of runs without each rule")
    given = parser.parse_args()
    if given.rules:
        print(f"wrong of {given.runs} runs without the rule")
        for rule, what in RULES.items():
            wrong, _ = runs(given.seed, given.runs, [rule], lambda _: None)
            print(f"{wrong:6}  {rule:8} {what}", flush=True)
        return 0
    begun = time.process_time()
    wrong, total, end = 0, Counter[str](), given.seed + given.runs
    for first in range(given.seed, end, CHUNK):
        some, counted = runs(first, min(CHUNK, end - first), (), lambda line: print(line, flush=True))
        wrong, total = wrong + some, total + counted
        print(f"up to seed {min(end, first + CHUNK) - 1}: {wrong} wrong", flush=True)
    print(f"{given.runs} runs, {wrong} wrong, {time.process_time() - begun:.0f} s:", dict(sorted(total.items())))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
