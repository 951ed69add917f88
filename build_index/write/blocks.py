"""Writes the blocks of a generation in all renditions: codes, row numbers, checksums, ids, and the planes of each."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.format import (
    ATTRIBUTES_PLANE,
    COLUMNS_PLANE,
    NORMS_PLANE,
    Centre,
    Centres,
    Directory,
    Rendition,
    aligned,
    pack_attributes,
    pack_block,
    pack_columns,
    pack_ids,
)

from ..blocks.layout import centre_at, exact_centres
from ..codecs.error_norms import Lengths, error_norms
from ..codecs.planes import Codec, Encoded, encode_blocks
from ..filters.codes import RowCodes
from ..filters.columns import U8, Column, lists_of
from ..ingest.rows import F32, Ints, Rows
from ..progress import Progress
from ..simulate.measure import CHUNK_BYTES, chunks
from ..tasks.tasks import Lazy
from .contents import U32, Contents, RowTable, check_block
from .ids import ids_as_bytes
from .objects import ObjectList
from .shard import Inline, Shards
from .vectors import stored_values


@dataclass(frozen=True)
class _Packing:
    """What all blocks are packed by; see Contents and RowTable. centres f32 (B, d): as stored. attributes: blocks have
    those of their rows. norms: and error norms.
    """

    rows: Rows
    vector_kind: str
    codecs: tuple[Codec, ...]
    centre_section: Centres
    centres: F32
    renditions: tuple[Rendition, ...]
    by_row: bool
    attributes: bool
    norms: bool


@dataclass(frozen=True)
class _Piece:
    """Blocks from `low` on with the rows source i64 (n), that begin at starts. By these rows: stored, checks u32 (n),
    spots u32 (n, 3), none where blocks have none. codes: of each codec, None where they are still to be made.
    columns: of each field whether its values are lists, and the keys of these rows as Column.some has them; None where
    blocks have no column.
    """

    low: int
    source: Ints
    starts: list[int]
    stored: U32
    checks: U32
    spots: U32
    codes: list[list[Encoded] | None]
    columns: list[tuple[bool, npt.NDArray[np.signedinteger], U8] | None]


def write_blocks(
    contents: Contents,
    table: RowTable,
    columns: list[Column],
    objects: ObjectList,
    norms: bool,
    kept: RowCodes | None,
    progress: Progress,
) -> tuple[Directory, array[float], bytes]:
    """Writes every block into shards; (directory, with norms the blocks' radii, the blocks that the root is to hold).

    norms: blocks end with error norms, for exact answers. kept: takes the codes of rows as they are written. Raises
    InputError for a block that no reader takes.
    """
    rows, layout, radius = contents.rows, contents.choice.layout, array("f")
    blocks, codecs = len(table.members), contents.codecs()
    shards: list[Shards | Inline] = []
    if contents.choice.inline:
        shards.append(Inline(objects))
    else:
        shards += [Shards(objects, r) for r in range(len(table.renditions))]
    packing = _Packing(
        rows, contents.vector_kind, codecs, layout.centre_section, layout.centres, table.renditions, table.by_row,
        any(rendition.attributes for rendition in table.renditions), norms,
    )  # fmt: skip
    ranges = chunks(table.members, CHUNK_BYTES // (4 * rows.dimension))

    def piece(number: int) -> _Piece:
        low, high = ranges[number]
        source = np.concatenate(table.members[low:high])
        starts = np.concatenate([[0], np.cumsum([len(m) for m in table.members[low:high]])]).tolist()
        of = table.number[source]
        spots = table.spots[of] if table.by_row else np.zeros((0, 3), np.uint32)
        codes = [contents.codes_of(codec, low, high, source, starts) for codec in codecs]
        keys = [(c.field.many, *c.some(source)) if c.field.in_blocks else None for c in columns]
        return _Piece(low, source, starts, table.stored[of], table.checks[of], spots, codes, keys)

    made = rows.tasks.map(_pack, packing, Lazy(len(ranges), piece), progress, keep=False)
    begins = np.cumsum(table.homes) - table.homes
    for (low, _), (radii, *packed) in zip(ranges, made, strict=True):
        radius.extend(radii.tolist())
        if kept is not None:
            kept.keep(low, packed[0], packed[2].astype(np.int64), begins, table, rows.dimension)
        for writer, data, size, whole in zip(shards, packed[::3], packed[1::3], packed[2::3], strict=True):
            ends = np.cumsum(whole).tolist()
            for start, end, own in zip([0, *ends], ends, size.tolist(), strict=False):
                writer.add(data[start:end].tobytes(), own)
    directory = Directory(
        array("I", range(blocks)), array("I", layout.sizes().tolist()), array("I", table.homes.tolist()),
        tuple(writer.close() for writer in shards),
    )  # fmt: skip
    return directory, radius, b"".join(bytes(writer.data) for writer in shards if isinstance(writer, Inline))


def _pack(packing: _Packing, piece: _Piece) -> tuple[npt.NDArray[Any], ...]:
    """(radii f32 of the blocks, none without norms; then for each rendition all their bytes u8, and u64 of each block
    how many are before its planes, and how many in all).
    """
    rows, starts, source = packing.rows, piece.starts, piece.source
    blocks = slice(piece.low, piece.low + len(starts) - 1)
    encoded = [
        encode_blocks(codec, rows.take(source), starts, packing.centres[blocks], rows.metric)
        if known is None
        else known
        for codec, known in zip(packing.codecs, piece.codes, strict=True)
    ]
    ids, texts = ids_as_bytes(rows, source), rows.stored.attributes(source) if packing.attributes else []
    lengths = _lengths(packing, encoded[0], source, blocks) if packing.norms else []
    columns_of = [one and (one[0], lists_of(*one[1:])) for one in piece.columns]
    out: list[list[tuple[bytes, int]]] = [[] for _ in packing.renditions]
    for i, (low, high) in enumerate(zip(starts, starts[1:], strict=False)):
        part = slice(low, high)
        planes = [(NORMS_PLANE, lengths[i].plane)] if packing.norms else []
        keys = [(COLUMNS_PLANE, pack_columns([one and (one[0], one[1][part]) for one in columns_of]))]
        attributes = [(ATTRIBUTES_PLANE, pack_attributes(texts[part]))] if packing.attributes else []
        centre = centre_at(packing.centre_section, piece.low + i)
        for rendition, made in zip(packing.renditions, out, strict=True):
            first = rendition == packing.renditions[0]
            own = keys * bool(piece.columns) + planes * first + (attributes if rendition.attributes else [])
            data, size = _pack_block(packing, piece, encoded[rendition.codec][i], centre, part, ids[part], own)
            check_block(piece.low + i, high - low, len(data))
            made.append((data, size))
    columns = [np.array([block.radius for block in lengths], np.float32)]
    for made in out:
        columns.append(np.frombuffer(b"".join(data for data, _ in made), np.uint8))
        columns += [np.array([size for _, size in made], np.uint64)]
        columns += [np.array([len(data) for data, _ in made], np.uint64)]
    return tuple(columns)


def _pack_block(
    packing: _Packing,
    piece: _Piece,
    encoded: Encoded,
    centre: Centre,
    part: slice,
    ids: list[bytes],
    planes: list[tuple[int, bytes]],
) -> tuple[bytes, int]:
    """(the block of this part of the rows, its bytes without planes)."""
    n = part.stop - part.start
    pad = bytes(4 * (aligned(n, 16) - n))
    id_width, id_plane = pack_ids(ids) if packing.rows.stored.id_kind == "bytes" else (8, b"".join(ids))
    columns = [*encoded.planes(), piece.stored[part].tobytes() + pad, piece.checks[part].tobytes() + pad]
    if packing.by_row:
        columns += [column.tobytes() + pad for column in piece.spots[part].T]
    return pack_block(n, id_width, encoded.ranges, centre, columns, id_plane, planes)


def _lengths(packing: _Packing, encoded: list[Encoded], source: Ints, blocks: slice) -> list[Lengths]:
    """Error norms of blocks with the source rows `source`, to the full vectors as they are stored."""
    rows, codec = packing.rows, packing.codecs[0]
    x = stored_values(rows.stored.gather(source), packing.vector_kind, source).astype(np.float64)
    if rows.metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    else:
        x = (x - rows.origin if rows.metric == "l2" else x) * rows.scale
    centres = exact_centres(packing.centre_section, rows.dimension, blocks)
    bias = np.asarray(packing.centre_section.bias, np.float64)[blocks]
    return error_norms(codec.section, codec.axes, encoded, x, centres, bias, rows.metric)
