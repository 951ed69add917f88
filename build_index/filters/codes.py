"""The codes of all rows by their numbers, kept while blocks are written, for projections to be made of."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vantage.format import GROUP, RANGES_AT, block_planes

from ..ingest.rows import F32, Ints
from ..write.contents import RowTable

U8 = npt.NDArray[np.uint8]
RANGES = struct.Struct("<ffff")
PLANES_AT = 32  # the number of planes in the header of a block


@dataclass(frozen=True)
class RowCodes:
    """By row number, of the codec of the first rendition: codes u8 (N, c), f and h u8 (N); ranges f32 (B, 4)."""

    codes: U8
    f: U8
    h: U8
    ranges: F32

    @classmethod
    def room(cls, rows: int, code_bytes: int, blocks: int, folder: Path) -> RowCodes:
        """For so many. Codes lie in a file of the folder, which goes with them."""
        with tempfile.TemporaryFile(dir=folder) as scratch:
            scratch.truncate(rows * code_bytes)
            codes: U8 = np.memmap(scratch, np.uint8, "r+", shape=(rows, code_bytes))
        ranges = np.empty((blocks, 4), np.float32)
        return cls(codes, np.empty(rows, np.uint8), np.empty(rows, np.uint8), ranges)

    def keep(self, first: int, packed: U8, sizes: Ints, begins: Ints, table: RowTable, dimension: int) -> None:
        """Takes those of the rows at home in consecutive blocks from `first` on, as they were packed.

        sizes: bytes of each; begins (B): the number of the first row at home in each block.
        """
        c = self.codes.shape[1]
        for block, (low, high) in enumerate(pairwise(accumulate(sizes.tolist(), initial=0)), first):
            data, homes, rows = packed[low:high], int(table.homes[block]), len(table.members[block])
            (planes,) = struct.unpack_from("<I", data, PLANES_AT)
            at = block_planes(rows, c, dimension, False, planes)
            own = slice(int(begins[block]), int(begins[block]) + homes)
            groups = data[at.codes : at.f].reshape(-1, c, GROUP)
            self.codes[own] = groups.transpose(0, 2, 1).reshape(-1, c)[:homes]
            self.f[own] = data[at.f : at.f + homes]
            self.h[own] = data[at.h : at.h + homes]
            self.ranges[block] = RANGES.unpack_from(data, RANGES_AT)
