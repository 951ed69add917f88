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
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fixtures.answers import Memory, answers
from fixtures.answers import plain as as_json
from fixtures.damage import DAMAGES, deep_tree, edit, edit_block, key, load, root_of, seal, sections_of
from fixtures.reader import Reader, answer, scores
from hypothesis import given, settings
from hypothesis import strategies as st

from vantage.errors import DamagedError, VantageError
from vantage.format import (
    FIELD,
    PROMISED_RERANK_MAX,
    BecTreeSection,
    ButterflyRotation,
    Centres,
    Contract,
    Current,
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
    Point,
    Promise,
    Promises,
    Root,
    VectorPages,
    attributes_at,
    block_planes,
    id_at,
    id_width,
    pack_attributes,
    pack_block,
    pack_ids,
)
from vantage.format import layout as L
from vantage.format.promises import FEATURES
from vantage.format.root import unpack_schema
from vantage.index import Index
from vantage.indexes import Service
from vantage.kernels import crc32c
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.prepare import Prepared, prepare
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


def asked(objects: dict[str, bytes], name: str) -> Any:
    """What these objects answer to the questions of a fixture, as JSON gives it back."""
    expected = EXPECTED[name]
    return json.loads(json.dumps(answers(objects, expected["vectors"], expected["ids"])))


def rounded(given: Any) -> Any:
    """With exact scores to six places: under cosine they pass through pow, which libraries round in their own ways."""
    queries = [
        q | {"exact": [[i, row, pytest.approx(s, rel=1e-6)] for i, row, s in q["exact"]]} for q in given["queries"]
    ]
    return {"queries": queries, "found": given["found"]}


# The fixtures


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
    assert named == {k: (len(v), hashlib.sha256(v).hexdigest()) for k, v in objects.items() if k != "CURRENT"}
    assert named[current.root.key] == (current.root.size, current.root.sha256)
    assert Root.unpack(objects[current.root.key], "root").pack() == objects[current.root.key]
    assert current.pack() == objects["CURRENT"]
    assert (len(objects) < 12) and sum(map(len, objects.values())) < 150_000


@pytest.mark.parametrize("name", EXPECTED)
def test_shards_are_sectioned_objects(name: str) -> None:
    """Tools can walk a shard without the root; every block lies inside of its section."""
    root = root_of(BASE[name])
    for shard in range(root.index.shards):
        data = BASE[name][key(BASE[name], f"shard-{shard:05d}.bin")]
        sections = L.unpack_object(data, L.SHARD_MAGIC, "shard")
        assert list(sections) == [L.SCAN, L.ATTRIBUTES]
        blocks = range(root.directory.shard_blocks[shard], root.directory.shard_blocks[shard + 1])
        assert len(sections[L.SCAN]) == sum(L.aligned(root.directory.size[b]) for b in blocks)
        for b in blocks:
            at, size = root.directory.offset[b], root.directory.size[b]
            assert crc32c(data[at : at + size]) == root.directory.crc[b] and at % L.ALIGN == 0


def every_p(root: Root, query: Prepared, objects: dict[str, bytes]) -> np.ndarray:
    """f64 (B): what the router says of each block, 0 where it names it not."""
    router = ROUTERS[root.index.router](root.router, root.index)
    if isinstance(router, TwoLevelRouter):
        at, size = (column[router.page(query)] for column in (root.router.offset, root.router.size))
        routed = router.probabilities(query, memoryview(objects[key(objects, "routing.bin")])[at : at + size])
    else:
        routed = router.probabilities(query)
    out = np.zeros(root.index.blocks)
    out[slice(None) if routed.blocks is None else routed.blocks] = routed.p
    return out


