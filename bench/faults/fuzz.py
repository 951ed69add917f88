"""Bad bytes by seed, at every layout, the HTTP bodies and the kernels: an answer that holds, or one of our errors.

    python -m bench.faults.fuzz [--cases 1000000] [--seed 0]

Objects of the fixtures in tests/fixtures are cut, spliced, and changed in bits, bytes and words, mostly under checksums
made anew, so that the parsers behind them are reached; so are segments of logs. Bodies are valid queries and writes,
changed as JSON or as text. A fifth of the cases are kernels with random arguments (bench/faults/fuzz_kernels.py). A
case that ends otherwise (another exception, over 10 s, over 64 MiB, a wrong answer) is printed with its kind and seed,
which make it again. Exit 1 if there is any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from build_index.serve import ROOT

from . import fuzz_log

sys.path.append(str(ROOT / "tests"))
from doubles import MemoryLog  # noqa: E402
from fixtures.answers import NAME, Memory, answers  # noqa: E402
from fixtures.damage import (  # noqa: E402
    Part,
    edit,
    edit_blocks,
    edit_pages,
    edit_plane,
    first_block,
    in_columns,
    inflated,
    key,
    load,
    parts_of,
    root_of,
    seal,
    sections_of,
    texts_of,
    vectors_of,
)

from vantage.errors import VantageError  # noqa: E402
from vantage.format import (  # noqa: E402
    ATTRIBUTES_PLANE,
    NORMS_PLANE,
    Current,
    Root,
    attribute_bytes,
    attributes_of,
    id_at,
    is_intact,
    norms_of,
    open_block,
    plane_of,
    unpack_attributes,
)
from vantage.format import layout as L  # noqa: E402
from vantage.format.wire import ANSWERS, ANSWERS_MAGIC, VECTORS, VECTORS_MAGIC, WIRE_VERSION
from vantage.http import routes
from vantage.http.access import Access
from vantage.http.reply import Reply  # noqa: E402
from vantage.http.request import BINARY, FIELDS  # noqa: E402
from vantage.http.writes import FRAME, FRAME_MAGIC  # noqa: E402
from vantage.index import Index  # noqa: E402
from vantage.indexes import Service  # noqa: E402
from vantage.read.cache import Cache  # noqa: E402
from vantage.receipt import Receipt

FIXTURES = ROOT / "tests/fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
CASE_SECONDS = 10
CASE_BYTES = 64 << 20
WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FC00000, 0x7F800000,
         0xFF800000, 0x4E6E6B27)  # fmt: skip
ACCESS = Access(public=True)
Objects = dict[str, bytes]


class Failure(Exception):
    """A case ended as none may."""


def mutate(data: bytes, draw: Random) -> bytes:
    """One to four changes of any kind."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        n = len(out)
        at = draw.randrange(n + 1)
        kind = draw.choice(("bit", "byte", "word", "word", "long", "cut", "grow", "splice", "zero"))
        if kind == "cut":
            del out[at:]
        elif kind == "grow":
            out[at:at] = draw.randbytes(draw.choice((1, 4, 64)))
        elif not n:
            continue
        elif kind == "bit":
            out[at % n] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            out[at % n] = draw.randrange(256)
        elif kind in ("word", "long"):
            width = 4 if kind == "word" else 8
            at = at // 4 * 4
            value = draw.choice(WORDS) if draw.random() < 0.7 else draw.getrandbits(8 * width)
            out[at : at + width] = value.to_bytes(8, "little")[: max(0, min(width, n - at))]
        elif kind == "splice":
            start = draw.randrange(n)
            length = min(draw.choice((4, 8, 32, 256)), n - start)
            out[at : at + length] = out[start : start + length]
        else:
            out[at : at + 16] = bytes(max(0, min(16, n - at)))
    return bytes(out)


