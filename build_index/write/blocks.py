"""Writes the blocks of a generation: codes, row numbers, checksums and ids of each, and the attributes of its rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vantage.format import Directory, aligned, pack_block, pack_ids

from ..blocks.layout import exact_centres
from ..codecs.error_norms import Lengths, error_norms
from ..codecs.planes import Encoded
from ..ingest.attributes import pieces
from ..ingest.rows import Ints
from ..progress import Progress
from ..simulate.measure import CHUNK_BYTES, chunks
from .contents import Contents, RowTable, check_block
from .ids import ids_as_bytes
from .shard import Shards
from .vectors import JSON_BYTES, stored_values


def write_blocks(
    contents: Contents, table: RowTable, folder: Path, norms: bool, progress: Progress
) -> tuple[Directory, list[int], array[float]]:
    """Writes every block into shards in the folder; (directory, bytes of the shards, with norms the blocks' radii).

    norms: blocks end with error norms, for exact answers. Raises InputError for a block that no reader takes.
    """
    rows, encode = contents.rows, contents.encoder()
    shards, radius = Shards(folder, len(table.members), bool(len(contents.attributes))), array("f")
    for low, high in chunks(table.members, CHUNK_BYTES // (4 * rows.dimension)):
        source = np.concatenate(table.members[low:high])
        starts = np.concatenate([[0], np.cumsum([len(m) for m in table.members[low:high]])]).tolist()
        encoded = encode(low, high, source, starts)
        ids = ids_as_bytes(rows, source)
        lengths = _lengths(contents, encoded, source, slice(low, high)) if norms else []
        radius.extend(block.radius for block in lengths)
        for i, block in enumerate(range(low, high)):
            part = slice(starts[i], starts[i + 1])
            data = _pack(contents, table, encoded[i], source[part], ids[part])
            data += lengths[i].plane if norms else b""
            check_block(block, part.stop - part.start, len(data))
            shards.add(block, data, _attributes(contents, table, block))
        progress(high / len(table.members))
    return *shards.close(table.first_row, contents.choice.layout.sizes()), radius


def _pack(contents: Contents, table: RowTable, encoded: Encoded, source: Ints, ids: list[bytes]) -> bytes:
    """A block of these source rows (n), without its error norms."""
    n, number = len(source), table.number[source]
    pad = bytes(4 * (aligned(n, 16) - n))
    id_width, id_plane = pack_ids(ids) if contents.rows.stored.id_kind == "bytes" else (8, b"".join(ids))
    planes = [*encoded.planes(), number.tobytes() + pad, table.checks[number].tobytes() + pad]
    if table.spots is not None:
        planes += [column.tobytes() + pad for column in table.spots[number].T]
    return pack_block(n, id_width, encoded.ranges, planes, id_plane)


def _attributes(contents: Contents, table: RowTable, block: int) -> Iterator[bytes]:
    """The attributes of a block's home rows in pieces: where each row's JSON ends, then the texts."""
    source, own = table.attributes_of(block)
    yield np.concatenate([[0], np.cumsum(own)]).astype("<u4").tobytes()
    for low, high in pieces(own, JSON_BYTES):
        yield b"".join(contents.rows.stored.attributes(source[low:high]))


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
