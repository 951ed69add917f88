"""verify --deep finds damage whose checksums are right: each part of an index changed, and sealed again."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures.damage import (
    Objects,
    attributes_of,
    edit_block,
    flip,
    in_block,
    in_columns,
    key,
    load,
    put,
    root_of,
    seal,
    texts_of,
)

from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.store import FolderStore
from vantage.format import HEADER, SECTION, Current, ObjectName
from vantage.kernels import crc32c

FIXTURES = sorted(json.loads((Path(__file__).parent.parent / "fixtures" / "expected.json").read_text()))

U32 = struct.Struct("<I").pack


def sealed(objects: Objects, folder: Path) -> FolderStore:
    """The objects as a generation of its own in a folder, every checksum made anew."""
    old = Current.unpack(objects["CURRENT"], "CURRENT").generation
    bodies = {k.removeprefix(f"{old}/"): v for k, v in sorted(objects.items()) if k.startswith(f"{old}/")}
    manifest = json.loads(bodies.pop("manifest.json"))
    for name, body in bodies.items():
        if name.startswith("shard"):
            bodies[name] = resealed(body)
    named = {name: (len(body), hashlib.sha256(body).hexdigest()) for name, body in bodies.items()}
    rest = {k: v for k, v in manifest.items() if k not in ("generation", "objects")}
    new = hashlib.sha256(json.dumps([named, rest]).encode()).hexdigest()[:16]
    told = [{"key": f"{new}/{name}", "size": size, "sha256": sha} for name, (size, sha) in named.items()]
    text = json.dumps(rest | {"generation": new, "objects": told}).encode()
    current = Current(
        new, ObjectName(f"{new}/root.bin", *named["root.bin"]),
        ObjectName(f"{new}/manifest.json", len(text), hashlib.sha256(text).hexdigest()),
    )  # fmt: skip
    where = FolderStore(folder)
    for name, body in (bodies | {"manifest.json": text}).items():
        where.put(f"{new}/{name}", body)
    where.put("CURRENT", current.pack())
    return where


def resealed(shard: bytes) -> bytes:
    """A shard with right checksums of its sections and its table."""
    out, end = bytearray(shard), HEADER.size + 2 * SECTION.size
    for at in range(HEADER.size, end, SECTION.size):
        _, _, offset, length, _, _ = SECTION.unpack_from(out, at)
        struct.pack_into("<I", out, at + 24, crc32c(bytes(out[offset : offset + length])))
    struct.pack_into("<I", out, 24, crc32c(bytes(out[:24]) + bytes(8) + bytes(out[HEADER.size : end])))
    return bytes(out)


def edit_ids(objects: Objects, change: Callable[[bytes], bytes]) -> Objects:
    """ids.bin of one page changed, and the root's checksum of it."""
    root, name = root_of(objects), key(objects, "ids.bin")
    page = change(objects[name])
    pages = replace(root.id_pages, crc=memoryview(array("I", [crc32c(page)])))
    return seal(objects | {name: page}, replace(root, id_pages=pages).pack())


def flipped_vector(objects: Objects) -> Objects:
    name = key(objects, "part-00000.parquet")
    return objects | {name: flip(objects[name], root_of(objects).vectors.offset[0])}


def other_codes(objects: Objects) -> Objects:
    """The codes of rows 0 and 1 change places."""
    root = root_of(objects)
    at, width = root.planes(0), root.codec.code_bytes

    def change(block: bytes) -> bytes:
        out = bytearray(block)
        for byte in range(width):
            here = at.codes + 16 * byte
            out[here], out[here + 1] = out[here + 1], out[here]
        return bytes(out)

    return edit_block(objects, change)