@pytest.mark.parametrize("name", EXPECTED)
def test_a_reader_from_the_document_agrees(name: str) -> None:
    """docs/format.md, followed by hand: every integer score, row, id, check, attribute and vector is the same."""
    root, other = root_of(BASE[name]), Reader(BASE[name])
    blocks = [other.block(b) for b in range(root.index.blocks)]
    ids = dict(zip((int(r) for b in blocks for r in b["rows"]), (i for b in blocks for i in b["ids"]), strict=True))
    spots = {int(r): s for b in blocks for r, s in zip(b["rows"], b["spots"], strict=False)}
    for row, identifier in ids.items():
        assert other.row_of(identifier) == (row, spots.get(row, ()))
        if root.index.by_row:
            told = other.told(row, spots[row])
            assert dict(zip(other.names, json.loads(told), strict=True)) == other.attributes(row)
            assert crc32c(told) == spots[row][2]
    for b, block in enumerate(blocks):
        home = np.arange(other.first_row[b], other.first_row[b + 1])
        assert block["rows"][: len(home)].tolist() == home.tolist()
        assert all(crc32c(other.vector(int(r))) == c for r, c in zip(block["rows"], block["checks"], strict=True))
    for vector, expected in zip(EXPECTED[name]["vectors"], EXPECTED[name]["queries"], strict=True):
        query = prepare(vector, root.index)
        scan = LrsqScan(root, query, root.index.slots)
        for b in range(root.index.blocks):
            at, shard = root.directory.offset[b], other.shard(b)
            scan.block(b, shard[at : at + root.directory.size[b]], keep=True)
        unit, by_block = scores(other, vector)
        best: dict[int, int] = {}
        for block, block_scores in zip(blocks, by_block, strict=True):
            for row, score in zip(block["rows"].tolist(), block_scores.tolist(), strict=True):
                best[row] = max(score, best.get(row, score))
        assert {row: score for score, row, _, _ in scan.entries()} == best
        order = sorted(best, key=lambda row: (-best[row], row))[:10]
        assert expected["estimated"] == [[as_json(ids[r]), r, answer(other, vector, best[r], unit)] for r in order]
        for (_, row, _), attributes in zip(expected["exact"], expected["attributes"], strict=True):
            assert not attributes or attributes == other.attributes(row)
        p = other.p(np.array(query.i16[: other.d], np.int64), query.i16_scale)
        assert np.abs(every_p(root, query, BASE[name]) - p).max() < 16


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


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_flipped_bit_is_an_error_or_changes_nothing(name: str, data: st.DataObject) -> None:
    objects = BASE[name]
    which = data.draw(st.sampled_from(sorted(objects)))
    bit = data.draw(st.integers(0, 8 * len(objects[which]) - 1))
    damaged = bytearray(objects[which])
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        found = asked(objects | {which: bytes(damaged)}, name)
    except VantageError:
        return
    assert found == rounded(EXPECTED[name])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_a_cut_object_is_an_error_or_changes_nothing(name: str, data: st.DataObject) -> None:
    objects = BASE[name]
    which = data.draw(st.sampled_from(sorted(objects)))
    cut = objects[which][: data.draw(st.integers(0, len(objects[which]) - 1))]
    try:
        found = asked(objects | {which: cut}, name)
    except VantageError:
        return
    assert found == rounded(EXPECTED[name])


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
    place = data.draw(st.sampled_from([*kinds, "scan", "attributes"]))
    if isinstance(place, int):
        changed = edit(objects, place, change)
    else:
        changed = edit_block(objects, change, attributes=place == "attributes" and name == "words")
    try:
        asked(changed, name)
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
        body = replace(section, blocks=blocks, rows=rows, slots=rows, shards=1).pack()
        assert IndexSection.unpack(memoryview(body), "index").blocks == blocks
    body = replace(section, blocks=5000, rows=4999, slots=9000, shards=1).pack()
    with pytest.raises(DamagedError, match="5000 blocks for 4999 rows"):
        IndexSection.unpack(memoryview(body), "index")


def test_an_index_of_the_first_version_is_refused_by_name() -> None:
    for name in ("CURRENT is of the first version", "root is of the first version"):
        with pytest.raises(DamagedError, match=r"format version 1; this reader knows version 2: build the index again"):
            asked(DAMAGES[name](BASE["words"]), "words")


