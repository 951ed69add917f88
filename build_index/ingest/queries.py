"""Queries from a file, with their neighbours where it holds some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vantage.errors import InputError

from .formats import hdf5, npy, vecs
from .formats.registry import HDF5
from .open import open_source


@dataclass(frozen=True)
class Queries:
    """vectors f32 (Q, d); neighbors i32 (Q, k) source rows, best first, or None.

    own i64 (Q): the rows of an index that the vectors are those of, each left out of its own answer; None: of none.
    """

    vectors: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int32] | None
    own: npt.NDArray[np.int64] | None = None

    def spread(self, most: int) -> Queries:
        """At most so many of them, evenly from the first to the last: a file may be sorted."""
        count = max(0, min(most, len(self.vectors)))
        some = np.unique(np.linspace(0, len(self.vectors) - 1, count).astype(np.int64))
        neighbors = None if self.neighbors is None else self.neighbors[some]
        return Queries(self.vectors[some], neighbors, None if self.own is None else self.own[some])


def read_queries(path: Path, limit: int | None) -> Queries:
    """The first `limit` of a source, or all; with neighbours where the format has a place for them.

    Parquet: a column `neighbors`; HDF5: the datasets test and neighbors; .fvecs and .bvecs: NAME_groundtruth.ivecs
    beside NAME_query.fvecs. Raises InputError; its hint names no option, as those of a build are not there for queries.
    """
    try:
        return _read(path, limit)
    except InputError as error:
        if "--skip-bad-rows" in error.hint:
            error.hint = "mend or leave out these rows (rows count from 0)"
        elif "--vector-column" in error.hint:
            error.hint = f"queries lie in a column `vector`, in HDF5 in a dataset `{hdf5.TEST}`"
        raise


def _read(path: Path, limit: int | None) -> Queries:
    suffix = path.suffix.lower()
    batches, held = [], 0
    for part in _batches(path, suffix):
        with np.errstate(over="ignore"):  # an f64 beyond f32 becomes infinite, and is refused
            batches.append(part.astype(np.float32))
        held += len(part)
        if limit is not None and held >= limit:
            break
    if not sum(part.size for part in batches):
        raise InputError(f"{path} holds no queries")
    vectors = np.concatenate(batches)[:limit]
    if not np.isfinite(vectors).all():
        raise InputError(f"{path} holds queries with NaN or infinite values")
    neighbors = None
    if suffix in HDF5:
        neighbors = hdf5.neighbors(path, len(vectors))
    beside = path.with_name(path.stem.replace("_query", "_groundtruth") + ".ivecs")
    if suffix in (".fvecs", ".bvecs") and beside.is_file():
        neighbors = vecs.neighbors(beside, len(vectors))
    if suffix == ".parquet" and path.is_file() and "neighbors" in pq.read_schema(path).names:
        column = pq.read_table(path, columns=["neighbors"])["neighbors"].combine_chunks()[: len(vectors)]
        lengths = pc.unique(pc.list_value_length(column)) if pa.types.is_nested(column.type) else []
        rows = column.flatten() if len(lengths) == 1 and lengths[0].is_valid else pa.nulls(1)
        values = np.zeros(0) if rows.null_count else rows.to_numpy(zero_copy_only=False)
        if not len(values) or not hdf5.are_rows(values):
            raise InputError(
                f"column neighbors of {path} holds no row numbers, as many for each query",
                hint="leave the column out: exact neighbours are then found",
            )
        neighbors = values.reshape(len(vectors), -1).astype(np.int32)
    return Queries(vectors, neighbors)


def _batches(path: Path, suffix: str) -> Iterator[npt.NDArray[Any]]:
    if suffix in HDF5:
        return hdf5.batches(path, 4096, hdf5.TEST)
    if suffix == ".npy" and path.is_file() and npy.is_one_vector(path):
        return iter([npy.one_vector(path)])
    return (batch.vectors for batch in open_source([path], attributes=[]).batches(4096))
