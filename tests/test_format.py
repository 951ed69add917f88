"""Format v2: sections come back as they were packed, old fixtures answer the same, and no damage gives an answer."""

import asyncio
import contextlib
import hashlib
import json
import math
import re
import struct
import tracemalloc
from array import array
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fixtures.answers import Memory, answers
from fixtures.answers import plain as as_json
from fixtures.damage import (
    DAMAGES,
    changed,
    deep_tree,
    edit,
    edit_blocks,
    edit_pages,
    edit_plane,
    flip,
    inflated,
    key,
    load,
    object_of,
    put,
    root_of,
    seal,
    sections_of,
)
from fixtures.reader import Reader, answer, scores
from hypothesis import given, settings
from hypothesis import strategies as st

from build_index.audit.filters import FilterCheck
from build_index.audit.verify import dead_rows
from build_index.write.reopen import whole_directory
from vantage.errors import DamagedError, VantageError
from vantage.format import (
    ATTRIBUTES_PLANE,
    FIELD,
    NORMS_PLANE,
    NUMBERED_MAX,
    PROMISED_RERANK_MAX,
    BecTreeSection,
    ButterflyRotation,
    Centre,
    Centres,
    Contract,
    Current,
    Dead,
    DenseRotation,
    Directory,
    EcvhSection,
    Estimator,
    IdPages,
    IndexSection,
    Ladder,
    LrsqSection,
    LseSection,
    NibbleRotation,
    ObjectName,
    Objects,
    Places,
    Point,
    Projection,
    Promise,
    Promises,
    Rendition,
    Root,
    RowPages,
    attribute_bytes,
    attributes_of,
    centre_of,
    facts_bytes,
    id_at,
    id_entry,
    is_intact,
    joined,
    open_block,
    pack_attributes,
    pack_block,
    pack_id_pages,
    pack_ids,
    plane_of,
    unpack_attributes,
    unpack_id_pages,
)
from vantage.format import layout as L
from vantage.format.directory import pack_renditions, unpack_renditions
from vantage.format.objects import KEY
from vantage.format.promises import FEATURES
from vantage.format.root import unpack_schema
from vantage.index import Index
from vantage.indexes import Service
from vantage.kernels import crc32c
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.filtered import select
from vantage.search.prepare import Prepared, prepare
from vantage.search.projected import ChunkScan
from vantage.search.query import Query
from vantage.search.route import ROUTERS
from vantage.search.route.two_level import TwoLevelRouter
from vantage.search.scan import LrsqScan

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
DAMAGE = json.loads((FIXTURES / "damage.json").read_text())
BASE = {name: load(name) for name in EXPECTED}
HEAP_MAX = 8 << 20  # no damage to an index of 50 kB may allocate more

quick = settings(max_examples=60, deadline=None, derandomize=True)


ALL = slice(None)


def asked(objects: dict[str, bytes], name: str, some: slice = ALL) -> Any:
    """What these objects answer to the questions of a fixture, or to some, as JSON gives it back."""
    expected = EXPECTED[name]
    return json.loads(json.dumps(answers(objects, expected["vectors"][some], expected["ids"])))


def rounded(given: Any, some: slice = ALL) -> Any:
    """With exact scores to six places: under cosine they pass through pow, which libraries round in their own ways."""
    queries = [
        q | {"exact": [[i, row, pytest.approx(s, rel=1e-6)] for i, row, s in q["exact"]]}
        for q in given["queries"][some]
    ]
    return {"queries": queries, "found": given["found"]}


# The fixtures

SHORT = (
    "short",
    "pages",
    "regions",
    "filters",
    "paged",
    "flushed",
    "compacted",
)  # their directories lack what follows, or they have none; the others are older


@pytest.mark.parametrize("name", EXPECTED)
def test_fixtures_answer_as_ever(name: str) -> None:
    assert asked(BASE[name], name) == rounded(EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_fixtures_are_what_their_manifest_says(name: str) -> None:
    objects = BASE[name]
    current = Current.unpack(objects["CURRENT"], "CURRENT")
    manifest = json.loads(objects[current.manifest.key])
    named = {o["key"]: (o["size"], o["sha256"]) for o in manifest["objects"]}
    named[current.manifest.key] = (current.manifest.size, current.manifest.sha256)
    own = {k: v for k, v in objects.items() if k.startswith(f"{current.generation}/") or k in named}
    assert named == {k: (len(v), hashlib.sha256(v).hexdigest()) for k, v in own.items()}
    assert named[current.root.key] == (current.root.size, current.root.sha256)
    packed, root = objects[current.root.key], Root.unpack(objects[current.root.key], "root")
    known = [(kind, body) for kind, body in sections_of(packed) if kind in L.SECTION_NAMES]
    again = sections_of(root.pack())
    if root.directory is not None and name not in SHORT:
        assert Root.unpack(root.pack(), "root").directory == root.directory
        known, again = ([one for one in some if one[0] != L.DIRECTORY] for some in (known, again))
    assert again == known and (root.pack() == packed) == (name in SHORT)
    most, nbytes = (67, 420_000) if name == "compacted" else (26, 320_000)
    assert len(objects) < most and sum(map(len, objects.values())) < nbytes


OTHERS = "fedcba9876543210/"  # what one fixture has in the folder of another generation


def directory_of(objects: dict[str, bytes]) -> Directory:
    """Of all extents, from the root or from pages of the router."""
    return whole_directory(
        lambda number, at, size: objects[object_of(objects, number)][at : at + size], root_of(objects)
    )


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "inline"])
def test_shards_are_sectioned_objects(name: str) -> None:
    """Tools can walk a shard without the root; every extent lies inside of its section."""
    objects, directory = BASE[name], directory_of(BASE[name])
    for rendition, runs in enumerate(directory.runs):
        for number, low, high in runs:
            data = objects[object_of(objects, number)]
            sections = L.unpack_object(data, L.SHARD_MAGIC, "shard")
            extents = [directory.extent(i, rendition) for i in range(low, high)]
            assert list(sections) == [L.SCAN]
            assert len(sections[L.SCAN]) == sum(L.aligned(extent.whole) for extent in extents)
            for extent in extents:
                assert crc32c(data[extent.offset : extent.offset + extent.size]) == extent.crc
                assert extent.offset % L.ALIGN == 0


def test_extents_of_two_generations_answer_as_one() -> None:
    """A block in two extents, the second in another generation's folder, planes and a section that nobody knows."""
    objects, root = BASE["extents"], root_of(BASE["extents"])
    directory = root.directory
    assert directory is not None and not directory.single and len(directory) == root.index.blocks + 1
    assert {key for key in root.objects.keys if key.startswith("../")} >= {f"../{OTHERS}shard-00000.bin"}
    assert 31 in [kind for kind, _ in sections_of(objects[key(objects, "root.bin")])]
    planes = [Reader(objects).block(i, 1)["planes"] for i in range(len(directory))]
    assert [1, 61] in planes and [61, 1] in planes and [1] in planes
    more, one = (json.loads(json.dumps(EXPECTED[name])) for name in ("extents", "words"))
    for query in more["queries"] + one["queries"]:
        query.pop("blocks")
    assert more == one


