"""Rows in memory: numpy arrays and ids, checked like those of a source and read like staged ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format.layout import ID_BYTES_MAX

from ..tasks.digest import digest
from .formats.batch import BAD_ROWS_NAMED, DTYPES, NUMPY_KINDS, Array
from .rows import F32, Ints
from .source import NORM_MAX, NORM_MIN

Ids = Ints | list[bytes]


@dataclass(frozen=True, eq=False)
class Arrays:
    """N rows. held (N, d) in normal form of `kind`; id_of: int64 (N) or N byte strings; records: of attributes, as JSON
    arrays. Checked: see `check_arrays`. All row numbers are positions; source: that of the first row in the source.
    """

    held: Array
    kind: str
    id_of: Ids
    records: list[bytes]
    source: int = 0

    @property
    def rows(self) -> int:
        return len(self.held)

    @property
    def dimension(self) -> int:
        return int(self.held.shape[1])

    @property
    def folder(self) -> Path | None:
        """There are no scratch files."""
        return None

    @property
    def id_kind(self) -> str:
        return "bytes" if isinstance(self.id_of, list) else "i64"

    def floats(self, lo: int, hi: int) -> F32:
        """f32 (hi - lo, d) of rows [lo, hi)."""
        return self.held[lo:hi].astype(np.float32)

    def gather(self, rows: npt.NDArray[np.integer]) -> F32:
        """f32 (n, d) of `rows`, int (n,), in the order given."""
        out: F32 = self.held[rows].astype(np.float32)
        return out

    def ids(self, rows: npt.NDArray[np.integer]) -> Ids:
        """The ids of `rows`, int (n,), in the order given: int64 (n,) or n byte strings."""
        return _pick(self.id_of, rows)

    def attributes(self, rows: npt.NDArray[np.integer]) -> list[bytes]:
        """A JSON array for each of `rows`, int (n,), in the order given."""
        return [self.records[row] for row in rows.tolist()]

    def attribute_sizes(self) -> Ints:
        """int64 (N): bytes of each row's attributes."""
        return np.fromiter(map(len, self.records), np.int64, len(self.records))

    def source_rows(self, rows: npt.NDArray[np.integer]) -> Ints:
        """The positions of `rows`, int (n,), in the source."""
        return np.asarray(rows, np.int64) + self.source

    def content(self) -> str:
        """A name of all rows: hexadecimal digits."""
        return digest(self.held, self.kind, self.id_of, self.records)

    def take(self, rows: Ints) -> Arrays:
        """These rows alone, in the order given."""
        return replace(self, held=self.held[rows], id_of=_pick(self.id_of, rows), records=self.attributes(rows))

    def followed_by(self, more: Arrays) -> Arrays:
        """Both, of one kind, one after the other."""
        ids: Ids
        if isinstance(self.id_of, list) or isinstance(more.id_of, list):
            ids = [*self.id_of, *more.id_of]
        else:
            ids = np.concatenate([self.id_of, more.id_of])
        return Arrays(np.concatenate([self.held, more.held]), self.kind, ids, self.records + more.records)

    def norms(self) -> npt.NDArray[np.float64]:
        """f64 (N): Euclidean norms, summed in f64."""
        wide = self.held if self.kind in ("f32", "f16") else self.held.astype(np.float32)
        out: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide, dtype=np.float64))
        return out


def check_arrays(vectors: Any, ids: Any, metric: str, kind: str | None = None, record: bytes = b"[]") -> Arrays:
    """Rows from array-likes: vectors (n, d) of f16, f32, f64, u8 or i8, ids (n) integers, strings or bytes.

    kind: the one that the vectors are to have: floats become it, bytes must be of it; None: their own. Strings are kept
    as UTF-8. Raises InputError, as a build does, for NaN or infinite values, zero vectors under cosine, ids that
    repeat, are empty or too long; five rows are named at most.
    """
    held, kind = _vectors(vectors, kind)
    arrays = Arrays(held, kind, known_ids(ids), [record] * len(held))
    if len(arrays.id_of) != len(held):
        raise InputError(f"{len(arrays.id_of)} ids for {len(held)} vectors", hint="give each vector an id of its own")
    if kind in ("f32", "f16"):
        _refuse(np.asarray(~np.isfinite(held).all(1)), "vectors with NaN, infinite or too large values")
    norms = arrays.norms()
    if metric == "cosine":
        _refuse(norms < NORM_MIN, "zero vectors, which have no direction under the metric cosine")
    elif 0 < norms.max(initial=0) < NORM_MIN:
        raise InputError(
            f"all vectors are shorter than {NORM_MIN:g}, row {norms.argmax()} too, which is the longest: "
            "float32 cannot hold their scores",
            hint=f"multiply all by one number, which leaves the order under {metric} as it is",
        )
    _refuse(norms > NORM_MAX, f"vectors with a norm over {NORM_MAX:g}, whose scores float32 cannot hold")
    _refuse_repeats(arrays.id_of)
    return arrays


