"""verify --deep finds damage whose checksums are right: each part of an index changed, and sealed again."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from fixtures.damage import (
    ATTRIBUTES_PLANE,
    NORMS_PLANE,
    Bytes,
    Part,
    attributes_of,
    changed,
    edit,
    edit_blocks,
    edit_directory,
    edit_facts,
    edit_paged_chunk,
    edit_pages,
    edit_plane,
    edit_projection,
    edit_rows,
    edit_tables,
    first_block,
    flip,
    in_block,
    in_chunk,
    in_columns,
    inflated,
    key,
    load,
    object_of,
    parts_of,
    put,
    root_of,
    texts_of,
    totals_at,
)

from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.store import FolderStore
from vantage.format import COLUMNS_PLANE, HEADER, SECTION, Current, Cursor, ObjectName, pack_page, with_directory
from vantage.format import layout as L
from vantage.kernels import crc32c

FIXTURES = sorted(json.loads((Path(__file__).parent.parent / "fixtures" / "expected.json").read_text()))

U32 = struct.Struct("<I").pack
F32 = struct.Struct("<f").pack


def sealed(objects: Bytes, folder: Path) -> FolderStore:
    """The objects as a generation of its own in a folder, every checksum made anew."""
    old = Current.unpack(objects["CURRENT"], "CURRENT").generation
    bodies = {k.removeprefix(f"{old}/"): v for k, v in sorted(objects.items()) if k.startswith(f"{old}/")}
    manifest = json.loads(bodies.pop("manifest.json"))
    for name, body in bodies.items():
        if name.startswith(("shard", "rendition")):
            bodies[name] = resealed(body)
    named = {name: (len(body), hashlib.sha256(body).hexdigest()) for name, body in bodies.items()}
    others = {k: v for k, v in objects.items() if k != "CURRENT" and not k.startswith(f"{old}/")}
    for name, body in others.items():
        others[name] = resealed(body) if name.split("/")[1].startswith(("shard", "rendition")) else body
        if not name.endswith(("/root.bin", "/manifest.json")):
            named[f"../{name}"] = len(others[name]), hashlib.sha256(others[name]).hexdigest()
    rest = {k: v for k, v in manifest.items() if k not in ("generation", "objects")}
    new = hashlib.sha256(json.dumps([named, rest]).encode()).hexdigest()[:16]
    told = [
        {"key": name[3:] if name.startswith("../") else f"{new}/{name}", "size": size, "sha256": sha}
        for name, (size, sha) in named.items()
    ]
    text = json.dumps(rest | {"generation": new, "objects": told}).encode()
    current = Current(
        new, ObjectName(f"{new}/root.bin", *named["root.bin"]),
        ObjectName(f"{new}/manifest.json", len(text), hashlib.sha256(text).hexdigest()),
    )  # fmt: skip
    where = FolderStore(folder)
    for name, body in (bodies | {"manifest.json": text}).items():
        where.put(f"{new}/{name}", body)
    for name, body in others.items():
        where.put(name, body)
    where.put("CURRENT", current.pack())
    return where


def resealed(shard: bytes) -> bytes:
    """A shard with right checksums of its sections and its table, and its size in both."""
    out, end = bytearray(shard), HEADER.size + SECTION.size
    struct.pack_into("<Q", out, 16, len(out))
    struct.pack_into("<Q", out, HEADER.size + 16, len(out) - end)
    struct.pack_into("<I", out, HEADER.size + 24, crc32c(bytes(out[end:])))
    struct.pack_into("<I", out, 24, crc32c(bytes(out[:24]) + bytes(8) + bytes(out[HEADER.size : end])))
    return bytes(out)


def edit_ids(objects: Bytes, change: Callable[[bytes], bytes]) -> Bytes:
    """ids.bin of one page changed, and the root's checksum of it."""
    name = key(objects, "ids.bin")
    page = change(objects[name])
    [own] = root_of(objects).id_pages
    return changed(objects | {name: page}, id_pages=(replace(own, crc=array("I", [crc32c(page)])),))


def flipped_vector(objects: Bytes) -> Bytes:
    name = key(objects, "part-00000.parquet")
    return objects | {name: flip(objects[name], root_of(objects).rows.vector_offset[0])}