def test_an_inline_section_answers_as_objects_do() -> None:
    objects = BASE["inline"]
    assert not any("shard" in name for name in objects) and "root.bin" in root_of(objects).objects.keys
    assert EXPECTED["inline"] == EXPECTED["proofs"]
    two = {name: data for name, data in objects.items() if name == "CURRENT" or name.endswith("root.bin")}

    async def ask() -> None:
        index, receipt = await Index.open(Memory(two), "fixture", Cache(0), Receipt()), Receipt()
        query = Query(EXPECTED["inline"]["vectors"][0], attributes=True)
        answer = await index.query(query, receipt)
        assert (receipt.gets, receipt.waves) == (0, 0) and answer.complete
        assert all(set(m.attributes or {}) == {"even"} for m in answer.matches)

    asyncio.run(ask())


def every_p(root: Root, query: Prepared, objects: dict[str, bytes]) -> np.ndarray:
    """f64 (B): what the router says of each block, 0 where it names it not."""
    router = ROUTERS[root.index.router](root.router, root.index)
    if isinstance(router, TwoLevelRouter):
        pages = {}
        for r in router.pages(query):
            number, at, size = (column[r] for column in (root.router.object, root.router.offset, root.router.size))
            pages[r] = memoryview(objects[object_of(objects, number)])[at : at + size]
        routed = router.probabilities(query, pages)
    else:
        routed = router.probabilities(query)
    out = np.zeros(root.index.blocks)
    out[slice(None) if routed.blocks is None else routed.blocks] = routed.p
    return out


@pytest.mark.parametrize("name", EXPECTED)
def test_a_reader_from_the_document_agrees(name: str) -> None:
    """docs/format.md, followed by hand: every integer score, row, id, check, attribute and vector is the same."""
    root, other, directory = root_of(BASE[name]), Reader(BASE[name]), directory_of(BASE[name])
    for i, extent in enumerate(other.extents):
        assert extent[:3] == (directory.block[i], directory.rows[i], directory.homes[i])
        assert [(e.block, e.rows, *e[2:]) for e in (directory.extent(i, r) for r in range(len(extent.places)))] == [
            (extent.block, extent.rows, *place) for place in extent.places
        ]
    renditions = [[other.block(i, r) for i in range(len(directory))] for r in range(len(root.renditions))]
    blocks = renditions[0]
    ids = dict(zip((int(r) for b in blocks for r in b["rows"]), (i for b in blocks for i in b["ids"]), strict=True))
    live = [row for row in range(root.index.rows) if row not in other.dead]
    assert sorted(ids.keys() - other.dead) == live and len(live) == root.live_rows
    texts = {row: other.attributes(row) for row in ids} if root.names else {}
    for row, identifier in ids.items():
        facts = other.facts(row)
        assert crc32c(other.vector(row)) == facts[0]
        found = other.row_of(identifier)  # of a dead row perhaps the one that replaced it
        assert found == (row, *facts) if row not in other.dead else found is None or found[0] not in other.dead
        assert not texts or (len(texts[row]), crc32c(texts[row])) == facts[2:]
    homes = [int(r) for b, extent in zip(blocks, other.extents, strict=True) for r in b["rows"][: extent.homes]]
    assert sorted(row for row in homes if row not in other.dead) == live
    for rendition, own in zip(root.renditions, renditions, strict=True):
        for block, first in zip(own, blocks, strict=True):
            assert block["rows"].tolist() == first["rows"].tolist() and block["ids"] == first["ids"]
            assert (block["centre"][2] == first["centre"][2]).all() and block["centre"][:2] == first["centre"][:2]
            rows = block["rows"].tolist()
            assert block["checks"].tolist() == [other.facts(row)[0] for row in rows]
            assert block["spots"] == [other.facts(row)[1:] for row in rows if root.index.by_row]
            assert block["texts"] == [texts[row] for row in rows if rendition.attributes]
    by_name = {row: dict(zip(other.names, json.loads(texts[row]), strict=True)) if texts else {} for row in ids}
    for vector, expected in zip(EXPECTED[name]["vectors"], EXPECTED[name]["queries"], strict=True):
        query = prepare(vector, root.index)
        for rendition in range(len(renditions)):
            scan = LrsqScan(root, directory, rendition, query, root.index.slots)
            for i, extent in enumerate(other.extents):
                place = extent.places[rendition]
                scan.block(i, other.read(place.object, place.offset, place.whole), keep=True)
            unit, by_block = scores(other, vector, rendition)
            best: dict[int, int] = {}
            for block, block_scores in zip(blocks, by_block, strict=True):
                for row, score in zip(block["rows"].tolist(), block_scores.tolist(), strict=True):
                    if row not in other.dead:
                        best[row] = max(score, best.get(row, score))
            assert {row: score for score, row, _, _ in scan.entries()} == best
            if not rendition:
                order = sorted(best, key=lambda row: (-best[row], row))[:10]
                said = [[as_json(ids[r]), r, answer(other, vector, best[r], unit)] for r in order]
                assert expected["estimated"] == said
        assert expected["attributes"] == [by_name[row] for _, row, _ in expected["exact"]]
        p = other.p(np.array(query.i16[: other.d], np.int64), query.i16_scale)
        assert np.abs(every_p(root, query, BASE[name]) - p).max() < 16


@pytest.mark.parametrize("name", ["pages", "regions"])
@pytest.mark.parametrize("beam", [2, 3, 6])
def test_a_reader_from_the_document_reads_several_pages(name: str, beam: int) -> None:
    root = root_of(BASE[name])
    objects = changed(BASE[name], router=replace(root.router, beam=beam))
    root, other = root_of(objects), Reader(objects)
    for vector in EXPECTED[name]["vectors"]:
        query = prepare(vector, root.index)
        own, p = every_p(root, query, objects), other.p(np.array(query.i16[: other.d], np.int64), query.i16_scale)
        assert np.abs(own - p).max() < 2048  # of 2^20: they are rounded, and then divided by their sum
        assert abs(own.sum() - 2**20) < len(own)
        assert len(TwoLevelRouter(root.router, root.index).pages(query)) == beam


def value_in(other: Reader, field: int, row: int) -> list[Any]:
    """What a row has of a field, by its attributes: as columns have it."""
    name = other.names[other.fields[field][0]]
    value = dict(zip(other.names, json.loads(other.attributes(row)), strict=True))[name]
    if name == "at":
        return [round(1e6 * datetime.fromisoformat(value).timestamp())]
    if name == "code" and value is not None:
        return list(struct.unpack("<q", hashlib.sha256(value.encode()).digest()[:8]))
    return sorted(value or []) if name == "tags" else [] if value is None else [value]


