"""Writes over HTTP without a server: what is acknowledged is in the log, what is refused leaves nothing."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import struct
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from doubles import Built
from test_routes import RUNTIME, TOKEN, body_of

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from build_index.compact import compact
from vantage.cost import Limits
from vantage.errors import NotFoundError, StoreError
from vantage.format.log import OPERATIONS_MAX, Request, segment_key
from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.request import parse_body
from vantage.http.routes import handle
from vantage.http.writes import FRAME, FRAME_MAGIC
from vantage.http.writes import compact as compacted
from vantage.indexes import Service
from vantage.log.client import WriteClient
from vantage.log.move import advance
from vantage.log.rows import stored_attributes
from vantage.log.sequencer import Sequencer
from vantage.log.state import LogState, read_log, whole_state
from vantage.log.submission import Submission, own_key
from vantage.log.tail import DELETE, PATCH, UPSERT
from vantage.read.bucket import Folder

WRITE_TOKEN = "write-7b1f-do-not-tell"
ACCESS = Access(TOKEN, write_token=WRITE_TOKEN)


class Place:
    """A bucket folder with copies of indexes, and a service that writes to it."""

    def __init__(self, folder: Path, built: Built) -> None:
        self.folder, self.name, self.built = folder, built.name, built
        shutil.copytree(built.bucket / built.name, folder / built.name)
        self.service = Service(Folder(folder), 0)
        self.service.write_client = WriteClient(lambda name: StoreLog(FolderStore(folder / name)), time.monotonic)

    def send(
        self,
        body: Any,
        headers: Mapping[str, str] | None = None,
        token: str = WRITE_TOKEN,
        access: Access = ACCESS,
        name: str = "",
    ) -> Reply:
        sent = {"x-request-id": "request-1", "authorization": f"Bearer {token}", **(headers or {})}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = f"/v1/indexes/{name or self.name}/write"
        reply = asyncio.run(handle("POST", path, sent, body_of(raw), self.service, access, RUNTIME))
        assert TOKEN not in reply.text() + str(reply.headers) and WRITE_TOKEN not in reply.text() + str(reply.headers)
        for work in reply.after:
            asyncio.run(work)  # type: ignore[arg-type]
        return reply

    def wrote(self, body: Any, **options: Any) -> int:
        """The seq of a write that must succeed."""
        reply = self.send(body, **options)
        assert reply.status == 200, reply.text()
        seq: int = reply.body["seq"]
        return seq

    def refused(self, body: Any, status: int, code: str, param: str | None, **options: Any) -> dict[str, Any]:
        """The problem of a write that leaves nothing behind."""
        before = self.files()
        reply = self.send(body, **options)
        found: dict[str, Any] = reply.body
        assert (reply.status, found["code"], found["param"]) == (status, code, param), found
        assert found["hint"] and found["detail"] and self.files() == before
        return found

    def files(self) -> set[str]:
        return {str(path) for path in (self.folder / self.name / "log").rglob("*") if path.is_file()}

    def log(self) -> LogState:
        return asyncio.run(read_log(StoreLog(FolderStore(self.folder / self.name)), time.monotonic))

    def vector(self, i: int = 0) -> list[float]:
        values: list[float] = self.built.queries[i].tolist()
        return values


@pytest.fixture
def place(words: Built, tmp_path: Path) -> Place:
    return Place(tmp_path, words)


@pytest.fixture
def numbered(points: Built, tmp_path: Path) -> Place:
    return Place(tmp_path, points)


def test_rows_are_in_the_log_once_they_are_acknowledged(place: Place) -> None:
    known = place.built.ids[0].decode()
    body = {
        "upsert": [{"id": "new", "vector": place.vector(), "attributes": {"pos": "n", "words": ["ä"]}}],
        "patch": [{"id": known, "attributes": {"gloss": None}}],
        "delete": ["gone"],
    }
    assert place.send(body).body == {"seq": 1, "retried": False}
    assert place.wrote({"delete": [{"id": "new"}]}) == 2
    rows = place.log().tail.rows
    assert [rows[i].kind for i in (b"new", known.encode(), b"gone")] == [DELETE, PATCH, DELETE]
    assert rows[known.encode()].attributes == b'{"gloss":null}'


def test_vectors_are_stored_as_the_index_has_them(place: Place, numbered: Place) -> None:
    place.wrote({"upsert": [{"id": "new", "vector": place.vector()}]})
    [fresh] = place.log().tail.rows.values()
    assert fresh.kind == UPSERT and bytes(fresh.vector) == struct.pack("<96e", *place.vector()) and not fresh.attributes


def test_a_binary_write_is_that_of_json(numbered: Place) -> None:
    vectors = [numbered.vector(i) for i in range(3)]
    numbered.wrote({"upsert": [{"id": i, "vector": v} for i, v in enumerate(vectors)]})
    text = json.dumps({"upsert": [{"id": i} for i in range(3)], "delete": [7]}).encode()
    head = FRAME.pack(FRAME_MAGIC, 1, len(text), 3, 24)
    body = head + text + struct.pack("<72f", *(v for vector in vectors for v in vector))
    binary = {"content-type": "application/octet-stream"}
    assert numbered.wrote(body, headers=binary) == 2
    first, second = (numbered.log().tail.rows[i] for i in (0, 1))
    assert first.seq == 2 and bytes(second.vector) == bytes(map(int, vectors[1]))
    for wrong in (b"", head, body[:-1], body + b"0", b"VANQ" + body[4:], FRAME.pack(FRAME_MAGIC, 2, 0, 0, 24)):
        numbered.refused(wrong, 400, "invalid_input", "body", headers=binary)
    longer = FRAME.pack(FRAME_MAGIC, 1, len(text), 2, 24) + text + bytes(2 * 96)
    numbered.refused(longer, 400, "invalid_input", "upsert", headers=binary)


@pytest.mark.parametrize(
    ("token", "access"),
    [
        (TOKEN, ACCESS), ("", ACCESS), ("wrong", ACCESS), (WRITE_TOKEN + "x", ACCESS), (WRITE_TOKEN, Access(TOKEN)),
        (TOKEN, Access(TOKEN, public=True, write_token=WRITE_TOKEN)), ("", Access(public=True)),
        ("", Access(public=True, write_token="")), (TOKEN, Access(TOKEN, write_token=TOKEN)),
    ],
)  # fmt: skip
def test_only_the_second_token_writes(place: Place, token: str, access: Access) -> None:
    place.refused({"delete": ["a"]}, 403, "forbidden", None, token=token, access=access)


def test_who_may_write_may_read(place: Place) -> None:
    sent = {"authorization": f"Bearer {WRITE_TOKEN}"}
    path = f"/v1/indexes/{place.name}"
    assert asyncio.run(handle("GET", path, sent, body_of(b""), place.service, ACCESS, RUNTIME)).status == 200


def test_a_key_is_done_once(place: Place) -> None:
    body, headers = {"upsert": [{"id": "a", "vector": place.vector(), "if_absent": True}]}, {"idempotency-key": "k-1"}
    assert place.send(body, headers).body == {"seq": 1, "retried": False}
    assert place.wrote({"delete": ["a"]}) == 2
    assert place.send(body, headers).body == {"seq": 1, "retried": True}
    assert place.log().tail.rows[b"a"].kind == DELETE
    for wrong in ("", "a b", "ä", "x" * 256):
        place.refused(body, 400, "invalid_input", "Idempotency-Key", headers={"idempotency-key": wrong})


def test_conditions(place: Place) -> None:
    known = place.built.ids[3].decode()
    stored = place.built.attributes[3]
    found = place.refused(
        {"upsert": [{"id": known, "vector": place.vector(), "if_absent": True}], "delete": ["other"]},
        409, "condition_failed", "upsert[0]",
    )  # fmt: skip
    assert (found["id"], found["seq"]) == (known, 0)
    takes, not_ = {"pos": stored["pos"]}, {"pos": {"$ne": stored["pos"]}}
    assert place.refused({"delete": [{"id": known, "if": not_}]}, 409, "condition_failed", "delete[0]")["seq"] == 0
    assert place.wrote({"patch": [{"id": known, "attributes": {"gloss": "w"}, "if": takes, "if_seq": 0}]}) == 1
    assert place.refused({"delete": [{"id": known, "if_seq": 0}]}, 409, "condition_failed", "delete[0]")["seq"] == 1
    both = {"$and": [takes, {"gloss": {"$in": ["v", "w"]}}]}
    place.refused({"delete": [{"id": known, "if": {"gloss": "x"}}]}, 409, "condition_failed", "delete[0]")
    assert place.wrote({"delete": [{"id": known, "if": both, "if_seq": 1}]}) == 2
    found = place.refused({"patch": [{"id": known, "if": {}}]}, 409, "condition_failed", "patch[0]")
    assert (found["id"], found["seq"]) == (known, 2)
    assert place.refused({"patch": [{"id": "none", "if": {}}]}, 409, "condition_failed", "patch[0]")["seq"] is None
    found = place.refused({"delete": ["x"], "if_seq": 1}, 409, "condition_failed", "if_seq")
    assert (found["id"], found["seq"]) == (None, 2)
    assert place.wrote({"delete": ["x"], "if_seq": 2}) == 3


GOOD = [0.5] * 96
LIMIT, INPUT = "limit_exceeded", "invalid_input"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, LIMIT, "upsert"), ({"upsert": []}, LIMIT, "upsert"), ({"upsert": {}}, INPUT, "upsert"),
        ({"rows": []}, INPUT, "rows"), ({"delete": ["a"] * 1001}, LIMIT, "delete"),
        ({"upsert": ["a"]}, INPUT, "upsert[0]"),
        ({"upsert": [{"vector": GOOD}]}, INPUT, "upsert[0].id"), ({"upsert": [{"id": "a"}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": 1, "vector": GOOD}]}, INPUT, "upsert[0].id"),
        ({"upsert": [{"id": "x" * 513, "vector": GOOD}]}, LIMIT, "upsert[0].id"),
        ({"upsert": [{"id": True, "vector": GOOD}]}, INPUT, "upsert[0].id"),
        ({"upsert": [{"id": "", "vector": GOOD}]}, INPUT, "upsert[0].id"),
        ({"upsert": [{"id": "a", "vector": GOOD, "vectors": 1}]}, INPUT, "upsert[0].vectors"),
        ({"upsert": [{"id": "a", "vector": GOOD[1:]}]}, LIMIT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": "abc"}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": [True, *GOOD[1:]]}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": ["1", *GOOD[1:]]}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": [1e6, *GOOD[1:]]}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": [10**400, *GOOD[1:]]}]}, INPUT, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": GOOD}, {"id": "b", "vector": [0] * 96}]}, INPUT, "upsert[1].vector"),
        ({"upsert": [{"id": "a", "vector": GOOD}, {"id": "a", "vector": GOOD}]}, INPUT, "upsert[1].id"),
        ({"upsert": [{"id": "a", "vector": GOOD}], "delete": ["a"]}, INPUT, "delete[0].id"),
        ({"patch": [{"id": "a", "attributes": []}]}, INPUT, "patch[0].attributes"),
        ({"patch": [{"id": "a", "attributes": {"color": 1}}]}, INPUT, "patch[0].attributes.color"),
        ({"patch": [{"id": "a", "attributes": {"pos": 1}}]}, INPUT, "patch[0].attributes.pos"),
        ({"patch": [{"id": "a", "attributes": {"pos": ["n"]}}]}, INPUT, "patch[0].attributes.pos"),
        ({"patch": [{"id": "a", "attributes": {"gloss": "g" * (1 << 20)}}]}, LIMIT, "patch[0].attributes"),
        ({"patch": [{"id": "a", "vector": GOOD}]}, INPUT, "patch[0].vector"),
        ({"delete": [{"id": "a", "if_absent": True}]}, INPUT, "delete[0].if_absent"),
        ({"delete": [None]}, INPUT, "delete[0].id"), ({"delete": [{}]}, INPUT, "delete[0].id"),
        ({"delete": ["a"], "if_seq": -1}, LIMIT, "if_seq"), ({"delete": ["a"], "if_seq": "1"}, INPUT, "if_seq"),
        ({"delete": ["a"], "if_seq": 1 << 63}, LIMIT, "if_seq"), ({"delete": ["a"], "if_seq": None}, INPUT, "if_seq"),
        ({"delete": [{"id": "a", "if": None}]}, INPUT, "delete[0].if"),
        ({"delete": [{"id": "a", "if": {"color": 1}}]}, INPUT, "delete[0].if.color"),
        ({"upsert": [{"id": "a", "vector": GOOD, "if_absent": False}]}, INPUT, "upsert[0].if_absent"),
        ({"upsert": [{"id": "a", "vector": GOOD, "if_absent": True, "if_seq": 1}]}, INPUT, "upsert[0].if_seq"),
        (b"", INPUT, None), (b"[]", INPUT, None), (b'{"delete": ["a"], "delete": ["b"]}', INPUT, None),
        (b'{"upsert": [{"id": "a", "vector": [' + b"NaN," * 95 + b"1]}]}", INPUT, "upsert[0].vector"),
        (b'{"upsert": [{"id": "a", "vector": [' + b"1e39," * 95 + b"1]}]}", INPUT, "upsert[0].vector"),
        (b'{"patch": [{"id": "a", "attributes": {"pos": NaN}}]}', INPUT, "patch[0].attributes.pos"),
        (b'{"delete": [' + b'"",' * 140000 + b'"a"]}', INPUT, None),
    ],
)  # fmt: skip
def test_a_bad_write_is_named_and_leaves_nothing(place: Place, body: Any, code: str, param: str | None) -> None:
    place.refused(body, 400, code, param)


def test_a_patch_leaves_no_row_that_is_longer_than_one_may_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the row has in the generation counts, but for what is replaced; what the log has of it, too."""
    row = max(range(len(place.built.ids)), key=lambda i: len(place.built.attributes[i]["gloss"]))
    known, gloss = place.built.ids[row].decode(), len(place.built.attributes[row]["gloss"])
    whole = len(json.dumps(place.built.attributes[row], ensure_ascii=False).encode())
    for module in ("conditions", "base"):
        monkeypatch.setattr(f"vantage.log.{module}.ATTRIBUTE_ROW_PARTS_MAX", 60)
    monkeypatch.setattr("vantage.log.conditions.ATTRIBUTE_ROW_BYTES_MAX", whole + 20)

    def patch(**attributes: Any) -> dict[str, Any]:
        return {"patch": [{"id": known, "attributes": attributes}]}

    found = place.refused(patch(gloss="g" * (gloss + 40)), 400, LIMIT, "patch")
    assert known in found["detail"]
    place.wrote(patch(gloss="g" * gloss))
    place.refused(patch(pos="p" * 40), 400, LIMIT, "patch")
    place.wrote(patch(gloss=None))
    place.wrote(patch(pos="p" * 40))
    place.refused(patch(gloss="g" * gloss), 400, LIMIT, "patch")
    [fresh] = place.log().tail.rows.values()
    assert fresh.seq == 3 and place.log().tail.held(1)[2] > 3 * 2 * 96  # of the vector that readers look up


