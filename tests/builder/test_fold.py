"""Folds: what queries scan is written anew from what is stored, and every row stays as it was written last."""

from __future__ import annotations

import asyncio
import json
import shutil
import tracemalloc
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_flush as flushing
import test_flushed_filters as filtered
from fixtures.reader import Reader
from kills import Killed
from log_writes import write_rows
from small import clustered
from test_flush import plain  # noqa: F401
from test_flushed_filters import made  # noqa: F401

from build_index import compact as compaction
from build_index import fold as folding
from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.open import open_index
from build_index.bucket.store import ObjectStore, store_at
from build_index.build import build
from build_index.codecs.error_norms import Norms, errors
from build_index.compact import compact
from build_index.context import BuildContext
from build_index.filters import merge, projections
from build_index.filters.counts import Counted
from build_index.flush import fit_of
from build_index.ingest.open import open_source
from build_index.progress import SILENT
from build_index.slots import cut, decoded, in_range, merged, range_of
from build_index.successor import open_live
from build_index.tune import renditions
from build_index.tune.options import Options
from build_index.write.objects import ObjectList
from build_index.write.publish import Named
from build_index.write.reopen import codec_of
from vantage.format import norms_of
from vantage.format.log import RowShape
from vantage.index import Index
from vantage.kernels import crc32c
from vantage.search.exact import BoundedScan
from vantage.search.prepare import prepare
from vantage.search.query import Query

ROWS, DIMENSION = 1500, 24
Row = tuple[np.ndarray, str]  # vector f16 (d) as it is stored, word


def test_folds_keep_every_row_as_it_was_written_last(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index, oracle, draw = flushing.copied(plain, tmp_path), flushing.oracle_of(), np.random.default_rng(3)
    store, hows = store_at(str(index)), list[str]()
    for step in range(1, 4):
        flushing.change(store, oracle, draw, step, 700 if step % 2 else 60)
        folded = compact(store)
        hows.append(folded.how)
        root = open_index(index).root
        if folded.how == "fold":
            assert root.directory is not None and root.directory.single and len(root.id_pages) == 1
            assert root.directory.at_home == len(oracle) == root.id_pages[0].rows and folded.pending == 0
        flushing.check(open_index(index), oracle, draw)
        assert flushing.listed(index) == {name: row[1] for name, row in oracle.items()}
        assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]
    assert hows == ["fold", "flush", "fold"]


@pytest.mark.parametrize("large", [False, True])
def test_filters_of_folded_indexes_answer_as_their_rows_do(
    made: tuple[Path, dict[int, filtered.Row]], tmp_path: Path, large: bool  # noqa: F811
) -> None:  # fmt: skip
    with filtered.in_pages() if large else nullcontext():
        index, oracle, store = filtered.grown(made, tmp_path)
        hows = list[str]()
        for step in range(2, 5):
            draw = Random(step)
            filtered.change(store, oracle, draw, step, 160 if step % 2 else 700)
            with patch.object(compaction, "divided_blocks", lambda rows, blocks, *_: blocks):  # none is divided
                hows.append(compact(store).how)
            opened = open_index(index)
            filtered.check(opened, oracle, draw, 8)
            assert opened.root.paged == large and not verify_deep(store)["damage"]
            if hows[-1] == "fold":
                check_chunks(reader_of(index))
                assert [len(p.first) for p in opened.root.projections] == [1] * len(opened.root.projections)
                assert opened.root.counts is not None and not any(own.about for own in opened.root.counts.fields)
        assert hows == ["fold", "flush", "fold"]


