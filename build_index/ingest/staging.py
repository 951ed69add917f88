"""Writes a source once to scratch files, checks it on the way, and gives any row back in bounded memory.

A build reads its rows several times and out of order; Parquet can do neither cheaply. The scratch files are plain
arrays, and plain reads serve them: mapped pages would count as this process's memory.

    vectors.raw      rows x dimension values in normal form, row-major
    ids.raw          int64 a row; or the bytes of all ids, with ids.offsets
    attributes.raw   a compact JSON array per row, in column order, UTF-8, with attributes.offsets
    rows.raw         int64 a row: its number in the source, only where bad rows are left out
    *.offsets        uint64: where a row begins; rows + 1 of them
    *.hashes         int64 a row, only while the checks run
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError, StoreError

from ..bucket.store import ObjectStore, store_at
from ..progress import SILENT, Progress
from .formats.batch import BAD_ROWS_NAMED, DTYPES, Array, Batch, Skipped
from .json_rows import json_rows
from .rows import Ints
from .source import NORM_MIN, Source

# Rows are written in batches of this many bytes of f32, or fewer rows.
BATCH_BYTES = 4 << 20
BATCH_ROWS_MAX = 8192

# Reads closer than the gap become one, up to the span.
GAP_BYTES = 64 << 10  # between spans that are read together
NEAR_BYTES = 4 << 10  # between vectors in a file: reads of their own take 2 us a row then
SPAN_BYTES = 4 << 20

# Hashes looked through at a time for repeats.
HASH_CHUNK = 1 << 17


class Staging:
    """Rows of a source in scratch files. Made by `stage`; a context manager that removes the files.

    A copy by pickle, in another process, reads the same files, or what `share` has put into a bucket, and removes none.

    rows, dimension, kind, id_kind: as in `Source`; rows: without those left out
    skipped: the rows left out, None where bad rows are refused
    duplicate_vectors: rows whose vector repeats that of another row (by 8-byte hash), the first of each left out
    folder: of the scratch files
    """

    def __init__(self, source: Source, folder: Path, skip_bad_rows: bool = False) -> None:
        self.rows = source.rows
        self.skipped = Skipped() if skip_bad_rows else None
        self.dimension = source.dimension
        self.kind = source.kind
        self.id_kind = source.id_kind
        self.duplicate_vectors = 0
        self.folder: Path | None = folder
        self._shared: str | None = None
        self._store: ObjectStore | None = None
        self._named = hashlib.sha256()
        self._dtype = DTYPES[source.kind]
        self._row_bytes = source.dimension * self._dtype.itemsize
        names = ["vectors.raw", "ids.raw", "attributes.raw", "attributes.offsets", "vectors.hashes"]
        if source.id_kind == "bytes":
            names += ["ids.offsets", "ids.hashes"]
        if skip_bad_rows:
            names += ["rows.raw"]
        self._files: dict[str, BinaryIO] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                self._files[name] = (folder / name).open("w+b")
        except BaseException:
            self.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_named": self.content(), "_files": list(self._files), "_store": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._files = {}
        try:
            assert self.folder is not None
            for name in state["_files"]:
                self._files[name] = (self.folder / name).open("rb")
        except FileNotFoundError as error:
            if self._shared is None:
                raise StoreError(
                    f"no rows at {error.filename}", hint="machines that share no folder need a stage in a bucket"
                ) from None
            self._store = store_at(self._shared)

    def content(self) -> str:
        """A name of all rows: hexadecimal digits."""
        return self._named if isinstance(self._named, str) else self._named.hexdigest()

    def share(self, address: str) -> None:
        """Copies the files into a bucket, at an address, for machines that see no other."""
        store = store_at(address)
        for name, file in self._files.items():
            file.seek(0)
            store.upload(f"rows/{name}", file, "")
        self._shared = address

    def close(self) -> None:
        """Removes the scratch files; the folder stays."""
        while self._files:
            _, file = self._files.popitem()
            if isinstance(self._named, str):  # a copy
                file.close()
                continue
            os.unlink(file.name)
            with suppress(OSError):  # on a full disk, what is still buffered cannot be written: it is not wanted
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def chunks(self, rows_per_chunk: int) -> Iterator[tuple[int, int]]:
        """The row ranges [lo, hi) that cover all rows, in order."""
        for lo in range(0, self.rows, rows_per_chunk):
            yield lo, min(lo + rows_per_chunk, self.rows)

    def vectors(self, lo: int, hi: int) -> Array:
        """(hi - lo, d) of rows [lo, hi) in normal form."""
        data = self._read("vectors.raw", lo * self._row_bytes, hi * self._row_bytes)
        return data.view(self._dtype).reshape(hi - lo, self.dimension)

    def floats(self, lo: int, hi: int) -> npt.NDArray[np.float32]:
        """f32 (hi - lo, d) of rows [lo, hi)."""
        return self.vectors(lo, hi).astype(np.float32, copy=False)

    def gather(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """f32 (n, d) of `rows`, int (n,), in the order given; rows that lie close are read together."""
        out = np.empty((len(rows), self.dimension), np.float32)
        order, rising = _sort(rows)
        if self._store is None and len(rows):
            far = np.diff(rising) * self._row_bytes > self._row_bytes + NEAR_BYTES
            alone = np.concatenate([[True], far]) & np.concatenate([far, [True]])
            self._take_alone(rising[alone], order[alone], out)
            order, rising = order[~alone], rising[~alone]
        starts = rising * self._row_bytes
        gap = GAP_BYTES if self._store is not None else NEAR_BYTES
        for i, j in _runs(starts, starts + self._row_bytes, gap):
            first = int(rising[i])
            out[order[i:j]] = self.vectors(first, int(rising[j - 1]) + 1)[rising[i:j] - first]
        return out

    def _take_alone(self, rows: Ints, places: Ints, out: npt.NDArray[np.float32]) -> None:
        """Puts rows (n), none near another, at places (n) of `out`: of millions of rows most of a block are so."""
        file, nbytes = self._files["vectors.raw"], self._row_bytes
        step = max(1, SPAN_BYTES // nbytes)
        for low in range(0, len(rows), step):
            some = slice(low, low + step)
            starts = (rows[some] * nbytes).tolist()
            data = b"".join(map(os.pread, repeat(file.fileno()), repeat(nbytes), starts))
            if len(data) == len(starts) * nbytes:
                out[places[some]] = np.frombuffer(data, self._dtype).reshape(-1, self.dimension)
            else:  # a file system may give less at a time
                for row, place in zip(rows[some].tolist(), places[some].tolist(), strict=True):
                    out[place] = self.vectors(row, row + 1)[0]

    def ids(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64] | list[bytes]:
        """The ids of `rows`, int (n,), in the order given: int64 (n,) or n byte strings."""
        if self.id_kind == "bytes":
            return self._records("ids", rows)
        out = np.empty(len(rows), np.int64)
        order, rising = _sort(rows)
        out[order] = self._int64s("ids.raw", rising, 1)[:, 0]
        return out

    def source_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The numbers that `rows`, int (n,), have in the source, in the order given."""
        if self.skipped is None:
            return np.asarray(rows, np.int64)
        out = np.empty(len(rows), np.int64)
        order, rising = _sort(rows)
        out[order] = self._int64s("rows.raw", rising, 1)[:, 0]
        return out

    def attributes(self, rows: npt.NDArray[np.integer]) -> list[bytes]:
        """A JSON array for each of `rows`, int (n,), in the order given; "[]" without attributes."""
        return self._records("attributes", rows)

    def attribute_sizes(self) -> Ints:
        """int64 (N): bytes of each row's attributes."""
        ends = self._read("attributes.offsets", 0, 8 * (self.rows + 1)).view(np.int64)
        return np.asarray(ends[1:] - ends[:-1], np.int64)

    def _records(self, name: str, rows: npt.NDArray[np.integer]) -> list[bytes]:
        order, rising = _sort(rows)
        bounds = self._int64s(f"{name}.offsets", rising, 2)
        out = [b""] * len(rising)
        for i, j in _runs(bounds[:, 0], bounds[:, 1]):
            first = int(bounds[i, 0])
            data = self._read(f"{name}.raw", first, int(bounds[j - 1, 1])).tobytes()
            for at, (lo, hi) in zip(order[i:j].tolist(), (bounds[i:j] - first).tolist(), strict=True):
                out[at] = data[lo:hi]
        return out

    def _int64s(self, name: str, rows: Ints, width: int) -> Ints:
        """int64 (n, width): for each of the rows (n), rising, the `width` numbers of 8 bytes from its own on."""
        out = np.empty((len(rows), width), np.int64)
        for i, j in _runs(rows * 8, (rows + width) * 8):
            first = int(rows[i])
            numbers = self._read(name, first * 8, (int(rows[j - 1]) + width) * 8).view(np.int64)
            for k in range(width):
                out[i:j, k] = numbers[rows[i:j] - first + k]
        return out

    def _read(self, name: str, lo: int, hi: int) -> npt.NDArray[np.uint8]:
        """Bytes [lo, hi) of a file."""
        if self._store is not None:
            return np.frombuffer(self._store.read(f"rows/{name}", lo, hi - lo), np.uint8).copy()
        file = self._files[name]
        out = np.empty(hi - lo, np.uint8)
        room, at = out.data, lo
        while room:  # one call reads at most 2 GiB
            count = os.preadv(file.fileno(), [room], at)
            if not count:
                raise OSError(f"scratch file {file.name} ends at byte {at}, before {hi}: was it changed?")
            room, at = room[count:], at + count
        return out

    def _fill(self, source: Source, metric: str, progress: Progress, look: Callable[[Batch], None] | None) -> None:
        """Writes all rows and the hashes, in the order of the source."""
        batch_rows = max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // (4 * self.dimension)))
        ends = dict.fromkeys([name for name in self._files if name.endswith(".offsets")], 0)
        for name in ends:
            self._files[name].write(bytes(8))
        norm_max, longest, written = 0.0, 0, 0
        for batch in source.batches(batch_rows, metric, self.skipped):
            norms = np.sqrt(np.einsum("ij,ij->i", batch.vectors, batch.vectors, dtype=np.float64))
            if norms.max() > norm_max:
                norm_max, longest = float(norms.max()), int(batch.rows[norms.argmax()])
            self._write(batch, ends)
            written += len(norms)
            if look:
                look(batch)
            progress((int(batch.rows[-1]) + 1) / source.rows)
        if not written:
            raise InputError("no row is left", hint="; ".join(source.left_out(self.skipped or Skipped())))
        if metric != "cosine" and 0 < norm_max < NORM_MIN:
            raise InputError(
                f"all vectors are shorter than {NORM_MIN:g}, {source.where(longest)} too, which is the longest: "
                "float32 cannot hold their scores",
                hint=f"multiply all by one number, which leaves the order under {metric} as it is",
            )
        self.rows = written
        for file in self._files.values():
            file.flush()

    def _write(self, batch: Batch, ends: dict[str, int]) -> None:
        hashes = vector_hashes(batch.vectors)
        self._named.update(hashes.data)
        self._named.update(batch.rows.data)
        self._files["vectors.raw"].write(batch.vectors.data)
        if self.skipped is not None:
            self._files["rows.raw"].write(batch.rows.data)
        self._files["vectors.hashes"].write(hashes.data)
        if isinstance(batch.ids, np.ndarray):
            self._named.update(batch.ids.data)
            self._files["ids.raw"].write(batch.ids.data)
        else:
            # Python's own hash: fast, 64 bits, and keyed, so that no source can be made to collide.
            self._files["ids.hashes"].write(np.fromiter(map(hash, batch.ids), np.int64, len(batch.ids)).data)
            self._write_records("ids", batch.ids, ends)
        self._write_records("attributes", json_rows(batch.attributes, len(batch.ids)), ends)

    def _write_records(self, name: str, records: list[bytes], ends: dict[str, int]) -> None:
        bounds = np.cumsum(np.fromiter(map(len, records), np.int64, len(records))) + ends[f"{name}.offsets"]
        ends[f"{name}.offsets"] = int(bounds[-1])
        data = b"".join(records)
        self._named.update(bounds.data)
        self._named.update(data)
        self._files[f"{name}.offsets"].write(bounds.data)
        self._files[f"{name}.raw"].write(data)

    def _check_repeats(self, source: Source) -> None:
        """Refuses repeated ids and counts repeated vectors. Holds 8 bytes a row, and 16 a repeated hash."""
        self._refuse_repeated_ids(source, "ids.hashes" if self.id_kind == "bytes" else "ids.raw")
        self.duplicate_vectors = len(self._repeats("vectors.hashes"))

    def _repeats(self, name: str) -> Ints:
        """Every hash in the file that repeats one before it, sorted."""
        hashes = self._read(name, 0, self.rows * 8).view(np.int64)
        hashes.sort()
        return np.asarray(hashes[1:][hashes[1:] == hashes[:-1]], np.int64)

    def _refuse_repeated_ids(self, source: Source, name: str) -> None:
        repeated = np.unique(self._repeats(name))
        if not len(repeated):
            return
        first = np.full(len(repeated), -1, np.int64)  # the first row with each repeated hash
        duplicates: list[str] = []
        for lo, hi in self.chunks(HASH_CHUNK):
            hashes = self._read(name, lo * 8, hi * 8).view(np.int64)
            at = np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)
            for i in np.flatnonzero(repeated[at] == hashes).tolist():
                before, row = int(first[at[i]]), lo + i
                if before < 0:
                    first[at[i]] = row
                    continue
                one, other = self.ids(np.array([before, row]))
                if one == other:
                    text = one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one)
                    locations = [source.where(int(r)) for r in self.source_rows(np.array([before, row]))]
                    duplicates.append(f"{text!r} in {' and '.join(locations)}")
                if len(duplicates) == BAD_ROWS_NAMED:
                    break
            if len(duplicates) == BAD_ROWS_NAMED:
                break
        if duplicates:
            raise InputError("duplicate ids: " + ", ".join(duplicates), hint="give every row an id of its own")


