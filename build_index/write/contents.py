"""What a generation is written from: rows, the choice and what is known already; and every row's number in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError
from vantage.format import BLOCKS_FREE, READ_BYTES_MAX, Rendition, block_planes

from ..codecs.planes import Codec, Encoded
from ..ingest.attributes import BLOCK_BYTES_MAX, are_long, pieces
from ..ingest.rows import Ints, Rows
from ..tune.choose import Choice
from ..tune.living import Held

U32 = npt.NDArray[np.uint32]

PAGE_ROWS = 8192  # at most: a page of rows is one Parquet row group, whose vector column is one page
PAGE_BYTES = 16 << 20  # of them as float32
JSON_BYTES = 32 << 20  # of attributes as JSON, that are held at a time

# (first block, after the last, source rows of these blocks, where each begins and the last ends) -> their codes
Encode = Callable[[int, int, Ints, list[int]], list[Encoded]]


@dataclass(frozen=True)
class Contents:
    """Rows with their attributes, and the choice that says where and how each of them is kept.

    vector_kind: of the stored full vectors. manifest: what manifest.json says, but for its generation and objects.
    encode: where codes of the first codec come from, where they are known already. text_room: keys of texts have room
    between them for texts to come. held: the rows that prices are measured by again, by source row; None: those of
    the choice stay.
    """

    rows: Rows
    attributes: pa.Schema
    choice: Choice
    vector_kind: str
    manifest: dict[str, Any]
    encode: Encode | None = None
    text_room: bool = False
    held: Held | None = None

    def codecs(self) -> tuple[Codec, ...]:
        """Of the blocks; renditions name them by number."""
        return (self.choice.codec,) if self.choice.longer is None else (self.choice.codec, self.choice.longer)

    def codes_of(self, codec: Codec, low: int, high: int, source: Ints, starts: list[int]) -> list[Encoded] | None:
        """Codes of blocks low up to high (excluded), as in Encode, where they are known."""
        if codec is self.choice.codec and self.encode is not None:
            return self.encode(low, high, source, starts)
        kept = next((codes for codes in self.choice.codes if codes.codec is codec and codes.complete), None)
        return None if kept is None else kept.get(low, high)


@dataclass(frozen=True)
class RowTable:
    """Every row by its position, which is its order in the files: by home block, and by source row within it.

    members: source rows of each block, its home rows first. homes i64 (B): how many of these. source i64 (N): source
    row of each position; number u32 (N): the inverse. pages: [low, high) of the positions of each page. By position:
    attribute_bytes i64 (N), 0 without attributes; checks u32 (N), the CRC-32C of the stored vector, filled in as
    vectors are written; spots u32 (N, 3), where the attributes lie in those of their page, their bytes and their
    CRC-32C, the last filled in too; stored u32 (N), the number that the row has in the index: its position, where these
    are all rows. by_row: scan blocks have spots. renditions: of the blocks, one alone where the root holds them.
    """

    members: list[Ints]
    homes: Ints
    source: Ints
    number: U32
    pages: list[tuple[int, int]]
    attribute_bytes: Ints
    checks: U32
    spots: U32
    stored: U32
    by_row: bool
    renditions: tuple[Rendition, ...]

    @property
    def count(self) -> int:
        return len(self.source)


def row_table(contents: Contents) -> RowTable:
    """Numbers the rows. Raises InputError where a reader would refuse their blocks."""
    rows, layout, names = contents.rows, contents.choice.layout, contents.attributes.names
    by_row = bool(names) and (are_long(rows.stored, names) or longest(contents) > BLOCK_BYTES_MAX)
    check_blocks(layout.sizes(), rows.count, contents.choice.codec.code_bytes, rows.dimension, by_row)
    inside = bool(names) and not by_row
    renditions: tuple[Rendition, ...] = (Rendition(0, inside),)
    if not contents.choice.inline:
        codecs = range(1 if contents.choice.longer is None else 2)
        renditions = tuple(Rendition(codec, within) for within in sorted({False, inside}) for codec in codecs)
    return table_of(contents, by_row, renditions)


def longest(contents: Contents) -> int:
    """Bytes of the attributes of the rows of a block, where these are most."""
    sizes = contents.rows.stored.attribute_sizes()
    return max(int(sizes[m].sum()) for m in contents.choice.layout.members())


def table_of(contents: Contents, by_row: bool, renditions: tuple[Rendition, ...], first: int = 0) -> RowTable:
    """The rows of these contents, numbered from `first` on, for blocks as they are told."""
    rows, layout = contents.rows, contents.choice.layout
    members, homes = layout.members(), np.bincount(layout.partition.home, minlength=layout.blocks)
    source = np.concatenate([m[:h] for m, h in zip(members, homes, strict=True)])
    number = np.empty(rows.count, np.uint32)
    number[source] = np.arange(rows.count, dtype=np.uint32)
    sizes = rows.stored.attribute_sizes() if contents.attributes.names else np.zeros(rows.count, np.int64)
    own = sizes[source]
    rows_max = min(PAGE_ROWS, max(1, PAGE_BYTES // (4 * rows.dimension)))
    pages = list(pieces(own, JSON_BYTES, rows_max))
    return RowTable(
        members, homes, source, number, pages, own, np.empty(rows.count, np.uint32), _spots(own, pages),
        np.arange(first, first + rows.count, dtype=np.uint32), by_row, renditions,
    )  # fmt: skip


def check_blocks(sizes: Ints, rows: int, code_bytes: int, dimension: int, by_row: bool) -> None:
    """Raises InputError where a reader would refuse an index of so many rows whose blocks have sizes (B)."""
    if len(sizes) > max(BLOCKS_FREE, rows):
        raise InputError(f"{len(sizes)} blocks for {rows} rows", hint="fit again: so many rows were removed")
    widest = int(sizes.max())
    check_block(int(sizes.argmax()), widest, block_planes(widest, code_bytes, dimension, by_row).ids + widest)


def check_block(block: int, rows: int, nbytes: int) -> None:
    """Raises InputError where a block of so many rows and bytes is more than a reader takes at once."""
    if nbytes > READ_BYTES_MAX:
        raise InputError(
            f"block {block} has {rows:,} rows and {nbytes:,} bytes, a reader takes {READ_BYTES_MAX:,}",
            hint="leave --partition and --copies-share out, give shorter ids, or fit again with the rows that were "
            "added",
        )


def _spots(own: Ints, pages: list[tuple[int, int]]) -> U32:
    """u32 (N, 3), by row number: where attributes of these sizes are in those of their page; CRC-32C still 0."""
    spots = np.zeros((len(own), 3), np.uint32)
    for low, high in pages:
        spots[low:high, 0] = np.cumsum(own[low:high]) - own[low:high]
    spots[:, 1] = own
    return spots
