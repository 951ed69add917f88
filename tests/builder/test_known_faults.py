"""Faults that other stores of vectors and logs had, tried against this one; each test says where one was reported."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_index.audit.log import verify_log
from build_index.bucket import generations as g
from build_index.bucket.log_store import StoreLog
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore, store_at
from build_index.compact import compact
from build_index.writes import Send, sender
from vantage.admission import BusyError
from vantage.follow import Followed
from vantage.format import Current
from vantage.format.log import pack_seal, segment_key
from vantage.index import Index
from vantage.log.collect import collect
from vantage.log.remove import remove
from vantage.log.state import read_log
from vantage.receipt import Receipt
from vantage.search.query import Query

WORDS = Path(__file__).parents[1] / "fixtures" / "words"  # 200 rows
VECTORS = [[float(i >> j & 1) - 0.3 * (i % 3) for j in range(16)] for i in range(1, 16)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of the fixture: bucket/words."""
    shutil.copytree(WORDS, tmp_path / "bucket" / "words")
    return tmp_path / "bucket" / "words"


def read(home: Path) -> Index:
    """The index with its log, as somebody sees it who opens it now."""

    async def run() -> Index:
        followed = Followed(await asyncio.to_thread(open_index, str(home)))
        assert await followed.follow(Receipt())
        return followed.index

    return asyncio.run(run())


def found(home: Path, vector: Any, **options: Any) -> list[Any]:
    return [match.id for match in asyncio.run(read(home).query(Query(list(map(float, vector)), **options))).matches]


def every(home: Path) -> list[Any]:
    """Ids of all rows, in order."""
    return sorted(found(home, VECTORS[0], top_k=1000))


def folded(home: Path) -> None:
    compact(store_at(str(home)))
    assert g.verify(FolderStore(home))["damage"] == verify_log(FolderStore(home), deep=True)["damage"] == []


def send(home: Path) -> Send:
    return sender(str(home), {})


def test_a_deleted_row_stays_away_through_compaction_and_reopening(home: Path) -> None:
    """Milvus 14862, 15201 and 17625: rows that were deleted were found again once segments were merged, or later."""
    vector, near = VECTORS[0], found(home, VECTORS[0], top_k=3, rerank=10)
    writer = send(home)
    writer({"delete": [near[0].decode()]}, "1")
    assert near[0] not in found(home, vector, top_k=3, rerank=10)
    writer({"upsert": [{"id": "other", "vector": VECTORS[1]}]}, "2")
    folded(home)
    assert found(home, vector, top_k=2, rerank=10) == near[1:]
    send(home)({"delete": [near[1].decode()]}, "3")
    folded(home)
    assert not {*near[:2]} & set(found(home, vector, top_k=100))


def test_a_row_that_is_deleted_and_added_again_and_again_is_the_last_one(home: Path) -> None:
    """Chroma 1265 and 4076: after a few rounds the vector of a row stayed away, or an old one came back."""
    writer = send(home)
    for i in range(12):
        vector = VECTORS[i]
        writer({"delete": ["again"]}, f"d{i}")
        writer({"upsert": [{"id": "again", "vector": vector}]}, f"u{i}")
        if i == 7:
            folded(home)
            writer = send(home)
        assert found(home, vector, top_k=1000)[0] == b"again"  # which reads all blocks
    assert writer({"upsert": [{"id": "again", "vector": VECTORS[0]}]}, "u0").retried
    folded(home)
    assert found(home, VECTORS[11], top_k=1000)[0] == b"again"
    assert found(home, VECTORS[0], top_k=1000)[0] != b"again"


def test_writers_of_the_same_new_ids_leave_each_once(home: Path) -> None:
    """Lance 4585 and 8949: two that inserted rows with the same new keys at once both did."""
    ids = every(home)
    rows = [{"id": f"same {i}", "vector": VECTORS[i], "if_absent": True} for i in range(12)]

    def write(me: int) -> int:
        own, done = send(home), 0
        for row in rows:
            try:
                own({"upsert": [row]}, f"{me} {row['id']}")
                done += 1
            except Exception as error:
                assert "is there" in str(error)
        return done

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(write, range(3))) == len(rows)
    for _ in range(2):
        assert every(home) == sorted([*ids, *(row["id"].encode() for row in rows)])
        folded(home)


