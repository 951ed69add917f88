"""Attributes read a row, long ones too: what is read, what budgets leave, and what the builder refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Recorder

from build_index import VectorIndex
from build_index import build as build_module
from build_index.audit.verify import verify_deep
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.arrays import Arrays
from build_index.ingest.attributes import are_long, check_rows, check_schema, pieces
from build_index.ingest.open import open_source
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import InputError, LimitError
from vantage.format import ATTRIBUTE_ROW_BYTES_MAX, READ_BYTES_MAX
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.read.gather import plan_gather
from vantage.receipt import Receipt
from vantage.search.query import Query
from vantage.search.rows import ATTRIBUTES_BYTES_MAX

ROWS = 240  # more than are simply exact
# Bytes of the text of row i: some of next to nothing, most of 30 kB, one of almost all that a row may have.
LENGTHS = [
    ATTRIBUTE_ROW_BYTES_MAX - 60 if i == 77 else (i * i) % 7 if i % 5 == 0 else 30_000 + 97 * i for i in range(ROWS)
]


def text_of(i: int) -> str:
    return f'"{i}\\ü' + "x" * LENGTHS[i]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An index of 150 rows with copies, and its vectors."""
    folder = tmp_path_factory.mktemp("bucket")
    x = np.random.default_rng(4).standard_normal((ROWS, 12)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 12)
    columns = {"id": [f"row {i}" for i in range(ROWS)], "vector": flat, "text": [text_of(i) for i in range(ROWS)],
               "at": [[i, None] for i in range(ROWS)]}  # fmt: skip
    pq.write_table(pa.table(columns), folder / "source.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("build_index.tune.draft.BLOCK_ROWS", 24)
        patch.setattr("build_index.write.shard.SHARD_BYTES", 2 << 20)
        patch.setattr("build_index.write.contents.JSON_BYTES", 1 << 20)
        patch.setattr("build_index.write.vectors.ATTRIBUTES_BYTES", 2 << 20)
        options = Options(0.9, 10, copies_share=0.4, fast=True)
        build(open_source([folder / "source.parquet"]), BuildContext(folder / "texts", "cosine", options))
    return folder / "texts", x


def asked(path: Path, vector: np.ndarray, top_k: int, **options: Any) -> Any:
    return asyncio.run(open_index(path).query(Query(vector.tolist(), top_k, attributes=True, **options)))


def number(match: Any) -> int:
    return int(match.id.split()[1])


def right(match: Any) -> bool:
    i = number(match)
    return bool(match.attributes == {"text": text_of(i), "at": [i, None]})


def test_an_index_of_long_texts_says_where_each_is(texts: tuple[Path, np.ndarray]) -> None:
    path, x = texts
    root = open_index(path).root
    assert root.index.by_row and root.index.slots > root.index.rows and not any(r.attributes for r in root.renditions)
    pages = root.rows
    assert len(set(pages.attribute_object)) > 1 and len(pages.attribute_object) > 5
    assert sum(root.objects.sizes[number] for number in set(pages.attribute_object)) > READ_BYTES_MAX
    assert verify_deep(FolderStore(path))["damage"] == []
    for at in (0, 3, 40, 149):
        answer = asked(path, x[at], 10)
        assert answer.complete and all(map(right, answer.matches)), at


def test_it_reads_what_it_returns(texts: tuple[Path, np.ndarray]) -> None:
    path, x = texts
    for at in range(1, 20):
        bucket = Recorder(Folder(path.parent))
        index = asyncio.run(Index.open(bucket, "texts", Cache(0), Receipt()))
        bucket.forget()
        asyncio.run(index.query(Query(x[at].tolist(), 10)))
        scanned, gets = bucket.bytes, len(bucket.gets)
        bucket.forget()
        answer = asyncio.run(index.query(Query(x[at].tolist(), 10, attributes=True)))
        returned = sum(len(json.dumps([m.attributes["text"], m.attributes["at"]], ensure_ascii=False).encode())
                       for m in answer.matches)  # fmt: skip
        assert bucket.bytes - scanned <= 1.2 * returned + 4 * 8192
        assert len(bucket.gets) - gets <= 10 and answer.receipt.waves == 2


def test_every_row_by_its_id(texts: tuple[Path, np.ndarray]) -> None:
    """In as many waves as ever: the page of ids, then vector and attributes side by side."""
    path, x = texts
    index = open_index(path)
    for i in range(ROWS):
        receipt = Receipt()
        vector, attributes = asyncio.run(index.row(f"row {i}".encode(), receipt))
        assert attributes == {"text": text_of(i), "at": [i, None]}
        assert np.allclose(vector, x[i], atol=1e-2)
        assert (receipt.gets, receipt.waves) == (3, 2)


@pytest.mark.parametrize(
    "budget", [Budget(gets=g) for g in (7, 8, 9, 12)] + [Budget(bytes=n << 10) for n in (60, 200, 400)]
)
def test_a_budget_leaves_the_best_that_fit(texts: tuple[Path, np.ndarray], budget: Budget) -> None:
    path, x = texts
    for at in (1, 2, 3, 77):
        answer = asked(path, x[at], 12, budget=budget)
        told = [m.attributes is not None for m in answer.matches]
        assert told == sorted(told, reverse=True)
        assert answer.complete == all(told) or answer.receipt.gets == budget.gets
        assert all(right(m) for m in answer.matches if m.attributes)
        assert answer.receipt.gets <= budget.gets and answer.receipt.bytes <= budget.bytes
        left = budget.gets - asyncio.run(open_index(path).query(Query(x[at].tolist(), 12, budget=budget))).receipt.gets
        if left and budget.bytes > 1 << 20:
            assert told[0]


@pytest.mark.parametrize("top_k", [140, 150])
def test_a_request_has_room_for_so_much(texts: tuple[Path, np.ndarray], top_k: int) -> None:
    """Over 4 MiB of texts: the best of them, up to the limit."""
    path, x = texts
    answer = asked(path, x[5], top_k, budget=Budget(gets=1000, bytes=1 << 30))
    told = [m.attributes is not None for m in answer.matches]
    assert told == sorted(told, reverse=True) and told[0] and not told[-1] and not answer.complete
    sizes = [len(json.dumps(list(m.attributes.values()))) for m in answer.matches if m.attributes]
    longest = ATTRIBUTE_ROW_BYTES_MAX if number(answer.matches[len(sizes)]) == 77 else 50_000
    assert ATTRIBUTES_BYTES_MAX - longest - 1000 * len(sizes) < sum(sizes) <= ATTRIBUTES_BYTES_MAX
    assert all(right(m) for m in answer.matches if m.attributes)


def test_a_batch_shares_the_room(texts: tuple[Path, np.ndarray]) -> None:
    path, x = texts
    index = open_index(path)
    queries = [Query(v.tolist(), 10, attributes=True, budget=Budget(gets=1000)) for v in x[:32]]
    answers = asyncio.run(index.answer(queries, Receipt()))
    for answer in answers:
        told = [m for m in answer.matches if m.attributes]
        assert all(map(right, told))
        assert sum(len(m.attributes["text"]) for m in told) <= ATTRIBUTES_BYTES_MAX / 32
    assert any(m.attributes for a in answers for m in a.matches)


def test_what_was_read_of_blocks_has_attributes(words: Any) -> None:
    """A budget cuts the blocks, and not the attributes of those that it leaves."""
    index, whole = words.open(), list[bool]()
    for gets in (1, 2, 3, 7):
        query = Query(words.queries[0].tolist(), 100, attributes=True, budget=Budget(gets=gets))
        answer = asyncio.run(index.query(query))
        assert answer.receipt.gets <= gets and answer.receipt.waves == 1
        assert answer.matches and all(m.attributes for m in answer.matches)
        whole.append(answer.complete)
    assert whole == sorted(whole) and whole[-1] and not whole[0]
    answer = asyncio.run(index.query(Query(words.queries[0].tolist(), 1000, attributes=True, room=20_000)))
    told = [m.attributes is not None for m in answer.matches]
    assert told == sorted(told, reverse=True) and any(told) and not answer.complete


def test_a_saved_index_is_read_back_and_written_again(texts: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, x = texts
    held = VectorIndex.load(path)
    held.add(x[:3] + 0.1, ["new 0", "new 1", "new 2"])
    held.remove(["row 4"])
    held.save(tmp_path / "again")
    index = open_index(tmp_path / "again")
    assert index.root.index.by_row
    for identifier, told in (("row 77", text_of(77)), ("row 3", text_of(3)), ("new 1", None)):
        assert asyncio.run(index.row(identifier.encode(), Receipt()))[1]["text"] == told
    assert verify_deep(FolderStore(tmp_path / "again"))["damage"] == []


# What the builder refuses


def stored(*records: bytes) -> Arrays:
    x = np.ones((len(records), 2), np.float32)
    return Arrays(x, "f32", [b"id %d" % i for i in range(len(records))], list(records))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (json.dumps(["short", "x" * ATTRIBUTE_ROW_BYTES_MAX]).encode(), "1048578 bytes of 'text', in bytes as JSON"),
        (json.dumps(["y" * ATTRIBUTE_ROW_BYTES_MAX, 1]).encode(), "of 'title'"),
        (b'[1,' + b"[" * 65 + b"]" * 65 + b"]", "nested more than 65 deep"),
        (json.dumps([1, ["a"] * 40_000]).encode(), "40002 lists, objects and texts, the limit is 32768"),
        (json.dumps([{}, [[]] * 40_000]).encode(), "lists, objects and texts"),
    ],
)  # fmt: skip
def test_rows_that_no_reader_takes_are_refused(record: bytes, what: str) -> None:
    with pytest.raises(InputError) as caught:
        check_rows(stored(b"[1,2]", record, b'["[[[[","]]"]'), ["title", "text"])
    assert what in str(caught.value) and "'id 1' (row 1)" in str(caught.value) and "--attributes" in str(caught.value)


