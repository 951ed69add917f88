"""`vantage upsert`, `patch`, `delete` and `log`: into folders and S3, from files and standard input."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Built
from small import Ran, vantage

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from build_index.writes import create_index, line_batches, sender, write_rows
from vantage.errors import ConditionError, DamagedError, InputError, LimitError, LogFullError, StoreError
from vantage.log.base import READS
from vantage.log.state import read_log
from vantage.log.submission import Done
from vantage.log.tail import DELETE, PATCH, Tail


@pytest.fixture
def home(words: Built, tmp_path: Path) -> Path:
    """A copy of `words`: bucket/words."""
    shutil.copytree(words.bucket / "words", tmp_path / "bucket" / "words")
    return tmp_path / "bucket" / "words"


def tail(home: Path) -> Tail:
    return asyncio.run(read_log(StoreLog(FolderStore(home)), time.monotonic)).tail


def told(ran: Ran) -> Any:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_an_index_is_made_from_the_command_line_and_written_to(tmp_path: Path) -> None:
    home = tmp_path / "bucket" / "docs"
    options = ("--dimension", 3, "--metric", "dot", "--attribute", "lang:text", "--attribute", "a:b:text[]")
    options = (*options, "--stored", "x:json", "--model", "m")
    assert told(vantage("create", home, *options, "--json")) == {"index": str(home), "created": True}
    assert "is there already" in vantage("create", home, *options).out
    assert "its metric is another" in vantage("create", home, "--dimension", 3).err
    (tmp_path / "r.jsonl").write_text(
        json.dumps({"id": "a", "vector": [1, 2, 3], "attributes": {"lang": "de", "a:b": ["u"], "x": {"y": 1}}})
    )
    assert told(vantage("upsert", tmp_path / "r.jsonl", home, "--json"))["seq"] == 1
    listed = told(vantage("rows", home, "--filter", '{"a:b": "u"}', "--json"))["rows"]
    assert listed == [{"id": "a", "attributes": {"lang": "de", "a:b": ["u"], "x": {"y": 1}}}]
    shown = vantage("info", home).out
    assert "fresh" in shown and "held-out" not in shown
    for wrong, said in (
        (("--dimension", 0), "dimension is 0"), (("--dimension", 3, "--attribute", "lang"), "has no type"),
        (("--dimension", 3, "--attribute", "a:json"), "only stored"), (("--dimension", 3, "--ids", "x"), "ids"),
    ):  # fmt: skip
        ran = vantage("create", tmp_path / "bucket" / "other", *wrong)
        assert ran.code == 2 and said in ran.err, ran.err
    assert vantage("create", tmp_path / "bucket" / "-x", "--dimension", 3).code == 2
    for command in (("cluster", home), ("export-router", home, tmp_path / "r.onnx")):
        assert "its rows are in its log" in vantage(*command).err
    assert [path.name for path in (tmp_path / "bucket").iterdir()] == ["docs"]


def test_of_several_commands_that_make_an_index_one_does(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: create_index(str(tmp_path / "docs"), {"dimension": 3}), range(8)))
    assert sum(made) == 1


def test_rows_from_parquet_are_written_in_requests(words: Built, home: Path, tmp_path: Path) -> None:
    n = 1234
    x = np.tile(words.vectors, (2, 1))[:n].astype(np.float32)
    table = pa.table({
        "id": [f"new {i}" for i in range(n)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 96),
        "pos": ["n"] * n, "words": [["a", "b"]] * n,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "new.parquet")
    report = told(vantage("upsert", tmp_path / "new.parquet", home, "--json"))
    assert report == {"requests": 2, "rows": n, "seq": 2}
    held = tail(home)
    row = held.rows[b"new 1233"]
    assert row.seq == 2 and json.loads(row.attributes) == {"pos": "n", "words": ["a", "b"]}
    assert bytes(row.vector) == x[1233].astype("<f2").tobytes()
    log = told(vantage("log", home, "--json"))
    assert (log["seq"], log["segments"], log["operations"], log["ids"], log["start"]) == (2, 2, n, n, 1)
    shown = vantage("log", home)
    assert "2 segments behind generation" in shown.out and f"{n:,} writes" in shown.out


def test_lines_are_patched_and_deleted(words: Built, home: Path, tmp_path: Path) -> None:
    known = words.ids[0].decode()
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": known, "attributes": {"gloss": "ä"}}) + "\n\n")
    (tmp_path / "d.jsonl").write_text('"a"\n{"id": "b"}\n')
    assert told(vantage("patch", tmp_path / "p.jsonl", home, "--json"))["seq"] == 1
    assert told(vantage("delete", tmp_path / "d.jsonl", home, "--json")) == {"requests": 1, "rows": 2, "seq": 2}
    rows = tail(home).rows
    assert [rows[i].kind for i in (known.encode(), b"a", b"b")] == [PATCH, DELETE, DELETE]
    changes = [{"id": known, "attributes": {"gloss": text}} for text in ("x", "y")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, changes)))
    assert told(vantage("patch", tmp_path / "p.jsonl", home, "--json"))["requests"] == 2  # one after the other
    assert tail(home).rows[known.encode()].attributes == b'{"gloss":"y"}'


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("patch", '{"id": "a"}\n{"id": "b", "attributes": {"color": 1}}', "color"), ("patch", "{", "line 1"),
        ("patch", '{"id": "a"}\n{"attributes": {}}', "line 2"), ("patch", '"a"', "line 1"), ("delete", "[1]", "line 1"),
        ("delete", "5", "ids of"), ("upsert", '{"id": "a", "vector": [1]}', "length of upsert[0].vector is 1"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_and_nothing_of_its_request_is_written(
    home: Path, tmp_path: Path, command: str, text: str, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    ran = vantage(command, tmp_path / "rows.jsonl", home)
    assert ran.code == 2 and said in ran.err, ran.err
    assert not (home / "log").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://example.org", "no index of a service"), ("http://example.org/words", "not https"),
        ("https://example.org/words", "VANTAGE_WRITE_TOKEN"),
        ("ftp://x/y", "not the address"), ("none", "no index"),
    ],
)  # fmt: skip
def test_a_bad_address_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    monkeypatch.delenv("VANTAGE_WRITE_TOKEN", raising=False)
    (tmp_path / "rows.jsonl").write_text('"a"')
    ran = vantage("delete", tmp_path / "rows.jsonl", address)
    assert ran.code == 2 and said in ran.err, ran.err


def test_a_request_whose_answer_is_lost_is_sent_again_and_done_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_index.writes.PAUSE_S", 0.0)
    inner, lost = sender(str(home), {}), iter([True, False, True, False, False])

    def send(fields: Any, key: str) -> Done:
        done = inner(fields, key)
        if next(lost):
            raise StoreError("not answered")
        return done

    report = write_rows(send, "delete", [["a"], ["b"], ["c"]], lambda rows: None)
    assert report == {"requests": 3, "rows": 3, "seq": 3} and len(tail(home).rows) == 3


def test_rows_that_take_too_many_reads_go_in_halves(home: Path) -> None:
    """As those of a patch do, on an index of many millions of rows."""
    inner, sizes = sender(str(home), {}), list[int]()

    def send(fields: Any, key: str) -> Done:
        if len(fields["patch"]) > 3:
            raise LimitError("the number of rows that are patched", len(fields["patch"]), READS, param="patch")
        sizes.append(len(fields["patch"]))
        return inner(fields, key)

    rows = [{"id": f"n{i}", "attributes": {}} for i in range(11)]
    report = write_rows(send, "patch", [rows[:10], rows[10:]], lambda n: None)
    assert report == {"requests": 5, "rows": 11, "seq": 5} and sizes == [2, 3, 2, 3, 1]
    assert [*tail(home).rows] == [row["id"].encode() for row in rows]


def test_what_was_written_before_an_error_is_told(home: Path) -> None:
    with pytest.raises(InputError, match=r"2 rows before it are written, up to seq 1"):
        write_rows(sender(str(home), {}), "delete", [["a", "b"], [5]], lambda rows: None)


V = [0.5] * 96


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"upsert": [{"id": "a", "vector": V[1:]}]}, LimitError, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": array("f", V[1:])}]}, LimitError, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": [math.nan, *V[1:]]}]}, InputError, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": array("f", [math.inf, *V[1:]])}]}, InputError, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": array("f", bytes(4 * 96))}]}, InputError, "upsert[0].vector"),
        ({"upsert": [{"id": "a", "vector": V}, {"id": "a", "vector": V}]}, InputError, "upsert[1].id"),
        ({"upsert": [{"id": "a", "vector": V}], "delete": ["a"]}, InputError, "delete[0].id"),
        ({"upsert": [{"id": 7, "vector": V}]}, InputError, "upsert[0].id"),
        ({"patch": [{"id": "a", "attributes": {"color": 1}}]}, InputError, "patch[0].attributes.color"),
        ({"patch": [{"id": "a", "attributes": {"pos": 1}}]}, InputError, "patch[0].attributes.pos"),
        ({"patch": [{"id": "a", "attributes": {"pos": {"a": 1}}}]}, InputError, "patch[0].attributes.pos"),
        ({"delete": [{"id": "a", "if_seq": 3}]}, ConditionError, "delete[0]"),
        ({"delete": ["a"] * 1001}, LimitError, "delete"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_in_process_as_over_http(
    home: Path, fields: Any, kind: type[InputError], param: str
) -> None:
    """See tests/test_write_routes.py and tests/edge/test_writes.py."""
    with pytest.raises(kind) as raised:
        sender(str(home), {})(fields, "k")
    assert (type(raised.value), raised.value.param) == (kind, param) and raised.value.hint
    assert not tail(home).rows


def test_a_full_log_and_another_version_in_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = sender(str(home), {})
    monkeypatch.setattr("vantage.log.conditions.OPERATIONS_MAX", 2)
    assert send({"delete": ["a", "b"]}, "1").seq == 1
    with pytest.raises(LogFullError, match="2 rows"):
        send({"delete": ["c"]}, "2")
    monkeypatch.undo()
    monkeypatch.setattr("vantage.http.writes.time.time", lambda: -1e9)  # a clock that jumps
    assert send({"delete": ["c"]}, "2").seq == 2 and send({"delete": ["c"]}, "2") == Done(2, True)
    current = home / "CURRENT"
    current.write_text(json.dumps(json.loads(current.read_text()) | {"format": 99}))
    with pytest.raises(DamagedError, match="99"):
        sender(str(home), {})({"delete": ["d"]}, "3")


def test_two_write_one_index_at_once(home: Path) -> None:
    def run(n: int) -> dict[str, Any]:
        batches = [[f"{n} {i} {j}" for j in range(50)] for i in range(6)]
        return write_rows(sender(str(home), {}), "delete", batches, lambda rows: None)

    with ThreadPoolExecutor(2) as pool:
        assert [one["rows"] for one in pool.map(run, range(2))] == [300, 300]
    held = tail(home)
    assert held.next == 13 and len(held.rows) == 600


def test_batches_hold_what_a_request_takes(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(f"{i:0500}") for i in range(5000)))
    sizes = [len(batch) for batch in line_batches(tmp_path / "rows.jsonl", "delete")]
    assert sizes == [1000] * 5
    wide = [json.dumps({"id": f"{i}", "attributes": {"g": "y" * 500_000}}) for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(wide))
    assert [len(batch) for batch in line_batches(tmp_path / "rows.jsonl", "patch")] == [4, 4, 1]