def between(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> None:
    """Does something once, after a compaction has read the log and before it replaces CURRENT."""
    from build_index import compact as module

    advance, done = module.advance, list[int]()

    async def later(*args: Any, **options: Any) -> bool:
        if not done:
            done.append(1)
            await asyncio.to_thread(work)
        return await advance(*args, **options)

    monkeypatch.setattr(module, "advance", later)


def test_what_is_deleted_while_a_compaction_works_stays_deleted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lance 6653 and Milvus 50194: a compaction wrote rows that were deleted meanwhile."""
    known, writer = every(home)[0], send(home)
    writer({"upsert": [{"id": name, "vector": VECTORS[0]} for name in ("mine", "kept")]}, "1")
    between(monkeypatch, lambda: writer({"delete": ["mine", known.decode()]}, "2"))
    folded(home)
    rows = every(home)
    assert b"kept" in rows and not {b"mine", known} & set(rows)
    folded(home)
    assert every(home) == rows


def test_what_others_left_in_the_log_keeps_nobody_out(home: Path) -> None:
    """Qdrant 2231: a file that a killed writer had left in the log's folder kept the node from starting."""
    writer = send(home)
    writer({"upsert": [{"id": "mine", "vector": VECTORS[0]}]}, "1")
    log = next((home / "log").iterdir())
    for name in (".atomicwrite", f"{2:020}.tmp", ".00000000000000000002.abc", "ledger-1", "notes.txt"):
        (log / name).write_bytes(b"half of")
    (home / "log" / "stray").write_bytes(b"")
    assert send(home)({"delete": ["nowhere"]}, "2").seq == 2
    folded(home)
    asyncio.run(collect(StoreLog(FolderStore(home)), time.monotonic, time.time() + 1e6))
    assert found(home, VECTORS[0], top_k=1000)[0] == b"mine" and (log / "notes.txt").exists()


def test_an_index_under_the_name_of_a_deleted_one_has_nothing_of_it(home: Path, tmp_path: Path) -> None:
    """Chroma 7594: the first record of a collection had attributes of a deleted one."""
    ids, writer = every(home), send(home)
    writer({"upsert": [{"id": "old", "vector": VECTORS[0]}], "delete": [ids[0].decode()]}, "k")
    folded(home)
    send(home)({"upsert": [{"id": "older", "vector": VECTORS[0]}]}, "k2")
    asyncio.run(remove(StoreLog(FolderStore(home)), time.monotonic, time.time()))
    with pytest.raises(BusyError, match="a moment ago"):  # who has not heard of it may write still
        g.publish(WORDS, store_at(str(home)))
    current = json.loads((home / "CURRENT").read_text())
    (home / "CURRENT").write_text(json.dumps(current | {"deleted": current["deleted"] - 60_000}))
    assert g.publish(WORDS, store_at(str(home)))["swapped"]
    assert every(home) == ids and json.loads((home / "CURRENT").read_text())["counter"] == current["counter"] + 1
    assert not send(home)({"upsert": [{"id": "new", "vector": VECTORS[0]}]}, "k").retried
    assert found(home, VECTORS[0], top_k=1) == [b"new"]


def test_a_fence_that_comes_too_late_fences_nobody(home: Path) -> None:
    """SlateDB 1682: a fence was written to a place that a compaction had passed and a collector had emptied."""
    writer = send(home)
    for i in range(3):
        writer({"upsert": [{"id": f"n{i}", "vector": VECTORS[i]}]}, f"{i}")
    old = asyncio.run(read_log(StoreLog(FolderStore(home)), time.monotonic)).current
    folded(home)
    late = replace(old, named_log=replace(old.log, id="ab" * 8, start=3, ledger=None))
    key = home / segment_key(old.log.id, 2)
    key.write_bytes(pack_seal(bytes(16), Current.unpack(late.pack(), "seal").pack()))
    assert send(home)({"delete": ["n0"]}, "4").seq == 4
    folded(home)
    assert {b"n1", b"n2"} < {*every(home)} and b"n0" not in every(home)


def test_a_write_that_takes_nothing_leaves_nothing(home: Path) -> None:
    """Qdrant 4159: a log grew without an end by deletes that took no row. Here they take a segment, which is folded."""
    writer = send(home)
    for i in range(5):
        writer({"delete": ["nowhere"]}, f"{i}")
    rows = every(home)
    folded(home)
    assert verify_log(FolderStore(home))["segments"] == 0 and every(home) == rows
    writer({"delete": ["nowhere"]}, "again")
    folded(home)
    assert asyncio.run(collect(StoreLog(FolderStore(home)), time.monotonic, time.time() + 1e6)) == 6
