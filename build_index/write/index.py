"""A choice -> the objects of a generation in a folder; nothing looks whole until it is."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError, LimitError
from vantage.format import (
    ATTRIBUTES,
    BLOCKS_FREE,
    READ_BYTES_MAX,
    ROOT_BYTES_MAX,
    SCAN,
    VECTOR_BYTES,
    Bounds,
    Current,
    Directory,
    Objects,
    Root,
    TwoLevelSection,
    VectorPages,
    aligned,
    block_planes,
    pack_block,
    pack_ids,
)

from ..blocks.shape import Shape, index_section
from ..bucket.store import alone
from ..codecs.error_norms import Lengths, error_norms
from ..codecs.planes import Encoded, encode_blocks
from ..ingest.attributes import BLOCK_BYTES_MAX, are_long, pieces, schema_of
from ..ingest.rows import Ints, Rows
from ..simulate.measure import CHUNK_BYTES, chunks
from ..tune.choose import Choice
from .ids import ids_as_bytes, write_ids
from .publish import BUILDING, make_live
from .shard import ShardWriter, sync
from .vectors import TOLD_BYTES, stored_values, write_vectors

SHARD_BYTES = 256 << 20

# (first block, after the last, source rows of these blocks, where each begins and the last ends) -> their codes
Encode = Callable[[int, int, Ints, list[int]], list[Encoded]]


def encoder(rows: Rows, choice: Choice) -> Encode:
    """Encodes the blocks it is asked for."""
    centres = choice.shape.centres

    def encode(low: int, high: int, source: Ints, starts: list[int]) -> list[Encoded]:
        return encode_blocks(choice.codec, rows.take(source), starts, centres[low:high], rows.metric)

    return encode


def write_index(
    rows: Rows,
    attributes: pa.Schema,
    choice: Choice,
    out: Path,
    vector_kind: str,
    manifest: dict[str, Any],
    progress: Callable[[float], None],
    *,
    norms: bool = False,
    encode: Encode | None = None,
    locked: bool = False,
) -> tuple[Current, int]:
    """Writes a generation under the folder `out` and makes it live; (CURRENT, bytes of all objects).

    All is written into `.building` and renamed when it is whole; CURRENT is replaced last. A build that dies leaves the
    index as it was. norms: with error norms, for exact answers. encode: where codes come from that are known already.
    locked: the caller is `alone` in the folder. Raises InputError when the disk is full, f16 cannot hold a value,
    something else is writing there, or a reader would refuse the index.
    """
    building = out / BUILDING
    try:
        with nullcontext() if locked else alone(out):
            try:
                shutil.rmtree(building, ignore_errors=True)
                (building / "vectors").mkdir(parents=True)
                return _write(rows, attributes, choice, out, building, vector_kind, manifest, progress, norms, encode)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


def _write(
    rows: Rows,
    attributes: pa.Schema,
    choice: Choice,
    out: Path,
    building: Path,
    vector_kind: str,
    manifest: dict[str, Any],
    progress: Callable[[float], None],
    norms: bool,
    encode: Encode | None,
) -> tuple[Current, int]:
    shape, codec, encode = choice.shape, choice.codec, encode or encoder(rows, choice)
    members, blocks = shape.members(), shape.blocks
    home_counts = np.bincount(shape.partition.home, minlength=blocks)
    first_row = np.concatenate([[0], np.cumsum(home_counts)])
    number = np.empty(rows.count, np.uint32)  # source row -> row number
    home_rows = np.concatenate([m[:h] for m, h in zip(members, home_counts, strict=True)])
    number[home_rows] = np.arange(rows.count, dtype=np.uint32)
    checks = np.empty(rows.count, np.uint32)  # by source row
    width = VECTOR_BYTES[vector_kind] * rows.dimension
    sizes = shape.sizes()
    own = rows.stored.attribute_sizes()[home_rows] if len(attributes) else np.zeros(rows.count, np.int64)
    told = 4 * (home_counts + 1) + _sums(own, first_row) if len(attributes) else np.zeros(blocks, np.int64)
    by_row = are_long(rows.stored, attributes.names) or bool(told.max() > BLOCK_BYTES_MAX)
    check_blocks(sizes, rows.count, codec.code_bytes, by_row)
    if told.max() >= 1 << 32:
        raise InputError(
            f"block {told.argmax()} has {told.max():,} bytes of attributes, an index keeps up to 4 GiB a block",
            hint="leave long columns out with --attributes, or split the rows over several indexes",
        )
    spots = _spots(own, first_row, home_counts) if by_row else None

    parts, pages = write_vectors(
        rows, attributes, home_rows, own, vector_kind, building, checks, spots, lambda s: progress(0.4 * s)
    )

    columns = {name: np.zeros(blocks, np.uint64) for name in ("offset", "size", "crc", "a_offset", "a_size", "a_crc")}
    shard_blocks, shard_sizes = [0], []
    shard = ShardWriter(building, 0)
    radius = array("f")

    def finish(last: int) -> None:
        total, attributes_at = shard.close()
        part = slice(shard_blocks[-1], last)
        columns["offset"][part] += np.uint64(shard.start)
        columns["a_offset"][part] += np.uint64(attributes_at if len(attributes) else 0)
        shard_sizes.append(total)
        shard_blocks.append(last)

    for low, high in chunks(members, CHUNK_BYTES // (4 * rows.dimension)):
        source = np.concatenate(members[low:high])
        starts = np.concatenate([[0], np.cumsum([len(m) for m in members[low:high]])]).tolist()
        encoded = encode(low, high, source, starts)
        ids = ids_as_bytes(rows, source)
        lengths = _lengths(rows, choice, encoded, source, slice(low, high), vector_kind) if norms else []
        radius.extend(block.radius for block in lengths)
        for i, b in enumerate(range(low, high)):
            part, n = slice(starts[i], starts[i + 1]), starts[i + 1] - starts[i]
            pad = bytes(4 * (aligned(n, 16) - n))
            id_width, id_plane = pack_ids(ids[part]) if rows.stored.id_kind == "bytes" else (8, b"".join(ids[part]))
            planes = [*encoded[i].planes(), number[source[part]].tobytes() + pad, checks[source[part]].tobytes() + pad]
            if spots is not None:
                planes += [column.tobytes() + pad for column in spots[number[source[part]]].T]
            data = pack_block(n, id_width, encoded[i].ranges, planes, id_plane)
            data += lengths[i].plane if norms else b""
            if len(data) > READ_BYTES_MAX:
                raise _too_long(b, n, len(data))
            if shard.size[SCAN] and shard.size[SCAN] + len(data) + shard.size[ATTRIBUTES] > SHARD_BYTES:
                finish(b)
                shard = ShardWriter(building, len(shard_sizes))
            columns["offset"][b], columns["size"][b], columns["crc"][b] = shard.add(SCAN, [data])
            if len(attributes):
                body = _attributes(rows, members[b][: home_counts[b]], own[first_row[b] : first_row[b + 1]])
                columns["a_offset"][b], columns["a_size"][b], columns["a_crc"][b] = shard.add(ATTRIBUTES, body)
        progress(0.4 + 0.6 * high / blocks)
    finish(blocks)

    id_pages, ids_size = write_ids(rows, home_rows, checks, spots, building / "ids.bin")
    u32 = {name: memoryview(array("I", column.tolist())) for name, column in columns.items() if "offset" not in name}
    u64 = {name: memoryview(array("Q", columns[name].tolist())) for name in ("offset", "a_offset")}
    root = Root(
        index_section(rows, blocks, int(sizes.sum()), shape.router, len(shard_sizes), vector_kind, codec.name, by_row),
        {"attributes": schema_of(attributes)}
        | {name: manifest[name] for name in ("model",) if name in manifest},
        Objects(shard_sizes, [p.stat().st_size for p in parts], ids_size),
        Directory(
            memoryview(array("I", shard_blocks)), memoryview(array("I", first_row.tolist())), u64["offset"],
            u32["size"], memoryview(array("I", sizes.tolist())), u32["crc"], u64["a_offset"],
            u32["a_size"], u32["a_crc"],
        ),
        shape.centre_section,
        codec.rotation,
        shape.section,
        codec.section,
        choice.contract,
        VectorPages(
            memoryview(array("I", [p for p, _, _ in pages])), memoryview(array("Q", [o for _, _, o in pages])),
            memoryview(array("I", [*(r for _, r, _ in pages), rows.count])),
        ),
        id_pages,
        choice.stop,
        Bounds(memoryview(radius), memoryview(array("f", np.linalg.norm(_exact_centres(shape), axis=1).tolist())))
        if norms
        else None,
    )  # fmt: skip
    packed = root.pack()
    if len(packed) > ROOT_BYTES_MAX:
        raise LimitError(
            "the size of root.bin", len(packed), ROOT_BYTES_MAX, hint="split the rows over several indexes"
        )
    Root.unpack(packed, "root.bin")  # what is written is what a reader takes
    assert pages[0][2] + width <= parts[0].stat().st_size
    with (building / "root.bin").open("wb") as file:
        file.write(packed)
        sync(file)
    if isinstance(shape.section, TwoLevelSection):
        with (building / "routing.bin").open("wb") as file:
            file.write(shape.section.pages)
            sync(file)
    return make_live(out, building, manifest)


def _sums(sizes: Ints, first_row: Ints) -> Ints:
    """int64 (B): sums of the sizes (N) of each block's home rows."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.diff(ends[first_row])