def _reads(objects: Objects, name: str) -> None:
    """Everything that a query reads: every question of the fixture, at a price of 0."""
    expected = EXPECTED[name]
    draws = expected["vectors"][:1], expected["ids"][:1]
    found = answers(objects, *draws)
    if not all(math.isfinite(v) for _, vector in found["found"] for v in vector):
        raise Failure("a vector that is not finite")
    for query in found["queries"]:
        if not all(map(math.isfinite, [*query["vectors"], *(s for _, _, s in query["estimated"] + query["exact"])])):
            raise Failure("a score or vector that is not finite")
        for part in ("estimated", "exact"):
            if len({row for _, row, _ in query[part]}) < len(query[part]):
                raise Failure(f"{part}: a row is answered twice")


def raw_object(base: dict[str, Objects], draw: Random) -> None:
    """An object changed under its checksums: the right answer, or an error."""
    name = draw.choice(sorted(base))
    which = draw.choice(sorted(base[name]))
    changed = mutate(base[name][which], draw)
    try:
        got = answers(base[name] | {which: changed}, EXPECTED[name]["vectors"][:1], [])
    except VantageError:
        return
    if plain(got["queries"]) != plain(EXPECTED[name]["queries"][:1]):
        raise Failure(f"{name}/{which}: a wrong answer")


def plain(queries: Any) -> Any:
    """Ids and rows in their order, and what lies beside them."""
    return [
        {k: [m[:2] for m in v] if k in ("estimated", "exact") else v for k, v in q.items() if k != "proof"}
        for q in json.loads(json.dumps(queries))
    ]


def current(base: dict[str, Objects], draw: Random) -> None:
    """CURRENT as any bytes, or with members of any JSON."""
    data = base[draw.choice(sorted(base))]["CURRENT"]
    if draw.random() < 0.5:
        Current.unpack(mutate(data, draw), "CURRENT")
        return
    Current.unpack(json.dumps(mutate_json(json.loads(data), draw)).encode(errors="surrogatepass"), "CURRENT")


def section(base: dict[str, Objects], draw: Random) -> None:
    """A section of a root, or its frame, changed with its checksums right; one in four is asked, too."""
    name = draw.choice(sorted(base))
    objects = base[name]
    root = objects[key(objects, "root.bin")]
    kinds = sections_of(root)
    chosen = draw.choice(kinds)[0]
    changed = [(kind, mutate(body, draw) if kind == chosen else body) for kind, body in kinds]
    if draw.random() < 0.1:
        changed = draw.choices(changed, k=len(changed))
    packed = L.pack_object(L.ROOT_MAGIC, changed)
    found = Root.unpack(packed, "root.bin")
    if draw.random() < 0.25:
        _reads(seal(objects, packed), name)
    elif found.index.rows < 1:
        raise Failure("an index without rows")


def frame(base: dict[str, Objects], draw: Random) -> None:
    """A root or shard as bytes, its own checksum of the table made anew in half of the cases."""
    objects = base[draw.choice(in_shards())]
    ending, magic = draw.choice((("root.bin", L.ROOT_MAGIC), ("shard-00000.bin", L.SHARD_MAGIC)))
    data = bytearray(mutate(objects[key(objects, ending)][:1500], draw))
    if draw.random() < 0.8:
        data[:8] = magic
    if len(data) >= L.HEADER.size and draw.random() < 0.8:
        count = min(int.from_bytes(data[12:16], "little"), 1024)
        data[16:24] = len(data).to_bytes(8, "little")
        head = bytes(data[:24]) + bytes(8) + bytes(data[32 : 32 + 32 * count])
        data[24:28] = L.crc32c(head).to_bytes(4, "little")
    L.unpack_object(bytes(data), magic, ending)


@cache
def in_shards() -> list[str]:
    """Fixtures whose root says where the blocks are, in objects of their own."""
    return [name for name in names() if (root := root_of(load(name))).directory is not None and not root.inline]