def test_patches_of_more_rows_than_a_request_may_look_up_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": i.decode(), "attributes": {"gloss": "g"}} for i in place.built.ids[:3]]
    with monkeypatch.context() as patch:
        patch.setattr("vantage.log.base.PATCHED_BYTES_MAX", 3 * 2 * 96)
        found = place.refused({"patch": rows}, 400, LIMIT, "patch")
        assert (found["value"], found["hint"]) == (3, "send several requests, with fewer rows each")
        assert place.wrote({"patch": rows[:1]}) == 1
    place.service.limits = place.service.open[place.name].limits = Limits(gets=0)
    assert place.refused({"patch": rows}, 400, LIMIT, "patch")["value"] == 3


def test_a_write_to_no_index(place: Place) -> None:
    assert place.send({"delete": ["a"]}, name="none").status == 404
    assert not (place.folder / "none").exists()


def test_rows_are_deleted_by_a_filter(place: Place) -> None:
    """Those of the generation and of the log, as they are at one seq; none twice, and not those that it changes."""
    kinds = Counter(row["pos"] for row in place.built.attributes)
    pos, other = next((kind, kinds.most_common(1)[0][0]) for kind, n in kinds.items() if 3 < n < 900)
    verbs = {i.decode() for i, row in zip(place.built.ids, place.built.attributes, strict=True) if row["pos"] == pos}
    some = sorted(verbs)
    place.wrote({"upsert": [{"id": "new", "vector": place.vector(), "attributes": {"pos": pos}}], "delete": [some[0]]})
    place.wrote({"patch": [{"id": some[1], "attributes": {"pos": other}}]})
    before = place.log().seq
    reply = place.send({"delete_where": {"pos": pos}, "delete": [some[2]], "if_seq": before})
    assert reply.body == {"seq": before + 1, "retried": False, "deleted": len(verbs) + 1 - 3}
    gone = {i for i, row in place.log().tail.rows.items() if row.kind == DELETE}
    assert gone == {b"new", *(i.encode() for i in verbs - {some[1]})}
    assert place.send({"delete_where": {"pos": pos}}).body == {"seq": before + 1, "retried": False, "deleted": 0}
    found = place.refused({"delete_where": {"pos": {"$exists": True}}}, 400, "limit_exceeded", "delete_where")
    assert found["value"] == len(place.built.ids) - len(verbs) + 1
    place.refused({"delete_where": {"pos": other, "gloss": "none"}, "delete": ["x"], "if_seq": 0}, 409,
                  "condition_failed", "if_seq")  # fmt: skip