def check_chunks(reader: Reader) -> None:
    """That each row that lives is once in each bucket of a projection that has a value of it, by block and number, as
    its block has it, and that no other row is there.
    """
    home = dict[int, tuple[Any, ...]]()
    for i, extent in enumerate(reader.extents):
        block = reader.block(i)
        columns = list(zip(*(column or [None] * extent.rows for column in reader.columns(i)), strict=True))
        for j, row in enumerate(block["rows"][: extent.homes].tolist()):
            more = block["codes"][j].tobytes(), block["f"][j], block["h"][j], block["ranges"].tobytes()
            home[row] = extent.block, *more, block["checks"][j], block["ids"][j], columns[j]
    assert len(reader.projections) > 3 and not reader.dead & {*home}
    for number, (f, low, high, buckets, _, extents) in enumerate(reader.projections):
        text_keys = {text.decode(): key for key, text in reader.text_of[f].items()}
        known = bool(text_keys) or reader.fields[f][1] == 1 or reader.fields[f][2] & 4  # as they are, not as floats
        found = list[tuple[int, int, int]]()
        for i, _ in enumerate(extents):
            chunk, bucket = reader.chunk(number, i), buckets[i]
            for j, row in enumerate(chunk["rows"]):
                values = [column[j] for column in chunk["values"]]
                more = chunk["codes"][j].tobytes(), chunk["f"][j], chunk["h"][j], chunk["ranges"][j].tobytes()
                assert (chunk["blocks"][j], *more, chunk["checks"][j], chunk["ids"][j]) == home[row][:-1]
                assert all(old is None or old == new for old, new in zip(home[row][-1], values, strict=True))
                own = [text_keys.get(value, value) for value in values[f]]
                assert bool(own) == (bucket < len(low))
                assert not own or not known or any(low[bucket] <= value <= high[bucket] for value in own)
                found.append((bucket, chunk["blocks"][j], row))
        assert found == sorted({*found}) and {row for _, _, row in found} == {*home}
        assert all(a < b for a, b in zip(high, low[1:], strict=False))


def name_of(i: int, kind: str) -> Any:
    """The id of a row; those that are bytes are longer than a block keeps at one width."""
    return i if kind == "i64" else f"the row {i:040}".encode()


@pytest.fixture(scope="module", params=["cosine", "dot", "l2"])
def shaped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Row]]:
    """Indexes unlike each other, and their rows: renditions with codes of two lengths, each with attributes and
    without; attributes that are read a row, and long ids; no attributes. All have error norms.
    """
    metric, folder = request.param, tmp_path_factory.mktemp(request.param)
    kind, x = "bytes" if metric == "dot" else "i64", clustered(ROWS, DIMENSION, 3)
    ids, word = [name_of(i, kind) for i in range(ROWS)], "w" if metric == "cosine" else "long " * 150
    columns = {"id": [i.decode() for i in ids] if kind == "bytes" else ids, "vector": list(x)}
    columns |= {"word": [f"{word}{i % 7}" for i in range(ROWS)]} if metric != "l2" else {}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(renditions, "INLINE_BYTES", 0)
        changed.setattr(renditions, "WORTH", 1e9 if metric == "cosine" else 0.0)
        changed.setattr("build_index.tune.contract.SURE", 0.0)
        options = Options(0.8, 10, fast=metric != "cosine", filters=(), error_norms=True)
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "bucket" / "index", metric, options))
    root = open_index(folder / "bucket" / "index").root
    assert len(root.renditions) == {"cosine": 4, "dot": 1, "l2": 1}[metric] and root.index.by_row == (metric == "dot")
    words = columns.get("word", [""] * ROWS)
    return folder / "bucket" / "index", {i: (v, w) for i, v, w in zip(ids, x.astype(np.float16), words, strict=True)}


def write(store: ObjectStore, kind: str, **parts: Any) -> None:
    """One request, committed to the log."""
    write_rows(store, RowShape(DIMENSION, kind, "f16"), **parts)


def change(store: ObjectStore, oracle: dict[Any, Row], draw: np.random.Generator, size: int) -> None:
    """So many rows that are replaced, others that come, and some that go."""
    kind = "i64" if isinstance(next(iter(oracle)), int) else "bytes"
    own = [*oracle]
    put = [own[i] for i in draw.choice(len(own), size, replace=False)]
    put += [name_of(int(i), kind) for i in draw.integers(10_000, 1 << 40, size)]
    gone = [i for i in (own[i] for i in draw.choice(len(own), size, replace=False)) if i not in put]
    near = np.array([oracle[own[i]][0] for i in draw.integers(len(own), size=len(put))], np.float32)
    new = (near + 0.3 * draw.normal(size=near.shape)).astype(np.float16)
    words = ["long " * 140 * bool(draw.integers(2)) + str(draw.integers(9)) for _ in put] if own else []
    has = bool(oracle[own[0]][1])
    write(
        store, kind, upserts=put, vectors=new.tobytes(), deletes=gone,
        attributes=[json.dumps({"word": word}).encode() if has else b"" for word in words],
    )  # fmt: skip
    for i, vector, word in zip(put, new, words, strict=True):
        oracle[i] = vector, word if has else ""
    for i in gone:
        del oracle[i]


