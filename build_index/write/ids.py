"""Writes ids.bin: ids by their hash, for a lookup in one page."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import ID_PAGE_ROWS, IdPages
from vantage.kernels import crc32c
from vantage.search.rows import id_hash

from ..ingest.rows import Ints, Rows
from .contents import RowTable
from .objects import ObjectList, sync


def ids_as_bytes(rows: Rows, source: Ints) -> list[bytes]:
    """The ids of source rows (n) as a block stores them."""
    ids = rows.stored.ids(source)
    return ids if isinstance(ids, list) else [struct.pack("<q", i) for i in ids.tolist()]


def _hash(rows: Rows, source: Ints) -> tuple[npt.NDArray[np.uint64]]:
    """u64 (n): hashes of the ids of source rows (n)."""
    ids = rows.stored.ids(source)
    return (np.array([id_hash(i) for i in (ids if isinstance(ids, list) else ids.tolist())], np.uint64),)


def write_ids(rows: Rows, table: RowTable, attributes: bool, objects: ObjectList) -> IdPages:
    """Writes ids.bin; its pages. Raises InputError for two ids with one hash, which no lookup could tell apart.

    attributes: rows have some.
    """
    hashes = np.empty(rows.count, np.uint64)
    cells = rows.cells()
    made = rows.tasks.map(_hash, rows, [table.source[low:high] for low, high in cells], keep=False)
    for (low, high), (own,) in zip(cells, made, strict=True):
        hashes[low:high] = own
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        pair = [int(table.source[order[same[0] + i]]) for i in (0, 1)]
        raise InputError(
            f"the ids of rows {pair[0]} and {pair[1]} have the same hash", hint="change one of the two ids"
        )
    first, crc = array("Q"), array("I")
    number, path = objects.begin("ids.bin")
    with path.open("wb") as file:
        for low in range(0, rows.count, ID_PAGE_ROWS):
            part = order[low : low + ID_PAGE_ROWS]
            page = hashes[part].tobytes() + part.astype(np.uint32).tobytes() + table.checks[part].tobytes()
            page += table.spots[part].T.tobytes() if attributes else b""
            first.append(int(hashes[part[0]]))
            crc.append(crc32c(page))
            file.write(page)
        objects.end("ids.bin", file.tell())
        sync(file)
    return IdPages(number, rows.count, first, crc)
