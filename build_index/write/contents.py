"""What a generation is written from: rows, the choice and what is known already; and every row's number in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError
from vantage.format import BLOCKS_FREE, READ_BYTES_MAX, block_planes

from ..codecs.planes import Encoded, encode_blocks
from ..ingest.attributes import BLOCK_BYTES_MAX, are_long
from ..ingest.rows import Ints, Rows
from ..tune.choose import Choice

U32 = npt.NDArray[np.uint32]

# (first block, after the last, source rows of these blocks, where each begins and the last ends) -> their codes
Encode = Callable[[int, int, Ints, list[int]], list[Encoded]]


@dataclass(frozen=True)
class Contents:
    """Rows with their attributes, and the choice that says where and how each of them is kept.

    vector_kind: of the stored full vectors. manifest: what manifest.json says, but for its generation and objects.
    encode: where codes come from that are known already; without it every block is encoded.
    """

    rows: Rows
    attributes: pa.Schema
    choice: Choice
    vector_kind: str
    manifest: dict[str, Any]
    encode: Encode | None = None

    def encoder(self) -> Encode:
        """Gives the codes of blocks."""
        return self.encode or encoder(self.rows, self.choice)


def encoder(rows: Rows, choice: Choice) -> Encode:
    """Encodes the blocks it is asked for."""
    centres = choice.layout.centres

    def encode(low: int, high: int, source: Ints, starts: list[int]) -> list[Encoded]:
        return encode_blocks(choice.codec, rows.take(source), starts, centres[low:high], rows.metric)

    return encode


@dataclass(frozen=True)
class RowTable:
    """Every row by its number, which is its order in the files: by home block, and by source row within it.

    members: source rows of each block, its home rows first. homes i64 (B): how many of these. first_row i64 (B + 1):
    the number of each block's first home row. source i64 (N): source row of each number; number u32 (N): the inverse.
    By number: attribute_bytes i64 (N), 0 without attributes; checks u32 (N), the CRC-32C of the stored vector, filled
    in as vectors are written; spots u32 (N, 3), where the attributes lie in their block, their bytes and their CRC-32C,
    the last filled in too, or None where no row's attributes are read alone.
    """

    members: list[Ints]
    homes: Ints
    first_row: Ints
    source: Ints
    number: U32
    attribute_bytes: Ints
    checks: U32
    spots: U32 | None

    @property
    def count(self) -> int:
        return len(self.source)

    def attributes_of(self, block: int) -> tuple[Ints, Ints]:
        """(source rows, bytes of their attributes) of the home rows of a block."""
        return (
            self.members[block][: self.homes[block]],
            self.attribute_bytes[self.first_row[block] : self.first_row[block + 1]],
        )


def row_table(contents: Contents) -> RowTable:
    """Numbers the rows. Raises InputError where a reader would refuse their blocks, or a block's attributes."""
    rows, layout = contents.rows, contents.choice.layout
    members, names = layout.members(), contents.attributes.names
    homes = np.bincount(layout.partition.home, minlength=layout.blocks)
    first_row = np.concatenate([[0], np.cumsum(homes)])
    source = np.concatenate([m[:h] for m, h in zip(members, homes, strict=True)])
    number = np.empty(rows.count, np.uint32)
    number[source] = np.arange(rows.count, dtype=np.uint32)
    own = rows.stored.attribute_sizes()[source] if names else np.zeros(rows.count, np.int64)
    block_bytes = 4 * (homes + 1) + _sums(own, first_row) if names else np.zeros(layout.blocks, np.int64)
    by_row = are_long(rows.stored, names) or bool(block_bytes.max() > BLOCK_BYTES_MAX)
    check_blocks(layout.sizes(), rows.count, contents.choice.codec.code_bytes, by_row)
    if block_bytes.max() >= 1 << 32:
        raise InputError(
            f"block {block_bytes.argmax()} has {block_bytes.max():,} bytes of attributes, an index keeps up to 4 GiB a "
            "block",
            hint="leave long columns out with --attributes, or split the rows over several indexes",
        )
    spots = _spots(own, first_row, homes) if by_row else None
    return RowTable(members, homes, first_row, source, number, own, np.empty(rows.count, np.uint32), spots)


def check_blocks(sizes: Ints, rows: int, code_bytes: int, by_row: bool) -> None:
    """Raises InputError where a reader would refuse an index of so many rows whose blocks have sizes (B)."""
    if len(sizes) > max(BLOCKS_FREE, rows):
        raise InputError(f"{len(sizes)} blocks for {rows} rows", hint="fit again: so many rows were removed")
    widest = int(sizes.max())
    check_block(int(sizes.argmax()), widest, block_planes(widest, code_bytes, by_row).ids + widest)


def check_block(block: int, rows: int, nbytes: int) -> None:
    """Raises InputError where a block of so many rows and bytes is more than a reader takes at once."""
    if nbytes > READ_BYTES_MAX:
        raise InputError(
            f"block {block} has {rows:,} rows and {nbytes:,} bytes, a reader takes {READ_BYTES_MAX:,}",
            hint="leave --partition and --copies-share out, give shorter ids, or fit again with the rows that were "
            "added",
        )


def _sums(sizes: Ints, first_row: Ints) -> Ints:
    """int64 (B): sums of the sizes (N) of each block's home rows."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.diff(ends[first_row])


def _spots(own: Ints, first_row: Ints, homes: Ints) -> U32:
    """u32 (N, 3), by row number: where attributes of these sizes are in the blocks; CRC-32C still 0."""
    ends = np.concatenate([[0], np.cumsum(own)])[:-1]
    block = np.repeat(np.arange(len(homes)), homes)
    spots = np.zeros((len(own), 3), np.uint32)
    spots[:, 0] = ends - ends[first_row[block]] + 4 * (homes[block] + 1)
    spots[:, 1] = own
    return spots