def test_unknown_sections_and_members_are_skipped() -> None:
    objects = BASE["words"]
    sections = sections_of(objects[key(objects, "root.bin")])
    for kind in (15, 33, 35, 36, 37, 4_000_000_000):
        root = bytearray(L.pack_object(L.ROOT_MAGIC, [*sections, (kind, b"from a later version")]))
        struct.pack_into("<I", root, 32 + 32 * len(sections) + 4, 9)  # a version of its own
        end = 32 + 32 * (len(sections) + 1)
        struct.pack_into("<I", root, 24, crc32c(bytes(root[:24]) + bytes(8) + bytes(root[32:end])))
        assert asked(seal(objects, bytes(root)), "words") == rounded(EXPECTED["words"])
    current = json.loads(objects["CURRENT"]) | {"delta": {"key": 3}, "note": "later"}
    changed = objects | {"CURRENT": json.dumps(current).encode()}
    assert asked(changed, "words") == rounded(EXPECTED["words"])


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
        metric, dimension, rows, blocks, draw(st.integers(1, blocks)),
        draw(st.sampled_from(L.ID_KINDS)), draw(st.sampled_from(L.VECTOR_KINDS)),
        draw(st.sampled_from(L.CODECS)), "lse",
        draw(st.floats(1e-6, 1e6)), rows + draw(st.integers(0, 10**6)), origin=memoryview(origin),
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


@quick
@given(*[st.lists(st.integers(0, 2**64 - 1), max_size=5)] * 2, st.integers(0, 2**64 - 1))
def test_objects(shards: list[int], parts: list[int], ids: int) -> None:
    section = Objects(shards, parts, ids)
    assert Objects.unpack(memoryview(section.pack()), "objects") == section


@st.composite
def directories(draw: st.DrawFn) -> tuple[IndexSection, list[int], Directory]:
    """A directory, with the index section and shard sizes that it fits."""
    index = draw(indexes())
    blocks, shards = index.blocks, index.shards
    cuts = (
        draw(st.lists(st.integers(1, blocks - 1), min_size=shards - 1, max_size=shards - 1, unique=True))
        if shards > 1
        else []
    )
    ends = [0, *sorted(cuts), blocks]
    home = draw(st.lists(st.integers(0, 500), min_size=blocks, max_size=blocks))
    home[0] = max(home[0], 1)
    rows = [h + draw(st.integers(0, 500)) for h in home]
    columns: dict[str, list[int]] = {n: [] for n in ("offset", "size", "attribute_offset", "attribute_size")}
    sizes = []
    for low, high in zip(ends, ends[1:], strict=False):
        at = attribute_at = 128
        for _ in range(low, high):
            at, attribute_at = (v + draw(st.integers(0, 2**20)) for v in (at, attribute_at))
            size, attribute_size = draw(st.integers(0, 2**20)), draw(st.integers(0, 2**20))
            for name, value in zip(columns, (at, size, attribute_at, attribute_size), strict=True):
                columns[name].append(value)
            at, attribute_at = at + size, attribute_at + attribute_size
        sizes.append(max(at, attribute_at))
    crc = [draw(st.integers(0, 2**32 - 1)) for _ in range(blocks)]
    first = [sum(home[:b]) for b in range(blocks + 1)]
    directory = Directory(
        column("I", ends), column("I", first), column("Q", columns["offset"]), column("I", columns["size"]),
        column("I", rows), column("I", crc), column("Q", columns["attribute_offset"]),
        column("I", columns["attribute_size"]), column("I", crc[::-1]),
    )  # fmt: skip
    return replace(index, rows=sum(home), slots=sum(rows)), sizes, directory


