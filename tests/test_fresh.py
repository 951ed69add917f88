"""The log over a generation: answers as plain Python gives them, of rows that come, change and go."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from vantage.follow import Followed
from vantage.format import Current
from vantage.format.log import NO_KEY, Request, RowShape
from vantage.index import Index
from vantage.log.commit import check_request, commit
from vantage.log.conditions import BaseRow, Write
from vantage.log.state import read_log
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.listing import Listing, prepare_listing
from vantage.search.query import Answer, Query

FIXTURES = Path(__file__).parent / "fixtures"
CODES = {"f16": "e", "f32": "f", "u8": "B", "i8": "b"}
Id = int | bytes


@dataclass
class Row:
    vector: list[float]
    attributes: dict[str, Any]


@dataclass
class Living:
    """A copy of a fixture with a log, the rows that it is to have, and what of them the log has."""

    folder: Path
    name: str
    index: Index
    followed: Followed
    rows: dict[Id, Row]
    written: set[Id] = field(default_factory=set)

    @property
    def shape(self) -> RowShape:
        index = self.index.root.index
        return RowShape(index.dimension, index.id_kind, index.vector_kind)

    def write(
        self, upserts: Mapping[Id, Row] = {}, patches: Mapping[Id, dict[str, Any]] = {}, deletes: Sequence[Id] = ()
    ) -> None:
        """One request, done to the rows too; what was read of the log stays behind."""
        kind, names = CODES[self.shape.vector_kind], self.index.root.names
        vectors = b"".join(struct.pack(f"<{len(r.vector)}{kind}", *r.vector) for r in upserts.values())
        texts = [json.dumps(r.attributes).encode() if r.attributes else b"" for r in upserts.values()]
        changes = [json.dumps(members).encode() for members in patches.values()]
        request = Request(NO_KEY, 0, list(upserts), vectors, texts, list(patches), changes, list(deletes))
        check_request(request, self.shape)

        async def write() -> None:
            store = StoreLog(FolderStore(self.folder / self.name))
            state = await read_log(store, monotonic)
            _, [seq] = await commit(store, state, [Write(request)], self.shape, nothing, monotonic)
            assert isinstance(seq, int)

        asyncio.run(write())
        for identifier, row in upserts.items():
            own = [
                float(v)
                for (v,) in struct.iter_unpack(f"<{kind}", struct.pack(f"<{len(row.vector)}{kind}", *row.vector))
            ]
            self.rows[identifier] = Row(own, dict.fromkeys(names) | row.attributes)
        for identifier, members in patches.items():
            if identifier in self.rows:
                self.rows[identifier] = Row(self.rows[identifier].vector, self.rows[identifier].attributes | members)
        for identifier in deletes:
            self.rows.pop(identifier, None)
        self.written |= {*upserts, *patches, *deletes}

    def read_on(self) -> Receipt:
        """Follows the log to its end."""
        receipt = Receipt()
        assert asyncio.run(self.followed.follow(receipt))
        self.index = self.followed.index
        return receipt

    def ask(self, vector: Sequence[float], top_k: int, **options: Any) -> Answer:
        return asyncio.run(self.index.query(Query(list(vector), top_k, **options)))


async def nothing(_: Current, __: Sequence[Id]) -> Mapping[Id, BaseRow | None]:
    return {}


def living(tmp_path: Path, name: str) -> Living:
    shutil.copytree(FIXTURES / name, tmp_path / name)
    index = asyncio.run(Index.open(Folder(tmp_path), name, Cache(0), Receipt()))
    rows = dict[Id, Row]()
    cursor: str | None = None
    while not rows or cursor is not None:
        prepared = prepare_listing(index.segment, Listing(limit=1000, cursor=cursor, vectors=True))
        page = asyncio.run(index.list_rows(prepared))
        cursor = page.cursor
        for row in page.rows:
            assert row.vector is not None and row.attributes is not None
            rows[row.id] = Row(row.vector, row.attributes)
    assert len(rows) == index.root.index.rows
    return Living(tmp_path, name, index, Followed(index, monotonic()), rows)


def test_a_row_that_is_written_is_found_and_one_that_is_deleted_is_not(tmp_path: Path) -> None:
    it = living(tmp_path, "words")
    some, other = list(it.rows)[:2]
    before = it.ask(it.rows[some].vector, 5, rerank=5)
    assert before.matches[0].id == some
    it.write(upserts={b"new": Row(it.rows[some].vector, {"gloss": "a new one"})}, deletes=[some])
    assert [m.id for m in it.ask(it.rows[b"new"].vector, 5, rerank=5).matches] == [m.id for m in before.matches]
    it.read_on()
    after = it.ask(it.rows[b"new"].vector, 5, rerank=5, attributes=True, vectors=True)
    assert [m.id for m in after.matches] == [b"new", *(m.id for m in before.matches[1:])]
    first = after.matches[0]
    assert first.attributes == {"gloss": "a new one", "rank": None, "tags": None}
    assert first.vector == it.rows[b"new"].vector and first.score == pytest.approx(1.0)
    assert (after.receipt.seq, after.receipt.fresh, after.receipt.superseded) == (1, 1, 2)
    del other
