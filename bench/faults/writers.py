"""Clients that write rows and clients that read them, and what both may be told: an oracle of acknowledged writes.

Each row has one writer, which sends a request again, with its Idempotency-Key, until it knows what came of it. So at
any time a row is as it was acknowledged last, or as a request that is under way makes it. Counters are rows that all
count up, each step on the condition that nobody came between; claims are rows that all try to make first.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import numpy as np

from .soak import DOCUMENTED

Fields = dict[str, Any]
# (path below the index, body, Idempotency-Key) -> (status, JSON of the answer); status 0 where none came
Ask = Callable[[str, Fields, str], Awaitable[tuple[int, Fields]]]

OWN_ROWS = 48  # of a writer
BATCH = 12
COUNTERS = tuple(f"counter-{i}" for i in range(4))
PAUSE_S = 0.2  # before a request is sent again
# Nothing was done: the body stopped, which a client that hardly runs on a busy machine is to blame for; too many.
AGAIN = (408, 429)
SEEN_S = 1.0  # after that, what a direct writer wrote is seen
GIVE_UP_S = 3600.0
FORGET_S = 200.0
CALLS_KEPT = 4000  # of writers, with what they were told
SHOWN = 6  # versions of a row that was wrong


class Row(NamedTuple):
    """A row as it is read. attributes: all that the index has, by name."""

    vector: list[float]
    attributes: Fields


@dataclass
class Version:
    """What a write makes of a row, None where it is not there. ended: when it was acknowledged."""

    row: Row | None
    begun: float
    ended: float = math.inf


class Call(NamedTuple):
    """A try of a write: when it was sent and answered, of time.monotonic, and what it was told."""

    begun: float
    ended: float
    key: str
    body: str
    status: int
    told: str


@dataclass
class Oracle:
    """What is known of rows. names: attributes of the index; owner, number: the text and the integer among them that
    writers set and filters ask for. log_of: what the bucket's log has of an id, for who looks into what was wrong.
    """

    names: list[str]
    owner: str
    number: str
    dimension: int
    versions: dict[str, list[Version]] = field(default_factory=dict)
    direct: set[str] = field(default_factory=set)  # ids whose writers the service does not know of
    steps: Counter[str] = field(default_factory=Counter)  # of counters, as acknowledged
    claims: dict[str, str] = field(default_factory=dict)  # whose they are
    wrong: Counter[str] = field(default_factory=Counter)
    count: Counter[str] = field(default_factory=Counter)
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=CALLS_KEPT))
    log_of: Callable[[str], list[str]] = lambda _: []

    def bad(self, what: str, *ids: str, key: str = "") -> None:
        """Counts what is wrong, and prints at once what is known of these rows, and of the request with this key."""
        self.wrong[what[:300]] += 1
        now = time.monotonic()
        print(f"wrong: {what}"[:1000], f"(at {now:.2f})", file=sys.stderr)
        for identifier in ids:
            for version in self.versions.get(identifier, [])[-SHOWN:]:
                row = version.row and version.row.attributes
                print(f"  {identifier} {row} from {version.begun:.2f}, by {version.ended:.2f}", file=sys.stderr)
            for line in self.log_of(identifier):
                print(f"  {identifier} in the log: {line}", file=sys.stderr)
        for call in self.calls:
            if call.key == key or any(f'"{identifier}"' in call.body for identifier in ids):
                print(f"  {call}", file=sys.stderr)
        sys.stderr.flush()

    def hold(self, identifier: str, row: Row | None) -> None:
        """A row as it is before anybody writes."""
        self.versions[identifier] = [Version(row, -math.inf, -math.inf)]

    def begin(self, identifier: str, row: Row | None) -> Version:
        """A write of it is under way."""
        own = self.versions.setdefault(identifier, [Version(None, -math.inf, -math.inf)])
        now = time.monotonic()
        while len(own) > 1 and own[1].ended < now - FORGET_S:
            own.pop(0)
        own.append(Version(row, now))
        return own[-1]

    def now(self, identifier: str) -> Row | None:
        """For its writer."""
        return self.versions[identifier][-1].row if identifier in self.versions else None

    def possible(self, identifier: str, begun: float, ended: float) -> list[Row | None]:
        """What one may be told of a row that asked then."""
        own = self.versions[identifier]
        first = max(i for i, version in enumerate(own) if version.ended <= begun)
        return [version.row for version in own[first:] if version.begun < ended]

    def by_now(self, identifier: str, begun: float, ended: float, bucket: bool) -> list[Row | None]:
        """The same of a reader that the service tells; bucket: that asked the bucket."""
        late = identifier in self.direct and not bucket
        return self.possible(identifier, begun - late * 3 * SEEN_S, ended)


def vector_of(draw: Random, dimension: int) -> list[float]:
    """Of length 1, as an index of float16 has it."""
    values = np.array([draw.gauss(0, 1) for _ in range(dimension)])
    stored: list[float] = (values / np.linalg.norm(values)).astype(np.float16).astype(float).tolist()
    return stored


class Writer:
    """One that writes its own rows, and counts and claims with others. held: ids of its own that were there."""

    def __init__(
        self, name: str, oracle: Oracle, ask: Ask, seed: int, held: Sequence[str] = (), direct: bool = False
    ) -> None:
        self.name, self.oracle, self.ask, self.draw = name, oracle, ask, Random(seed)
        self.ids = [f"{name}-{i}" for i in range(OWN_ROWS)] + [*held]
        self.sent: list[tuple[Fields, str, int]] = []
        self.n = 0
        if direct:
            oracle.direct |= set(self.ids)

    async def run(self, until: Callable[[], bool]) -> None:
        while not until():
            await self.step()
            await asyncio.sleep(0)

    async def step(self) -> None:
        """One write, to its end."""
        kind = self.draw.random()
        some = self.draw.sample(self.ids, self.draw.randint(1, BATCH))
        self.n += 1
        if kind < 0.35:
            await self._write({"upsert": {i: self._row() for i in some}})
        elif kind < 0.55:
            await self._write({"patch": {i: {self.oracle.number: self.draw.randrange(1000)} for i in some}})
        elif kind < 0.65:
            await self._write({"delete": some[:4]})
        elif kind < 0.72:
            n = len(some) // 2
            await self._write({"upsert": {i: self._row() for i in some[:n]}, "delete": some[n:]})
        elif kind < 0.78:
            await self._delete_where()
        elif kind < 0.88:
            await self._count()
        elif kind < 0.93:
            await self._claim()
        elif self.sent:
            await self._again()

    def _row(self) -> Row:
        vector = vector_of(self.draw, self.oracle.dimension)
        own = {self.oracle.owner: self.name, self.oracle.number: self.draw.randrange(1000)}
        return Row(vector, dict.fromkeys(self.oracle.names) | own)

    async def _write(self, changes: Fields) -> None:
        after: dict[str, Row | None] = {}
        body: Fields = {}
        for identifier, row in changes.get("upsert", {}).items():
            after[identifier] = row
            attributes = {name: value for name, value in row.attributes.items() if value is not None}
            body.setdefault("upsert", []).append({"id": identifier, "vector": row.vector, "attributes": attributes})
        for identifier, members in changes.get("patch", {}).items():
            row = self.oracle.now(identifier)
            after[identifier] = row and row._replace(attributes=row.attributes | members)
            body.setdefault("patch", []).append({"id": identifier, "attributes": members})
        for identifier in changes.get("delete", []):
            after[identifier] = None
            body.setdefault("delete", []).append(identifier)
        await self._done(body, after)

    async def _done(self, body: Fields, after: dict[str, Row | None]) -> Fields:
        """Sends a write that must be done."""
        key = f"{self.name}/{self.n}"
        begun = [self.oracle.begin(identifier, row) for identifier, row in after.items()]
        status, answer = await self.send(body, key)
        if status != 200:
            detail = f"{status} {answer.get('code')} {answer.get('detail')}"
            self.oracle.bad(f"{self.name}: {detail} for a good write", *after, key=key)
            for identifier in after if status else ():
                self.oracle.versions[identifier].pop()  # it was not done
        self.oracle.count["writes"] += 1
        if status == 200:
            for version in begun:
                version.ended = time.monotonic()
            self.sent = [*self.sent[-20:], (body, key, answer["seq"])]
        return answer

    async def _delete_where(self) -> None:
        oracle, cut = self.oracle, self.draw.randrange(700, 1000)
        after: dict[str, Row | None] = {}
        for identifier in self.ids:
            row = oracle.now(identifier)
            if row and row.attributes[oracle.owner] == self.name and (row.attributes[oracle.number] or 0) >= cut:
                after[identifier] = None
        tries = oracle.count["sent again"]
        where = {oracle.owner: self.name, oracle.number: {"$gte": cut}}
        answer = await self._done({"delete_where": where}, after)
        if oracle.count["sent again"] == tries and not answer.get("retried") and answer.get("deleted") != len(after):
            what = f"{self.name}: delete_where deleted {answer.get('deleted')} of {len(after)} rows: {answer}"
            oracle.bad(what, *after, key=f"{self.name}/{self.n}")

    async def _count(self) -> None:
        """A step of a counter: what it was is read, and may be old."""
        oracle, identifier = self.oracle, self.draw.choice(COUNTERS)
        status, answer = await self.ask("vectors", {"ids": [identifier], "include": ["attributes"]}, "")
        if status != 200 or not answer["rows"] or answer["rows"][0].get("attributes") is None:
            return
        n = answer["rows"][0]["attributes"][oracle.number]
        change = {"id": identifier, "attributes": {oracle.number: n + 1}, "if": {oracle.number: n}}
        status, answer = await self.send({"patch": [change]}, f"{self.name}/{self.n}")
        oracle.steps[identifier] += status == 200
        oracle.count["steps"] += status == 200
        oracle.count["refused"] += status == 409
        if status not in (200, 409):
            what = f"a step: {status} {answer.get('code')} {answer.get('detail')}"
            oracle.bad(what, key=f"{self.name}/{self.n}")

    async def _claim(self) -> None:
        oracle, row = self.oracle, self._row()
        identifier = f"claim-{len(oracle.claims) + self.draw.randrange(3)}"
        one = {"id": identifier, "vector": row.vector, "attributes": {oracle.owner: self.name}, "if_absent": True}
        status, answer = await self.send({"upsert": [one]}, f"{self.name}/{self.n}")
        if status == 200:
            if identifier in oracle.claims:
                oracle.bad(f"{identifier} was given to {oracle.claims[identifier]} and to {self.name}", identifier)
            oracle.claims[identifier] = self.name
        elif status != 409:
            oracle.bad(f"a claim: {status} {answer.get('code')} {answer.get('detail')}", identifier)

    async def _again(self) -> None:
        """An old request, with its key: nothing may change."""
        body, key, seq = self.draw.choice(self.sent)
        if "delete_where" in body:
            return
        status, answer = await self.send(body, key)
        if (status, answer.get("seq"), answer.get("retried")) != (200, seq, True):
            self.oracle.bad(f"{key} again: {status} {answer} instead of seq {seq}", key=key)

    async def send(self, body: Fields, key: str) -> tuple[int, Fields]:
        """Until there is an answer that says what came of it."""
        end = time.monotonic() + GIVE_UP_S
        while time.monotonic() < end:
            begun = time.monotonic()
            status, answer = await self.ask("write", body, key)
            told = f"{answer.get('code', '')} seq {answer.get('seq')} retried {answer.get('retried')}"
            self.oracle.calls.append(Call(begun, time.monotonic(), key, shown(body), status, told))
            if status in (200, 409) or (400 <= status < 500 and status not in AGAIN):
                return status, answer
            self.oracle.count["sent again"] += 1
            self.oracle.count[f"{status} {answer.get('code', '')}".strip()] += 1
            if status and DOCUMENTED.get(str(answer.get("code"))) != status:
                self.oracle.bad(f"a write: {status} {answer.get('code')} {answer.get('detail')}", key=key)
            await asyncio.sleep(PAUSE_S)
        self.oracle.bad(f"{key}: no answer in {GIVE_UP_S} s", key=key)
        return 0, {}


def shown(body: Fields) -> str:
    """A write without its vectors, as JSON."""
    rows = {name: value for name, value in body.items() if name != "upsert"}
    if "upsert" in body:
        rows["upsert"] = [{name: row[name] for name in row if name != "vector"} for row in body["upsert"]]
    return json.dumps(rows)


class Reader:
    """One that asks for rows in each way, and holds the answers against the oracle."""

    def __init__(self, oracle: Oracle, writers: list[Writer], ask: Ask, seed: int) -> None:
        self.oracle, self.writers, self.ask, self.draw = oracle, writers, ask, Random(seed)

    async def run(self, until: Callable[[], bool]) -> None:
        while not until():
            await self.step()

    async def step(self) -> None:
        """One question."""
        await self.draw.choice([self.look_up, self.nearest, self.list_rows, self.count_rows])()

    async def asked(self, path: str, body: Fields) -> tuple[Fields, float, float, bool] | None:
        """(answer, when it was asked for, when it came, whether the bucket was asked); None without an answer."""
        bucket = self.draw.random() < 0.25
        begun = time.monotonic()
        status, answer = await self.ask(path, body | ({"consistency": "bucket"} if bucket else {}), "")
        self.oracle.count[path] += status == 200
        if status == 200:
            return answer, begun, time.monotonic(), bucket
        self.oracle.count[f"{status} {answer.get('code', '')}".strip()] += 1
        if status and (DOCUMENTED.get(str(answer.get("code"))) != status or (status < 500 and status not in AGAIN)):
            self.oracle.bad(f"{path}: {status} {answer.get('code')} {answer.get('detail')}")
        await asyncio.sleep(PAUSE_S)
        return None

    async def look_up(self) -> None:
        ids = sorted(
            {self.draw.choice(self.draw.choice(self.writers).ids) for _ in range(20)} & self.oracle.versions.keys()
        )
        if not ids or (told := await self.asked("vectors", {"ids": ids})) is None:
            return
        answer, *when = told
        rows = {row["id"]: row for row in answer["rows"]}
        if len(rows) < len(answer["rows"]):
            self.oracle.bad("an id comes twice")
        for identifier in ids:
            if identifier not in rows and (identifier in answer["missing"] or answer["complete"]):
                self._hold(identifier, None, when, "lookup")
            elif identifier in rows and answer["complete"]:
                self._hold(identifier, Row(rows[identifier]["vector"], rows[identifier]["attributes"]), when, "lookup")

    def _hold(self, identifier: str, row: Row | None, when: list[Any], what: str) -> None:
        possible = self.oracle.by_now(identifier, *when)
        if row not in possible:
            short = [one and one.attributes for one in possible]
            is_ = f"{row and row.attributes}, may be {short}"
            self.oracle.bad(f"{what}: {identifier} is {is_}: {said(when)}", identifier)

    async def nearest(self) -> None:
        """A row's own vector finds it, unless it was deleted, and no row as it was."""
        oracle, identifier = self.oracle, self.draw.choice(self.draw.choice(self.writers).ids)
        row = oracle.now(identifier) if identifier in oracle.versions else None
        if row is None:
            return
        body: Fields = {"vector": row.vector, "top_k": 10, "rerank": 20, "include": ["attributes", "vector"]}
        if self.draw.random() < 0.4:
            body["filter"] = {oracle.owner: row.attributes[oracle.owner]}
        if (told := await self.asked("query", body)) is None:
            return
        answer, *when = told
        ids = [match["id"] for match in answer["matches"]]
        if len(set(ids)) < len(ids):
            oracle.bad("query: an id comes twice")
        for match in answer["matches"]:
            if match["id"] in oracle.versions and match.get("vector") and match.get("attributes"):
                self._hold(match["id"], Row(match["vector"], match["attributes"]), when, "query")
        there = [one for one in oracle.by_now(identifier, *when) if one is None or one.vector != row.vector]
        if identifier not in ids and not there and answer["complete"]:
            oracle.count["near ones missed"] += 1

    async def list_rows(self) -> None:
        oracle, writer = self.oracle, self.draw.choice(self.writers)
        body = {"filter": {oracle.owner: writer.name}, "limit": 1000}
        if (told := await self.asked("rows", body)) is None:
            return
        answer, *when = told
        rows, whole = {row["id"]: row for row in answer["rows"]}, answer["cursor"] is None and answer["complete"]
        if len(rows) < len(answer["rows"]):
            oracle.bad("list: an id comes twice")
        for identifier in writer.ids:
            possible = oracle.by_now(identifier, *when) if identifier in oracle.versions else [None]
            if identifier in rows:
                if not any(one and one.attributes == rows[identifier]["attributes"] for one in possible):
                    oracle.bad(f"list: {identifier} is {rows[identifier]['attributes']}: {said(when)}", identifier)
            elif all(one and one.attributes[oracle.owner] == writer.name for one in possible) and whole:
                oracle.bad(f"list: {identifier} is missing: {said(when)}", identifier)

    async def count_rows(self) -> None:
        oracle, writer = self.oracle, self.draw.choice(self.writers)
        cut = self.draw.randrange(1000)
        where = {oracle.owner: writer.name, oracle.number: {"$lt": cut}}
        body = {"facets": {oracle.owner: {"top": 3}}, "filter": where}
        if (told := await self.asked("facets", body)) is None:
            return
        answer, *when = told
        low = high = 0
        for identifier in writer.ids:
            possible = oracle.by_now(identifier, *when) if identifier in oracle.versions else [None]
            fits = [
                one is not None and one.attributes[oracle.owner] == writer.name
                and one.attributes[oracle.number] is not None and one.attributes[oracle.number] < cut
                for one in possible
            ]  # fmt: skip
            low, high = low + all(fits), high + any(fits)
        if answer["matched_exact"] and not low <= answer["matched"] <= high:
            oracle.bad(f"facets: {answer['matched']} rows of {where}, {low} to {high} are there: {said(when)}")