def check_blocks(sizes: Ints, rows: int, code_bytes: int, by_row: bool) -> None:
    """Raises InputError where a reader would refuse an index of so many rows whose blocks have sizes (B)."""
    if len(sizes) > max(BLOCKS_FREE, rows):
        raise InputError(f"{len(sizes)} blocks for {rows} rows", hint="fit again: so many rows were removed")
    widest = int(sizes.max())
    least = block_planes(widest, code_bytes, by_row).ids + widest
    if least > READ_BYTES_MAX:
        raise _too_long(int(sizes.argmax()), widest, least)


def _too_long(block: int, rows: int, nbytes: int) -> InputError:
    return InputError(
        f"block {block} has {rows:,} rows and {nbytes:,} bytes, a reader takes {READ_BYTES_MAX:,}",
        hint="leave --partition and --spill-share out, give shorter ids, or fit again with the rows that were added",
    )


def _spots(own: Ints, first_row: Ints, home_counts: Ints) -> npt.NDArray[np.uint32]:
    """u32 (N, 3), by row number: where attributes of these sizes are in the blocks; CRC-32C still 0."""
    ends = np.concatenate([[0], np.cumsum(own)])[:-1]
    block = np.repeat(np.arange(len(home_counts)), home_counts)
    spots = np.zeros((len(own), 3), np.uint32)
    spots[:, 0] = ends - ends[first_row[block]] + 4 * (home_counts[block] + 1)
    spots[:, 1] = own
    return spots


