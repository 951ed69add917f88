"""Writes the blocks of a generation in all renditions: codes, row numbers, checksums, ids, and the planes of each."""

from __future__ import annotations

from array import array

import numpy as np

from vantage.format import (
    ATTRIBUTES_PLANE,
    NORMS_PLANE,
    Centre,
    Directory,
    aligned,
    pack_attributes,
    pack_block,
    pack_ids,
)

from ..blocks.layout import centre_at, exact_centres
from ..codecs.error_norms import Lengths, error_norms
from ..codecs.planes import Encoded
from ..ingest.rows import Ints
from ..progress import Progress
from ..simulate.measure import CHUNK_BYTES, chunks
from .contents import Contents, RowTable, check_block
from .ids import ids_as_bytes
from .objects import ObjectList
from .shard import Inline, Shards
from .vectors import stored_values


def write_blocks(
    contents: Contents, table: RowTable, objects: ObjectList, norms: bool, progress: Progress
) -> tuple[Directory, array[float], bytes]:
    """Writes every block into shards; (directory, with norms the blocks' radii, the blocks that the root is to hold).

    norms: blocks end with error norms, for exact answers. Raises InputError for a block that no reader takes.
    """
    rows, encoders, radius = contents.rows, contents.encoders(), array("f")
    blocks = len(table.members)
    shards: list[Shards | Inline] = []
    if contents.choice.inline:
        shards.append(Inline(objects, blocks))
    else:
        shards += [Shards(objects, r, blocks) for r in range(len(table.renditions))]
    inside = any(rendition.attributes for rendition in table.renditions)
    for low, high in chunks(table.members, CHUNK_BYTES // (4 * rows.dimension)):
        source = np.concatenate(table.members[low:high])
        starts = np.concatenate([[0], np.cumsum([len(m) for m in table.members[low:high]])]).tolist()
        encoded = [encode(low, high, source, starts) for encode in encoders]
        ids, texts = ids_as_bytes(rows, source), rows.stored.attributes(source) if inside else []
        lengths = _lengths(contents, encoded[0], source, slice(low, high)) if norms else []
        radius.extend(block.radius for block in lengths)
        for i, block in enumerate(range(low, high)):
            part = slice(starts[i], starts[i + 1])
            planes = [(NORMS_PLANE, lengths[i].plane)] if norms else []
            attributes = [(ATTRIBUTES_PLANE, pack_attributes(texts[part]))] if inside else []
            centre = centre_at(contents.choice.layout.centre_section, block)
            for rendition, writer in zip(table.renditions, shards, strict=True):
                first = rendition == table.renditions[0]
                own = planes * first + (attributes if rendition.attributes else [])
                data, size = _pack(contents, table, encoded[rendition.codec][i], centre, source[part], ids[part], own)
                check_block(block, part.stop - part.start, len(data))
                writer.add(block, data, size)
        progress(high / len(table.members))
    directory = Directory(
        array("I", range(blocks)), array("I", contents.choice.layout.sizes().tolist()),
        array("I", table.homes.tolist()), tuple(writer.close() for writer in shards),
    )  # fmt: skip
    return directory, radius, b"".join(bytes(writer.data) for writer in shards if isinstance(writer, Inline))


def _pack(
    contents: Contents,
    table: RowTable,
    encoded: Encoded,
    centre: Centre,
    source: Ints,
    ids: list[bytes],
    planes: list[tuple[int, bytes]],
) -> tuple[bytes, int]:
    """(a block of these source rows (n), its bytes without planes)."""
    n, number = len(source), table.number[source]
    pad = bytes(4 * (aligned(n, 16) - n))
    id_width, id_plane = pack_ids(ids) if contents.rows.stored.id_kind == "bytes" else (8, b"".join(ids))
    columns = [*encoded.planes(), number.tobytes() + pad, table.checks[number].tobytes() + pad]
    if table.by_row:
        columns += [column.tobytes() + pad for column in table.spots[number].T]
    return pack_block(n, id_width, encoded.ranges, centre, columns, id_plane, planes)


def _lengths(contents: Contents, encoded: list[Encoded], source: Ints, blocks: slice) -> list[Lengths]:
    """Error norms of blocks with the source rows `source`, to the full vectors as they are stored."""
    rows, layout, codec = contents.rows, contents.choice.layout, contents.choice.codec
    x = stored_values(rows.stored.gather(source), contents.vector_kind, source).astype(np.float64)
    if rows.metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    else:
        x = (x - rows.origin if rows.metric == "l2" else x) * rows.scale
    centres = exact_centres(layout.centre_section, rows.dimension, blocks)
    bias = np.asarray(layout.centre_section.bias, np.float64)[blocks]
    return error_norms(codec.section, codec.axes, encoded, x, centres, bias, rows.metric)
