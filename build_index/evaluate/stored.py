"""The rows of an index as its Parquet files have them, each held against the manifest before it is read."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.format import VECTOR_BYTES, ObjectName
from vantage.index import Index

from ..bucket.generations import manifest_objects
from ..bucket.store import FolderStore, ObjectStore, Ranged, store_at
from ..ingest.formats.batch import DTYPES

PARTS_KEPT = 4096  # checks that are remembered
AGAIN = "`vantage verify` tells what is damaged; publish or build the index again"


@lru_cache(maxsize=PARTS_KEPT)
def _list_objects(address: str, manifest: ObjectName, generation: str) -> dict[str, tuple[int, str]]:
    """(size, SHA-256) of each object that the manifest of a generation names, by key."""
    text = store_at(address).get(manifest.key)
    if text is None or hashlib.sha256(text[0]).hexdigest() != manifest.sha256:
        raise DamagedError(f"{manifest.key}: is missing or not what CURRENT says", hint=AGAIN)
    return {o.key: (o.size, o.sha256) for o in manifest_objects(text[0], generation)}


@lru_cache(maxsize=PARTS_KEPT)
def _check(address: str, key: str, identity: tuple[int, str] | None, stamp: object) -> None:
    """Raises DamagedError where an object is not the one that the manifest names; stamp: of the file, if it is one."""
    if identity is None or store_at(address).digest(key) != identity:
        raise DamagedError(f"{key}: is missing or not what was written", hint=AGAIN)


def part_at(path: Path | str, index: Index, part: int) -> tuple[ObjectStore, str]:
    """Where the Parquet part that is object `part` lies and its key, once its bytes were held against the manifest:
    once a process, and again where it is a file that was written since.
    """
    address, current = str(path), index.current
    where, stamp = store_at(address), None
    key = index.root.objects.resolve("", current.generation)[part]
    if isinstance(where, FolderStore):
        address = str(where.path.absolute())  # a process may change its folder
        with where.open(key) as file:
            stat = os.fstat(file.fileno())
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
    _check(address, key, _list_objects(address, current.manifest, current.generation).get(key), stamp)
    return where, key


def source_rows(path: Path | str, index: Index) -> npt.NDArray[np.int64]:
    """(N) source row of each row number, from the Parquet files. Raises DamagedError where one is not as written."""
    out = []
    for part in sorted(set(index.root.rows.vector_object)):
        nbytes = index.root.objects.sizes[part]
        where, key = part_at(path, index, part)
        try:
            file = pa.PythonFile(Ranged(where, key, nbytes), "r")
            out.append(pq.read_table(file, columns=["source_row"])["source_row"].to_numpy())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedError(f"{key}: is no Parquet file of rows", hint=AGAIN) from error
    rows = np.concatenate(out)
    if len(rows) != index.root.index.rows or rows.dtype != np.int64:
        raise DamagedError(f"{index.name}: the vectors of {len(rows):,} rows, {index.root.index.rows:,} are indexed")
    return rows


def stored_vectors(path: Path | str, index: Index, low: int, high: int) -> npt.NDArray[np.float32]:
    """f32 (high - low, d): the full vectors of rows [low, high) of one page. Raises DamagedError as source_rows."""
    pages, kind, d = index.root.rows, index.root.index.vector_kind, index.root.index.dimension
    page, width = pages.page_of(low), VECTOR_BYTES[kind] * d
    at = pages.vector_offset[page] + (low - pages.first_row[page]) * width
    where, key = part_at(path, index, pages.vector_object[page])
    data = where.read(key, at, (high - low) * width)
    if len(data) != (high - low) * width:
        raise DamagedError(f"{key}: ends within the vectors of rows {low} to {high - 1}", hint=AGAIN)
    return np.frombuffer(data, DTYPES[kind]).reshape(high - low, d).astype(np.float32)