@pytest.mark.parametrize(
    ("where", "param"),
    [({}, "delete_where"), (None, "delete_where"), ([], "delete_where"), ({"color": 1}, "delete_where.color")],
)
def test_a_bad_filter_deletes_nothing(place: Place, where: Any, param: str) -> None:
    place.refused({"delete_where": where, "delete": ["a"]}, 400, "invalid_input", param)


def test_a_full_log_says_so_and_when_to_come_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.log.conditions.OPERATIONS_MAX", 3)
    place.wrote({"delete": ["a", "b"]})
    found = place.refused({"delete": ["c", "d"]}, 429, "log_full", None)
    assert "3 rows" in found["detail"] and "vantage compact" in found["hint"]
    assert place.send({"delete": ["c", "d"]}).headers["retry-after"] == "10"
    assert place.wrote({"delete": ["c"]}) == 2  # what fits still does


@pytest.mark.parametrize("now", [0.0, -1e9, 4e9, 1e12])
def test_a_clock_that_jumps_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    headers = {"idempotency-key": "k"}
    assert place.wrote({"delete": ["a"]}, headers=headers) == 1
    monkeypatch.setattr("vantage.http.writes.time.time", lambda: now)
    assert place.wrote({"delete": ["b"]}) == 2
    assert place.send({"delete": ["a"]}, headers).body == {"seq": 1, "retried": True}