def reader_of(index: Path, generation: str | None = None) -> Reader:
    """The second reader of a generation, by default of the live one."""
    store = store_at(str(index))
    current = g.find_generation(store, generation or flushing.folder_of(index))[0]
    files = {str(p.relative_to(index)): p.read_bytes() for p in index.rglob("*.*") if p.is_file()}
    return Reader(files | {"CURRENT": current.pack()})


def rows_in(reader: Reader, rendition: int) -> dict[tuple[int, int], tuple[Any, ...]]:
    """By block and number, of each row that lives: whether it is at home, its code, f and h as bytes, their ranges,
    id, check, spot and text.
    """
    out = {}
    for i, extent in enumerate(reader.extents):
        block = reader.block(i, rendition)
        for j, row in enumerate(block["rows"].tolist()):
            if row not in reader.dead:
                more = [block[name][j] for name in ("spots", "texts") if block[name]]
                ranges = tuple(block["ranges"].tolist())
                factors = int(block["f"][j]), int(block["h"][j])
                own = j < extent.homes, block["codes"][j].tobytes(), factors, ranges
                assert out.setdefault((extent.block, row), own) is own
                out[extent.block, row] = *own, block["ids"][j], int(block["checks"][j]), *more
    return out


def check_fold(before: Reader, after: Reader) -> int:
    """That a fold left what it may not change: each row where it is, with its code and factors within half a step of
    the new ranges. Rows whose factors stay byte for byte.
    """
    assert after.dead == before.dead and len(after.extents) == after.b and len(after.segments) == 1
    kept = 0
    for rendition in range(len(after.renditions)):
        old, new = rows_in(before, rendition), rows_in(after, rendition)
        assert old.keys() == new.keys()
        for place, row in old.items():
            now = new[place]
            assert now[:2] == row[:2] and now[4:] == row[4:]
            for part in (0, 1):
                (low, step), (was_low, was_step) = now[3][2 * part :][:2], row[3][2 * part :][:2]
                apart = abs(low + step * now[2][part] - was_low - was_step * row[2][part])
                assert apart <= 0.5 * step + 1e-5 * max(1.0, abs(low)), (now, row)
            kept += now[2:4] == row[2:4]
    for i, extent in enumerate(after.extents):
        block = after.block(i)
        numbers = block["rows"].tolist()
        assert numbers[: extent.homes] == sorted(numbers[: extent.homes])
        assert numbers[extent.homes :] == sorted(numbers[extent.homes :]) and not after.dead & {*numbers}
        assert all(crc32c(after.vector(row)) == check for row, check in zip(numbers, block["checks"], strict=True))
    return kept