def _attributes(rows: Rows, source: Ints, own: Ints) -> Iterator[bytes]:
    """The attribute block of these home rows, whose JSON has so many bytes each, in pieces."""
    yield np.concatenate([[0], np.cumsum(own)]).astype("<u4").tobytes()
    for low, high in pieces(own, TOLD_BYTES):
        yield b"".join(rows.stored.attributes(source[low:high]))


def _exact_centres(shape: Shape) -> npt.NDArray[np.float64]:
    """The stored centres (B, d) without the rounding to f32 that encoding gives them."""
    section, dimension = shape.centre_section, shape.centres.shape[1]
    table = np.frombuffer(section.table, np.int8).reshape(shape.blocks, -1)[:, :dimension]
    return table.astype(np.float64) * np.asarray(section.scale, np.float64)[:, None]


def _lengths(
    rows: Rows, choice: Choice, encoded: list[Encoded], source: Ints, blocks: slice, kind: str
) -> list[Lengths]:
    """Error norms of blocks with the source rows `source`, to the full vectors as they are stored."""
    x = stored_values(rows.stored.gather(source), kind, source).astype(np.float64)
    if rows.metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    else:
        x = (x - rows.origin if rows.metric == "l2" else x) * rows.scale
    shape, codec = choice.shape, choice.codec
    bias = np.asarray(shape.centre_section.bias, np.float64)[blocks]
    return error_norms(codec.section, codec.axes, encoded, x, _exact_centres(shape)[blocks], bias, rows.metric)