def stage(
    source: Source,
    folder: Path,
    *,
    metric: str,
    progress: Progress = SILENT,
    look: Callable[[Batch], None] | None = None,
    skip_bad_rows: bool = False,
) -> Staging:
    """Copies `source` to scratch files in `folder` and checks it.

    metric: "cosine", "l2" or "dot"; cosine refuses zero vectors
    look: called with each batch, once
    skip_bad_rows: rows that the source refuses, or that are zero, are left out and counted in `Staging.skipped`

    Needs room for all vectors, ids and attributes, and memory for some batches and 8 bytes a row. InputError names the
    first five rows that the source refuses, that are zero, or whose ids are there already; no file is left then, nor
    after an OSError such as a full disk.
    """
    staging = Staging(source, folder, skip_bad_rows)
    try:
        staging._fill(source, metric, progress, look)
        staging._check_repeats(source)
    except BaseException:
        staging.close()
        raise
    return staging


def _sort(rows: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """The order that sorts `rows`, and the sorted rows, both int64."""
    order = np.argsort(rows, kind="stable")
    return order, np.asarray(rows, np.int64)[order]


def _runs(starts: Ints, ends: Ints, gap: int = GAP_BYTES) -> Iterator[tuple[int, int]]:
    """Splits byte spans, sorted, into runs [i, j) worth one read each: see GAP_BYTES and SPAN_BYTES."""
    cuts = (np.flatnonzero(starts[1:] - ends[:-1] > gap) + 1).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(starts)], strict=True):
        i = begin
        while i < end:
            fit = int(np.searchsorted(ends[i:end], starts[i] + SPAN_BYTES, side="right"))
            yield i, i + max(1, fit)
            i += max(1, fit)


def vector_hashes(vectors: Array) -> Ints:
    """int64 (n,): a hash of each row's bytes.

    Words are mixed, then summed with random odd multipliers modulo 2^64. Without the mix, vectors of small whole
    numbers in f32, whose low bits are all zero, would share the low bits of the sum too.
    """
    data = vectors.view(np.uint8)
    data = np.pad(data, ((0, 0), (0, -data.shape[1] % 8)))
    words = data.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(32)
    multipliers = np.random.default_rng(0).integers(0, 1 << 64, words.shape[1], np.uint64) | np.uint64(1)
    return np.asarray(words @ multipliers).view(np.int64)