def other_codes(objects: Bytes) -> Bytes:
    """The codes of the first two rows of block 0 change places."""
    width = root_of(objects).codec.code_bytes

    def change(part: Part) -> bytes:
        out = bytearray(part.data)
        for byte in range(width):
            here = part.opened.at.codes + 16 * byte
            out[here], out[here + 1] = out[here + 1], out[here]
        return bytes(out)

    return edit_blocks(objects, first_block(change))


def other_home(objects: Bytes) -> Bytes:
    """The second row of block 0 is its first one again."""

    def change(part: Part) -> bytes:
        at = part.opened.at
        return put(part.data, at.rows + 4, part.data[at.rows : at.rows + 4])

    return edit_blocks(objects, first_block(change))


def swapped_texts(raw: bytes, n: int) -> bytes:
    """The JSON of the first row is that of the last; all others are as they were."""
    starts = struct.unpack_from(f"<{n + 1}I", raw)
    texts = [raw[4 * (n + 1) + low : 4 * (n + 1) + high] for low, high in pairwise(starts)]
    texts[0] = texts[-1]
    ends = [0, *accumulate(map(len, texts))]
    return struct.pack(f"<{n + 1}I", *ends) + b"".join(texts)


def unnamed_block(objects: Bytes) -> Bytes:
    """Pages that name block 0 name it no more."""
    root = root_of(objects)

    def change(page: bytes) -> bytes:
        cursor = Cursor(memoryview(page), "page")
        blocks, scale, weight, table = root.router.columns(cursor, root.index)
        directory = root.router.directory(cursor, blocks, 1, root.objects.sizes)
        kept = [i for i, b in enumerate(blocks) if b]
        each = len(table) // len(blocks)
        subs = root.router.subs

        def some(column: bytes, width: int) -> bytes:
            return b"".join(bytes(column)[width * i : width * (i + 1)] for i in kept)

        body = pack_page([blocks[i] for i in kept], some(scale, 4 * subs), some(weight, 4 * subs), some(table, each))
        return with_directory(body, directory.some([i for i in range(len(directory)) if directory.block[i]]))

    return edit_pages(objects, change)


def entries(objects: Bytes) -> list[dict[int, int]]:
    """The hash of each row that has an entry, in each segment of ids, which have one page each."""
    root, out = root_of(objects), []
    for own in root.id_pages:
        page = objects[object_of(objects, own.object)][own.offset :]
        hashes, rows = (
            struct.unpack_from(f"<{own.rows}Q", page),
            struct.unpack_from(f"<{own.rows}I", page, 8 * own.rows),
        )
        out.append(dict(zip(rows, hashes, strict=True)))
    return out


def revived(objects: Bytes, row: int) -> Bytes:
    """A dead row lives, and the first live one is dead instead."""
    root = root_of(objects)
    assert root.dead is not None and row in root.dead
    other = next(r for r in range(root.index.rows) if r not in root.dead)
    bits = bytearray(root.dead.bits)
    for one in (row, other):
        bits[one >> 3] ^= 1 << (one & 7)
    return changed(objects, dead=replace(root.dead, bits=bytes(bits)))


def without_entry(objects: Bytes) -> Bytes:
    known = set().union(*entries(objects))
    return revived(objects, next(r for r in range(root_of(objects).index.rows) if r not in known))


def with_the_id_of_another(objects: Bytes) -> Bytes:
    first, *later = entries(objects)
    newer = {own for segment in later for own in segment.values()}
    return revived(objects, next(row for row, own in first.items() if own in newer))


def without_home(objects: Bytes) -> Bytes:
    """The last row at home in an extent is none of those any more."""
    root, directory = root_of(objects), root_of(objects).directory
    assert root.dead is not None and directory is not None
    for i, part in enumerate(parts_of(objects)):
        last = directory.homes[i] - 1
        if last >= 0 and struct.unpack_from("<I", part.data, part.opened.at.rows + 4 * last)[0] not in root.dead:
            return edit_directory(objects, "homes", i, last)
    raise AssertionError


