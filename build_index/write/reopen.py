"""Reads a saved index back to its rows, blocks and codes, so that it can be changed and written again."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError, InputError
from vantage.format import (
    CHECK_BYTES,
    FIELD,
    RANGES_AT,
    ROOT_KEY,
    BlockPlanes,
    Centre,
    Centres,
    Cursor,
    Directory,
    LrsqSection,
    Root,
    TwoLevelSection,
    centre_of,
    facts_bytes,
    joined,
    open_block,
    spot_at,
)

from ..blocks.layout import Layout, decode_centres
from ..blocks.partition import Partition
from ..bucket.generations import whole
from ..bucket.open import open_built
from ..bucket.rows import Stored, is_dead, open_part
from ..bucket.store import FolderStore
from ..codecs import rabitq, sign
from ..codecs.planes import QUERY_ALPHA, Codec, Encoded, Quantizer
from ..codecs.rotations.butterfly import axes_of
from ..filters.declare import compared_type
from ..ingest.arrays import Arrays
from ..ingest.formats.batch import DTYPES
from ..ingest.formats.types import type_called
from ..ingest.rows import Ints, Rows
from ..mutable import MutableIndex
from ..tune.choose import Choice
from ..tune.living import HELD_KEY, Held, caught_up
from ..tune.options import Options

OPTIONS_RENAMED = {"spill": "copies", "spill_share": "copies_share"}  # in the manifests of earlier commits


@dataclass(frozen=True)
class Saved:
    """rows in the order of their source; codes of each block, rows as in Layout.members, None where rows came or went
    since they were made; attributes: the schema; options: what it was built with; held: rows that prices are measured
    by, None before the first compaction; generation: its name.
    """

    rows: Rows
    choice: Choice
    codes: list[Encoded | None]
    attributes: pa.Schema
    options: Options
    held: Held | None
    generation: str

    def mutable(self) -> MutableIndex:
        """The same, to be changed."""
        return MutableIndex(
            self.rows, self.attributes, self.choice, [*self.codes], self.options, self.rows.stored.kind, self.held
        )


def reopen(path: Path) -> Saved:
    """Reads an index in a folder, all of it but for dead rows.

    Raises NotFoundError, InputError for one of an early version, or DamagedError where it is not what was written.
    """
    index = open_built(path)
    root, generation = index.root, index.current.generation
    if root.is_empty:
        raise InputError(f"{path} is empty", hint="write rows to it, and `vantage compact` builds them")
    if root.promises is None:
        raise InputError(f"{path} was built before indexes had promises", hint="build it again")
    manifest = _manifest(path)
    section = root.index
    files = [path / key for key in root.objects.resolve("", generation)]
    parts = sorted({number for number in root.rows.vector_object})
    tables = [pq.read_table(files[number]) for number in parts]
    table = pa.concat_tables(tables).combine_chunks()
    lives = np.flatnonzero(~is_dead(root.dead, np.arange(section.rows)))
    order = lives[np.argsort(table["source_row"].to_numpy()[lives], kind="stable")]  # numbers, as the source had them
    rank = np.full(section.rows, -1)  # of each row number in that order; -1 of dead ones
    rank[order] = np.arange(len(order))
    home = np.empty(len(order), np.int32)
    held = held_of(files, root)
    if held is not None:
        vectors = vectors_of_column(table["vector"], section.vector_kind, section.dimension)
        held = caught_up(held, root, lambda numbers: vectors[numbers].astype(np.float32), manifest["seed"])
    codes, copies, centre_section = _read_blocks(files, root, rank, home)
    records = _attributes(files, root, rank)
    stored = Arrays(
        vectors_of_column(table["vector"], section.vector_kind, section.dimension)[order], section.vector_kind,
        _id_values(table["id"], section.id_kind, order), records,
    )  # fmt: skip
    centres = decode_centres(centre_section, section.dimension)
    layout = Layout(
        Partition(centres, home), copies, section.router, _router(files, root), centre_section, centres,
    )  # fmt: skip
    return Saved(
        Rows(stored, section.metric, np.array(section.origin, np.float32), section.row_scale),
        choice_of(root, manifest, layout),
        codes,
        attributes_of_parts(root, table.schema),
        options_of(root, manifest),
        None if held is None else replace(held.renumbered(rank), numbers=len(order), gone=0),
        generation,
    )


def options_of(root: Root, manifest: dict[str, Any]) -> Options:
    """What an index was built with."""
    kept = Options(
        root.contract.target, root.contract.k, manifest["seed"], manifest["cache_bytes"], manifest["memory_bytes"],
        second_wave=manifest["contract"].get("second_wave", False), codec=root.index.codec,
        error_norms=root.bounds is not None, model=manifest.get("model"),
        filters=tuple(root.names[field.attribute] for field in root.filters),
    )  # fmt: skip
    return replace(kept, **manifest.get("options", {}))


def choice_of(root: Root, manifest: dict[str, Any], layout: Layout) -> Choice:
    """What was chosen for an index, as far as its root tells, with rows laid out like this."""
    assert root.promises is not None
    return Choice(
        layout,
        codec_of(root),
        root.contract,
        root.promises,
        manifest.get("tried", []),
        (float("nan"), float("nan")),
        manifest.get("rotation", {}).get("name"),
        codec_of(root, 1) if len(root.codecs) > 1 else None,
        bool(root.inline),
    )


def attributes_of_parts(root: Root, parts: pa.Schema) -> pa.Schema:
    """The attributes of an index, as they were called when it was built; of types that have no such name as its Parquet
    parts have them, where lists and times are texts.
    """
    compared = {f.attribute: compared_type(f.kind, f.many) for f in root.filters}
    return pa.schema(
        [
            pa.field(a["name"], type_called(a["type"]) or compared.get(i) or parts.field(3 + i).type)
            for i, a in enumerate(root.schema["attributes"])
        ]
    )


def stored_attributes(stored: Stored) -> pa.Schema:
    """The attributes of a generation in a store, as `attributes_of_parts`."""
    with open_part(stored, stored.root.rows.vector_object[0]) as file:
        return attributes_of_parts(stored.root, file.schema_arrow)


def held_of(files: list[Path], root: Root) -> Held | None:
    """The rows held that a compaction has written; None where there are none. files: the objects, by number."""
    file = next((file for file in files if file.name == HELD_KEY), None)
    return None if file is None else Held.unpack(file.read_bytes(), root, str(file))


def _read_blocks(
    files: list[Path], root: Root, rank: Ints, home: npt.NDArray[np.int32]
) -> tuple[list[Encoded | None], npt.NDArray[np.int32], Centres]:
    """(codes of each block as in Saved, blocks of each row's copies as a layout has them, centres); fills in homes i32
    (n).

    files: the objects, by number. rank i64 (N): of each row number, its position in the order of the source, by which
    all is returned; -1 of dead rows.
    """
    index = root.index

    def read(number: int, offset: int, size: int) -> bytes:
        with files[number].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    directory = whole_directory(read, root)
    codes = list[Encoded | None]([None] * index.blocks)
    pairs, centres = [np.empty((0, 2), np.int64)], list[Centre | None]([None] * index.blocks)
    for number, low, high in directory.runs[0]:
        inside = root.objects.keys[number] == ROOT_KEY
        data = np.frombuffer(root.inline, np.uint8) if inside else np.memmap(files[number], np.uint8, "r")
        for i in range(low, high):
            extent, own = directory.extent(i, 0), directory.homes[i]
            b = extent.block
            block = data[extent.offset :][: extent.whole]
            view = memoryview(block.tobytes())
            opened = open_block(
                view, extent.rows, extent.size, root.codec.code_bytes, index.dimension, index.by_row, f"block {b}",
                index.metric,
            )  # fmt: skip
            encoded, rows = codes_of_block(block, opened.at, root.codec.code_bytes)
            at = rank[rows]
            alone = codes[b] is None and centres[b] is None
            order = np.lexsort((at, np.arange(len(at)) >= own))  # a fold has copies by their numbers
            encoded = Encoded(encoded.ranges, encoded.codes[order], encoded.f[order], encoded.h[order])
            codes[b] = encoded if alone and (at >= 0).all() else None
            centres[b] = centre_of(view, opened.at, index.dimension)
            at_home, copied = at[:own], at[own:]
            home[at_home[at_home >= 0]] = b
            copied = copied[copied >= 0]
            pairs.append(np.stack([copied, np.full(len(copied), b)], 1))
    known = [centre for centre in centres if centre is not None]  # each block has an extent
    table = b"".join(bytes(centre.row) for centre in known)
    scale, bias = (memoryview(array("f", column)) for column in list(zip(*known, strict=True))[:2])
    return codes, _copies(np.concatenate(pairs), len(home)), Centres(memoryview(table), scale, bias)


def whole_directory(read: Callable[[int, int, int], bytes], root: Root) -> Directory:
    """The directory of all extents, from the root or from all routing pages; read(object, offset, bytes)."""
    if root.directory is not None:
        return root.directory
    router = root.router
    assert isinstance(router, TwoLevelSection)
    own = []
    for number, offset, size in zip(router.object, router.offset, router.size, strict=True):
        cursor = Cursor(memoryview(read(number, offset, size)), "a routing page")
        blocks = router.columns(cursor, root.index)[0]
        own.append(router.directory(cursor, blocks, len(root.renditions), root.objects.sizes))
    return joined(own, root.objects.sizes, "the routing pages")


def _attributes(files: list[Path], root: Root, rank: Ints) -> list[bytes]:
    """The JSON of each row's attributes, by `rank`; of dead rows none."""
    records, pages = [b"[]"] * root.live_rows, root.rows
    for page in range(len(pages.fact_crc)) if root.names else ():
        low, high = pages.first_row[page], pages.first_row[page + 1]
        with files[pages.fact_object[page]].open("rb") as file:
            file.seek(pages.fact_offset[page])
            facts = file.read(facts_bytes(high - low, True))[CHECK_BYTES * (high - low) :]
        with files[pages.attribute_object[page]].open("rb") as file:
            for row in (low + np.flatnonzero(rank[low:high] >= 0)).tolist():
                spot = spot_at(facts, high - low, row - low)
                file.seek(pages.attribute_offset[page] + spot.offset)
                records[rank[row]] = file.read(spot.size)
    return records


def codec_of(root: Root, number: int = 0) -> Codec:
    """A codec of an index, to encode more rows with: its quantizers as the tables of the section say.

    Levels are the stored f32, so that what is encoded again may differ in a last bit from the first time.
    """
    section, name, directions = root.codecs[number], root.index.codec, axes_of(root.rotation)
    if len(root.codecs) > 1:  # the others may use more axes
        section, kept = _own_axes(section)
        directions = directions[kept]
    parts: dict[tuple[int, int], tuple[list[int], list[npt.NDArray[np.float64]]]] = {}
    levels, fields = np.asarray(section.levels, np.float64), list(FIELD.iter_unpack(section.fields))
    for nibble in range(2 * section.code_bytes):
        for axis, shift, width, at in fields[section.starts[nibble] : section.starts[nibble + 1]]:
            on, columns = parts.setdefault((nibble, shift), ([], []))
            on.append(axis)
            columns.append(levels[at : at + (1 << width)])
    together: dict[tuple[int, ...], list[tuple[tuple[int, int], npt.NDArray[np.float64]]]] = {}
    for position, (on, columns) in parts.items():
        together.setdefault(tuple(on), []).append((position, np.stack(columns, 1)))
    deviation = np.asarray(section.deviation, np.float32)
    same: dict[tuple[bytes, ...], tuple[npt.NDArray[np.float64], ...]] = {}  # equal tables are looked up together
    quantizers, positions = [], []
    for axes, own in sorted(together.items()):
        own.sort(key=lambda one: -float(np.ptp(one[1], axis=0).max()))  # the coarse part first
        tables = tuple(table for _, table in own)
        weight = None
        if name == "lrsq" and len(axes) > 1:
            weight = deviation[list(axes)].astype(np.float64) ** (2 * (1 + QUERY_ALPHA))
            weight /= weight.max()
        quantizers.append(Quantizer(axes, same.setdefault(tuple(t.tobytes() for t in tables), tables), weight))
        positions.append([position for position, _ in own])
    several = name == "rabitq" and any(len(q.parts) > 1 or len(q.parts[0]) > 2 for q in quantizers)
    return Codec(
        name, np.ascontiguousarray(directions, np.float32), deviation, quantizers, positions, section, root.rotation,
        rabitq.SCALES if several else (1.0,), sign.span_of(directions) if name in ("sign", "ecvh") else None,
    )  # fmt: skip


def _own_axes(section: LrsqSection) -> tuple[LrsqSection, Ints]:
    """The same section over the axes that its fields are of, and which those are."""
    table = list(FIELD.iter_unpack(section.fields))
    own = np.unique([axis for axis, _, _, _ in table])
    number = {int(axis): i for i, axis in enumerate(own)}
    fields = b"".join(FIELD.pack(number[axis], *rest) for axis, *rest in table)
    return replace(section, fields=fields, deviation=[section.deviation[axis] for axis in own.tolist()]), own


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest, once every object is what it says."""
    _, objects, text = whole(path)
    for o in objects:
        if FolderStore(path).digest(o.key) != (o.size, o.sha256):
            raise DamagedError(f"{path / o.key}: is not what was written", hint="publish the index again")
    return with_new_names(json.loads(text))


def with_new_names(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest by the names of today, where an earlier commit of the same format has written it by others."""
    contract = dict(manifest["contract"])
    if "stop" in contract:
        contract["second_wave"] = contract.pop("stop") == "calibrated"
    options = manifest.get("options", manifest.get("asked", {}))
    options = {OPTIONS_RENAMED.get(name, name): value for name, value in options.items()}
    return {name: value for name, value in manifest.items() if name != "asked"} | {
        "contract": contract, "options": options,
    }  # fmt: skip


def codes_of_block(block: npt.NDArray[np.uint8], at: BlockPlanes, width: int) -> tuple[Encoded, Ints]:
    """What encode_blocks gave for a block, and the numbers of its rows."""
    n = at.n
    grouped = block[at.codes : at.f].reshape(-1, width, 16)
    low, step, h_low, h_step = np.frombuffer(block[RANGES_AT : RANGES_AT + 16].tobytes(), "<f4").tolist()
    rows = np.frombuffer(block[at.rows : at.rows + 4 * n].tobytes(), "<u4").astype(np.int64)
    codes = np.ascontiguousarray(grouped.transpose(0, 2, 1).reshape(-1, width)[:n])
    return Encoded((low, step, h_low, h_step), codes, block[at.f :][:n].copy(), block[at.h :][:n].copy()), rows


def _copies(pairs: Ints, rows: int) -> npt.NDArray[np.int32]:
    """i32 (N, E) of pairs (row, block)."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    turn = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
    out = np.full((rows, int(turn.max(initial=-1)) + 1), -1, np.int32)
    out[pairs[:, 0], turn] = pairs[:, 1]
    return out


def _router(files: list[Path], root: Root) -> Any:
    """The router's section, with its pages, which are without directories again."""
    router = root.router
    if not isinstance(router, TwoLevelSection):
        return router
    pages = []
    for number, offset, size in zip(router.object, router.offset, router.size, strict=True):
        with files[number].open("rb") as file:
            file.seek(offset)
            page = file.read(size)
        cursor = Cursor(memoryview(page), "a routing page")
        router.columns(cursor, root.index)
        pages.append(page[: cursor.at])
    return replace(router, pages=tuple(pages))


def vectors_of_column(column: pa.ChunkedArray, kind: str, dimension: int) -> npt.NDArray[Any]:
    chunks = [np.frombuffer(c.buffers()[1], np.uint8)[c.offset * dimension :][: len(c) * dimension]
              if kind in ("u8", "i8") else np.asarray(c.flatten()) for c in column.chunks]  # fmt: skip
    return np.concatenate(chunks).view(DTYPES[kind]).reshape(-1, dimension)


def _id_values(column: pa.ChunkedArray, kind: str, order: Ints) -> Ints | list[bytes]:
    if kind == "i64":
        numbers: Ints = column.to_numpy()[order]
        return numbers
    values = column.to_pylist()
    return [values[i] for i in order.tolist()]
