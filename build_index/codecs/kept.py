"""Codes of all blocks, kept from the scan that measures them to the file that they are written to."""

from __future__ import annotations

from pathlib import Path
from tempfile import SpooledTemporaryFile
from weakref import finalize

import numpy as np

from ..ingest.rows import Ints
from .planes import Codec, Encoded

HELD_SHARE = 16  # of the memory: as much in memory of the codes of one length, the rest in a temporary file


class KeptCodes:
    """What encode_blocks gave for blocks of sizes (B) by this codec, put in from the first block to the last.

    folder: of the temporary file; None: the system's.
    """

    def __init__(self, codec: Codec, sizes: Ints, memory_bytes: int, folder: Path | None) -> None:
        self.codec = codec
        self._ends = np.concatenate([[0], np.cumsum(sizes)])
        self._ranges: list[tuple[float, float, float, float]] = []
        where = None if folder is None else str(folder)
        self._file = SpooledTemporaryFile[bytes](max_size=memory_bytes // HELD_SHARE, dir=where)
        finalize(self, self._file.close)

    @property
    def complete(self) -> bool:
        return len(self._ranges) == len(self._ends) - 1

    def put(self, blocks: list[Encoded]) -> None:
        """The blocks after those that are there."""
        for block in blocks:
            self._ranges.append(block.ranges)
            for plane in (block.codes, block.f, block.h):
                self._file.write(plane.tobytes())

    def get(self, low: int, high: int) -> list[Encoded]:
        """Blocks low up to high (excluded), where all are there."""
        width, starts = self.codec.code_bytes + 2, self._ends[low : high + 1]
        self._file.seek(int(starts[0]) * width)
        data = np.frombuffer(self._file.read(int(starts[-1] - starts[0]) * width), np.uint8)
        out = []
        for ranges, start, end in zip(self._ranges[low:high], starts - starts[0], starts[1:] - starts[0], strict=False):
            n, at = int(end - start), int(start) * width
            codes, f, h = np.split(data[at : at + n * width], [n * (width - 2), n * (width - 1)])
            out.append(Encoded(ranges, codes.reshape(n, width - 2), f, h))
        return out
