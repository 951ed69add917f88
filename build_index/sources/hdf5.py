"""HDF5 as ann-benchmarks.com gives it: datasets train, test, neighbors, and the attribute `distance`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from .rows import NUMPY_KINDS, Array

TRAIN, TEST, NEIGHBORS = "train", "test", "neighbors"
METRICS = {"angular": "cosine", "cosine": "cosine", "euclidean": "l2", "l2": "l2", "dot": "dot", "ip": "dot"}


def header(path: Path, dataset: str = TRAIN) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Shape, dtype, and 0. Raises InputError for a file that is not HDF5, and for a dataset that is no matrix."""
    with _opened(path) as file:
        found = _dataset(file, path, dataset)
        return (found.shape[0], found.shape[1]), found.dtype, 0


def batches(path: Path, rows_max: int, dataset: str = TRAIN) -> Iterator[Array]:
    """(n, d) of the file's own type, n at most rows_max. Raises InputError."""
    with _opened(path) as file:
        found = _dataset(file, path, dataset)
        for first in range(0, found.shape[0], rows_max):
            try:
                yield found[first : first + rows_max]
            except OSError as error:
                raise InputError(f"{path} cannot be read at row {first} of {dataset!r}: {error}") from None


def metric(path: Path) -> str | None:
    """The metric that the file's `distance` names, or None where it names none that is known."""
    with _opened(path) as file:
        told = file.attrs.get("distance", "")
    return METRICS.get(told.decode(errors="replace") if isinstance(told, bytes) else str(told))


def neighbors(path: Path, rows: int) -> npt.NDArray[np.int32] | None:
    """i32 (rows, k): row numbers of the first queries' neighbours; None without the dataset. Raises InputError."""
    with _opened(path) as file:
        if NEIGHBORS not in file:
            return None
        found = file[NEIGHBORS]
        if found.ndim != 2 or found.shape[0] < rows or found.dtype.kind not in "iu":
            raise InputError(f"{path} dataset {NEIGHBORS!r} is {found.dtype}{found.shape} for {rows} queries")
        out: npt.NDArray[np.int32] = found[:rows].astype(np.int32)
        return out


def _opened(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5: {error}") from None


def _dataset(file: Any, path: Path, name: str) -> Any:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        there = ", ".join(sorted(file)) or "none"
        raise InputError(f"{path} has no dataset {name!r}", hint=f"ann-benchmarks names it so; here are {there}")
    if found.ndim != 2:
        raise InputError(f"{path} dataset {name!r} has the shape {found.shape}", hint="vectors are a 2-D dataset")
    if found.dtype.str[1:] not in NUMPY_KINDS:
        raise InputError(
            f"{path} dataset {name!r} holds values of type {found.dtype}", hint="vectors are f16, f32, f64, u8 or i8"
        )
    return found