def small_norms(objects: Objects) -> Objects:
    root = root_of(objects)
    n = -(-root.directory.rows[0] // 16) * 16
    return edit_block(objects, lambda block: put(block, len(block) - n - 16, struct.pack("<f", 1e-6)))


def moved_page(objects: Objects) -> Objects:
    root = root_of(objects)
    pages = replace(root.vectors, offset=memoryview(array("Q", [root.vectors.offset[0] - 2, *root.vectors.offset[1:]])))
    return seal(objects, replace(root, vectors=pages).pack())


DAMAGES: dict[str, tuple[str, Callable[[Objects], Objects], str]] = {
    "rows": ("words", lambda o: in_block(o, "rows", 4, U32(0)), "block 0: its home rows are not 0 to"),
    "check": ("words", lambda o: in_block(o, "checks", 4, U32(7)), "block 0: ids.bin has another check of row 1"),
    "id": ("words", lambda o: in_block(o, "ids", 0, b"X"), "block 0: ids.bin has another id of row 0"),
    "id width": ("words", lambda o: in_block(o, "", 4, U32(33)), "block 0: ids of width 33 do not fit"),
    "factor": ("words", lambda o: in_block(o, "f", 0, b"\0\0"), "block 0: the code is not that of the vector, of row"),
    "code": ("words", other_codes, "block 0: the code is not that of the vector, of row 0"),
    "attributes": ("words", lambda o: attributes_of(o, b"[1, 2]"), "attributes of block 0, row 0: it has not the 3"),
    "other attributes": (
        "words", lambda o: attributes_of(o, b'["x",1,[]]'), "row group 0: attribute 'gloss' is not that of the shards",
    ),
    "attributes by row": (
        "texts", lambda o: texts_of(o, lambda told: told.replace(b"texts", b"TEXTS").replace(b"t", b"T", 1)),
        "ids.bin has another place for the attributes of row 0",
    ),
    "place": (
        "texts", lambda o: in_columns(o, "spots", 0, {3: 40}), "block 0: ids.bin has another place for the attributes",
    ),
    "place in ids.bin": (
        "texts", lambda o: edit_ids(o, lambda page: put(page, 16 * 70, U32(7) * 70)),
        "ids.bin says that other bytes are the attributes of row 0",
    ),
    "vector": ("words", flipped_vector, "part-00000.parquet: ids.bin has another check of row 0"),
    "page": ("words", moved_page, "row group 0: its vectors are not where root.bin says"),
    "no entry": (
        "words", lambda o: edit_ids(o, lambda page: put(page, 8 * 200, page[8 * 200 + 4 : 8 * 200 + 8])),
        "a second entry of row",
    ),
    "unsorted": ("words", lambda o: edit_ids(o, lambda page: put(page, 8, page[:8])), "page 0: is not sorted by hash"),
    "norms": ("proofs", small_norms, "block 0: error norms or radius are too small"),
    "integer id": ("proofs", lambda o: in_block(o, "ids", 8, bytes(8)), "block 0: ids.bin has another id of row 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_only_deep_finds_what_has_right_checksums(name: str, tmp_path: Path) -> None:
    index, damage, sentence = DAMAGES[name]
    where = sealed(damage(load(index)), tmp_path)
    assert g.verify(where)["damage"] == []
    found = verify_deep(where)
    assert any(sentence in said for said in found["damage"]), found
    assert found["damages"] >= len(found["damage"])


@pytest.mark.parametrize("index", FIXTURES)
def test_what_is_whole_is_called_whole(index: str, tmp_path: Path) -> None:
    where = sealed(load(index), tmp_path)
    found = verify_deep(where)
    assert found["damage"] == [] and found["damages"] == 0 and found["codes"] == found["rows"]


def test_a_shard_whose_own_checksums_are_wrong(tmp_path: Path) -> None:
    where = sealed(load("words"), tmp_path)
    name = next(s.key for s in where.list() if s.key.endswith("shard-00000.bin"))
    data = where.read(name, 0, 1 << 20)
    struct.pack_into("<I", table := bytearray(data), HEADER.size + 24, 7)
    struct.pack_into("<I", table, 24, crc32c(bytes(table[:24]) + bytes(8) + bytes(table[32:96])))
    where.put(name, bytes(table))
    assert verify_deep(where)["damage"] == [f"{name}: CRC-32C of section 32 differs from what its table says"]