def block(base: dict[str, Objects], draw: Random) -> None:
    """Blocks or planes of them changed, their checksums right; asked."""
    name = draw.choice(in_shards())
    objects = base[name]

    def change(body: bytes) -> bytes:
        return (mutate(body, draw) + bytes(len(body)))[: len(body)]

    kind = draw.choice(("block", "block", "planes", "attributes", "norms", "texts"))
    if kind == "texts" and name == "texts":
        _reads(texts_of(objects, change), name)
    elif kind == "planes":
        both = draw.choice((ATTRIBUTES_PLANE, NORMS_PLANE))
        _reads(edit_plane(objects, both, lambda plane, n: mutate(plane, draw)), name)
    elif kind == "attributes":
        _reads(edit_plane(objects, ATTRIBUTES_PLANE, inflated(lambda raw, n: mutate(raw, draw))), name)
    else:
        _reads(edit_blocks(objects, first_block(lambda part: change(part.data))), name)


def vector(base: dict[str, Objects], draw: Random) -> None:
    """Full vectors changed, their checksums right; asked."""
    name = draw.choice(in_shards())
    root = root_of(base[name])
    width = L.VECTOR_BYTES[root.index.vector_kind]
    code = {"f16": "e", "f32": "f", "u8": "B", "i8": "b"}[root.index.vector_kind]
    values = [draw.getrandbits(8 * width).to_bytes(width, "little")]
    if code in "ef":
        values += [struct.pack(f"<{code}", v) for v in (math.nan, math.inf, -math.inf, 0.0, 65_504.0)]
    _reads(vectors_of(base[name], b"".join(draw.choices(values, k=draw.choice((1, root.index.dimension))))), name)


def spots(base: dict[str, Objects], draw: Random) -> None:
    """Where attributes are, changed in all blocks, their checksums right; asked."""
    objects = base["texts"]
    rows = root_of(objects).index.rows
    value = [draw.choice(WORDS), draw.randrange(1 << 21)][draw.random() < 0.5]
    values = dict.fromkeys(draw.choices(range(rows), k=draw.choice((1, rows))), value)
    _reads(in_columns(objects, "spots", draw.randrange(3), values), "texts")


def page(base: dict[str, Objects], draw: Random) -> None:
    """Routing pages changed, their sizes kept and their checksums right; asked."""
    name = draw.choice([name for name in sorted(base) if any(k.endswith("routing.bin") for k in base[name])])
    _reads(edit_pages(base[name], lambda body: (mutate(body, draw) + bytes(len(body)))[: len(body)]), name)


def planes(base: dict[str, Objects], draw: Random) -> None:
    """The parsers of a block's ids and planes, over bytes of any size."""
    name = draw.choice(in_shards())
    if name not in _PARTS:
        _PARTS[name] = list(parts_of(base[name]))
    part, root = draw.choice(_PARTS[name]), root_of(base[name])
    index, n = root.index, part.extent.rows
    code_bytes = root.codecs[root.renditions[part.rendition].codec].code_bytes
    data = mutate(part.data, draw)
    size = part.extent.size if draw.random() < 0.7 else draw.randrange(len(data) + 9)
    is_intact(data, size, L.crc32c(data[:size]))
    opened = open_block(data, n, size, code_bytes, index.dimension, index.by_row, "block 0")
    for i in range(n):
        id_at(memoryview(data)[opened.at.ids : size], opened.id_width, n, i, index.id_kind, "block 0")
    for plane in opened.planes:
        body = mutate(bytes(plane_of(data, opened.planes, plane.kind, "block 0")), draw)
        if plane.kind == NORMS_PLANE:
            norms_of(body, n, "block 0")
        elif plane.kind == ATTRIBUTES_PLANE:
            raw = unpack_attributes(body, n, "block 0")
            attributes_of(attribute_bytes(raw, n, draw.randrange(n), "block 0"), root.names, "block 0")


