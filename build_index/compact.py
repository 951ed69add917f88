"""Folds the log of an index into a new generation, and moves the log's start behind it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError, InputError
from vantage.format import Current
from vantage.format.log import Id
from vantage.log.move import advance, unsealed
from vantage.log.state import read_log
from vantage.log.tail import DELETE, PATCH, UPSERT, Tail, members_of

from .bucket.generations import find_generation, send, whole
from .bucket.log_store import StoreLog
from .bucket.store import ConflictError, FolderStore, ObjectStore, beside
from .ingest.arrays import Arrays, Ids
from .ingest.formats.batch import DTYPES
from .mutable import MutableIndex
from .progress import SILENT, Progress
from .vector_index import VectorIndex

TRIES = 3  # where another compaction, or a gc, came first
COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Folded:
    """What a compaction has done. rows: of the index; upserted, patched, deleted: rows of the log by their last write,
    those of rows that the generation did not have apart; written_bytes: that the bucket took. measured: prices were
    measured again. rebuild_pays: a query reads so much more than one of an index built anew (see tune.living).
    """

    generation: str
    seq: int
    rows: int
    upserted: int = 0
    patched: int = 0
    deleted: int = 0
    written_bytes: int = 0
    measured: bool = False
    rebuild_pays: bool = False


def compact(store: ObjectStore, progress: Progress = SILENT) -> Folded:
    """Writes a generation that has all that is in the log, and makes it live; what is written meanwhile stays in the
    log. All rows are held in memory.

    Blocks that no write touched keep their codes, and what was trained stays as it was. Raises NotFoundError without an
    index; InputError where no row would be left, or the index cannot take one; ConflictError where others always came
    first; DamagedError, StoreError. Then nothing changed.
    """
    with beside(store):
        return asyncio.run(_compact(store, progress))


async def _compact(store: ObjectStore, progress: Progress) -> Folded:
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
            old, new = Path(folder, "old"), Path(folder, "new")
            await asyncio.to_thread(_fetch, store, state.current, old)
            index = VectorIndex.load(old).held
            index.follow()
            counts = apply(index, tail)
            index.write(new)
            current, objects, text = whole(new)
            written = await asyncio.to_thread(send, FolderStore(new), current, objects, text, store, progress)
        members = {"previous": state.current.generation, "published": datetime.now(UTC).isoformat(timespec="seconds")}
        if await advance(log, state, current.generation, current.root, current.manifest, start, time.time(), members):
            living = json.loads(text).get("living", {})
            told = living.get("measured", False), living.get("rebuild_pays", False)
            return Folded(current.generation, start - 1, index.rows.count, *counts, written, *told)
    raise ConflictError("others always made another generation live first", hint="run it again")


def apply(index: MutableIndex, tail: Tail) -> tuple[int, int, int]:
    """Takes what a log says into an index: (rows upserted, patched, deleted) that it changed.

    Raises InputError where no row would be left, or a row is one that the index cannot hold.
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
    if len(gone) - len(coming) >= index.rows.count:
        raise InputError("no row would be left", hint="delete the index, or write rows before it is compacted")
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