@pytest.mark.parametrize("name", ["filters", "paged", "flushed", "compacted"])
def test_another_reader_finds_the_values_of_rows_in_their_columns(name: str) -> None:
    root, other = root_of(BASE[name]), Reader(BASE[name])
    names = [root.names[field[0]] for field in other.fields]
    assert names == ["lang", "tags", "year", "price", "stock", "at", "code"]
    assert [bool(field[2] & 4) for field in other.fields] == [name == "code" for name in names]
    assert [len(texts) for texts in other.texts] == [4, 3, 0, 0, 0, 0, 0]
    counted = np.zeros((len(names), root.index.blocks), int)
    for r in range(len(root.renditions)):
        for i, extent in enumerate(other.extents):
            numbers = other.block(i, r)["rows"].tolist()
            for f, values in enumerate(other.columns(i, r)):
                assert (values is not None) == bool(other.fields[f][2] & 1)
                assert values is None or values == [value_in(other, f, row) for row in numbers]
                if not r:
                    own = [row for row in numbers[: extent.homes] if row not in other.dead]
                    counted[f, extent.block] += sum(bool(value_in(other, f, row)) for row in own)
    for f, (field, (low, high, totals, table)) in enumerate(zip(other.fields, other.buckets, strict=True)):
        assert counted[f].sum() == field[3] and low[0] == field[5] and high[-1] == field[6]
        assert ((table.sum(0) > 0) | (counted[f] == 0)).all()
        rows = np.where(table, 1.25 ** (table.astype(float) - 1), 0).sum(0)
        assert names[f] == "tags" or other.dead or np.allclose(rows, counted[f], rtol=0.13, atol=0.5)
        assert names[f] == "tags" or totals.sum() == field[3]
        live = [row for row in range(root.index.rows) if row not in other.dead]
        every = [value for row in live for value in value_in(other, f, row)]
        assert other.totals[f] == [every.count(text.decode()) for text in other.texts[f]]


def whole(root: Root, objects: dict[str, bytes], number: int) -> Projection:
    """A projection with the directory of all of its chunks."""
    own = root.projections[number]
    keys = root.objects.resolve("", Current.unpack(objects["CURRENT"], "CURRENT").generation)

    def read(number: int, at: int, size: int) -> bytes:
        return objects[keys[number].removeprefix("/")][at : at + size]

    return FilterCheck(root, dead_rows(root)).whole(read, own, "projection")


@pytest.mark.parametrize("name", ["filters", "paged", "flushed", "compacted"])
def test_another_reader_finds_the_rows_of_blocks_in_chunks(name: str) -> None:
    """Each row under its values, with the code, the factors and so the score that its home block gives it."""
    root, other = root_of(BASE[name]), Reader(BASE[name])
    assert root.paged == other.paged == (name in ("paged", "compacted")) == (root.centres is None)
    home = {}
    for i, extent in enumerate(other.extents):
        block = other.block(i)
        for j, row in enumerate(block["rows"][: extent.homes].tolist()):
            home[row] = extent.block, block, j
    vector = EXPECTED[name]["vectors"][0]
    query = prepare(vector, root.index)
    by_row = {}
    for extent, block, own in zip(other.extents, map(other.block, range(len(other.extents))), scores(other, vector)[1],
                                  strict=True):  # fmt: skip
        by_row.update(zip(block["rows"][: extent.homes].tolist(), own.tolist(), strict=False))
    every = root.index.rows
    query = replace(query, selection=select({"stock": {"$exists": True}}, root, [1] * root.index.blocks))
    for number, (f, low, high, buckets, blocks, extents) in enumerate(other.projections):
        scan = ChunkScan(root, whole(root, BASE[name], number), query, 4 * every, (), {})
        assert not other.paged or len(root.projections[number].block) > 1
        rows = []
        for i, extent in enumerate(extents):
            chunk = other.chunk(number, i)
            bucket = buckets[i]
            rows += [(bucket, row) for row in chunk["rows"]]
            assert blocks[i] == chunk["blocks"][0]
            for j, row in enumerate(chunk["rows"]):
                if row not in home:  # what is left of it
                    assert row in other.dead
                    continue
                block_number, block, at = home[row]
                assert block_number == chunk["blocks"][j] and (block["ranges"] == chunk["ranges"][j]).all()
                if other.paged:
                    ours, theirs = (of["centre"] if of is block else of["centres"][j] for of in (block, chunk))
                    assert ours[:2] == theirs[:2] and (ours[2] == theirs[2]).all()
                assert (block["codes"][at] == chunk["codes"][j]).all() and block["ids"][at] == chunk["ids"][j]
                assert (block["f"][at], block["h"][at]) == (chunk["f"][j], chunk["h"][j])
                assert chunk["checks"][j] == block["checks"][at]
                for field, values in enumerate(chunk["values"]):
                    assert values[j] == value_in(other, field, row)
                own = chunk["values"][f][j]
                assert bucket < len(low) or not own
                if bucket < len(low) and (other.fields[f][1] == 1 or other.fields[f][2] & 4):
                    assert any(low[bucket] <= value <= high[bucket] for value in own)
            scan.block(i, other.read(*extent.places[0][:2], extent.places[0].whole), keep=True)
        live = {row for row in range(every) if row not in other.dead}
        assert name == "compacted" or rows == sorted(rows)  # else segment after segment
        assert {row for _, row in rows} | other.dead == live | other.dead >= set(home)
        assert {row: score for score, row, _, _ in scan.entries()} == {row: by_row[row] for row in live}


# Damage


def numberless(message: str) -> str:
    """Without the sizes and offsets of the fixtures."""
    return re.sub(r"\d+", "#", message)


def test_every_damage_has_its_error() -> None:
    assert list(DAMAGE) == list(DAMAGES) and len(DAMAGES) >= 14


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_an_error_and_never_an_answer(name: str) -> None:
    index, error, phrase = DAMAGE[name].values()
    objects = DAMAGES[name](BASE[index])
    assert objects != BASE[index]
    tracemalloc.start()
    try:
        with pytest.raises(VantageError) as caught:
            asked(objects, index)
        assert tracemalloc.get_traced_memory()[1] < HEAP_MAX
    finally:
        tracemalloc.stop()
    generation = Current.unpack(BASE[index]["CURRENT"], "CURRENT").generation
    assert type(caught.value).__name__ == error
    assert phrase in numberless(caught.value.message.replace(f"{generation}/", ""))
    assert caught.value.hint