def ids(base: dict[str, Objects], draw: Random) -> None:
    """A page of ids.bin changed, its checksum right."""
    name = draw.choice(sorted(base))
    objects = base[name]
    which = key(objects, "ids.bin")
    page = (mutate(objects[which], draw) + bytes(1 << 16))[: len(objects[which])]
    crc = L.crc32c(page).to_bytes(4, "little")
    changed = edit(objects | {which: page}, L.ID_PAGES, lambda body: body[:-4] + crc)
    wanted = EXPECTED[name]["ids"][0]
    raw = wanted.encode("latin-1") if isinstance(wanted, str) else wanted

    async def find() -> None:
        index = await Index.open(Memory(changed), "fixture", Cache(0), Receipt())
        await index.find(raw, Receipt())

    asyncio.run(find())


ATOMS: list[Any] = [None, True, False, 0, -1, 1, 10, 1 << 31, 1 << 63, 10**400, 0.5, -0.0, 1e308, float("nan"),
                    float("inf"), "", "x", "\x00", "\ud800", "vector", [], {}, [[]], [1, 2], {"gets": 1}]  # fmt: skip


def mutate_json(value: Any, draw: Random, depth: int = 0) -> Any:
    """A JSON value with one place changed."""
    if depth > 4 or draw.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return draw.choice(ATOMS)
    if isinstance(value, dict):
        name = draw.choice(sorted(value))
        if draw.random() < 0.2:
            other = draw.choice([*FIELDS, *value, "x"])
            return value | {other: draw.choice(ATOMS)}
        return value | {name: mutate_json(value[name], draw, depth + 1)}
    at = draw.randrange(len(value))
    return [*value[:at], mutate_json(value[at], draw, depth + 1), *value[at + 1 :]]


def body(base: dict[str, Objects], draw: Random) -> None:
    """A query's body, changed as JSON or as bytes: an answer or a problem, and never `internal`."""
    name = draw.choice(sorted(base))
    if name not in _SERVICES:
        _SERVICES[name] = Service(Memory(base[name]), 1 << 20)
    vector = EXPECTED[name]["vectors"][0]
    fields: dict[str, Any] = {"vector": vector, "top_k": 5, "include": ["attributes", "receipt"], "rerank": 10}
    fields |= draw.choice(({}, {"recall": 0.9}, {"budget": {"gets": 3, "bytes": 9000, "waves": 2}}, {"explain": True}))
    if draw.random() < 0.2:
        fields["vectors"] = [fields.pop("vector")] * 2
    if draw.random() < 0.8:
        for _ in range(draw.choice((1, 1, 2))):
            fields = mutate_json(fields, draw) if isinstance(fields, dict) else fields
        data = json.dumps(fields).encode()
    else:
        data = mutate(json.dumps(fields).encode(), draw)
    path = draw.choice(["/v1/indexes/fixture/query"] * 8 + ["/v1/indexes/absent/query", "/v1/indexes/%00/query", "//"])

    async def read(*_: object) -> bytes:
        return data

    async def ask() -> Reply:
        reply = await routes.handle("POST", path, {}, read, _SERVICES[name], ACCESS, {})
        for work in reply.after:
            await work
        return reply

    reply = asyncio.run(ask())
    reply.text().encode()
    if reply.status >= 500:
        raise Failure(f"{reply.status}: {reply.body['detail']}")


def wire(base: dict[str, Objects], draw: Random) -> None:
    """A body of vectors as bytes, changed, answered as bytes: what docs/http.md says, or a problem."""
    name = draw.choice(sorted(base))
    if name not in _SERVICES:
        _SERVICES[name] = Service(Memory(base[name]), 1 << 20)
    vectors = EXPECTED[name]["vectors"][: draw.choice((1, 2, 3))]
    head = VECTORS.pack(VECTORS_MAGIC, WIRE_VERSION, len(vectors), len(vectors[0]))
    data = head + array("f", [v for vector in vectors for v in vector]).tobytes()
    if draw.random() < 0.8:
        data = mutate(data, draw)

    async def read(*_: object) -> bytes:
        return data

    async def ask() -> Reply:
        headers = {"content-type": BINARY, "accept": BINARY}
        options = draw.choice(("", "top_k=3", "rerank=10&top_k=5", "include=receipt", "top_k=x", "x=%ff"))
        path = "/v1/indexes/fixture/query?" + options
        reply = await routes.handle("POST", path, headers, read, _SERVICES[name], ACCESS, {})
        for work in reply.after:
            await work
        return reply

    reply = asyncio.run(ask())
    if reply.status >= 500:
        raise Failure(f"{reply.status}: {reply.body['detail']}")
    if reply.status == 200:
        _read_answers(reply.body, len(data))