def test_rows_that_only_look_deep_are_taken() -> None:
    check_rows(stored(b'["' + b"[" * 100_000 + b'",1]', b"[" + b",".join([b"[]"] * 30_000) + b"]"), ["a", "b"])
    check_rows(stored(b"[]"), [])


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([str(i) for i in range(4097)], "the number of attributes is 4097, the limit is 4096"),
        (["n" * 513], "in bytes, is 513, the limit is 512"),
        (["ü" * 257], "is 514"),
        (["a", "b", "a"], "two attributes are called 'a'"),
        ([f"{i:0500d}" for i in range(500)], "what the schema says of all attributes"),
    ],
)
def test_schemas_that_no_reader_takes_are_refused(names: list[str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        check_schema(pa.schema([(name, pa.string()) for name in names]))


def test_the_longest_schemas_are_taken(tmp_path: Path) -> None:
    check_schema(pa.schema([(f"column_{i}", pa.float64()) for i in range(4096)]))
    check_schema(pa.schema([("deep", pa.struct([(f"{i}", pa.string()) for i in range(5000)]))]))


def test_a_row_too_long_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "choose", lambda *_: pytest.fail("works before it looks"))
    x = np.random.default_rng(4).standard_normal((30, 4)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)
    text = ["x" * (1_500_000 if i == 17 else 3) for i in range(30)]
    pq.write_table(pa.table({"id": np.arange(30) * 3, "vector": flat, "text": text}), tmp_path / "s.parquet")
    with pytest.raises(LimitError, match=r"id 51 \(row 17\).*1500002 bytes of 'text'"):
        build(open_source([tmp_path / "s.parquet"]), BuildContext(tmp_path / "index", "cosine"))


def test_short_attributes_keep_no_places() -> None:
    assert not are_long(stored(*[b'["' + b"x" * 400 + b'"]'] * 9), ["a"])
    assert are_long(stored(*[b'["' + b"x" * 600 + b'"]'] * 9), ["a"])
    assert are_long(stored(*[b"[1]"] * 2000, b'["' + b"x" * 700_000 + b'"]'), ["a"])
    assert not are_long(stored(*[b"[]"] * 9), [])


@pytest.mark.parametrize("sizes", [[0, 0, 0], [5], [9, 1, 1, 1, 30, 2, 8, 1], [100] * 7])
def test_pieces_cover_all_rows_in_order(sizes: list[int]) -> None:
    for rows_max in (None, 1, 2, 100):
        found = list(pieces(np.array(sizes), 10, rows_max))
        assert [at for low, high in found for at in range(low, high)] == list(range(len(sizes)))
        for low, high in found:
            assert high - low == 1 or sum(sizes[low:high]) <= 10 and (rows_max is None or high - low <= rows_max)


def test_plans_prefer_what_reads_little_and_cut_what_is_long() -> None:
    far = [("a", i << 18, 50_000) for i in range(12)]
    assert len(plan_gather(far, 48, 1 << 40) or []) == 6
    assert len(plan_gather(far, 48, 1 << 40, 700_000) or []) == 12
    assert len(plan_gather(far, 8, 1 << 40, 700_000) or []) in (6, 7, 8)  # no plan of eight reads so little
    dense = [("a", i << 18, 1 << 18) for i in range(40)]  # 10 MiB without a gap
    spans = plan_gather(dense, 6, 1 << 40) or []
    assert 3 <= len(spans) <= 6 and all(s.size <= READ_BYTES_MAX for s in spans)
    assert sorted(i for s in spans for i in s.items) == list(range(40))


def test_a_block_that_grows_past_a_read_is_refused_before_rows_are_added() -> None:
    """Many rows in one place, added to a small index: it stays as it was, and goes on."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 8)).astype(np.float32)
    held = VectorIndex(fast=True, k=5, recall=0.8).fit(x)
    with pytest.raises(InputError, match=r"block \d+ has 400,\d+ rows and [\d,]+ bytes, a reader takes 4,194,304"):
        held.add(x[:1] + 1e-4 * draw.standard_normal((400_000, 8)).astype(np.float32))
    assert len(held) == 400 and held.search(x[7:8], 1).ids.tolist() == [[7]]
    held.remove(held.ids_[:-1])
    assert held.search(x[-1:], 1).ids.tolist() == [[399]]
