"""Every kind of section and object x (truncated, bit flipped, wrong length, wrong version, missing): what it answers.

    python -m bench.faults.damage

Fixtures of tests/fixtures, one a kind. Checksums above a damage are made anew where another check stands behind them. A
cell is the phrase of the error; "-" where there is no such thing (an object without a version). Exit 1 where a damage
gives an answer other than the whole one's, or any exception but a VantageError.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from build_index.serve import ROOT

sys.path.append(str(ROOT / "tests"))
from fixtures.answers import answers  # noqa: E402
from fixtures.damage import (  # noqa: E402
    ATTRIBUTES_PLANE,
    COLUMNS_PLANE,
    NORMS_PLANE,
    Bytes,
    Part,
    attribute_places,
    edit_directory,
    edit_facts,
    edit_table,
    every_row,
    flip,
    in_columns,
    key,
    load,
    object_of,
    parts_of,
    put,
    root_of,
    seal,
    sections_of,
)

from vantage.errors import VantageError  # noqa: E402
from vantage.format import layout as L  # noqa: E402

DAMAGES = ("truncated", "bit flipped", "wrong length", "wrong version", "missing")
EXPECTED = json.loads((ROOT / "tests/fixtures/expected.json").read_text())
Damage = Callable[[Bytes], Bytes]


def _place(root: bytes, kind: int) -> tuple[int, int, int]:
    """(place in the table, offset, bytes) of a section."""
    for i in range(L.HEADER.unpack_from(root)[2]):
        found, _, at, length, _, _ = L.SECTION.unpack_from(root, 32 + 32 * i)
        if found == kind:
            return 32 + 32 * i, at, length
    raise KeyError(kind)


def section_damages(kind: int) -> list[Damage]:
    """Of a section of the root."""

    def shorter(objects: Bytes, by: int) -> Bytes:
        """The body without its end, or with more at it; all checksums right."""
        root = objects[key(objects, "root.bin")]
        bodies = [(k, (b[:by] if by < 0 else b + bytes(by)) if k == kind else b) for k, b in sections_of(root)]
        return seal(objects, L.pack_object(L.ROOT_MAGIC, bodies))

    def flipped(objects: Bytes) -> Bytes:
        root = objects[key(objects, "root.bin")]
        _, at, length = _place(root, kind)
        return seal(objects, flip(root, at + length // 2))

    def version(objects: Bytes) -> Bytes:
        entry, _, _ = _place(objects[key(objects, "root.bin")], kind)
        return edit_table(objects, lambda root: root.__setitem__(slice(entry + 4, entry + 8), b"\x09\0\0\0"))

    def gone(objects: Bytes) -> Bytes:
        root = objects[key(objects, "root.bin")]
        return seal(objects, L.pack_object(L.ROOT_MAGIC, [s for s in sections_of(root) if s[0] != kind]))

    return [lambda o: shorter(o, -1), flipped, lambda o: shorter(o, 4), version, gone]


def object_damages(ending: str, version: Damage | None = None) -> list[Damage | None]:
    """Of an object of the bucket; all objects that end so."""

    def each(change: Callable[[bytes], bytes | None]) -> Damage:
        def damage(objects: Bytes) -> Bytes:
            new = {k: change(v) if k.endswith(ending) else v for k, v in objects.items()}
            return {k: v for k, v in new.items() if v is not None}

        return damage

    def flipped(data: bytes) -> bytes:
        return bytes(b ^ 1 for b in data)

    return [each(lambda d: d[: len(d) // 2]), each(flipped), each(lambda d: d + b" " * 70_000), version,
            each(lambda _: None)]  # fmt: skip


def block_damages(kind: int | None, rendition: int) -> list[Damage | None]:
    """Of block 0 in a rendition, or of a plane of it: its bytes, and what is said of its size."""

    def place(objects: Bytes) -> tuple[str, int, int, Part]:
        part = next(one for one in parts_of(objects) if one.rendition == rendition)
        at, size = part.extent.offset, part.extent.size
        if kind is not None:
            plane = next(plane for plane in part.opened.planes if plane.kind == kind)
            at, size = at + plane.offset, plane.size
        return object_of(objects, part.extent.object), at, size, part

    def half(objects: Bytes) -> Bytes:
        name, at, size, _ = place(objects)
        return objects | {name: put(objects[name], at + size // 2, bytes(size - size // 2))}

    def flipped(objects: Bytes) -> Bytes:
        name, at, size, _ = place(objects)
        return objects | {name: flip(objects[name], at + size // 2)}

    def shorter(objects: Bytes) -> Bytes:
        extent = place(objects)[-1].extent
        if kind is None:
            return edit_directory(objects, "size", 0, extent.size - 4, rendition)
        return edit_directory(objects, "whole", 0, extent.whole - 4, rendition)

    def gone(objects: Bytes) -> Bytes:
        name, at, size, _ = place(objects)
        return objects | {name: put(objects[name], at, bytes(size))}

    return [half, flipped, shorter, None, gone]


def row_damages() -> list[Damage | None]:
    """Of the attributes of all rows that are read a row: what is not asked for is not looked at."""

    def bytes_of(change: Callable[[bytes], bytes]) -> Damage:
        def damage(objects: Bytes) -> Bytes:
            out = dict(objects)
            for _, name, at, size in attribute_places(objects):
                out[name] = put(out[name], at, change(out[name][at : at + size]))
            return out

        return damage

    return [
        bytes_of(lambda text: text[: len(text) // 2] + bytes(len(text) - len(text) // 2)),
        bytes_of(lambda text: bytes(b ^ 1 for b in text)), None, None, bytes_of(lambda text: bytes(len(text))),
    ]  # fmt: skip


def fact_damages() -> list[Damage | None]:
    """Of what facts say of where attributes are; checksums above made anew."""

    def column(at: int, value: int) -> Damage:
        return lambda objects: edit_facts(objects, at, value)

    return [column(2, 3), column(3, 7), column(2, (1 << 20) + 1), None, column(2, 0)]


def spot_damages() -> list[Damage | None]:
    """Of what blocks say of where attributes are; checksums above made anew."""

    def column(at: int, value: int) -> Damage:
        return lambda objects: in_columns(objects, "spots", at, every_row(objects, value))

    flipped = column(2, 7)
    return [column(1, 3), flipped, column(1, (1 << 20) + 1), None, column(1, 0)]


def _current_version(objects: Bytes) -> Bytes:
    return objects | {"CURRENT": json.dumps(json.loads(objects["CURRENT"]) | {"format": 9}).encode()}


def _root_version(objects: Bytes) -> Bytes:
    return edit_table(objects, lambda root: root.__setitem__(slice(8, 12), b"\x09\0\0\0"))


def _root_resealed(change: Callable[[bytes], bytes]) -> Damage:
    def damage(objects: Bytes) -> Bytes:
        return seal(objects, change(objects[key(objects, "root.bin")]))

    return damage


def matrix() -> dict[str, tuple[str, list[Damage | None]]]:
    """kind -> (fixture, its five damages)."""
    out: dict[str, tuple[str, list[Damage | None]]] = {
        "CURRENT": ("words", object_damages("CURRENT", _current_version)),
        "root.bin": ("words", object_damages("root.bin", _root_version)),
        "root.bin, CURRENT agrees": (
            "words",
            [_root_resealed(lambda r: r[:-64]), _root_resealed(lambda r: flip(r, 45)),
             _root_resealed(lambda r: r + bytes(64)), None, None],
        ),
        "shard": ("words", object_damages("shard-00000.bin")),
        "rendition": ("words", object_damages("rendition-1-00000.bin")),
        "shard of another generation": ("extents", object_damages("fedcba9876543210/shard-00000.bin")),
        "scan block": ("words", block_damages(None, 0)),
        "scan block of a rendition": ("words", block_damages(None, 1)),
        "attributes of a block": ("words", block_damages(ATTRIBUTES_PLANE, 1)),
        "chunks": ("filters", object_damages("projection-0-00000.bin")),
        "pages of chunks": ("paged", object_damages("projection-0-pages-00000.bin")),
        "counts in pages": ("paged", object_damages("counts-00000.bin")),
        "columns of a block": ("filters", block_damages(COLUMNS_PLANE, 0)),
        "error norms of a block": ("proofs", block_damages(NORMS_PLANE, 0)),
        "rows.bin": ("proofs", object_damages("rows.bin")),
        "facts": ("proofs", fact_damages()),
        "attributes": ("texts", object_damages("attributes-00000.bin")),
        "attributes by row": ("texts", row_damages()),
        "places of attributes": ("texts", spot_damages()),
        "ids.bin": ("words", object_damages("ids.bin")),
        "vectors": ("words", object_damages(".parquet")),
        "routing.bin": ("pages", object_damages("routing.bin")),
        # Where rows died whose entries are gone: else a root without the section is that of another index.
        f"section {L.SECTION_NAMES[L.DEAD]}": ("flushed", list(section_damages(L.DEAD))),
    }  # fmt: skip
    for name in sorted(EXPECTED):
        objects = load(name)
        kinds = [kind for kind, _ in sections_of(objects[key(objects, "root.bin")]) if kind in L.SECTION_NAMES]
        for kind in kinds:
            which = f" {root_of(objects).index.router}" if kind == L.ROUTER else ""
            out.setdefault(f"section {L.SECTION_NAMES[kind]}{which}", (name, list(section_damages(kind))))
    return out


def outcome(fixture: str, damage: Damage) -> tuple[bool, str]:
    """Whether it is as it must be, and the error's words, or "the whole answer"."""
    expected = EXPECTED[fixture]
    whole = load(fixture)
    changed = damage(whole)
    asked = expected["vectors"][:2], expected["ids"][:1]
    try:
        got = answers(changed, *asked)
    except VantageError as error:
        generation = json.loads(whole["CURRENT"])["generation"]
        return bool(error.hint), f"{error.code}: {error.message.replace(f'{generation}/', '').replace('fixture/', '')}"
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    want = answers(whole, *asked)
    kept = [{k: w[k] for k in g if k in w} for g, w in zip(got["queries"], want["queries"], strict=True)]
    same = got == want | {"queries": kept}  # without bounds no proof can be asked for
    return same, "the whole answer: an index may be without it" if same else "ANOTHER ANSWER"


def main() -> int:
    """Prints a line a cell."""
    bad = 0
    for kind, (fixture, damages) in matrix().items():
        for name, damage in zip(DAMAGES, damages, strict=True):
            right, what = (True, "-") if damage is None else outcome(fixture, damage)
            bad += not right
            print(f"{kind:26} {name:14} {'' if right else 'WRONG '}{what[:140]}")
    print(f"wrong: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