def said(when: Sequence[Any]) -> str:
    """How a reader asked: see `asked`."""
    begun, ended, bucket = when
    return f"asked at {begun:.2f}, told at {ended:.2f}" + ", of the bucket" * bucket


async def settled(oracle: Oracle, writers: list[Writer], ask: Ask) -> None:
    """Nobody writes any more: all is as it was acknowledged last."""

    async def rows_of(ids: list[str]) -> dict[str, Fields]:
        out, left = dict[str, Fields](), list(ids)
        for _ in range(40):
            status, answer = await ask("vectors", {"ids": left[:200], "consistency": "bucket"}, "")
            if status == 200 and answer["complete"]:
                out |= {row["id"]: row for row in answer["rows"]}
                left = left[200:]
            elif status != 200:
                await asyncio.sleep(PAUSE_S)
            if not left:
                return out
        oracle.bad("the rows cannot be read in the end")
        return out

    rows = await rows_of([identifier for identifier in oracle.versions])
    for identifier, versions in oracle.versions.items():
        row, found = versions[-1].row, rows.get(identifier)
        if (found and Row(found["vector"], found["attributes"])) != row:
            what = f"in the end {identifier} is {found and found['attributes']}, not {row and row.attributes}"
            oracle.bad(what, identifier)
    for identifier, row in (await rows_of(list(COUNTERS))).items():
        if row["attributes"][oracle.number] != oracle.steps[identifier]:
            oracle.bad(
                f"{identifier} stands at {row['attributes'][oracle.number]} after {oracle.steps[identifier]} steps",
                identifier,
            )
    claimed = {i: row["attributes"][oracle.owner] for i, row in (await rows_of(list(oracle.claims))).items()}
    if claimed != oracle.claims:
        oracle.bad(f"claims are {claimed}, not {oracle.claims}")


def told(status: int, text: str) -> tuple[int, Fields]:
    """An answer as `Ask` gives it."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    return status, answer if isinstance(answer, dict) else {"code": "no JSON", "detail": text[:200]}
