"""Folds the log of an index into a new generation, and moves the log's start behind it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError
from vantage.format import Current, Root
from vantage.format.log import NONCE_BYTES, Id
from vantage.log.move import advance, unsealed
from vantage.log.state import read_log
from vantage.log.tail import DELETE, PATCH, UPSERT, Tail, members_of

from .bucket.generations import find_generation, send, whole
from .bucket.log_store import StoreLog
from .bucket.store import ConflictError, FolderStore, ObjectStore, beside
from .context import unheard
from .first_build import first_build, write_empty
from .ingest.arrays import Arrays, Ids
from .ingest.formats.batch import DTYPES
from .mutable import MutableIndex
from .progress import SILENT, Progress
from .tune.options import Options
from .vector_index import VectorIndex

TRIES = 3  # where another compaction, or a gc, came first
COPY_BYTES = 8 << 20
BUILT = Options()  # an empty index, where nothing is said


@dataclass(frozen=True)
class Folded:
    """What a compaction has done. rows: of the index; upserted, patched, deleted: rows of the log by their last write,
    those of rows that the generation did not have apart; written_bytes: that the bucket took.
    """

    generation: str
    seq: int
    rows: int
    upserted: int = 0
    patched: int = 0
    deleted: int = 0
    written_bytes: int = 0


def compact(
    store: ObjectStore, progress: Progress = SILENT, first: Options = BUILT,
    note: Callable[[str], None] = unheard,
) -> Folded:  # fmt: skip
    """Writes a generation that has all that is in the log, and makes it live; what is written meanwhile stays in the
    log. All rows are held in memory.

    Blocks that no write touched keep their codes, and what was trained stays as it was. An empty index is built, with
    the options `first`; one whose last row was deleted is empty again. note: hears what is found out about the rows
    that are built. Raises NotFoundError without an index; InputError where the index cannot take a row; ConflictError
    where others always came first; DamagedError, StoreError. Then nothing changed.
    """
    with beside(store):
        return asyncio.run(_compact(store, progress, first, note))


async def _compact(
    store: ObjectStore, progress: Progress, first: Options, note: Callable[[str], None]
) -> Folded:  # fmt: skip
    log = StoreLog(store)
    for _ in range(TRIES):
        state = await unsealed(log, await read_log(log, time.monotonic), time.monotonic, token_bytes)
        start, tail = state.tail.next, state.tail
        if start == state.current.log.start:
            root = await asyncio.to_thread(store.get, state.current.manifest.key)
            if root is None:
                raise DamagedError(f"{state.current.manifest.key}: is missing", hint="publish the index again")
            return Folded(state.current.generation, state.seq, int(json.loads(root[0])["rows"]))
        with TemporaryDirectory() as folder:
            new = Path(folder, "new")
            counts = await asyncio.to_thread(_write, store, state.current, tail, new, first, progress, note)
            current, objects, text = whole(new)
            written = await asyncio.to_thread(send, FolderStore(new), current, objects, text, store, progress)
        members = {"previous": state.current.generation, "published": datetime.now(UTC).isoformat(timespec="seconds")}
        if await advance(log, state, current.generation, current.root, current.manifest, start, time.time(), members):
            return Folded(current.generation, start - 1, *counts, written)
    raise ConflictError("others always made another generation live first", hint="run it again")


def _write(
    store: ObjectStore, current: Current, tail: Tail, new: Path, first: Options, progress: Progress,
    note: Callable[[str], None],
) -> tuple[int, int, int, int]:  # fmt: skip
    """Writes the generation that has a log's rows too into a folder: its rows, and those upserted, patched, deleted."""
    root = Root.unpack(store.read(current.root.key, 0, current.root.size), current.root.key)
    if root.is_empty:
        rows = {identifier: fresh for identifier, fresh in tail.rows.items() if fresh.kind == UPSERT}
        if rows:
            first_build(root, rows, new, first, progress, note)
        else:
            write_empty(root, token_bytes(NONCE_BYTES).hex(), new)
        return len(rows), len(rows), 0, 0
    old = new.with_name("old")
    _fetch(store, current, old)
    index = VectorIndex.load(old).held
    if not (left := rows_left(index, tail)):
        write_empty(root, token_bytes(NONCE_BYTES).hex(), new)
        return 0, 0, 0, index.rows.count
    counts = apply(index, tail)
    index.write(new)
    return left, *counts


def rows_left(index: MutableIndex, tail: Tail) -> int:
    """How many rows an index has once it has taken what a log says."""
    row_of = index.row_of()
    come = sum(fresh.kind == UPSERT and identifier not in row_of for identifier, fresh in tail.rows.items())
    gone = sum(fresh.kind == DELETE and identifier in row_of for identifier, fresh in tail.rows.items())
    return index.rows.count + come - gone


def apply(index: MutableIndex, tail: Tail) -> tuple[int, int, int]:
    """Takes what a log says into an index, which leaves it a row: (rows upserted, patched, deleted) that it changed.

    Raises InputError where a row is one that the index cannot hold.
    """
    row_of, names, stored = index.row_of(), index.attributes.names, index.stored
    coming, vectors = dict[Id, bytes](), list[npt.NDArray[Any]]()  # rows as they will be
    gone, upserted, deleted = list[int](), 0, 0
    for identifier, fresh in tail.rows.items():
        row, label = row_of.get(identifier), f"row {identifier!r} in the log"
        if fresh.kind == UPSERT:
            coming[identifier] = _record(members_of(fresh.attributes, label), names)
            vectors.append(np.frombuffer(fresh.vector, DTYPES[stored.kind]))
            upserted += 1
        elif fresh.kind == PATCH and row is not None:
            before = dict(zip(names, json.loads(stored.records[row]), strict=True))
            coming[identifier] = _record(before | members_of(fresh.attributes, label), names)
            vectors.append(stored.held[row])
        if row is not None:
            gone.append(row)
            deleted += fresh.kind == DELETE
    if coming:
        text_ids = [identifier for identifier in coming if isinstance(identifier, bytes)]
        ids: Ids = text_ids if isinstance(stored.id_of, list) else np.array([*coming], np.int64)
        index.add(Arrays(np.array(vectors), stored.kind, ids, [*coming.values()]))
    if gone:
        index.remove(np.sort(gone))
    return upserted, len(coming) - upserted, deleted


def _record(members: dict[str, Any], names: list[str]) -> bytes:
    """Attributes as an index keeps them: a JSON array in the order of its columns."""
    return json.dumps([members.get(name) for name in names], ensure_ascii=False, separators=(",", ":")).encode()


def _fetch(store: ObjectStore, current: Current, folder: Path) -> None:
    """A generation's objects in a folder, as an index of its own. Raises DamagedError where one is not what it was."""
    _, objects, text = find_generation(store, current.generation)
    home = FolderStore(folder)
    folder.mkdir()
    for o in objects:
        path = folder / o.key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for at in range(0, o.size, COPY_BYTES):
                file.write(store.read(o.key, at, min(COPY_BYTES, o.size - at)))
        if home.digest(o.key) != (o.size, o.sha256):
            raise DamagedError(f"{o.key}: is not what was written", hint="`vantage verify` tells what is damaged")
    (folder / current.manifest.key).write_bytes(text)
    (folder / "CURRENT").write_bytes(Current(current.generation, current.root, current.manifest).pack())