def matrix(vectors: Any, what: str) -> Array:
    """(n, d) as it came, d at least 1. Raises InputError for what is no matrix of numbers that an index can hold."""
    if isinstance(vectors, np.ma.MaskedArray) and np.ma.is_masked(vectors):
        raise InputError(f"{what} have masked values", hint="fill them, or leave their rows out")
    try:
        array = np.asarray(vectors)
    except ValueError:  # lists of different lengths
        raise InputError(f"{what} are not all of one length", hint="give a 2-D array, one row a vector") from None
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"{what} have the shape {array.shape}", hint="give a 2-D array, one row a vector")
    if array.dtype.str[1:] not in NUMPY_KINDS or (array.dtype.kind in "iu" and array.dtype.itemsize > 1):
        raise InputError(f"{what} are of type {array.dtype}", hint="vectors are f16, f32, f64, u8 or i8")
    return array


def whole(name: str, value: Any) -> int:
    """An integer, Python's or numpy's. Raises InputError for anything else, a float or a truth value too."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(
            f"{name} is {_abbreviate(value)}, a {type(value).__name__}", hint="give a whole number", param=name
        )
    if abs(int(value)) >> 63:
        raise InputError(f"{name} is {_abbreviate(value)}", hint="give a number of 64 bits", param=name)
    return int(value)


def number(name: str, value: Any) -> float:
    """A real number, Python's or numpy's. Raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"{name} is {_abbreviate(value)}, a {type(value).__name__}", hint="give a number", param=name)
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is {_abbreviate(value)}", hint="give a smaller number", param=name) from None


def truth(name: str, value: Any) -> bool:
    """A truth value, Python's or numpy's. Raises InputError for anything else: a text would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(
            f"{name} is {_abbreviate(value)}, a {type(value).__name__}", hint="give True or False", param=name
        )
    return bool(value)


def _abbreviate(value: Any) -> str:
    """A value in a few characters."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 64 else f"{value:#x}"
    return text if len(text) <= 40 else text[:39] + "…"


def known_ids(ids: Any) -> Ids:
    """int64 (n), or n byte strings, of an array or a sequence of integers, strings or bytes. Raises InputError."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InputError(f"ids are {_abbreviate(ids)}", hint="give a list of ids, or an array")
    given = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if not isinstance(given, list):  # of an array without dimensions
        raise InputError(f"ids are {_abbreviate(given)}", hint="give a list of ids, or an array")
    if all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in given):
        try:
            return np.array(given, np.int64)
        except OverflowError:
            raise InputError("an id is outside of 64 bits", hint="ids go from -2^63 to 2^63 - 1") from None
    if not all(isinstance(i, (str, bytes)) for i in given):
        names = sorted({type(i).__name__ for i in given})
        raise InputError(f"ids are of type {', '.join(names)}", hint="ids are integers, or strings and bytes")
    try:
        out = [i.encode() if isinstance(i, str) else bytes(i) for i in given]
    except UnicodeEncodeError as error:
        raise InputError(
            f"the id {_abbreviate(error.object)} holds half of a character (a surrogate), which UTF-8 cannot",
            hint="mend it, or give the id as bytes",
        ) from None
    _refuse(np.array([not i for i in out], bool), "ids that are empty")
    _refuse(np.array([len(i) > ID_BYTES_MAX for i in out], bool), f"ids over {ID_BYTES_MAX} bytes")
    return out


def show_id(identifier: int | bytes) -> Any:
    """An id as people see it: bytes that are UTF-8 are a string."""
    if isinstance(identifier, int):
        return identifier
    try:
        return identifier.decode()
    except UnicodeDecodeError:
        return identifier


def name_ids(identifiers: Sequence[int | bytes]) -> str:
    """The first five ids, for a message."""
    more = ", and more" if len(identifiers) > BAD_ROWS_NAMED else ""
    return ", ".join(repr(show_id(i)) for i in identifiers[:BAD_ROWS_NAMED]) + more


def _vectors(vectors: Any, kind: str | None) -> tuple[Array, str]:
    given = matrix(vectors, "the vectors")
    own = NUMPY_KINDS[given.dtype.str[1:]]
    if kind is not None and kind != own and {kind, own} & {"u8", "i8"}:
        raise InputError(f"vectors of type {own} for an index of {kind}", hint=f"convert them to {kind}")
    with np.errstate(over="ignore"):  # what is beyond the kind becomes infinite and is refused
        return np.ascontiguousarray(given, DTYPES[kind or own]), kind or own


def _refuse(bad: npt.NDArray[np.bool_], reason: str) -> None:
    rows = np.flatnonzero(bad).tolist()
    if rows:
        more = ", and more" if len(rows) > BAD_ROWS_NAMED else ""
        which = ", ".join(map(str, rows[:BAD_ROWS_NAMED]))
        raise InputError(f"{reason}: rows {which}{more}", hint="mend or leave out these rows (rows count from 0)")


def _refuse_repeats(ids: Ids) -> None:
    seen, again = set[int | bytes](), list[int | bytes]()
    for i in ids if isinstance(ids, list) else ids.tolist():
        if i in seen:
            again.append(i)
        seen.add(i)
    if again:
        raise InputError(f"duplicate ids: {name_ids(again)}", hint="give every row an id of its own")


def _pick(ids: Ids, rows: npt.NDArray[np.integer]) -> Ids:
    return [ids[row] for row in rows.tolist()] if isinstance(ids, list) else ids[rows]
