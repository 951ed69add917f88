"""HDF5 as ann-benchmarks.com gives it: datasets train, test, neighbors, and the attribute `distance`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from .address import shown
from .batch import NUMPY_KINDS, VALUES, Array
from .distance import metric_of

TRAIN, OURS, TEST, NEIGHBORS = "train", "vector", "test", "neighbors"
TELL_METRIC = ("distance", "metric")  # attributes, in any case
LINKS_MAX = 16  # of a path to a dataset
CHUNK_BYTES_MAX = 256 << 20  # a chunk is unpacked whole


def header(path: Path, dataset: str | None = None) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Layout, dtype, and 0; of `train`, or else of `vector`, where no dataset is named.

    Raises InputError for a file that is not HDF5, and for a dataset that is no matrix.
    """
    with _open(path) as file:
        matrix = _matrix(file, path, dataset)
        return (matrix.shape[0], matrix.shape[1]), matrix.dtype, 0


def batches(path: Path, rows_max: int, dataset: str | None = None) -> Iterator[Array]:
    """(n, d) of the file's own type, n at most rows_max. Raises InputError."""
    with _open(path) as file:
        matrix = _matrix(file, path, dataset)
        for first in range(0, matrix.shape[0], rows_max):
            try:
                yield matrix[first : first + rows_max]
            except OSError as error:
                raise InputError(f"{shown(path)} cannot be read at row {first} of {matrix.name!r}: {error}") from None


def metric(path: Path, dataset: str | None = None) -> str | None:
    """The metric that the file's or the dataset's `distance` names: one of ours, or the file's own word; or None."""
    words = set()
    with _open(path) as file:
        try:
            for attributes in (file.attrs, _matrix(file, path, dataset).attrs):
                names = [name for name in attributes if str(name).lower() in TELL_METRIC]
                words |= {_word(attributes[name]) for name in names} - {None}
        except (OSError, TypeError, ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{shown(path)}: its attribute 'distance' cannot be read: {error}") from None
    return " and ".join(sorted(filter(None, words))) or None


def _word(attribute: Any) -> str | None:
    if attribute is None or isinstance(attribute, h5py.Empty):
        return None
    value = np.asarray(attribute).ravel()
    word = value[0] if len(value) == 1 else attribute
    return metric_of(word.decode(errors="replace") if isinstance(word, bytes) else str(word))


def neighbors(path: Path, rows: int) -> npt.NDArray[np.int32] | None:
    """i32 (rows, k): row numbers of the first queries' neighbours; None without the dataset. Raises InputError."""
    with _open(path) as file:
        if NEIGHBORS not in file.keys():  # noqa: SIM118 `in file` follows links
            return None
        matrix = _dataset(file, path, NEIGHBORS)
        if matrix.ndim != 2 or matrix.shape[0] < rows or matrix.dtype.kind not in "iu":
            raise InputError(f"{shown(path)} dataset {NEIGHBORS!r} is {matrix.dtype}{matrix.shape} for {rows} queries")
        out: npt.NDArray[Any] = matrix[:rows]
        if not are_rows(out):
            raise InputError(f"{shown(path)} dataset {NEIGHBORS!r} holds what is no row number")
        return out.astype(np.int32)


def are_rows(values: Array) -> bool:
    """Whether all are row numbers, which 32 bits hold."""
    return values.dtype.kind in "iu" and bool((values >= 0).all() and (values <= np.iinfo(np.int32).max).all())


def others(path: Path, dataset: str | None = None) -> list[str]:
    """Names of top-level matrices beside `dataset` that a build does not read, those of queries left out."""
    with _open(path) as file:
        known = {(dataset or _default(file, path)).strip("/"), TEST, NEIGHBORS, "distances"}
        here = [n for n in file if n not in known and isinstance(file.get(n, getlink=True), h5py.HardLink)]
        datasets = [(n, file[n]) for n in here if file.get(n, getclass=True) is h5py.Dataset]
        return [n for n, d in datasets if d.ndim == 2 and d.dtype.str[1:] in NUMPY_KINDS]


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read as HDF5: {error}") from None


def _default(file: Any, path: Path) -> str:
    if TRAIN in file.keys() and OURS in file.keys():  # noqa: SIM118 `in file` follows links
        raise InputError(
            f"{shown(path)} has the datasets {TRAIN!r} and {OURS!r}",
            hint=f"name one of them: --vector-column /{TRAIN}, or /{OURS}",
        )
    return OURS if OURS in file.keys() else TRAIN  # noqa: SIM118


def _matrix(file: Any, path: Path, name: str | None) -> Any:
    name = name or _default(file, path)
    matrix = _dataset(file, path, name)
    if matrix.ndim != 2:
        raise InputError(
            f"{shown(path)} dataset {name!r} has the shape {matrix.shape}", hint="vectors are a 2-D dataset"
        )
    if matrix.dtype.str[1:] not in NUMPY_KINDS:
        raise InputError(f"{shown(path)} dataset {name!r} holds values of type {matrix.dtype}", hint=VALUES)
    chunk = int(np.prod(matrix.chunks, dtype=object)) * matrix.dtype.itemsize if matrix.chunks else 0
    if chunk > CHUNK_BYTES_MAX:
        raise InputError(
            f"{shown(path)} dataset {name!r} has chunks of {chunk:,} bytes, the limit is {CHUNK_BYTES_MAX:,}",
            hint="save it with smaller chunks",
        )
    return matrix


def _dataset(file: Any, path: Path, name: str) -> Any:
    """The dataset, whose values lie in this file. Raises InputError where the way to it, or they, leave it."""
    dataset = _follow(file, path, name)
    if not isinstance(dataset, h5py.Dataset):
        there = ", ".join(sorted(map(str, file))) or "none"
        raise InputError(
            f"{shown(path)} has no dataset {name!r}", hint=f"name one with --vector-column; here are {there}"
        )
    elsewhere = "in other files" if dataset.external else "a view of other datasets" if dataset.is_virtual else None
    if elsewhere:
        raise InputError(
            f"{shown(path)} dataset {name!r} is {elsewhere}, which are not read",
            hint="copy it into a file of its own (h5repack, or h5py)",
        )
    return dataset


def _follow(file: Any, path: Path, name: str) -> Any:
    """What `name` (a/b/c) leads to, link by link; None where there is nothing. No other file is opened on the way."""
    here, steps, links = file, [s for s in name.split("/") if s], 0
    while steps:
        step = steps.pop(0)
        if step == ".":
            continue
        try:
            link = here.get(step, getlink=True) if isinstance(here, h5py.Group) else None
        except (TypeError, ValueError, RuntimeError) as error:  # a kind of link that h5py does not know
            raise InputError(f"{shown(path)} dataset {name!r} cannot be followed: {error}") from None
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{shown(path)} dataset {name!r} is a link to another file, {link.filename}, which is not followed",
                hint="name that file instead",
            )
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > LINKS_MAX:
                raise InputError(f"{shown(path)} dataset {name!r} lies behind more than {LINKS_MAX} links")
            here = file if link.path.startswith("/") else here
            steps = [s for s in link.path.split("/") if s] + steps
        elif isinstance(link, h5py.HardLink):
            try:
                here = here[step]
            except (OSError, KeyError, RuntimeError, TypeError) as error:
                raise InputError(f"{shown(path)} dataset {name!r} cannot be opened: {error}") from None
        else:
            return None
    return here