def test_what_another_version_wrote_is_not_written_behind(place: Place) -> None:
    """Neither behind its CURRENT nor behind its segments; and the error says which version it is."""
    place.wrote({"delete": ["a"]})
    [segment] = map(Path, place.files())
    other = bytearray(segment.read_bytes())
    other[8] = 99
    segment.with_name(f"{2:020}").write_bytes(other)
    assert "99" in place.refused({"delete": ["b"]}, 500, "damaged_index", None)["detail"]
    segment.with_name(f"{2:020}").unlink()
    assert place.wrote({"delete": ["b"]}) == 2
    current = place.folder / place.name / "CURRENT"
    current.write_text(json.dumps(json.loads(current.read_text()) | {"format": 99}))
    assert "99" in place.refused({"delete": ["c"]}, 500, "damaged_index", None)["detail"]


def asked(place: Place, service: Service, name: str) -> Reply:
    """A query that must see the log."""
    body = json.dumps({"vector": place.vector(), "top_k": 3, "consistency": "bucket"}).encode()
    sent = {"authorization": f"Bearer {TOKEN}"}
    return asyncio.run(handle("POST", f"/v1/indexes/{name}/query", sent, body_of(body), service, ACCESS, RUNTIME))


@pytest.mark.parametrize("kind", ["segment", "ledger", "CURRENT"])
def test_a_log_with_a_wrong_bit_is_named_and_other_indexes_go_on(place: Place, kind: str) -> None:
    """Whoever has it open, and whoever opens it, to read and to write: the answer is right, or an error of ours."""
    draw = random.Random(1)
    shutil.copytree(place.folder / place.name, place.folder / "other")
    place.wrote({"upsert": [{"id": "a", "vector": place.vector(), "attributes": {"gloss": "g"}}]})

    async def move() -> None:
        store = StoreLog(FolderStore(place.folder / place.name))
        state = await whole_state(store, await read_log(store, time.monotonic), time.monotonic)
        old = state.current
        assert await advance(store, state, old.generation, old.root, old.manifest, 2, time.time())

    asyncio.run(move())
    place.wrote({"upsert": [{"id": "b", "vector": place.vector()}]})
    current = json.loads((place.folder / place.name / "CURRENT").read_text())
    key = {"segment": segment_key(current["log"]["id"], 2), "ledger": current["log"]["ledger"], "CURRENT": kind}[kind]
    path, seen = place.folder / place.name / key, set[int]()
    whole = path.read_bytes()
    for _ in range(40):
        changed, bit = bytearray(whole), draw.randrange(8 * len(whole))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        service = Service(Folder(place.folder), 0)
        read = asked(place, service, place.name)
        wrote = place.send({"delete": [{"id": "b", "if_seq": 77}]})
        path.write_bytes(whole)
        for reply in (read, wrote):
            seen.add(reply.status)
            assert reply.status in (200, 409) or reply.body["code"] in ("damaged_index", "not_found", "object_changed")
            if kind != "CURRENT" and reply.body.get("code") == "damaged_index":
                assert key in reply.body["detail"] and reply.body["hint"]
        if kind == "segment" and read.status == 200:
            assert read.body["matches"][0]["id"] == "b"
        assert asked(place, service, "other").status == 200
        assert asked(place, service, place.name).body["matches"][0]["id"] == "b"
    assert 500 in seen and place.wrote({"delete": ["b"]}) == 3