def check(index: Path, oracle: dict[Any, Row]) -> None:
    """Whether the index has the rows of the oracle, by lists, queries and lookups."""
    opened, own, found = open_index(index), [*oracle], 0
    assert opened.root.live_rows == len(own)
    assert not g.verify(store_at(str(index)))["damage"] and not verify_deep(store_at(str(index)))["damage"]

    async def run() -> None:
        nonlocal found
        for i in own[:: len(own) // 20]:
            vector = oracle[i][0].astype(np.float32)
            answer = await opened.query(Query(vector.tolist(), 5, 0.8, rerank=200, attributes=True))
            for match in answer.matches:
                assert (match.attributes or {}).get("word", "") == oracle[match.id][1]
            found += np.array_equal(oracle[answer.matches[0].id][0], oracle[i][0])
            got, attributes = await opened.row(i, flushing.Receipt())
            assert got == oracle[i][0].astype(float).tolist() and (attributes or {}).get("word", "") == oracle[i][1]

    asyncio.run(run())
    assert opened.root.index.metric == "dot" or found > 15, found
    check_proofs(index, oracle)


def check_proofs(index: Path, oracle: dict[Any, Row]) -> None:
    """Exact answers are proven, and the best of all rows; and each score is in its interval."""
    reader, opened = reader_of(index), open_index(index)
    metric, d = opened.root.index.metric, DIMENSION
    stored, draw = np.array([vector for vector, _ in oracle.values()], np.float64), np.random.default_rng(len(oracle))
    x = np.array([np.frombuffer(reader.vector(i), np.float16) for i in range(opened.root.index.rows)], np.float64)
    live = np.array([i not in reader.dead for i in range(len(x))])

    def scores(x: np.ndarray, q: np.ndarray) -> np.ndarray:
        if metric == "l2":
            return -((x - q) ** 2).sum(1)
        return (x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x) @ q

    for q in (stored[3], 20 * stored[-5], draw.normal(size=d)):
        q = q / np.linalg.norm(q) if metric == "cosine" else q
        answer = asyncio.run(opened.query(Query(q.tolist(), 10, exact=True)))
        want = np.sort(scores(stored, q))[::-1][:10] * (-1 if metric == "l2" else 1)
        assert answer.exact and answer.complete
        assert np.allclose([m.score for m in answer.matches], want, rtol=1e-3, atol=1e-4)
        check_intervals(opened, index, x, live, q)


def check_intervals(opened: Index, index: Path, x: np.ndarray, live: np.ndarray, q: np.ndarray) -> None:
    """That the scores of rows x f64 (N, d) that live are within those that a scan of all blocks gives them."""
    root, directory = opened.root, opened.root.directory
    assert directory is not None
    scan = BoundedScan(root, directory, prepare(q.tolist(), root.index), 4, 4)
    x = x - np.asarray(root.index.origin) if root.index.metric == "l2" else x
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if root.index.metric == "cosine" else x * root.index.row_scale
    true = x @ np.array(scan.query.vector, np.float64)
    true = (true - (x * x).sum(1) / 2 if root.index.metric == "l2" else true) * scan.query.unit
    for e in range(len(directory)):
        extent = directory.extent(e, 0)
        data = (index.parent / opened.segment.keys[extent.object]).read_bytes()[extent.offset :][: extent.whole]
        block = scan.open(e, data, keep=True)
        rows = np.frombuffer(data, "<u4", block.at.n, block.at.rows)
        _, low, high = scan.intervals(e, data, block)
        own = live[rows]
        assert (low <= true[rows])[own].all() and (true[rows] <= high)[own].all()


def test_a_fold_moves_no_row_and_no_code(shaped: tuple[Path, dict[Any, Row]], tmp_path: Path) -> None:
    """Also of a block that has no row left, after a flush behind a fold and a fold behind a fold; and what is written
    anew of a folded index is right.
    """
    index, oracle, draw = flushing.copied(shaped[0], tmp_path), dict(shaped[1]), np.random.default_rng(5)
    store, hows, kind = store_at(str(index)), list[str](), open_index(index).root.index.id_kind
    for step in range(4):
        if step:
            change(store, oracle, draw, 60 if step == 2 else 200)
        else:
            gone = {*reader_of(index).block(0)["ids"], *[*oracle][::4]}
            write(store, kind, deletes=[*gone])
            oracle = {i: row for i, row in oracle.items() if i not in gone}
        with patch.object(compaction, "GONE_SHARE", 0.9):
            folded = compact(store)
        hows.append(folded.how)
        check(index, oracle)
        if folded.how == "fold":
            after, previous = reader_of(index), json.loads((index / "CURRENT").read_text())["previous"]
            assert check_fold(reader_of(index, previous), after)
            assert step or not after.extents[0].rows and "rows are dead" in folded.why
    assert hows == ["fold", "fold", "flush", "fold"]
    change(store, oracle, draw, 20)
    with patch.object(compaction, "GONE_SHARE", 0.1):
        folded = compact(store)
    assert folded.how == "rewrite" and "numbers are of rows that are dead" in folded.why and not folded.dead
    check(index, oracle)


def test_error_norms_hold_of_factors_that_move(shaped: tuple[Path, dict[Any, Row]]) -> None:
    store, reader = store_at(str(shaped[0])), reader_of(shaped[0])
    stored = open_live(store, g.live(store)[0]).stored
    index, codec = stored.root.index, codec_of(stored.root)
    for _, (part,) in islice(folding._blocks(stored), 6):
        own = part.coded[0]
        wider = (own.ranges * np.array([1, 1.7, 1, 2.1]) - np.array([40, 0, 60, 0]) * own.ranges[[1, 1, 3, 3]]).astype(
            np.float32
        )
        after = own.ranged(wider)
        moved = folding._with_room(part, part._replace(coded=(after, *part.coded[1:])), codec)
        x = np.array([np.frombuffer(reader.vector(i), np.float16) for i in part.slots.number], np.float64)
        x = x - np.asarray(index.origin) if index.metric == "l2" else x
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if index.metric == "cosine" else x * index.row_scale
        centre = np.frombuffer(part.centre.row, np.int8)[:DIMENSION] * np.float64(part.centre.scale)
        bias = np.array([part.centre.bias])
        [off] = errors(codec.section, codec.axes, [after.encoded()], x, centre[None], bias, index.metric)
        assert part.norms is not None and moved.norms is not None
        kept = Norms.of(norms_of(moved.norms.plane(), len(x), "plane"))
        assert (off.left <= kept.left).all() and (off.left > part.norms.left).any()
        assert off.fixed.max() <= kept.slack and off.spread.max() <= kept.spread
        assert part.norms.moved(codec, own.encoded(), own.encoded(), centre) is part.norms
        assert Norms.of(norms_of(part.norms.plane(), len(x), "plane")).left.tolist() == part.norms.left.tolist()


def test_rows_in_the_order_of_keys_are_cut_into_buckets() -> None:
    """As those that are counted as a whole: a key with many rows alone, in pieces; rarer ones together, a row once."""
    draw = np.random.default_rng(4)
    for turn in range(60):
        many = draw.choice([-(1 << 62), -3, -2, 0, 1, 5, 7, 8, 1 << 62], 300)
        rare = draw.integers(-40, 40, 500)
        keys = np.concatenate([many[: 40 * (turn % 7)], rare[: 60 * (turn % 9)]]).astype(np.int64)
        keys, number = np.unique([keys, draw.integers(0, 200, len(keys))], axis=1)
        order = merge._order(keys, number // 16, number), merge._order(None, np.zeros(9, np.int64), np.arange(9))
        order, values = np.concatenate(order), np.append(number, np.arange(9))
        by_order = np.argsort(order, kind="stable")
        assert by_order[-9:].tolist() == [*range(len(keys), len(keys) + 9)]
        cuts = np.sort(draw.integers(0, len(order) + 1, turn % 5))
        pieces = zip(np.split(order[by_order], cuts), np.split(values[by_order], cuts), strict=True)
        found = list[tuple[tuple[int, ...], list[int]]]()
        for ends, (_, rows) in merge._buckets(iter([piece for piece in pieces if len(piece[0])]), 20):
            if found and found[-1][0] == ends:
                found[-1][1].extend(rows.tolist())
            else:
                found.append((ends, rows.tolist()))
        want, held = list[tuple[tuple[int, ...], list[int]]](), list[tuple[int, int]]()
        for key in [*np.unique(keys).tolist(), None]:
            own = [(key, row) for row in number[keys == key].tolist()]
            if held and (len(own) >= 20 or len(held) >= 20 or key is None):
                want.append(((held[0][0], held[-1][0]), sorted({row for _, row in held})))
                held = []
            held += own
        assert found == [*want, ((), [*range(9)])]


def test_numbers_stay_within_half_a_step() -> None:
    draw = np.random.default_rng(1)
    for _ in range(300):
        parts = []
        for _ in range(draw.integers(1, 4)):
            own = np.array([draw.normal(), draw.choice([0, 1e-3, 0.1])], np.float32)
            parts.append((own, draw.integers(0, 256, draw.integers(0, 40)).astype(np.uint8)))
        new = range_of(parts)
        for own, codes in parts:
            moved = in_range(codes, own, new)
            apart = np.abs(decoded(own, codes) - decoded(new, moved))
            assert (apart <= 0.5 * new[1] * 1.001 + 1e-5).all()
            assert not np.array_equal(own, new) or np.array_equal(moved, codes)
    first = np.array([-1, 0.1], np.float32), np.array([200, 9], np.uint8)
    inside = np.array([0, 0.01], np.float32), np.array([0, 255], np.uint8)
    outside = np.array([-2, 0.01], np.float32), np.array([0, 255], np.uint8)
    assert range_of([first, inside]) is first[0] and range_of([(outside[0], outside[1][:0]), first]) is first[0]
    assert range_of([first, outside])[0] == -2


def test_streams_are_merged_in_order() -> None:
    draw = np.random.default_rng(2)
    every = np.sort(draw.choice(10_000, 3000, replace=False))
    of = draw.integers(4, size=len(every))
    of[of == 3] = 0
    streams = []
    for stream in range(4):  # one of which has nothing
        own = every[of == stream]
        cuts = np.sort(draw.integers(0, len(own) + 1, 9))
        streams.append(iter([(part, part * 2) for part in np.split(own, cuts)]))
    tables = [*cut(merged(streams), 64)]
    assert [len(t[0]) for t in tables[:-1]] == [64] * (len(every) // 64)
    assert np.array_equal(np.concatenate([t[0] for t in tables]), every)
    assert np.array_equal(np.concatenate([t[1] for t in tables]), 2 * every)


def prepared(index: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Writes that a compaction flushes and folds; the rows then."""
    oracle = flushing.oracle_of()
    for step in (1, 2):
        flushing.change(store_at(str(index)), oracle, np.random.default_rng(seed + step), step, 900)
    return {name: row[1] for name, row in oracle.items()}


def flushed(index: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The same, flushed and not folded yet."""
    want = prepared(index, seed)
    with patch.object(compaction, "why_due", lambda *_: ""):
        assert compact(store_at(str(index))).how == "flush"
    return want


def test_a_block_that_is_too_long_stays_in_parts(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index = flushing.copied(plain, tmp_path)
    want, store = prepared(index, 4), store_at(str(index))
    root = open_index(index).root
    assert root.directory is not None
    with patch.object(folding, "READ_BYTES_MAX", max(root.directory.places[0].whole)):
        assert compact(store).how == "fold"
    directory = open_index(index).root.directory
    assert directory is not None and root.index.blocks < len(directory) < 2 * root.index.blocks
    assert flushing.rows_of(index) == want and not verify_deep(store)["damage"]


def test_what_cannot_be_folded_is_written_anew(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index = flushing.copied(plain, tmp_path)
    want = prepared(index, 5)
    with patch.object(compaction, "fold", lambda *_: "its blocks are too long"):
        folded = compact(store_at(str(index)))
    assert (folded.how, folded.why, folded.rows) == ("rewrite", "its blocks are too long", len(want))
    assert folded.upserted > 700 and flushing.rows_of(index) == want


def test_a_fold_that_is_killed_loses_nothing(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    """Behind each of its writes; the next compaction folds, though the log is empty."""
    index = flushing.copied(plain, tmp_path)
    want, at, hows = flushed(index, 8), 0, list[str]()

    def end() -> None:
        raise Killed

    while True:
        at += 1
        there = Path(shutil.copytree(index, tmp_path / str(at) / "index"))
        store = store_at(str(there))
        try:
            compact(flushing.Writes(store, at, flushing.nothing_else, end))
            break
        except Killed:
            pass
        assert not g.verify(store)["damage"] and flushing.rows_of(there) == want, at
        flushing.age(there)
        g.gc(store, 7 * flushing.DAY)
        hows.append(compact(store).how)
        assert len(open_index(there).root.id_pages) == 1 and flushing.rows_of(there) == want, at
        shutil.rmtree(there.parent)
    assert at > 7 and hows == ["fold"] * (at - 2) + ["nothing"]


def test_folds_race(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    """Writes, another compaction and a gc come at writes of a fold: what comes is there in the end."""
    index, oracle = flushing.copied(plain, tmp_path), flushing.oracle_of()
    for step in (1, 2):
        flushing.change(store_at(str(index)), oracle, np.random.default_rng(step), step, 900)
    with patch.object(compaction, "why_due", lambda *_: ""):
        compact(store_at(str(index)))
    flushing.age(index)
    for at in (1, 4, 7):
        there, also = Path(shutil.copytree(index, tmp_path / str(at) / "index")), dict(oracle)
        store = store_at(str(there))

        def others(store: ObjectStore = store, also: dict[str, flushing.Row] = also) -> None:
            flushing.change(store, also, np.random.default_rng(10), 3)
            compact(store)
            flushing.change(store, also, np.random.default_rng(11), 4)
            g.gc(store, 7 * flushing.DAY)

        racing = flushing.Writes(store, at, others, flushing.nothing_else)
        assert compact(racing).how == "nothing" and racing.count >= at
        compact(store)
        assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]
        assert flushing.rows_of(there) == {name: row[1] for name, row in also.items()}


def test_a_folded_index_is_published_rolled_back_and_collected(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index = flushing.copied(plain, tmp_path)
    first, want, store = flushing.folder_of(index), prepared(index, 6), store_at(str(index))
    folded = compact(store)
    assert folded.how == "fold" and folded.dead and not folded.pending and folded.measured
    there = tmp_path / "there" / "index"
    assert g.publish(index, store_at(str(there)))["swapped"] and flushing.listed(there) == want
    assert not g.verify(store_at(str(there)))["damage"]
    assert g.rollback(store)["generation"] != first and flushing.listed(index) == want
    assert g.rollback(store, folded.generation)["swapped"] and flushing.listed(index) == want
    flushing.age(index)
    g.gc(store, 7 * flushing.DAY)
    assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]
    write_more(index)
    assert compact(store).how == "flush"
    flushing.age(index)
    g.gc(store, 7 * flushing.DAY)
    left = {s.key.rpartition("/")[2] for s in store.list(first)}
    assert "attributes-00000.bin" in left and not {key for key in left if "shard" in key or key == "ids.bin"}
    assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]


def write_more(index: Path) -> None:
    """Some rows to an index like `plain`."""
    flushing.write(
        store_at(str(index)), upserts=[b"later"], vectors=np.ones(flushing.DIMENSION, np.float16).tobytes(),
        attributes=[b"{}"],
    )  # fmt: skip


class Counting:
    """A store that notes which bytes of which object are read."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner, self.reads = inner, list[tuple[str, int]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See ObjectStore."""
        data = self.inner.read(key, offset, length)
        self.reads.append((key.rpartition("/")[2], len(data)))
        return data


def test_a_fold_reads_what_queries_scan_once_and_holds_a_run_of_it(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index = flushing.copied(plain, tmp_path)
    flushed(index, 4)
    store = Counting(store_at(str(index)))
    live = open_live(store, g.live(store)[0])
    directory, peaks = live.stored.root.directory, list[int]()
    assert directory is not None
    stored = sum(sum(places.whole) for places in directory.places)
    for blocks in (1, 1000):
        with patch.object(folding, "RUN_BLOCKS", blocks):
            tracemalloc.start()
            folding._fold_blocks(live.stored, None, ObjectList(tmp_path / str(blocks)), SILENT)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[0] + 0.5 * stored < peaks[1]
    store.reads.clear()
    with patch.object(folding, "priced", lambda live, new, objects, building: (new, {})):
        assert isinstance(folding.fold(live, tmp_path / "new", SILENT), Named)
    assert {key.partition("-")[0] for key, _ in store.reads} == {"shard", "rendition", "ids.bin"}
    ids = sum(segment.rows for segment in live.stored.root.id_pages) * 28
    assert stored + ids <= sum(n for _, n in store.reads) < 1.1 * (stored + ids)


def test_segments_are_read_once_and_a_few_chunks_at_a_time(
    made: tuple[Path, dict[int, filtered.Row]], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    with filtered.in_pages(), patch.object(projections, "PAGE_CHUNKS", 1000):
        index, oracle, _ = filtered.grown(made, tmp_path)
        store = Counting(store_at(str(index)))
        filtered.change(store, oracle, Random(2), 2, 700)
        with patch.object(compaction, "why_due", lambda *_: ""):
            assert compact(store).how == "flush"
        live, peaks = open_live(store, g.live(store)[0]), list[int]()
        root = live.stored.root
        assert root.paged and root.counts is not None and len(root.projections[0].first) == 2
        ranges, centres = np.zeros((root.index.blocks, 4), np.float32), fit_of(live).centres
        for chunks in (1, 1000):
            with patch.object(merge, "READ_CHUNKS", chunks):
                counted, objects = Counted(root.counts.fields, root.index.blocks), ObjectList(tmp_path / str(chunks))
                tracemalloc.start()
                merge.merge_segments(live.stored, root.projections[0], ranges, centres, counted, objects, SILENT)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
        store.reads.clear()
        with patch.object(folding, "priced", lambda live, new, objects, building: (new, {})):
            assert isinstance(folding.fold(live, tmp_path / "new", SILENT), Named)
    assert 3 * peaks[0] < peaks[1], peaks
    read = sum(n for key, n in store.reads if key.startswith("projection"))
    there = [n for key, n in zip(root.objects.keys, root.objects.sizes, strict=True) if "projection-" in key]
    assert 0.9 * sum(there) < read <= sum(there), (read, sum(there))