def two_questions(name: str, data: st.DataObject) -> slice:
    """Each reads every block and what is known of some rows, and all of them take three times as long."""
    first = data.draw(st.integers(0, len(EXPECTED[name]["vectors"]) - 2))
    return slice(first, first + 2)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_flipped_bit_is_an_error_or_changes_nothing(name: str, data: st.DataObject) -> None:
    objects = BASE[name]
    which = data.draw(st.sampled_from(sorted(objects)))
    bit = data.draw(st.integers(0, 8 * len(objects[which]) - 1))
    damaged = bytearray(objects[which])
    damaged[bit // 8] ^= 1 << bit % 8
    some = two_questions(name, data)
    try:
        found = asked(objects | {which: bytes(damaged)}, name, some)
    except VantageError:
        return
    assert found == rounded(EXPECTED[name], some)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_cut_object_is_an_error_or_changes_nothing(name: str, data: st.DataObject) -> None:
    objects = BASE[name]
    which = data.draw(st.sampled_from(sorted(objects)))
    cut = objects[which][: data.draw(st.integers(0, len(objects[which]) - 1))]
    some = two_questions(name, data)
    try:
        found = asked(objects | {which: cut}, name, some)
    except VantageError:
        return
    assert found == rounded(EXPECTED[name], some)


WORDS = st.one_of(
    st.sampled_from([0, 1, 2**31, 2**32 - 1, 0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x4E6E6B27]),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_wrong_contents_with_right_checksums_raise_nothing_else(name: str, data: st.DataObject) -> None:
    """Words of a section or block are anything: an answer or one of our errors, and little memory."""
    objects = BASE[name]

    def change(body: bytes) -> bytes:
        for at, word in data.draw(st.lists(st.tuples(st.integers(0, len(body) // 4 - 1), WORDS), max_size=3)):
            body = body[: 4 * at] + struct.pack("<I", word) + body[4 * at + 4 :]
        return body

    kinds = [kind for kind, body in sections_of(objects[key(objects, "root.bin")]) if len(body) >= 4]
    root = root_of(objects)
    within = {
        "scan": lambda: edit_blocks(objects, lambda part: change(part.data) if part.number < 2 else part.data),
        "attributes": lambda: edit_plane(objects, ATTRIBUTES_PLANE, inflated(lambda raw, n: change(raw))),
        "error norms": lambda: edit_plane(objects, NORMS_PLANE, lambda plane, n: change(plane)),
        "pages": lambda: edit_pages(objects, change),
    }
    places: list[int | str] = [*kinds, *(["pages"] if root.directory is None else [] if root.inline else within)]
    place = data.draw(st.sampled_from([one for one in places if one != "pages" or root.directory is None]))
    other = edit(objects, place, change) if isinstance(place, int) else within[place]()
    try:
        asked(other, name)
    except VantageError as error:
        assert error.message and error.hint


def test_a_bad_index_harms_no_other() -> None:
    """One service, a good index and every damaged one: the good one answers as ever after each."""
    expected = EXPECTED["words"]

    class Both(Memory):
        def __init__(self) -> None:
            super().__init__(BASE["words"])
            self.bad: dict[str, bytes] = {}

        async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Any:
            bad = Memory(self.bad) if key.startswith("bad/") else super()
            return await bad.get(key.replace("bad/", "fixture/"), offset, length, etag)

    async def ask(service: Service, name: str, vector: list[float]) -> list[int]:
        query = Query(vector, 10, rerank=30, attributes=True, vectors=True)
        return [m.row for m in (await service.query(name, query)).matches]

    bucket = Both()
    for name in DAMAGES:
        index = DAMAGE[name]["index"]
        bucket.bad = DAMAGES[name](BASE[index])
        service = Service(bucket, 1 << 20)

        async def both(service: Service = service, index: str = index) -> None:
            before = await ask(service, "fixture", expected["vectors"][0])
            with contextlib.suppress(VantageError):  # some are found by other questions alone
                await ask(service, "bad", EXPECTED[index]["vectors"][0])
            assert await ask(service, "fixture", expected["vectors"][0]) == before

        asyncio.run(both())


def test_trees_and_words_have_bounds() -> None:
    vectors = EXPECTED["nodes"]["vectors"][:2]
    found = answers(deep_tree(BASE["nodes"], 32), vectors, [])
    for now, ever in zip(found["queries"], EXPECTED["nodes"]["queries"], strict=False):
        assert [row for _, row, _ in now["estimated"]] == [row for _, row, _ in ever["estimated"]]
    with pytest.raises(DamagedError, match="33 levels"):
        root_of(deep_tree(BASE["nodes"], 33))
    index = replace(root_of(BASE["buckets"]).index, blocks=20_000)
    body = struct.pack("<IIIff", 1024, 4, 1, 1.0, 1.0)
    with pytest.raises(DamagedError, match="words of 1024 bits for 20000 blocks"):
        EcvhSection.unpack(memoryview(body + bytes(1 << 20)), index, "router")
    with pytest.raises(DamagedError, match="prefixes of 255 bits for 40000 blocks"):
        body = struct.pack("<IIIf", 255, 4, 0, 1.0)
        BecTreeSection.unpack(memoryview(body + bytes(1 << 20)), replace(index, blocks=40_000), "router")


def test_an_index_may_have_more_blocks_than_rows_up_to_a_limit() -> None:
    section = root_of(BASE["words"]).index
    for blocks, rows in ((4096, 1), (5000, 5000)):
        body = replace(section, blocks=blocks, rows=rows, slots=rows).pack()
        assert IndexSection.unpack(memoryview(body), "index").blocks == blocks
    body = replace(section, blocks=5000, rows=4999, slots=9000).pack()
    with pytest.raises(DamagedError, match="5000 blocks for 4999 rows"):
        IndexSection.unpack(memoryview(body), "index")


def test_an_index_of_the_first_version_is_refused_by_name() -> None:
    for name in ("CURRENT is of the first version", "root is of the first version"):
        with pytest.raises(DamagedError, match=r"format version 1; this reader knows version 2: build the index again"):
            asked(DAMAGES[name](BASE["words"]), "words")


def test_unknown_sections_and_members_are_skipped() -> None:
    objects = BASE["words"]
    sections = sections_of(objects[key(objects, "root.bin")])
    for kind in (23, 31, 35, 36, 4_000_000_000):
        root = bytearray(L.pack_object(L.ROOT_MAGIC, [*sections, (kind, b"from a later version")]))
        struct.pack_into("<I", root, 32 + 32 * len(sections) + 4, 9)  # a version of its own
        end = 32 + 32 * (len(sections) + 1)
        struct.pack_into("<I", root, 24, crc32c(bytes(root[:24]) + bytes(8) + bytes(root[32:end])))
        assert asked(seal(objects, bytes(root)), "words") == rounded(EXPECTED["words"])
    current = json.loads(objects["CURRENT"]) | {"delta": {"key": 3}, "note": "later"}
    other = objects | {"CURRENT": json.dumps(current).encode()}
    assert asked(other, "words") == rounded(EXPECTED["words"])


def test_an_index_is_usable_after_a_damaged_read() -> None:
    """The object mended, the same open index answers."""
    whole = BASE["words"]
    bucket = Memory(whole)

    async def ask() -> None:
        index = await Index.open(bucket, "fixture", Cache(1 << 20), Receipt())
        query = Query(EXPECTED["words"]["vectors"][0])
        bucket.objects = DAMAGES["flipped bits in scan blocks, codes"](whole)
        with pytest.raises(DamagedError):
            await index.query(query)
        bucket.objects = whole
        assert len((await index.query(query)).matches) == query.top_k

    asyncio.run(ask())


# Round trips


def plain(section: Any) -> Any:
    """Fields with columns as lists, for comparison."""
    return {k: list(v) if isinstance(v, memoryview | array | tuple | bytes) else v for k, v in vars(section).items()}


def column(code: str, values: list[Any]) -> memoryview:
    return memoryview(array(code, values))


numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def indexes(draw: st.DrawFn) -> IndexSection:
    blocks, rows = draw(st.integers(1, 8)), draw(st.integers(1, 10**6))
    metric, dimension = draw(st.sampled_from(L.METRICS)), draw(st.integers(1, 70))
    origin = array("f", [draw(st.floats(-(2**59), 2**59, width=32)) for _ in range(dimension if metric == "l2" else 0)])
    return IndexSection(
        metric, dimension, rows, blocks,
        draw(st.sampled_from(L.ID_KINDS)), draw(st.sampled_from(L.VECTOR_KINDS)),
        draw(st.sampled_from(L.CODECS)), "lse",
        draw(st.floats(1e-6, 1e6)), rows + draw(st.integers(0, 10**6)), draw(st.booleans()),
        memoryview(origin), draw(st.integers(0, 2**20)),
    )  # fmt: skip


@quick
@given(indexes())
def test_index_section(section: IndexSection) -> None:
    assert IndexSection.unpack(memoryview(section.pack()), "index") == section


@quick
@given(st.lists(st.fixed_dictionaries({"name": st.text(), "type": st.text()}), unique_by=lambda a: a["name"]))
def test_schema(attributes: list[dict[str, str]]) -> None:
    body = json.dumps({"attributes": attributes}).encode()
    assert unpack_schema(memoryview(body), "schema") == {"attributes": attributes}


names_of_objects = st.from_regex(KEY, fullmatch=True)


@quick
@given(st.lists(names_of_objects, max_size=9, unique=True), st.integers(0, 2**64 - 1))
def test_objects(keys: list[str], size: int) -> None:
    section = Objects(tuple(keys), tuple(size // (i + 1) for i in range(len(keys))))
    assert Objects.unpack(memoryview(section.pack()), "objects") == section
    for name in ("set", ""):
        whole = section.resolve(name, "0123")
        assert all(".." not in key.split("/") and key.startswith(name) for key in whole)
        assert [key.count("/") for key in whole] == [key.replace("../", "").count("/") + bool(name) + (
            not key.startswith("../")) for key in keys]  # fmt: skip


@quick
@given(st.text(max_size=12))
def test_no_key_leads_out_of_the_index(key: str) -> None:
    """Whatever is no key of an object is refused; what is one stays below the index's own folder."""
    body = Objects((key,), (1,)).pack()
    try:
        section = Objects.unpack(memoryview(body), "objects")
    except DamagedError:
        return
    assert Path("/bucket", *section.resolve("set", "0123")).resolve().is_relative_to("/bucket/set")


@st.composite
def directories(draw: st.DrawFn) -> tuple[IndexSection, int, tuple[int, ...], Directory]:
    """A directory, with the index section, the number of renditions and the sizes of objects that it fits."""
    index, renditions, n = draw(indexes()), draw(st.integers(1, 3)), draw(st.integers(1, 12))
    again = draw(st.lists(st.integers(0, index.blocks - 1), max_size=9)) if draw(st.booleans()) else []
    blocks, planes, apart = [*range(min(n, index.blocks)), *again], draw(st.booleans()), draw(st.booleans())
    n, each = len(blocks), 0
    homes = [draw(st.integers(0, 500)) for _ in range(n)]
    rows = [h + draw(st.integers(0, 500)) for h in homes]
    sizes: list[int] = []
    places = []
    for _ in range(renditions):
        columns: list[list[int]] = []
        at, number = draw(st.integers(0, 200)), len(sizes)
        for _ in range(n):
            size = draw(st.integers(48, 2**20))
            whole = size + (draw(st.integers(0, 2**20)) if planes else 0)
            columns.append([number, at, size, whole, draw(st.integers(0, 2**32 - 1))])
            at = at + whole + draw(st.integers(0, 2**20)) if apart else at + L.aligned(whole)
            if draw(st.integers(0, 3)) == 0:
                sizes.append(at)
                at, number = draw(st.integers(0, 200)), len(sizes)
        sizes.append(at)
        places.append(Places(*map(column, ("I", "Q", "I", "I", "I"), zip(*columns, strict=True))))
        each += 1
    directory = Directory(column("I", blocks), column("I", rows), column("I", homes), tuple(places))
    return replace(index, blocks=max(blocks) + 1), each, tuple(sizes), directory


def listed(directory: Directory) -> list[Any]:
    return [directory.extent(i, r) for r in range(len(directory.places)) for i in range(len(directory))]


@quick
@given(directories(), st.binary(max_size=3))
def test_directory(drawn: tuple[IndexSection, int, tuple[int, ...], Directory], more: bytes) -> None:
    index, renditions, sizes, section = drawn
    cursor = L.Cursor(memoryview(section.pack() + more), "directory")
    back = Directory.taken(cursor, index.blocks, renditions, sizes)
    assert listed(back) == listed(section) and list(back.homes) == list(section.homes)
    assert bytes(cursor.take(len(more))) == more
    for rendition, runs in enumerate(back.runs):
        assert [i for _, low, high in runs for i in range(low, high)] == list(range(len(back)))
        assert all(set(back.places[rendition].object[low:high]) == {number} for number, low, high in runs)
        assert list(back.ends(rendition)) == [high for _, _, high in runs]
    assert back.single == (list(back.block) == list(range(len(back))))
    some = [i for i in range(len(back)) if i % 2 == 0]
    assert listed(back.some(some)) == [back.extent(i, r) for r in range(renditions) for i in some]
    with pytest.raises(DamagedError, match="renditions"):
        Directory.taken(L.Cursor(memoryview(section.pack()), "directory"), index.blocks, renditions + 1, sizes)
    with pytest.raises(DamagedError, match="outside of its object"):
        smaller = tuple(size // 2 - 2**20 for size in sizes)
        Directory.taken(L.Cursor(memoryview(section.pack()), "directory"), index.blocks, renditions, smaller)


@quick
@given(directories(), st.lists(st.sets(st.integers(0, 20), min_size=1), min_size=1, max_size=6))
def test_joined_directories(drawn: tuple[IndexSection, int, tuple[int, ...], Directory], parts: list[set[int]]) -> None:
    """Of parts that have extents in common each extent is there once, in file order."""
    _, _, sizes, whole = drawn
    numbers = [sorted({i % len(whole) for i in part}) for part in parts]
    back = joined([whole.some(some) for some in numbers], sizes, "pages")
    union = sorted({i for some in numbers for i in some})
    assert listed(back) == listed(whole.some(union)) and list(back.homes) == [whole.homes[i] for i in union]


def test_directories_that_do_not_fit_together() -> None:
    """Two that are right by themselves: what one calls an extent lies across what the other does; or their order."""

    def one(at: int, other: int) -> Directory:
        places = tuple(Places(*map(column, "IQIII", ([0], [o], [50], [60], [0]))) for o in (at, other))
        return Directory(column("I", [0]), column("I", [1]), column("I", [1]), places)

    assert len(joined([one(0, 0), one(100, 60)], (1000,), "pages")) == 2
    for first, second in (((0, 0), (59, 60)), ((0, 0), (60, 59)), ((0, 100), (60, 0))):
        with pytest.raises(DamagedError, match="pages: an extent lies before"):
            joined([one(*first), one(*second)], (1000,), "pages")


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=16))
def test_renditions(drawn: list[tuple[int, bool]]) -> None:
    renditions = tuple(Rendition(codec, attributes) for codec, attributes in drawn)
    codecs = max(codec for codec, _ in drawn) + 1
    assert unpack_renditions(memoryview(pack_renditions(renditions)), codecs, "renditions") == renditions
    with pytest.raises(DamagedError, match="codec"):
        unpack_renditions(memoryview(pack_renditions(renditions)), codecs - 1, "renditions")


@quick
@given(indexes(), st.data())
def test_centres_and_rotation(index: IndexSection, data: st.DataObject) -> None:
    stride = L.aligned(index.dimension, 16)
    each = st.lists(numbers, min_size=index.blocks, max_size=index.blocks)
    table = data.draw(st.binary(min_size=index.blocks * stride, max_size=index.blocks * stride))
    section = Centres(memoryview(table), column("f", data.draw(each)), column("f", data.draw(each)))
    assert plain(Centres.unpack(memoryview(section.pack()), index, "centres")) == plain(section)
    axes, d = data.draw(st.integers(1, index.dimension)), index.dimension
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    scale = column("f", data.draw(st.lists(numbers, min_size=axes, max_size=axes)))
    dense = DenseRotation(d, scale, memoryview(rng.integers(-127, 128, (axes, d), np.int8).tobytes()))
    packed = dense.pack()
    assert DenseRotation.unpack(memoryview(packed), index, "rotation") == dense
    with pytest.raises(DamagedError, match="not finite"):
        DenseRotation.unpack(memoryview(packed[:8] + b"\0\0\xc0\x7f" + packed[12:]), index, "rotation")
    if d > 1:
        rows = rng.integers(0, 256, (axes, -(-d // 2)), np.uint8)
        half = NibbleRotation(d, scale, memoryview(rows.tobytes()))
        packed = half.pack()
        assert NibbleRotation.unpack(memoryview(packed), index, "nibbles") == half
        low, high = (np.frombuffer(part, np.int8).reshape(rows.shape) for part in half.halves)
        assert (low == (rows & 15).astype(int) - 8).all() and (high == (rows >> 4).astype(int) - 8).all()
        for broken in (packed[:-1], packed + b"0", packed[:8] + b"\0\0\xc0\x7f" + packed[12:]):
            with pytest.raises(DamagedError, match=r"nibbles: (needs|1 bytes too many|holds a number)"):
                NibbleRotation.unpack(memoryview(broken), index, "nibbles")
    layers = data.draw(st.integers(1, 5))
    partners, tangents = np.zeros((2, layers, -(-d // 2)), np.int64)
    for layer in range(layers):
        pairs = sorted(sorted(part.tolist()) for part in np.array_split(rng.permutation(d), -(-d // 2)))
        partners[layer] = [pair[-1] for pair in pairs]
        tangents[layer] = [rng.integers(-16384, 16385) if len(pair) == 2 else 0 for pair in pairs]
    butterfly = ButterflyRotation(
        d, layers, column("H", rng.permutation(d)[:axes].tolist()), column("H", partners.ravel().tolist()),
        column("h", tangents.ravel().tolist()),
    )  # fmt: skip
    packed = butterfly.pack()
    assert ButterflyRotation.unpack(memoryview(packed), index, "butterfly") == butterfly
    for at, what in ((16, "axes"), (16 + 2 * axes, "layer 0")):
        broken = packed[:at] + b"\xff\xff" + packed[at + 2 :]
        with pytest.raises(DamagedError, match=what):
            ButterflyRotation.unpack(memoryview(broken), index, "butterfly")


@quick
@given(indexes(), st.sampled_from([4, 8]), st.integers(1, 9), st.data())
def test_router(index: IndexSection, bits: int, subs: int, data: st.DataObject) -> None:
    n = index.blocks * subs
    size = n * LseSection.stride(bits, index.dimension)
    weights = data.draw(st.lists(st.one_of(numbers, st.just(float("-inf"))), min_size=n, max_size=n))
    weights[0] = 0.0
    section = LseSection(
        bits, subs, 2.5, 0.5, memoryview(bytes(i % 256 for i in range(size))),
        column("f", data.draw(st.lists(numbers, min_size=n, max_size=n))), column("f", weights),
    )  # fmt: skip
    assert plain(LseSection.unpack(memoryview(section.pack()), index, "router")) == plain(section)


@st.composite
def codecs(draw: st.DrawFn) -> LrsqSection:
    code_bytes, axes, levels = draw(st.integers(1, 80)), draw(st.integers(40, 60)), draw(st.integers(16, 40))
    fields, starts = bytearray(), [0]
    for _ in range(2 * code_bytes):
        shift = 0
        for width in draw(st.sampled_from([(), (1,), (4,), (2, 2), (3, 1), (1, 1, 1, 1), (4, 4, 4)])):
            fields += FIELD.pack(draw(st.integers(0, axes - 1)), shift, width, draw(st.integers(0, levels - 2**width)))
            shift = (shift + width) % 4
        starts.append(len(fields) // FIELD.size)
    return LrsqSection(
        code_bytes, draw(st.integers(0, -(-code_bytes // 32))), draw(st.lists(numbers, min_size=axes, max_size=axes)),
        bytes(fields), starts, draw(st.lists(numbers, min_size=levels, max_size=levels)),
    )  # fmt: skip


@quick
@given(codecs())
def test_codec(section: LrsqSection) -> None:
    back = LrsqSection.unpack(memoryview(section.pack()), len(section.deviation), "codec")
    assert plain(back) == plain(section) and back.pack() == section.pack()


points = st.builds(
    Point, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1e12), st.floats(0, 64)
)


@quick
@given(st.lists(points, min_size=1, max_size=20), st.integers(1, 64), st.floats(0.01, 0.99))
def test_contract(found: list[Point], gets: int, target: float) -> None:
    section = Contract(found[0].k, gets, target, tuple(found))
    assert Contract.unpack(memoryview(section.pack()), "contract") == section


estimators = st.builds(
    Estimator, st.integers(1, 2**32 - 1), st.integers(0, 200), st.floats(0.01, 1), st.floats(0.001, 1000),
    st.tuples(*[st.floats(-1e6, 1e6)] * (1 + FEATURES)),
)  # fmt: skip
promises = st.builds(
    Promise, st.floats(0, 1), st.integers(0, 2**32 - 1), st.integers(0, 200), st.floats(0, 1),
    st.floats(0, 1e12), st.floats(0, 64), st.floats(0, 3), st.floats(0, 1e6),
)  # fmt: skip


@quick
@given(
    st.lists(estimators, min_size=1, max_size=6), st.lists(promises, min_size=1, max_size=9),
    st.sets(st.integers(1, 1000), max_size=3), st.randoms(),
)  # fmt: skip
def test_promises(known: list[Estimator], kept: list[Promise], smaller: set[int], draw: Random) -> None:
    known = sorted({(e.k, e.rerank): e for e in known}.values(), key=lambda e: (e.k, e.rerank))
    by_recall = tuple(sorted(kept, key=lambda p: p.recall))
    section = Promises(tuple(known), by_recall, tuple(Ladder(k, by_recall[:3]) for k in sorted(smaller)))
    body, whole = section.pack(), len(Promises(section.estimators, by_recall).pack())
    assert Promises.unpack(memoryview(body), "promises") == section
    assert Promises.unpack(memoryview(body[:whole]), "promises") == replace(section, others=())
    for other in (
        body[: draw.randrange(whole)], body + b"\0", Promises((), by_recall).pack(),
        replace(section, others=(Ladder(5, by_recall), Ladder(5, by_recall))).pack(),
        replace(section, others=(Ladder(0, by_recall),)).pack(), replace(section, others=(Ladder(5, ()),)).pack(),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            Promises.unpack(memoryview(other), "promises")


@pytest.mark.parametrize("changes", [
    {"rerank": PROMISED_RERANK_MAX + 1},
    {"recall": 1.5}, {"recall": math.nan}, {"threshold": -0.1}, {"nbytes": math.inf}, {"ms": math.nan},
    {"sharpness": 0.0}, {"sharpness": 8.5}, {"sharpness": math.nan},
])  # fmt: skip
def test_a_promise_out_of_range(changes: dict[str, Any]) -> None:
    good = Promise(0.9, 5, 0, 0.5, 1e6, 6.0, 1.0, 50.0, sharpness=1.25)
    known = (Estimator(10, 0, 0.98, 0.05, (1.0,) * (1 + FEATURES)),)
    assert Promises.unpack(memoryview(Promises(known, (good,)).pack()), "promises").by_recall == (good,)
    with pytest.raises(DamagedError, match="promise"):
        Promises.unpack(memoryview(Promises(known, (replace(good, **changes),)).pack()), "promises")
    with pytest.raises(DamagedError, match="order"):
        Promises.unpack(memoryview(Promises(known, (good, replace(good, recall=0.5))).pack()), "promises")
    with pytest.raises(DamagedError, match="finite"):
        weights = (math.nan,) * (1 + FEATURES)
        Promises.unpack(memoryview(Promises((replace(known[0], weights=weights),), (good,)).pack()), "promises")


@quick
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=9), indexes(), st.booleans())
def test_row_pages(rows: list[int], index: IndexSection, attributes: bool) -> None:
    """What is known of rows lies in any objects, in any order."""
    n, first = len(rows), [sum(rows[:i]) for i in range(len(rows) + 1)]
    width = L.VECTOR_BYTES[index.vector_kind] * index.dimension
    section = RowPages(
        column("I", first), column("I", [0] * n), column("Q", [width * at for at in first[:-1]]), column("I", [2] * n),
        column("Q", [facts_bytes(first[-1] - at, attributes) for at in first[1:]]), column("I", [5] * n),
        column("I", [1] * n), column("Q", [7] * n),
    )  # fmt: skip
    index = replace(index, rows=first[-1])
    sizes = width * first[-1], 7 + 2 * max(rows), facts_bytes(first[-1], attributes)
    back = RowPages.unpack(memoryview(section.pack()), index, attributes, sizes, "row pages")
    assert plain(back) == plain(section)
    assert [back.page_of(row) for row in first[:-1]] == [back.page_of(row - 1) for row in first[1:]] == list(range(n))
    for i, what in enumerate(("vectors", "attributes", "facts")):
        short = tuple(size - (j == i) for j, size in enumerate(sizes))
        if what == "attributes" and not attributes:
            continue
        with pytest.raises(DamagedError, match=f"the {what} of a page end outside"):
            RowPages.unpack(memoryview(section.pack()), index, attributes, short, "row pages")


@quick
@given(st.integers(1, 30_000), st.booleans(), st.integers(0, 2**32 - 1), st.data())
def test_id_pages(rows: int, attributes: bool, offset: int, data: st.DataObject) -> None:
    n = -(-rows // 4096)
    index = replace(data.draw(indexes()), rows=rows, slots=10**9)
    hashes = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n))
    section, size = IdPages(1, rows, column("Q", hashes), column("I", [7] * n), offset), id_entry(attributes) * rows
    size += offset
    body = memoryview(pack_id_pages((section,), rows))
    [back] = unpack_id_pages(body, index, 0, attributes, (9, size), "ids")
    assert plain(back) == plain(section)
    for sizes in ((9, size - 1), (size,)):
        with pytest.raises(DamagedError, match="pages of 4096 ids"):
            unpack_id_pages(body, index, 0, attributes, sizes, "ids")


@quick
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 99), st.data())
def test_segments_of_ids(rows: list[int], dead: int, folded: int, data: st.DataObject) -> None:
    """folded: numbers of dead rows that no segment has any more."""
    total = sum(rows) + min(folded, dead)
    index = replace(data.draw(indexes()), rows=total, slots=10**9)
    pages = [(n, -(-n // 4096)) for n in rows]
    segments = tuple(IdPages(i, n, column("Q", range(p)), column("I", [i] * p), i) for i, (n, p) in enumerate(pages))
    sizes = tuple(i + id_entry(False) * n for i, n in enumerate(rows))
    body = memoryview(pack_id_pages(segments, total))
    back = unpack_id_pages(body, index, dead, False, sizes, "ids")
    assert list(map(plain, back)) == list(map(plain, segments))
    for i in range(len(rows)):
        with pytest.raises(DamagedError, match="pages of 4096 ids"):
            unpack_id_pages(body, index, dead, False, tuple(s - (i == j) for j, s in enumerate(sizes)), "ids")
    with pytest.raises(DamagedError, match="ids"):
        unpack_id_pages(body, replace(index, rows=sum(rows) + dead + 1), dead, False, sizes, "ids")
    nine = pack_id_pages(segments[:1] + segments[:1] * 8, total)
    with pytest.raises(DamagedError, match="8 segments of ids behind"):
        unpack_id_pages(memoryview(nine), index, dead, False, sizes, "ids")


@quick
@given(st.sets(st.integers(0, 999), min_size=1), st.integers(1, 200))
def test_dead_rows(rows: set[int], more: int) -> None:
    n = max(rows) + more
    bits = bytearray(-(-n // 8))
    for row in rows:
        bits[row >> 3] |= 1 << (row & 7)
    section = Dead(len(rows), bytes(bits))
    body = section.pack()
    assert Dead.unpack(memoryview(body), n, "dead") == section
    assert [row in section for row in range(n)] == [row in rows for row in range(n)]
    wrong = [
        *(Dead(count, section.bits).pack() for count in (0, len(rows) + 1)),
        *(Dead(len(rows), other).pack() for other in (bytes(bits) + b"\0", bytes(bits)[:-1])),
        *(body[:-1], body + b"\0", body[:4] + b"\1" + body[5:], body[:8] + bytes(len(body) - 8)),
    ]
    for one in wrong:
        with pytest.raises(DamagedError):
            Dead.unpack(memoryview(one), n, "dead")
    if n % 8:  # a spare bit
        bits[-1] |= 0x80
        with pytest.raises(DamagedError, match="dead"):
            Dead.unpack(memoryview(Dead(len(rows) + 1, bytes(bits)).pack()), n, "dead")
    with pytest.raises(DamagedError, match="the limit is"):
        Dead.unpack(memoryview(body), NUMBERED_MAX + 1, "dead")


@quick
@given(st.text("abcdef0123456789", min_size=16, max_size=16), st.integers(1, 2**26), st.integers(1, 2**26))
def test_current(generation: str, root: int, manifest: int) -> None:
    current = Current(
        generation,
        ObjectName(f"{generation}/root.bin", root, "00"),
        ObjectName(f"{generation}/manifest.json", manifest, "ff"),
    )
    assert Current.unpack(current.pack(), "CURRENT") == current


@quick
@given(st.dictionaries(st.sampled_from(sorted(L.SECTION_NAMES)), st.binary(max_size=300)), st.integers(100, 2**32 - 1))
def test_sectioned_objects(bodies: dict[int, bytes], unknown: int) -> None:
    packed = L.pack_object(b"VANTTEST", [*bodies.items(), (unknown, b"?")])
    assert len(packed) % L.ALIGN == 0
    back = L.unpack_object(packed, b"VANTTEST", "object")
    assert {kind: bytes(body) for kind, body in back.items()} == bodies


byte_ids = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=40)
planes_of_blocks = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=60)), max_size=4, unique_by=lambda p: p[0]
)


@quick
@given(byte_ids, st.integers(1, 9), st.booleans(), st.integers(1, 40), planes_of_blocks)
def test_blocks(
    ids: list[bytes], code_bytes: int, by_row: bool, dimension: int, planes: list[tuple[int, bytes]]
) -> None:
    n, padded = len(ids), L.aligned(len(ids), 16)
    widths = (padded * code_bytes, padded, padded, 4 * padded, 4 * padded, *([12 * padded] if by_row else []))
    columns = [bytes([i]) * size for i, size in enumerate(widths, 1)]
    row = bytes([9]) * dimension + bytes(L.aligned(dimension, 16) - dimension)
    width, id_plane = pack_ids(ids)
    block, size = pack_block(n, width, (0.5, 1.0, 2.0, -3.0), Centre(0.25, -2.0, row), columns, id_plane, planes)
    opened = open_block(block, n, size, code_bytes, dimension, by_row, "block")
    at, crc = opened.at, crc32c(block[:size])
    assert opened.id_width == width and is_intact(block, size, crc)
    assert (width == 0) == (max(map(len, ids)) > 32 or any(i.endswith(b"\0") for i in ids))
    starts = [at.codes, at.f, at.h, at.rows, at.checks, *([at.spots] if by_row else [])]
    assert [block[o] for o in starts] == list(range(1, len(starts) + 1))
    assert struct.unpack_from("<4f", block, 8) == (0.5, 1.0, 2.0, -3.0)
    assert centre_of(block, at, dimension) == (0.25, -2.0, row)
    assert [id_at(block[at.ids :], width, n, i, "bytes", "block") for i in range(n)] == ids
    assert [p.kind for p in opened.planes] == [kind for kind, _ in planes]
    for kind, data in planes:
        assert plane_of(block, opened.planes, kind, "block") == data
        assert plane_of(block[at.checks :], opened.planes, kind, "block", at.checks) == data
    with pytest.raises(DamagedError, match="it has no plane 2147483647"):
        plane_of(block, [p for p in opened.planes if p.kind != 2**31 - 1], 2**31 - 1, "block")
    for cut in range(size):
        with pytest.raises(DamagedError):
            open_block(block[:cut], n, cut, code_bytes, dimension, by_row, "block")
    for bit in range(0, 8 * len(block), 37):
        assert not is_intact(flip(block, bit // 8), size, crc) or not planes or bit // 8 >= size


def test_planes_that_are_not_intact() -> None:
    """What a table says of planes is checked before bytes are gone through: they lie apart, after the block."""
    columns = [bytes(size) for size in (16, 16, 16, 64, 64)]
    centre = Centre(0.0, 0.0, bytes(16))
    block, size = pack_block(1, 1, (0.0,) * 4, centre, columns, b"i", [(7, b"seven"), (8, b"eight")])
    at = 48

    def changed_table(*tables: tuple[int, int, int, int]) -> bool:
        other = block[:at] + b"".join(struct.pack("<IIII", *table) for table in tables) + block[at + 32 :]
        return is_intact(other, size, crc32c(other[:size]))

    seven, eight = (7, size, 5, crc32c(b"seven")), (8, size + 5, 5, crc32c(b"eight"))
    assert changed_table(seven, eight)
    assert not changed_table(eight, seven) and not changed_table(seven, seven)
    assert not changed_table(seven, (8, size + 4, 6, crc32c(b"n" + b"eight")))
    assert not changed_table((7, size - 1, 6, crc32c(b"iseven")), eight)
    assert not changed_table(seven, (8, size + 5, 6, crc32c(b"eight!")))
    assert not changed_table(seven, (8, size + 500, 5, crc32c(b"eight")))
    for planes in (3, 64, 65, 2**32 - 1):
        other = put(block, 32, struct.pack("<I", planes))
        assert not is_intact(other, size, crc32c(other[:size]))
        with pytest.raises(DamagedError):
            open_block(other, 1, size, 1, 1, False, "block")


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_integer_ids(ids: list[int]) -> None:
    plane = struct.pack(f"<{len(ids)}q", *ids)
    assert [id_at(plane, 8, len(ids), i, "i64", "block") for i in range(len(ids))] == ids
    with pytest.raises(DamagedError, match="block 7: i64 ids of width 4"):
        id_at(plane, 4, len(ids), 0, "i64", "block 7")


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    st.lists,
    max_leaves=5,
)


@quick
@given(st.lists(st.tuples(values, values), min_size=1, max_size=20))
def test_attributes(rows: list[tuple[Any, Any]]) -> None:
    plane, n = pack_attributes([json.dumps(list(row)).encode() for row in rows]), len(rows)
    raw = unpack_attributes(plane, n, "block")
    for i, row in enumerate(rows):
        text = attribute_bytes(raw, n, i, "block")
        assert attributes_of(text, ["a", "b"], "block") == {"a": row[0], "b": row[1]}
    for cut in range(len(plane)):
        with pytest.raises(DamagedError):
            unpack_attributes(plane[:cut], n, "block")


def test_attributes_that_nest_without_end() -> None:
    with pytest.raises(DamagedError, match="not JSON"):
        attributes_of(b"[" * 200_000, ["a"], "block")


def test_attributes_take_the_memory_of_one_block() -> None:
    """Eight blocks inflate to 3 MB each, and all their rows are answers: one block is inflated at a time."""

    def long(_: bytes, n: int) -> bytes:
        return pack_attributes([b'["' + b"x" * (3_000_000 // n) + b'",1,[]]'] * n)

    objects = edit_plane(BASE["words"], ATTRIBUTES_PLANE, long)

    async def ask() -> None:
        index = await Index.open(Memory(objects), "fixture", Cache(0), Receipt())
        query = Query(EXPECTED["words"]["vectors"][0], top_k=200, attributes=True, room=500_000)
        tracemalloc.start()
        try:
            answer = await index.query(query)
            assert tracemalloc.get_traced_memory()[1] < 12_000_000
        finally:
            tracemalloc.stop()
        assert (len(answer.matches), answer.complete, answer.receipt.blocks) == (200, False, 8)
        given = [m for m in answer.matches if m.attributes is not None]
        assert given == answer.matches[: len(given)] and 3 <= len(given) <= 8

    asyncio.run(ask())
