"""Folds the log of an index into a new generation, and moves the log's start behind it.

Most compactions add to what is there (`flush`); where that has grown too much, what queries scan is then written anew
from what is stored (`fold`). An index that takes neither is written anew whole, with all rows in memory.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError
from vantage.format import VECTOR_BYTES, Current, Root
from vantage.format.log import NONCE_BYTES, Id
from vantage.log.move import advance, unsealed
from vantage.log.state import LogState, read_log
from vantage.log.tail import DELETE, PATCH, UPSERT, Tail, members_of

from .bucket.generations import find_generation, send, whole
from .bucket.log_store import StoreLog
from .bucket.store import ConflictError, FolderStore, ObjectStore, beside
from .context import unheard
from .flush import flush, pending_rows, record_of, resolve, unfit
from .fold import dead_rows, fold, why_due
from .ingest.arrays import Arrays, Ids
from .ingest.formats.batch import DTYPES
from .ingest.rows import Ints
from .mutable import MutableIndex, divided_blocks
from .progress import SILENT, Progress
from .rebuild import build_anew, build_log, write_empty
from .successor import Live, open_live
from .tune.draft import block_counts
from .tune.options import Options
from .write.publish import Named
from .write.reopen import reopen

GONE_SHARE = 0.5  # of all numbers, that may be dead: their vectors stay until all is written anew
OUTGROWN_TIMES = 2  # as many blocks a build would make as a small index has
OUTGROWN = "it was built of much fewer rows"
TRIES = 3  # where another compaction, or a gc, came first
COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Folded:
    """What a compaction has done.

    rows: of the index; upserted, patched, deleted: rows of the log by their last write, those of rows that the
    generation did not have apart; written_bytes: that the bucket took. how: flush, fold, rewrite, build or nothing, and
    why. pending: rows that came by flushes since blocks were written whole; dead: numbers of rows that are gone.
    measured: prices were measured again. rebuild_pays: a query reads so much more than one of an index built anew (see
    tune.living).
    """

    generation: str
    seq: int
    rows: int
    upserted: int = 0
    patched: int = 0
    deleted: int = 0
    written_bytes: int = 0
    how: str = "nothing"
    why: str = "the log is empty"
    pending: int = 0
    dead: int = 0
    measured: bool = False
    rebuild_pays: bool = False


class Rebuilding(NamedTuple):
    """How rows are built, where they are: None as the index was, or by the default where it is empty. rebuild: all are,
    whatever else would do. anew: why all is written anew, where nothing else can be.
    """

    recall: float | None = None
    fast: bool | None = None
    rebuild: bool = False
    anew: str = ""

    def options(self, before: Options) -> Options:
        """Of a build."""
        recall, fast = self.recall, self.fast
        return replace(
            before, recall=before.recall if recall is None else recall, fast=before.fast if fast is None else fast
        )


AS_IT_IS = Rebuilding()


def compact(
    store: ObjectStore,
    progress: Progress = SILENT,
    rebuilding: Rebuilding = AS_IT_IS,
    note: Callable[[str], None] = unheard,
) -> Folded:
    """Writes a generation that has all that is in the log, and makes it live; what is written meanwhile stays in the
    log.

    A flush writes what is new, and holds that in memory with the root. Where the rows that came so are over a quarter
    of all, or dead ones over a fifth, a fold follows, and writes what queries scan anew, a run of blocks at a time; or
    where there are so many rows that a build would make more blocks, all is written anew, with all rows in memory, and
    blocks are divided. By then what was flushed is live; where the fold fails, the next compaction makes up for it.
    Where over half of all numbers are of dead rows, or the index is of a kind that takes no flush, all is written anew
    too; and built anew, which holds no more than `vantage build`, where rows would take more memory than the build was
    given, where a small index has grown to more than twice the blocks, or where it is asked for. What was trained stays
    as it was, but for a build, and a router that learns of divided blocks. An empty index is built; one whose last row
    was deleted is empty again. note: hears what is found out about the rows that are built. Raises NotFoundError
    without an index; InputError where the index cannot take a row; ConflictError where others always came first;
    DamagedError, StoreError. Then no row that was written is lost.
    """
    with beside(store):
        return asyncio.run(_compact(store, progress, rebuilding, note))


async def _compact(
    store: ObjectStore, progress: Progress, rebuilding: Rebuilding, note: Callable[[str], None]
) -> Folded:  # fmt: skip
    log = StoreLog(store)
    taken = await _taken(log, store, progress, rebuilding, note)
    folded = await _fold(log, store, progress)
    if isinstance(folded, str):
        folded = await _taken(log, store, progress, Rebuilding(anew=folded), note)
    if folded is None:
        return taken
    return replace(
        folded, upserted=taken.upserted + folded.upserted, patched=taken.patched + folded.patched,
        deleted=taken.deleted + folded.deleted, written_bytes=taken.written_bytes + folded.written_bytes,
    )  # fmt: skip


async def _fold(log: StoreLog, store: ObjectStore, progress: Progress) -> Folded | str | None:
    """Folds the live generation. None where that is not due, or another generation came first; a string says why all is
    to be written anew instead.
    """
    with TemporaryDirectory() as folder:
        state = await unsealed(log, await read_log(log, time.monotonic), time.monotonic, token_bytes)
        live = await asyncio.to_thread(open_live, store, state.current)
        root, new = live.stored.root, Path(folder, "new")
        index, why = root.index, why_due(root.live_rows, pending_rows(root), dead_rows(root))
        if unfit(root) or not why:
            return None
        if divided_blocks(root.live_rows, index.blocks, index.router, root.router) > index.blocks and _fits(live):
            return f"{why}, and there are more rows to a block"
        phase = progress.phase("fold")
        named = await asyncio.to_thread(fold, live, new, phase.part(0, 0.9))
        if isinstance(named, str):
            return named
        current, objects, text = named
        written = await asyncio.to_thread(send, FolderStore(new), current, objects, text, store, phase.part(0.9, 1))
        if not await _advanced(log, state, current, state.current.log.start):
            return None
    folded = Folded(current.generation, state.current.log.start - 1, root.live_rows, written_bytes=written)
    return _told(replace(folded, how="fold", why=why, dead=index.rows - root.live_rows), named)


async def _taken(
    log: StoreLog, store: ObjectStore, progress: Progress, rebuilding: Rebuilding, note: Callable[[str], None]
) -> Folded:  # fmt: skip
    """Makes a generation live that has what the log has."""
    for _ in range(TRIES):
        state = await unsealed(log, await read_log(log, time.monotonic), time.monotonic, token_bytes)
        start, tail = state.tail.next, state.tail
        live = await asyncio.to_thread(open_live, store, state.current)
        root = live.stored.root
        if start == state.current.log.start and not ((rebuilding.rebuild or rebuilding.anew) and root.live_rows):
            gone = root.index.rows - root.live_rows
            return Folded(live.current.generation, state.seq, root.live_rows, pending=pending_rows(root), dead=gone)
        with TemporaryDirectory() as folder:
            made = await asyncio.to_thread(_write, store, live, tail, Path(folder), rebuilding, progress, note)
            current, objects, text = made.named
            home = FolderStore(Path(folder, "new"))
            written = await asyncio.to_thread(send, home, current, objects, text, store, progress)
        if await _advanced(log, state, current, start):
            return replace(made.folded, generation=current.generation, seq=start - 1, written_bytes=written)
    raise ConflictError("others always made another generation live first", hint="run it again")


async def _advanced(log: StoreLog, state: LogState, current: Current, start: int) -> bool:
    """Makes a generation live that was made from a state, and has all segments of the log before `start`."""
    members = {"previous": state.current.generation, "published": datetime.now(UTC).isoformat(timespec="seconds")}
    return await advance(log, state, current.generation, current.root, current.manifest, start, time.time(), members)


class _Made(NamedTuple):
    """A generation in a folder, and what is known of it."""

    named: Named
    folded: Folded


def _write(
    store: ObjectStore, live: Live, tail: Tail, folder: Path, rebuilding: Rebuilding, progress: Progress,
    note: Callable[[str], None],
) -> _Made:  # fmt: skip
    """Writes the next generation into `new` below a folder, by a flush where that can be."""
    root, new = live.stored.root, folder / "new"
    if root.is_empty:
        rows = {identifier: fresh for identifier, fresh in tail.rows.items() if fresh.kind == UPSERT}
        if not rows:
            return _emptied(live, new, 0)
        build_log(root, rows, new, rebuilding.options(Options(**live.manifest.get("built", {}))), progress, note)
        return _Made(Named(*whole(new)), Folded("", 0, len(rows), len(rows), how="build", why="it was empty"))
    if rebuilding.rebuild:
        return _built(live, tail, new, rebuilding, "it was asked for", progress, note)
    why = rebuilding.anew or unfit(root)
    if not why:
        changes = resolve(live.stored, tail)
        rows_in_all, added = root.index.rows + changes.coming.rows, pending_rows(root) + changes.coming.rows
        gone = root.index.rows - root.live_rows + len(changes.gone)
        left = rows_in_all - gone
        if not left:
            return _emptied(live, new, changes.deleted)
        if _is_outgrown(root, left):
            return _built(live, tail, new, rebuilding, OUTGROWN, progress, note)
        due = why_due(left, added, dead_rows(root) + len(changes.gone))
        if gone > GONE_SHARE * rows_in_all:
            why = f"{gone:,} of {rows_in_all:,} numbers are of rows that are dead"
        if not why:
            named = flush(live, changes, new, briefly=bool(due))
            if not isinstance(named, str):
                counts = {name: getattr(changes, name) for name in ("upserted", "patched", "deleted")}
                why = f"{added:,} of {left:,} rows came by flushes, {gone:,} are dead"
                folded = Folded("", 0, left, **counts, how="flush", why=why, pending=added, dead=gone)
                return _Made(named, _told(folded, named))
            why = named
            rmtree(new)
    if not _fits(live):
        return _built(live, tail, new, rebuilding, f"{why}; rows are too many for memory", progress, note)
    _fetch(store, live.current, folder / "old")
    index = reopen(folder / "old").mutable()
    left = rows_left(index, tail)
    if not left:
        return _emptied(live, new, index.rows.count)
    if _is_outgrown(root, left):
        return _built(live, tail, new, rebuilding, OUTGROWN, progress, note)
    coming, leaving, changed = changes_of(index, tail)
    apply(index, coming, leaving)
    index.divide()
    index.write(new, text_room=True)
    named = Named(*whole(new))
    return _Made(named, _told(Folded("", 0, index.rows.count, *changed, how="rewrite", why=why), named))


def _is_outgrown(root: Root, rows: int) -> bool:
    """Whether an index was built of so few rows that what was trained by them is no good for so many; of such a small
    one nothing measures again what it promises.
    """
    small = root.inline or root.index.blocks == 1
    return bool(small) and block_counts(rows)[-1] > OUTGROWN_TIMES * root.index.blocks


def _fits(live: Live) -> bool:
    """Whether all rows can be in memory: they take no more than the index was built with."""
    index = live.stored.root.index
    nbytes = VECTOR_BYTES[index.vector_kind] * index.dimension + index.attribute_bytes
    return bool(index.rows * nbytes <= live.manifest["memory_bytes"])


def _built(
    live: Live, tail: Tail, new: Path, rebuilding: Rebuilding, why: str, progress: Progress,
    note: Callable[[str], None],
) -> _Made:  # fmt: skip
    """All rows built anew, which need not fit the scale of the index that they come from."""
    root, changes = live.stored.root, resolve(live.stored, tail)
    left = root.live_rows - len(changes.gone) + changes.coming.rows
    if not left:
        return _emptied(live, new, changes.deleted)
    build_anew(live.stored, live.manifest, changes.gone, changes.coming, new, rebuilding.options, progress, note)
    named = Named(*whole(new))
    counts = changes.upserted, changes.patched, changes.deleted
    return _Made(named, _told(Folded("", 0, left, *counts, how="build", why=why), named))


def _emptied(live: Live, new: Path, deleted: int) -> _Made:
    """An empty generation of what an index holds, that had so many rows."""
    write_empty(live.stored.root, live.manifest, token_bytes(NONCE_BYTES).hex(), new)
    return _Made(Named(*whole(new)), Folded("", 0, 0, deleted=deleted, how="rewrite", why="no row is left"))


def _told(folded: Folded, named: Named) -> Folded:
    """With what the manifest says of prices."""
    living = json.loads(named.text).get("living", {})
    return replace(folded, measured=living.get("measured", False), rebuild_pays=living.get("rebuild_pays", False))


def rows_left(index: MutableIndex, tail: Tail) -> int:
    """How many rows an index has once it has taken what a log says."""
    row_of = index.row_of()
    come = sum(fresh.kind == UPSERT and identifier not in row_of for identifier, fresh in tail.rows.items())
    gone = sum(fresh.kind == DELETE and identifier in row_of for identifier, fresh in tail.rows.items())
    return index.rows.count + come - gone


def changes_of(index: MutableIndex, tail: Tail) -> tuple[Arrays, Ints, tuple[int, int, int]]:
    """What a log makes of an index: rows that come, numbers of rows that go, rising, and how many are upserted, patched
    and deleted.
    """
    row_of, names, stored = index.row_of(), index.attributes.names, index.stored
    coming, vectors = dict[Id, bytes](), list[npt.NDArray[Any]]()  # rows as they will be
    gone, upserted, deleted = list[int](), 0, 0
    for identifier, fresh in tail.rows.items():
        row, label = row_of.get(identifier), f"row {identifier!r} in the log"
        if fresh.kind == UPSERT:
            coming[identifier] = record_of(members_of(fresh.attributes, label), names)
            vectors.append(np.frombuffer(fresh.vector, DTYPES[stored.kind]))
            upserted += 1
        elif fresh.kind == PATCH and row is not None:
            before = dict(zip(names, json.loads(stored.records[row]), strict=True))
            coming[identifier] = record_of(before | members_of(fresh.attributes, label), names)
            vectors.append(stored.held[row])
        if row is not None:
            gone.append(row)
            deleted += fresh.kind == DELETE
    text_ids = [identifier for identifier in coming if isinstance(identifier, bytes)]
    ids: Ids = text_ids if isinstance(stored.id_of, list) else np.array([*coming], np.int64)
    held = np.array(vectors, stored.held.dtype).reshape(-1, index.rows.dimension)
    counts = upserted, len(coming) - upserted, deleted
    return Arrays(held, stored.kind, ids, [*coming.values()]), np.sort(np.array(gone, np.int64)), counts


def apply(index: MutableIndex, coming: Arrays, gone: Ints) -> None:
    """Takes rows in and others out, which leaves one at least. Raises InputError for one that the index cannot hold."""
    if coming.rows:
        index.add(coming)
    if len(gone):
        index.remove(gone)


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