def test_a_service_that_takes_no_writes(place: Place) -> None:
    place.service.write_client = None
    place.refused({"delete": ["a"]}, 403, "forbidden", None)


def test_a_bucket_that_fails_is_not_told_as_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same request, with its key, is done once afterwards."""
    headers, swap = {"idempotency-key": "k"}, FolderStore.swap

    def lost(self: FolderStore, key: str, data: bytes, etag: str | None) -> None:
        swap(self, key, data, etag)
        raise StoreError("not answered")

    def deaf(*_: Any) -> None:
        raise StoreError("not answered")

    monkeypatch.setattr(FolderStore, "swap", lost)
    monkeypatch.setattr(FolderStore, "get", deaf)
    found = place.send({"delete": ["a"]}, headers)
    assert (found.status, found.body["code"]) == (503, "store_unavailable")
    monkeypatch.undo()
    answer = place.send({"delete": ["a"]}, headers)
    assert answer.status == 200 and answer.body["seq"] == 1


def test_rows_that_others_write_meanwhile_are_not_deleted_by_a_filter(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again, a few times, and then says that it could not. While a log is read for it, it holds no room that
    who has another log waits for.
    """
    pos = place.built.attributes[0]["pos"]
    gloss = place.built.attributes[0]["gloss"]
    others = iter(range(100))
    client = place.service.write_client
    assert client is not None
    submit, times = client.submit, [2]

    async def beaten(name: str, submission: Any, *rooms: Any) -> Any:
        if times[0]:
            times[0] -= 1
            store = StoreLog(FolderStore(place.folder / place.name))
            one = Submission(Request(own_key(random.randbytes(16)), 0, deletes=[b"%d" % next(others)]),
                             submission.shape, submission.log, submission.generation)  # fmt: skip
            await Sequencer(store, time.monotonic).submit(one)
        return await submit(name, submission, *rooms)

    held, current = list[int](), place.service.current

    async def looked(*given: Any) -> Any:
        held.append(place.service.working.held)
        return await current(*given)

    monkeypatch.setattr(place.service, "current", looked)
    monkeypatch.setattr(client, "submit", beaten)
    answer = place.send({"delete_where": {"pos": pos, "gloss": gloss}})
    assert answer.body == {"seq": 3, "retried": False, "deleted": 1}
    times[0] = 99
    other = place.built.attributes[1]["gloss"]
    reply = place.send({"delete_where": {"gloss": other}})
    assert (reply.status, reply.body["code"]) == (503, "busy")
    assert len(held) > 5 and not any(held)