DAMAGES: dict[str, tuple[str, Callable[[Bytes], Bytes], str]] = {
    "a row that lives and has no entry": ("flushed", without_entry, "there is no entry of row"),
    "two rows of an id": ("flushed", with_the_id_of_another, "an id is that of two rows, in two segments"),
    "a row that lives nowhere": ("flushed", without_home, "no extent is the home of row"),
    "columns": (
        "filters",
        lambda o: edit_plane(o, COLUMNS_PLANE, lambda plane, n: plane[:-5] + bytes([plane[-5] ^ 1]) + plane[-4:]),
        "columns have other values of row",
    ),
    "counts": (
        "filters", lambda o: edit(o, L.COUNTS, lambda body: put(body, len(body) - 20, b"\x09")),
        "root.bin: counts of 'code'",
    ),
    "rows of a field": (
        "filters", lambda o: edit(o, L.FILTERS, lambda body: put(body, 8 + 2 * 40 + 8, U32(7))), "7 rows have 'year'",
    ),
    "rows of texts": (
        "filters",
        lambda o: edit(o, L.FILTERS, lambda body: put(body, totals_at(o), struct.pack("<II", *moved_totals(o)))),
        "texts of 'lang' have other numbers of rows",
    ),
    "rows of a bucket": (
        "filters",
        lambda o: edit(o, L.COUNTS, lambda body: put(body, 24 + 16 * len(root_of(o).counts.fields[0].low), U32(1))),
        "root.bin: counts of 'lang'",
    ),
    "texts of a field": (
        "filters", lambda o: edit(o, L.FILTERS, lambda body: body.replace(b"defr", b"dffr")),
        "a value of 'lang' is none",
    ),
    "hash in a chunk": ("filters", in_chunk("columns_end", -12, U32(7)), "chunk 0: columns have other values of row"),
    "code of a chunk": ("filters", in_chunk("codes", 0, b"\x11\x22"), "the code is not that of its block, of row"),
    "row of a chunk": ("filters", in_chunk("rows", 4, U32(0)), "another id of row 0"),
    "id of a chunk": ("filters", in_chunk("ids", 0, b"\x09"), "chunk 0: ids.bin has another id of row"),
    "check of a chunk": ("filters", in_chunk("checks", 0, U32(9)), "chunk 0: ids.bin has another check of row"),
    "ranges of a chunk": ("filters", in_chunk("ranges", 0, F32(0.5)), "its blocks have other ranges"),
    "centre of a chunk": (
        "paged", lambda o: edit_paged_chunk(o, lambda chunk, opened: put(chunk, opened.at.centres, F32(0.25))),
        "chunk 0: its blocks have other centres",
    ),
    "counts in pages": (
        "paged", lambda o: edit_tables(o, lambda pages: replace(pages, crc=array("I", [1] * len(pages.crc)))),
        "root.bin: counts of 'at'",
    ),
    "bucket": (
        "filters",
        lambda o: edit_projection(
            o, low=[-1, *root_of(o).projections[0].low[1:]], high=[-1, *root_of(o).projections[0].high[1:]]
        ),
        "the value is not one of its bucket, of row",
    ),
    "rows": ("words", other_home, "block 0: a row lies there twice"),
    "home": (
        "words", lambda o: in_block(o, "rows", 0, U32(block_rows(o, 1)[0])), "block 1: another block is the home too",
    ),
    "row of none": ("words", lambda o: in_block(o, "rows", 0, U32(9999)), "there are 200 rows, but a slot of row 9999"),
    "check": ("words", lambda o: in_block(o, "checks", 4, U32(7)), "block 0: ids.bin has another check of row"),
    "id": ("words", lambda o: in_block(o, "ids", 0, b"X"), "block 0: ids.bin has another id of row"),
    "id width": ("words", lambda o: in_block(o, "", 4, U32(33)), "block 0: ids of width 33 do not fit"),
    "factor": ("words", lambda o: in_block(o, "f", 0, b"\0\0"), "block 0: the code is not that of the vector, of row"),
    "code": ("words", other_codes, "block 0: the code is not that of the vector, of row"),
    "attributes": ("words", lambda o: attributes_of(o, b"[1, 2]"), "block 0: there are other attributes of row"),
    "attributes of one row": (
        "words", lambda o: edit_plane(o, ATTRIBUTES_PLANE, inflated(swapped_texts)),
        "block 0: there are other attributes of row",
    ),
    "attributes that are no plane": (
        "words", lambda o: edit_plane(o, ATTRIBUTES_PLANE, lambda plane, n: plane[:-9]), "block 0: attributes of",
    ),
    "attributes by row": (
        "texts", lambda o: texts_of(o, lambda text: text.replace(b"t", b"T", 1)),
        "ids.bin says that other bytes are the attributes",
    ),
    "place": (
        "texts", lambda o: in_columns(o, "spots", 0, {3: 40}), "ids.bin has another place for the attributes of row 3",
    ),
    "place in ids.bin": (
        "texts", lambda o: edit_ids(o, lambda page: put(page, 16 * 70, U32(7) * 70)),
        "ids.bin says that other bytes are the attributes",
    ),
    "check in facts": ("proofs", lambda o: edit_facts(o, 0, 7), "rows.bin: ids.bin has another check of row 0"),
    "place in facts": (
        "proofs", lambda o: edit_facts(o, 1, 7), "rows.bin: ids.bin has another place for the attributes of row",
    ),
    "facts": (
        "proofs", lambda o: edit_rows(o, "fact_crc", 0, 5),
        "rows.bin: CRC-32C of the facts of page 0 differs from what root.bin says",
    ),
    "vector": ("words", flipped_vector, "part-00000.parquet: ids.bin has another check of row 0"),
    "page": (
        "words", lambda o: edit_rows(o, "vector_offset", 0, root_of(o).rows.vector_offset[0] - 2),
        "row group 0: its vectors are not where root.bin says",
    ),
    "no entry": (
        "words", lambda o: edit_ids(o, lambda page: put(page, 8 * 200, page[8 * 200 + 4 : 8 * 200 + 8])),
        "a second entry of row",
    ),
    "unsorted": ("words", lambda o: edit_ids(o, lambda page: put(page, 8, page[:8])), "page 0: is not sorted by hash"),
    "norms": (
        "proofs", lambda o: edit_plane(o, NORMS_PLANE, lambda plane, n: struct.pack("<f", 1e-6) + plane[4:]),
        "block 0: error norms or radius are too small",
    ),
    "norms that are no plane": (
        "proofs", lambda o: edit_plane(o, NORMS_PLANE, lambda plane, n: plane[:-16]), "block 0: error norms of",
    ),
    "centre": (
        "words", lambda o: in_block(o, "centre", 0, b"\x7f\x81\x7f"), "block 0: the code is not that of the vector,"),
    "integer id": ("proofs", lambda o: in_block(o, "ids", 8, bytes(8)), "block 0: ids.bin has another id of row"),
    "a page without a block": ("pages", unnamed_block, "routing.bin: 1 blocks are on no page"),
    "extent of another generation": (
        "extents",
        lambda o: edit_blocks(o, lambda p: put(p.data, p.opened.at.checks, U32(7)) if p.number == 8 else p.data),
        "fedcba9876543210/shard-00000.bin, block 2: ids.bin has another check of row",
    ),
}  # fmt: skip


def moved_totals(objects: Bytes) -> tuple[int, int]:
    """Rows with the first two texts of the first field, if one had another."""
    a, b = root_of(objects).filters[0].totals[:2]
    return a - 1, b + 1


def block_rows(objects: Bytes, number: int) -> tuple[int, ...]:
    """Row numbers of a block in the first rendition."""
    root = root_of(objects)
    extent = root.directory.extent(number, 0)
    data = objects[object_of(objects, extent.object)][extent.offset :]
    return struct.unpack_from(f"<{extent.rows}I", data, root.planes(extent.rows).rows)


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
    struct.pack_into("<I", table, 24, crc32c(bytes(table[:24]) + bytes(8) + bytes(table[32:64])))
    where.put(name, bytes(table))
    assert verify_deep(where)["damage"] == [f"{name}: CRC-32C of section 32 differs from what its table says"]
