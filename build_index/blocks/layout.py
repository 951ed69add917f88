"""The layout of an index: which rows lie in which block, in what order, and how queries find them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.format import Centre, Centres, IndexSection, RouterSection, aligned

from ..ingest.rows import F32, Ints, Rows
from .partition import Partition


def quantize_centres(centres: F32, metric: str) -> tuple[Centres, F32]:
    """(section, what it decodes to): i8 with a scale per block. Residuals go to what is stored, so nothing is lost."""
    top = np.abs(centres).max(1)
    scale = np.where(top > 0, top / 127, 1).astype(np.float32)
    values = np.clip(np.rint(centres / scale[:, None]), -127, 127).astype(np.int8)
    decoded = values.astype(np.float32) * scale[:, None]
    padded = np.zeros((len(centres), aligned(centres.shape[1], 16)), np.int8)
    padded[:, : centres.shape[1]] = values
    bias = -0.5 * np.einsum("ij,ij->i", decoded, decoded) if metric == "l2" else np.zeros(len(centres))
    section = Centres(memoryview(padded.tobytes()), memoryview(scale), memoryview(bias.astype(np.float32)))
    return section, decoded


def decode_centres(section: Centres, dimension: int) -> F32:
    """f32 (B, d): the stored centres, as codes are made around them."""
    table, scale = _columns(section, dimension)
    out: F32 = table.astype(np.float32) * scale[:, None]
    return out


def exact_centres(section: Centres, dimension: int, blocks: slice = slice(None)) -> npt.NDArray[np.float64]:
    """f64 (B, d): the stored centres of these blocks, without the rounding to f32 that encoding gives them."""
    table, scale = _columns(section, dimension)
    out: npt.NDArray[np.float64] = table[blocks].astype(np.float64) * scale[blocks].astype(np.float64)[:, None]
    return out


def centre_at(section: Centres, block: int) -> Centre:
    """A centre as its block stores it."""
    stride = len(section.table) // len(section.scale)
    row = section.table[block * stride : (block + 1) * stride]
    return Centre(section.scale[block], section.bias[block], row)


def centres_at(section: Centres, blocks: slice) -> Centres:
    """Those of consecutive blocks."""
    stride = len(section.table) // len(section.scale)
    table = section.table[blocks.start * stride : blocks.stop * stride]
    return Centres(table, section.scale[blocks], section.bias[blocks])


def _columns(section: Centres, dimension: int) -> tuple[npt.NDArray[np.int8], F32]:
    scale = np.asarray(section.scale, np.float32)
    return np.frombuffer(section.table, np.int8).reshape(len(scale), -1)[:, :dimension], scale


@dataclass(frozen=True)
class Layout:
    """Blocks in file order. copy i32 (N, E): blocks of the row's copies, -1 for none. centres: as stored, decoded."""

    partition: Partition
    copy: npt.NDArray[np.int32]
    router: str
    section: RouterSection
    centre_section: Centres
    centres: F32

    @property
    def blocks(self) -> int:
        return self.partition.blocks

    def members(self) -> list[Ints]:
        """Source rows of each block: home rows, then copies, each by rising number."""
        home_order, home_ends = _group(self.partition.home, np.arange(len(self.partition.home)), self.blocks)
        row, column = np.nonzero(self.copy >= 0)
        copy_order, copy_ends = _group(self.copy[row, column], row, self.blocks)
        return [
            np.concatenate([home_order[home_ends[b] : home_ends[b + 1]], copy_order[copy_ends[b] : copy_ends[b + 1]]])
            for b in range(self.blocks)
        ]

    @property
    def copies(self) -> int:
        return int((self.copy >= 0).sum())

    def sizes(self) -> Ints:
        """Rows in each block, copies included."""
        return np.bincount(self.partition.home, minlength=self.blocks) + np.bincount(
            self.copy[self.copy >= 0], minlength=self.blocks
        )

    def holders(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """i32 (1 + E, Q, k): the blocks that hold rows (Q, k), home first; it stands for copies that are not too."""
        known = np.maximum(rows, 0)
        home, copies = self.partition.home[known], np.moveaxis(self.copy[known], 2, 0)
        return np.concatenate([home[None], np.where(copies >= 0, copies, home)])

    def holds(self, rows: npt.NDArray[np.int32], read: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool (Q, k): whether a block that holds rows (Q, k) is read; read bool (Q, B)."""
        each = np.arange(len(rows))[:, None]
        held = read[each, self.partition.home[rows]]
        for copy in self.copy.T:
            held |= (copy[rows] >= 0) & read[each, copy[rows]]
        out: npt.NDArray[np.bool_] = held & (rows >= 0)
        return out


def _group(block: npt.NDArray[np.int32], rows: Ints, blocks: int) -> tuple[Ints, Ints]:
    """(rows by block, each by rising number; where each block's begin)."""
    order = np.lexsort((rows, block))
    return rows[order], np.concatenate([[0], np.cumsum(np.bincount(block, minlength=blocks))])


def index_section(
    rows: Rows,
    blocks: int,
    places: int,
    router: str = "lse",
    vector_kind: str = "f32",
    codec: str = "lrsq",
    by_row: bool = False,
    attribute_bytes: int = 0,
) -> IndexSection:
    """The index section of an index of these rows."""
    return IndexSection(
        rows.metric, rows.dimension, rows.count, blocks, rows.stored.id_kind, vector_kind, codec, router,
        rows.scale, places, by_row, memoryview(rows.origin), attribute_bytes,
    )  # fmt: skip