def test_a_first_try_that_comes_last_deletes_nothing(place: Place) -> None:
    """A retry found no row, which is known from then on: what came since stays, also over a compaction."""
    where, key = {"delete_where": {"pos": "none"}}, {"idempotency-key": "once"}
    assert place.send(where).body == {"seq": 0, "retried": False, "deleted": 0}
    assert place.send(where, key).body == {"seq": 1, "retried": False, "deleted": 0}
    place.wrote({"upsert": [{"id": "new", "vector": place.vector(), "attributes": {"pos": "none"}}]})
    for _ in range(2):
        reply = place.send(where, key)
        assert (reply.status, reply.body["seq"], reply.body["retried"]) == (200, 1, True)
        compact(FolderStore(place.folder / place.name))
    assert place.send(where).body["deleted"] == 1
    assert place.send(where, {"idempotency-key": "twice"}).body == {"seq": 4, "retried": False, "deleted": 0}
    compact(FolderStore(place.folder / place.name))
    assert (place.log().current.log.start, place.send(where, {"idempotency-key": "twice"}).body["seq"]) == (5, 4)


def test_a_retry_finds_that_it_was_done_however_many_rows_match_by_then(place: Place) -> None:
    """It counts more than a request may delete, and is told what became of it; another request is refused."""
    where, key = {"delete_where": {"pos": "none"}}, {"idempotency-key": "once"}
    place.wrote({"upsert": [{"id": "first", "vector": place.vector(), "attributes": {"pos": "none"}}]})
    assert place.send(where, key).body == {"seq": 2, "retried": False, "deleted": 1}
    for low in range(0, OPERATIONS_MAX + 1, OPERATIONS_MAX):
        ids = [f"later-{i}" for i in range(low, min(low + OPERATIONS_MAX, OPERATIONS_MAX + 1))]
        place.wrote({"upsert": [{"id": i, "vector": place.vector(), "attributes": {"pos": "none"}} for i in ids]})
    assert place.send(where, key).body == {"seq": 2, "retried": True}
    before = place.log().seq
    for headers in ({}, {"idempotency-key": "twice"}):
        reply = place.send(where | {"upsert": [{"id": "with it", "vector": place.vector()}]}, headers)
        assert (reply.status, reply.body["code"], reply.body["value"]) == (400, "limit_exceeded", OPERATIONS_MAX + 1)
    assert place.log().seq == before


