"""An index in memory and the folder that it lies in: read with its log, and written to that."""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vantage.errors import ConditionError, InputError, LogFullError
from vantage.format import Current
from vantage.log.state import read_log

from .bucket.log_store import StoreLog
from .bucket.store import ConflictError, FolderStore
from .compact import apply, changes_of, compact, rows_left
from .mutable import MutableIndex
from .write.reopen import reopen
from .writes import Fields, Send, sender, split_rows, write_rows

TRIES = 3  # where a compaction came between


def read_rows(path: Path) -> tuple[MutableIndex, str]:
    """(an index in a folder with what its log says, to be changed in memory; the id of its log).

    Raises NotFoundError, InputError where it has no row, or is of an early version; DamagedError.
    """
    for _ in range(TRIES):
        saved = reopen(path)
        state = asyncio.run(read_log(StoreLog(FolderStore(path)), time.monotonic))
        if state.current.generation == saved.generation:
            break
    else:
        raise ConflictError(f"{path}: others made one generation after another live", hint="try again")
    index = saved.mutable()
    if state.tail.rows:
        if not rows_left(index, state.tail):
            raise InputError(f"{path} is empty", hint="write rows to it, and `vantage compact` builds them")
        coming, gone, _ = changes_of(index, state.tail)
        apply(index, coming, gone)
    return index, state.current.log.id


def log_id(path: Path) -> str | None:
    """Of the index in a folder; None where there is none."""
    data = path / "CURRENT"
    current = Current.unpack(data.read_bytes(), str(data)) if data.exists() else None
    return None if current is None or current.deleted else current.log.id


@dataclass
class SavedAs:
    """A folder that an index in memory lies in, by the id of its log; and which of its ids were written in memory
    since: whether each of them is in the folder.
    """

    path: Path
    log: str | None
    changed: dict[int | bytes, bool]

    def note(self, ids: Sequence[int | bytes], *, there: bool) -> None:
        """That these ids are written in memory now; there: they were in it before."""
        for identifier in ids:
            self.changed.setdefault(identifier, there)

    def write(self, index: MutableIndex) -> None:
        """Writes what has changed to the log, rows that are new on the condition that they are, and compacts it.

        Raises InputError where another index has taken the place of this one in the folder.
        """
        if log_id(self.path) != self.log:
            what = f"{self.path} does not hold the index any more that was loaded from there, or saved there"
            raise InputError(what, hint="load it again, or save into another folder")
        row_of = index.row_of()
        for identifier in [i for i, there in self.changed.items() if not there and i not in row_of]:
            del self.changed[identifier]  # it came and went
        send = sender(str(self.path), os.environ)
        self._write(send, "delete", [i for i in self.changed if i not in row_of], index)
        self._write(send, "upsert", [*self.changed], index)
        compact(FolderStore(self.path))

    def _write(self, send: Send, kind: str, ids: list[int | bytes], index: MutableIndex) -> None:
        """Writes these ids, and compacts the log where it is full."""
        while left := [identifier for identifier in ids if identifier in self.changed]:
            try:
                write_rows(send, kind, split_rows(self._rows(kind, left, index)), partial(self._written, left))
            except LogFullError:
                compact(FolderStore(self.path))
            except ConditionError as error:
                error.hint = "another wrote it: remove it from the index in memory, and save again, or load it anew"
                raise

    def _written(self, ids: list[int | bytes], rows: int) -> None:
        """That the first ones of them are in the folder now."""
        for identifier in ids[:rows]:
            self.changed.pop(identifier, None)

    def _rows(self, kind: str, ids: Sequence[int | bytes], index: MutableIndex) -> Iterator[tuple[Any, int]]:
        """Rows as a write has them, and about how many bytes they take."""
        row_of, stored = index.row_of(), index.stored
        for identifier in ids:
            if kind == "delete":
                yield identifier, 16
                continue
            values = array("f", stored.floats(row_of[identifier], row_of[identifier] + 1)[0].tobytes())
            row: Fields = {"id": identifier, "vector": values}
            yield row | ({} if self.changed[identifier] else {"if_absent": True}), 4 * len(values)