def _read_answers(body: bytes, sent: int) -> None:
    """Raises Failure where the parts of an answer do not fill it, or are not as many as were asked for."""
    magic, version, count, total, kind, size, told, zero = ANSWERS.unpack_from(body)
    if (magic, version, zero) != (ANSWERS_MAGIC, WIRE_VERSION, 0) or kind not in (0, 1) or not 1 <= count <= sent:
        raise Failure("answers: header")
    at = ANSWERS.size + 4 * count + 4 * total
    ends = array("I", body[ANSWERS.size : ANSWERS.size + 4 * count]).tolist()
    if len(body) != at + size + told or ends != sorted(ends) or ends[-1] != total:
        raise Failure("answers: sizes")
    if kind == 0 and size != 8 * total:
        raise Failure("answers: ids")
    if kind == 1:
        offsets = array("I", body[at : at + 4 * (total + 1)]).tolist()
        if offsets[0] or offsets != sorted(offsets) or 4 * (total + 1) + offsets[-1] != size:
            raise Failure("answers: ids")
    if len(json.loads(body[at + size :])["results"]) != count:
        raise Failure("answers: results")


def log(base: dict[str, Objects], draw: Random) -> None:
    """Segments behind a generation: an answer that rows can give, or an error."""
    name = draw.choice(sorted(base))
    objects, root = base[name], root_of(base[name])
    if root.index.router == "two-level" or not root.index.rows:
        return
    vector = EXPECTED[name]["vectors"][0]
    segments = fuzz_log.segments(root, objects["CURRENT"], mutate, draw)
    filters: list[Any] = [None]
    if root.filters:
        filters.append({root.names[root.filters[0].attribute]: {"$exists": True}})
    try:
        asyncio.run(fuzz_log.read(Memory(objects | segments), NAME, vector, filters))
    except AssertionError as error:
        raise Failure(str(error)) from None


def write(base: dict[str, Objects], draw: Random) -> None:
    """The body of a write, changed as JSON, as text or as bytes: done as a whole, or a problem."""
    name = draw.choice(sorted(base))
    objects, root = base[name], root_of(base[name])
    ids: list[Any] = [1, 2, 3] if root.index.id_kind == "i64" else ["a", "b", "c"]
    vector = EXPECTED[name]["vectors"][0]
    own = {"upsert": {"if_absent": True}, "patch": {"if_seq": 0}, "delete": {"if": {}}}
    own = draw.choice(({}, {}, {}, own))
    attributes = dict.fromkeys(root.names[:2])
    fields: Any = {
        "upsert": [{"id": ids[0], "vector": vector, "attributes": attributes, **own.get("upsert", {})}],
        "patch": [{"id": ids[1], "attributes": attributes, **own.get("patch", {})}],
        "delete": [{"id": ids[2], **own.get("delete", {})}],
    }
    fields |= draw.choice(({}, {}, {"if_seq": 0}))
    if root.filters and draw.random() < 0.3:
        fields["delete_where"] = {root.names[root.filters[0].attribute]: {"$exists": False}}
    for part in draw.sample(sorted(fields), draw.randint(0, len(fields) - 1)):
        del fields[part]
    binary = draw.random() < 0.2
    for _ in range(draw.choice((0, 1, 1, 2))):
        fields = mutate_json(fields, draw) if isinstance(fields, dict) else fields
    data = json.dumps(fields).encode()
    if binary:
        data = FRAME.pack(FRAME_MAGIC, 1, len(data), 1, len(vector)) + data + array("f", vector).tobytes()
    if draw.random() < 0.3:
        data = mutate(data, draw)
    changed = dict(objects)
    try:
        asyncio.run(fuzz_log.write(Memory(changed), Log(changed), NAME, data, binary))
    except AssertionError as error:
        raise Failure(str(error)) from None