@quick
@given(directories())
def test_directory(made: tuple[IndexSection, list[int], Directory]) -> None:
    index, sizes, section = made
    back = Directory.unpack(memoryview(section.pack()), index, sizes, "directory")
    assert plain(back) == plain(section)


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
    assert Promises.unpack(memoryview(body[:whole]), "promises") == replace(section, smaller=())
    for changed in (
        body[: draw.randrange(whole)], body + b"\0", Promises((), by_recall).pack(),
        replace(section, smaller=(Ladder(5, by_recall), Ladder(5, by_recall))).pack(),
        replace(section, smaller=(Ladder(0, by_recall),)).pack(), replace(section, smaller=(Ladder(5, ()),)).pack(),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            Promises.unpack(memoryview(changed), "promises")


@pytest.mark.parametrize("changes", [
    {"rerank": PROMISED_RERANK_MAX + 1},
    {"recall": 1.5}, {"recall": math.nan}, {"threshold": -0.1}, {"nbytes": math.inf}, {"ms": math.nan},
])  # fmt: skip
def test_a_promise_out_of_range(changes: dict[str, Any]) -> None:
    good = Promise(0.9, 5, 0, 0.5, 1e6, 6.0, 1.0, 50.0)
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
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9000)), min_size=1, max_size=9), indexes())
def test_vector_pages(pages: list[tuple[int, int]], index: IndexSection) -> None:
    first = [sum(n for _, n in pages[:i]) for i in range(len(pages) + 1)]
    width = L.VECTOR_BYTES[index.vector_kind] * index.dimension
    section = VectorPages(
        column("I", [p for p, _ in pages]), column("Q", [77 * i for i in range(len(pages))]), column("I", first)
    )
    index = replace(index, rows=first[-1])
    parts = [77 * 9 + 9000 * width] * 3
    assert plain(VectorPages.unpack(memoryview(section.pack()), index, parts, "vectors")) == plain(section)
    with pytest.raises(DamagedError, match="ends outside of part"):
        VectorPages.unpack(memoryview(section.pack()), index, [1] * 3, "vectors")


@quick
@given(st.integers(1, 30_000), st.data())
def test_id_pages(rows: int, data: st.DataObject) -> None:
    n = -(-rows // 4096)
    index = replace(data.draw(indexes()), rows=rows, slots=10**9)
    hashes = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n))
    section = IdPages(column("Q", hashes), column("I", [7] * n))
    assert plain(IdPages.unpack(memoryview(section.pack()), index, 16 * rows, "ids")) == plain(section)


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


@quick
@given(byte_ids, st.integers(1, 9))
def test_blocks(ids: list[bytes], code_bytes: int) -> None:
    n, padded = len(ids), L.aligned(len(ids), 16)
    planes = [
        bytes([i]) * size for i, size in enumerate((padded * code_bytes, padded, padded, 4 * padded, 4 * padded), 1)
    ]
    width, id_plane = pack_ids(ids)
    block = pack_block(n, width, (0.5, 1.0, 2.0, -3.0), planes, id_plane)
    at = block_planes(n, code_bytes)
    assert id_width(block, at, "block") == width
    assert (width == 0) == (max(map(len, ids)) > 32 or any(i.endswith(b"\0") for i in ids))
    assert [block[o] for o in (at.codes, at.f, at.h, at.rows, at.checks)] == [1, 2, 3, 4, 5]
    assert struct.unpack_from("<4f", block, 8) == (0.5, 1.0, 2.0, -3.0)
    assert [id_at(block[at.ids :], width, n, i, "bytes", "block") for i in range(n)] == ids
    for cut in range(len(block)):
        with pytest.raises(DamagedError):
            id_width(block[:cut], at, "block")
            for i in range(n):
                id_at(block[at.ids : cut], width, n, i, "bytes", "block")


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
    block = pack_attributes([json.dumps(list(row)).encode() for row in rows])
    for i, row in enumerate(rows):
        assert attributes_at(block, len(rows), i, ["a", "b"], "block") == {"a": row[0], "b": row[1]}
    for cut in range(len(block)):
        with pytest.raises(DamagedError):
            attributes_at(block[:cut], len(rows), len(rows) - 1, ["a", "b"], "block")


def test_attributes_that_nest_without_end() -> None:
    with pytest.raises(DamagedError, match="not JSON"):
        attributes_at(pack_attributes([b"[" * 200_000]), 1, 0, ["a"], "block")
