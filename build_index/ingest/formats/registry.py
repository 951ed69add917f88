"""Formats by the ending of a file: how each is opened, and read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from vantage.errors import InputError

from . import hdf5, ipc, npy, parquet, vecs
from .address import Location, Part, shown, suffix_of
from .batch import Array
from .columns import structure
from .sizes import pieces

DEFAULT_VECTOR = "vector"

Raw: TypeAlias = Array | pa.RecordBatch


@dataclass(frozen=True)
class Matrix:
    """A format of vectors alone. header(path): (rows, dimension), dtype, first byte; batches(path, rows_max)."""

    header: Callable[[Path], tuple[tuple[int, int], np.dtype[np.generic], int]]
    batches: Callable[[Path, int], Iterator[Array]]


@dataclass(frozen=True)
class Table:
    """A format of columns. header(path): rows and schema; batches(path, columns, rows_max); note(path): a sentence, or
    None where there is nothing to be said.
    """

    header: Callable[[Location], tuple[int, pa.Schema]]
    batches: Callable[[Location, list[str], int], Iterator[pa.RecordBatch]]
    note: Callable[[Location], str | None] = lambda _: None


_IPC, _VECS = Table(ipc.header, ipc.batches, ipc.note), Matrix(vecs.header, vecs.batches)
_HDF5 = Matrix(hdf5.header, hdf5.batches)
TABLES = {".parquet": Table(parquet.header, parquet.batches), ".arrow": _IPC, ".feather": _IPC, ".ipc": _IPC}
MATRICES = {
    ".npy": Matrix(npy.header, npy.batches), ".fvecs": _VECS, ".bvecs": _VECS, ".hdf5": _HDF5, ".h5": _HDF5,
}  # fmt: skip
HDF5 = (".hdf5", ".h5")
SUFFIXES = (*TABLES, *MATRICES)


def matrix_format(suffix: str, dataset: str) -> Matrix:
    """The format of an ending, of HDF5 reading the dataset named."""
    if suffix not in HDF5 or dataset == DEFAULT_VECTOR:
        return MATRICES[suffix]
    return Matrix(partial(hdf5.header, dataset=dataset), partial(hdf5.batches, dataset=dataset))


def table_batches(part: Part, names: Sequence[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Record batches of the named columns, whole in themselves and of bounded size once decoded.

    Raises InputError where a file, or what a column says of itself, is damaged.
    """
    reader = TABLES[suffix_of(part.location)]
    there = set(reader.header(part.location)[1].names)
    own = [name for name in names if name in there]
    for raw in reader.batches(part.location, own, rows_max):
        columns = {name: raw.column(name) for name in own}
        try:
            for column in columns.values():
                structure(column)
        except pa.ArrowException as error:
            raise InputError(
                f"{shown(part.location)} is damaged: {error}", hint="copy it again, or write it anew"
            ) from None
        for name in names:
            if name not in columns and name in part.constants:
                columns[name] = pa.repeat(part.constants[name], len(raw))
            elif name not in columns and part.absent is not None:
                columns[name] = pa.nulls(len(raw), part.absent.field(name).type)
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        yield from pieces(batch)