class Log(MemoryLog):
    """A log in the objects of a bucket."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(b"")
        self.objects = objects


_SERVICES: dict[str, Service] = {}
_PARTS: dict[str, list[Part]] = {}  # of the fixtures, as they are

# What is fuzzed, and the share of cases that each gets.
KINDS: dict[str, tuple[Callable[[dict[str, Objects], Random], None], int]] = {
    "object": (raw_object, 8),
    "CURRENT": (current, 11),
    "frame": (frame, 12),
    "section": (section, 20),
    "block": (block, 5),
    "page": (page, 3),
    "vector": (vector, 2),
    "spots": (spots, 2),
    "planes": (planes, 13),
    "ids": (ids, 7),
    "body": (body, 12),
    "wire": (wire, 5),
    "log": (log, 5),
    "write": (write, 5),
}


def names() -> list[str]:
    """The fixtures that are asked."""
    return sorted(EXPECTED)


def case(base: dict[str, Objects], kind: str, seed: int) -> None:
    """One case; raises whatever may not be raised. The same seed makes the same case."""
    try:
        KINDS[kind][0](base, Random(seed))
    except VantageError as error:
        if not error.message or not error.hint:
            raise Failure(f"an error without message or hint: {error!r}") from None


def bases() -> dict[str, Objects]:
    """The fixtures' objects."""
    return {name: load(name) for name in names()}


def _late(*_: object) -> None:
    raise Failure(f"over {CASE_SECONDS} s")


def run(cases: int, seed: int, tell: Callable[[str, int, str], None]) -> Counter[str]:
    """Runs so many cases; tell(kind, seed, what) for each that ends otherwise. How many of each kind."""
    base, draw, done = bases(), Random(seed), Counter[str]()
    kinds, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _late)
    for _ in range(cases):
        kind, own = draw.choices(kinds, weights)[0], draw.getrandbits(63)
        signal.alarm(CASE_SECONDS)
        try:
            case(base, kind, own)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            tell(kind, own, f"{type(error).__name__}: {str(error)[:160]} ({Path(where.filename).name}:{where.lineno})")
        finally:
            signal.alarm(0)
        done[kind] += 1
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (now - peak) << 10 > CASE_BYTES:
            tell(kind, own, f"took {(now - peak) >> 10} MiB")
        peak = max(peak, now)
    return done


def main() -> int:
    """Prints what was run, and each case that ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seen: Counter[str] = Counter()

    def tell(kind: str, seed: int, what: str) -> None:
        seen[what] += 1
        if seen[what] == 1:
            print(f"{kind}, seed {seed}: {what}", flush=True)

    began, kernels = time.perf_counter(), options.cases // 5
    done = run(options.cases - kernels, options.seed, tell)
    command = [
        sys.executable,
        ROOT / "bench/faults/fuzz_kernels.py",
        "--cases",
        str(kernels),
        "--seed",
        str(options.seed),
    ]
    bad = subprocess.run(command, check=False).returncode
    done["kernels"] = kernels
    took = time.perf_counter() - began
    print(f"{options.cases} cases in {took:.0f} s: {', '.join(f'{n} {kind}' for kind, n in done.items())}")
    print(f"ended otherwise: {seen.total()}" + (f"; kernels: status {bad}" if bad else ""))
    return 1 if seen or bad else 0


if __name__ == "__main__":
    sys.exit(main())
