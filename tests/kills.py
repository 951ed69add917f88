"""Publish, rollback and gc, ended at every operation: what the bucket then is, and what running them again makes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build_index.bucket import generations as g
from build_index.bucket.store import FolderStore, ObjectStore
from vantage.errors import VantageError
from vantage.index import Index
from vantage.read.bucket import Bytes
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.query import Query


class Killed(BaseException):
    """The end of a process."""


class Ending:
    """A store that ends, or loses the answer of, its n-th operation, before or after that took effect."""

    def __init__(
        self, inner: ObjectStore, at: int = 0, after: bool = False, error: BaseException | None = None
    ) -> None:
        self.inner, self.at, self.after, self.error, self.count = inner, at, after, error or Killed(), 0
        self.lock, self.dead = threading.Lock(), False

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            with self.lock:  # one at a time, so that the n-th is the n-th
                if self.dead:
                    raise self.error
                self.count += 1
                last = self.count == self.at
                self.dead = last and isinstance(self.error, Killed)
                if last and not self.after:
                    raise self.error
                answer = getattr(self.inner, name)(*args)
                if last:
                    raise self.error
                return answer

        return run


class Served:
    """A store as the bucket of a reader, with one index `live`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Bytes | None:
        found = self.inner.get(key.removeprefix("live/"))
        if found is None:
            return None
        end = len(found[0]) if length is None else offset + length
        return Bytes(found[0][offset:end], len(found[0]), found[1])

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return ["live"], None


def ask(where: ObjectStore, identifier: int) -> str:
    """The generation that answers, which it does rightly: a stored row is found by its id and by itself."""

    async def run() -> str:
        index = await Index.open(Served(where), "live", Cache(0), Receipt())
        row, vector = await index.find(identifier, Receipt())
        answer = await index.query(Query(vector, 10, rerank=50))
        assert row in [match.row for match in answer.matches]
        return index.current.generation

    return asyncio.run(run())


def kills(
    first: Path, second: Path, identifier: int, named: Callable[[str], ObjectStore], after: bool
) -> dict[str, tuple[int, int, int]]:
    """Command -> (points tried, then unreadable, not mended by running the command again).

    first, second: two generations of one index, each alone in a folder. named: an empty store for each name. after: the
    operation took effect.
    """
    base, out = named("base"), {}
    one = g.publish(first, base)["generation"]
    (two,) = (x["generation"] for x in g.generations(FolderStore(second)))
    for command in ("publish", "rollback", "gc"):
        if command == "rollback":
            g.publish(second, base)
        if command == "gc":  # so that the first one is no longer what the live one rolls back to
            base.delete("CURRENT")
            g.publish(second, base)
        run: Any = {
            "publish": lambda p: g.publish(second, p),
            "rollback": lambda p: g.rollback(p, one),
            "gc": lambda p: g.gc(p, 0),
        }[command]
        unreadable = lost = at = 0
        objects = [(stored.key, base.read(stored.key, 0, 1 << 30)) for stored in base.list()]
        while True:
            where = named(f"{command}-{at + 1}")
            for key, body in objects:
                where.put(key, body)
            try:
                run(Ending(where, at + 1, after))
                break
            except Killed:
                at += 1
            try:
                unreadable += ask(where, identifier) not in (one, two) or bool(g.verify(where)["damage"])
            except (VantageError, AssertionError):
                unreadable += 1
            try:
                run(where)
                live = ask(where, identifier)
                mended = live == (one if command == "rollback" else two) and not g.verify(where)["damage"]
                left = {x["generation"] for x in g.generations(where)}
                lost += not mended or left != ({two} if command == "gc" else {one, two})
            except (VantageError, AssertionError):
                lost += 1
        out[command] = (at, unreadable, lost)
    return out