def remove(place: Place, options: str, token: str = WRITE_TOKEN) -> Reply:
    sent = {"x-request-id": "request-1", "authorization": f"Bearer {token}"}
    path = f"/v1/indexes/{place.name}{options}"
    return asyncio.run(handle("DELETE", path, sent, body_of(b""), place.service, ACCESS, RUNTIME))


def test_an_index_is_deleted_by_its_name_and_stays_in_the_bucket(place: Place) -> None:
    place.wrote({"delete": ["a"]})
    before = {path for path in place.folder.rglob("*") if path.is_file()}
    for options in ("", "?name=", "?name=words2"):
        reply = remove(place, options)
        assert (reply.status, reply.body["param"]) == (400, "name")
    assert remove(place, "?name=words", TOKEN).status == 403
    generation = place.log().current.generation
    assert remove(place, "?name=words").body == {"deleted": "words", "generation": generation, "seq": 1}
    assert {path for path in place.folder.rglob("*") if path.is_file()} == before
    read = {"authorization": f"Bearer {TOKEN}"}
    for service in (place.service, Service(Folder(place.folder), 0)):
        for method, path, body in (("GET", "", b""), ("POST", "/query", b'{"vector": [%s]}' % b",".join([b"1"] * 96))):
            reply = asyncio.run(
                handle(method, f"/v1/indexes/words{path}", read, body_of(body), service, ACCESS, RUNTIME)
            )
            assert (reply.status, reply.body["param"]) == (404, "index") and "deleted" in reply.body["detail"]
    assert place.send({"delete": ["b"]}).status == 404 and remove(place, "?name=words").status == 404
    with pytest.raises(NotFoundError, match="deleted"):
        place.log()


def test_vectors_are_arrays_and_attributes_of_their_name_are_not() -> None:
    body = b'{"upsert": [{"id": "a", "vector": [0.5, 1e99]}, {"id": "b", "vector": [1, 0.5]}, {"vector": [0.5]}]}'
    rows = parse_body(body, pairs=compacted, names=("upsert",))["upsert"]
    assert [row["vector"] for row in rows] == [array("d", [0.5, 1e99]), [1, 0.5], [0.5]]
    stored = stored_attributes(
        compacted({"id": 1, "vector": [0.5]}), {"id": "int64", "vector": "list<e: double>"}, {}, ""
    )
    assert stored == b'{"id":1,"vector":[0.5]}'
