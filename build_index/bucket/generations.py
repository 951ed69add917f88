"""Generations of a published index: publish, list, roll back, delete, verify; CURRENT moves last, on condition."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vantage.bounded_json import loads
from vantage.errors import DamagedError, InputError, NotFoundError, StoreError
from vantage.format import Current, ObjectName, Root
from vantage.format.current import LogName
from vantage.format.log import NONCE_BYTES
from vantage.log.collect import GRACE_S, collect
from vantage.log.create import check_over
from vantage.log.move import packed, swap, switch
from vantage.log.state import LogState, read_log
from vantage.read.reader import CURRENT_BYTES_MAX

from ..progress import SILENT, Progress
from .log_store import StoreLog
from .names import GENERATION, MARK, check_objects, kind_of
from .store import ConflictError, FolderStore, ObjectStore, StoredObject, beside

UPLOADS = 4  # at a time
MANIFEST_DEPTH_MAX, MANIFEST_PARTS_MAX = 32, 1 << 20
MARK_S = 3600.0  # a gc that has not ended by then has died


def manifest_objects(data: bytes, generation: str) -> list[ObjectName]:
    """What a manifest names: objects of this generation, and of those that it builds on.

    Raises DamagedError where it is not the one that the generation is named after, or names anything else.
    """
    try:
        manifest = loads(data, MANIFEST_DEPTH_MAX, MANIFEST_PARTS_MAX, finite=False)
        objects = [ObjectName(o["key"], o["size"], o["sha256"]) for o in manifest.pop("objects")]
        named = {relative(o.key, generation): (o.size, o.sha256) for o in objects}
        del manifest["generation"]
    except (ValueError, KeyError, TypeError, AttributeError):
        objects, named, manifest = [], {}, None
    if name_of(named, manifest) != generation:
        raise DamagedError(f"{generation}/manifest.json: is not what the builder wrote", hint="publish it again")
    check_objects(objects, generation)
    return objects


def relative(key: str, generation: str) -> str:
    """A key as the directory of objects of a generation has it."""
    own = f"{generation}/"
    return key.removeprefix(own) if key.startswith(own) else f"../{key}"


def name_of(objects: Mapping[str, tuple[int, str]], manifest: dict[str, Any]) -> str:
    """The name of a generation: of its objects (size, SHA-256) by their relative keys, and of what its manifest says
    beside them.
    """
    return hashlib.sha256(json.dumps([objects, manifest]).encode()).hexdigest()[:16]


def folders(objects: Iterable[ObjectName]) -> set[str]:
    """The generations that objects lie in."""
    return {o.key.partition("/")[0] for o in objects}


def _current(store: ObjectStore) -> tuple[Current | None, str | None, dict[str, Any]]:
    data = store.get("CURRENT", CURRENT_BYTES_MAX)
    if data is None:
        return None, None, {}
    return Current.unpack(data[0], "CURRENT"), data[1], json.loads(data[0])


def live(store: ObjectStore) -> tuple[Current, str | None, dict[str, Any]]:
    current, etag, members = _current(store)
    if current is None:
        raise NotFoundError("there is no index here: no CURRENT", hint="check the address")
    return current, etag, members


def whole(source: Path) -> tuple[Current, list[ObjectName], bytes]:
    """The live generation of a folder, its objects and its manifest, once all of them are there in their sizes.

    Raises DamagedError where one is not, is a link, or has a name that the format does not know.
    """
    home = FolderStore(source)
    current, _, _ = live(home)
    text = home.get(current.manifest.key)
    if text is None or hashlib.sha256(text[0]).hexdigest() != current.manifest.sha256:
        raise DamagedError(f"{source / current.manifest.key}: is not what CURRENT says", hint="build the index again")
    objects = manifest_objects(text[0], current.generation)
    for o in objects:
        with home.open(o.key) as file:
            size = os.fstat(file.fileno()).st_size
        if size != o.size:
            raise DamagedError(f"{source / o.key}: {size} bytes, wants {o.size}", hint="build the index again")
    if bad := unlike(home, current, objects):
        raise DamagedError(f"{source}: {bad[0]}", hint="build the index again")
    return current, objects, text[0]


def publish(source: Path, store: ObjectStore, progress: Progress = SILENT) -> dict[str, Any]:
    """Puts the live generation of the folder `source` into a bucket and makes it live there.

    Objects that are there with the same size and SHA-256 are kept, so that a publish that was interrupted goes on.
    Raises InputError where an object of the generation is there with other bytes, ConflictError where another
    publisher came first, StoreError where the bucket fails: CURRENT then names what it named before. A folder into
    which a build is writing takes no publish, rollback or gc: InputError.
    """
    current, objects, text = whole(source)  # before the first byte moves
    bare = Current(current.generation, current.root, current.manifest)  # the log of the folder stays there
    with beside(store, make=True):
        return _publish(FolderStore(source), bare, objects, text, store, progress)


def _publish(
    home: FolderStore, current: Current, objects: list[ObjectName], text: bytes, store: ObjectStore, progress: Progress
) -> dict[str, Any]:
    before, etag, _ = _current(store)
    written = send(home, current, objects, text, store, progress)
    swapped = before is None or before.generation != current.generation or before.deleted > 0
    if swapped:
        _swap(store, current, before, etag)
    else:
        now = live(store)[0].generation
        if now != current.generation:
            raise _outrun(now, current.generation)
    return {"generation": current.generation, "previous": before.generation if before else None,
            "objects": len(objects) + 1, "bytes": sum(o.size for o in objects) + len(text), "written_bytes": written,
            "swapped": swapped}  # fmt: skip


def send(
    home: FolderStore, current: Current, objects: list[ObjectName], text: bytes, store: ObjectStore, progress: Progress
) -> int:
    """Puts those objects of a generation into a bucket that are not there yet, its manifest last; the bytes written.

    objects: all of them; or but for those that what is live names until this one is, which no gc takes. Raises
    InputError, DamagedError, ConflictError, StoreError as `publish`. It is not live then.
    """
    check_unmarked(store, current, objects)
    total, done, written = sum(o.size for o in objects), 0, 0

    def put(o: ObjectName) -> int:
        identity = (o.size, o.sha256)
        there = store.stated(o.key)
        if there == identity:
            return 0
        if there is not None:
            raise InputError(
                f"{o.key} is in the bucket with other bytes ({there[0]}, not {o.size}, or another SHA-256)",
                hint="`vantage verify` tells what is damaged; delete that object, or publish under another name",
            )
        try:
            with home.open(o.key) as file:
                store.upload(o.key, file, o.sha256)
        except StoreError:  # the answer may be lost, not the object
            if store.digest(o.key) != identity:
                raise
            return o.size
        if store.digest(o.key) != identity:
            raise DamagedError(f"{o.key}: what came into the bucket is not what was sent", hint="publish it again")
        return o.size

    with ThreadPoolExecutor(UPLOADS) as pool:
        try:
            for o, sent in zip(objects, pool.map(put, objects), strict=True):
                done, written = done + o.size, written + sent
                progress(done / total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    seal(store, current, objects, text)
    return written


def check_unmarked(store: ObjectStore, current: Current, objects: Iterable[ObjectName]) -> None:
    """Raises ConflictError where a gc is deleting the generation, or one that has some of these objects of it."""
    for name in sorted(folders(objects) | {current.generation}):
        if any(stored.key.startswith(f"{name}/{MARK}") for stored in store.list(name)):
            raise ConflictError(
                f"`vantage gc` is deleting {name}",
                hint="let it end; where it broke off, run it again after an hour; then publish the index again",
            )


def seal(store: ObjectStore, current: Current, objects: list[ObjectName], text: bytes) -> None:
    """Writes the manifest, again where it is there: that makes the generation young, which keeps gc away from it and
    from what it names.

    objects: see `send`. Raises ConflictError beside a gc that came first, DamagedError where an object is gone.
    """
    check_unmarked(store, current, objects)  # before it is young, or no later gc could end what one has begun
    try:
        store.put(current.manifest.key, text)
    except StoreError:  # maybe in vain: the one that is there may be as old as ever
        store.put(current.manifest.key, text)
    check_unmarked(store, current, objects)
    missing = [o.key for o in objects if store.stated(o.key) != (o.size, o.sha256)]
    if missing:
        raise DamagedError(f"{missing[0]}: went away or changed meanwhile", hint="publish the index again")


def pointer(new: Current, members: dict[str, Any]) -> bytes:
    """CURRENT, and what it says beside: `previous`, the generation that it replaces, and when it was `published`."""
    return json.dumps(json.loads(new.pack()) | members, indent=1).encode() + b"\n"


def _outrun(now: str, own: str) -> ConflictError:
    return ConflictError(
        f"another publisher made {now} live while {own} was on its way; {now} stays",
        hint="run it again if yours should be live",
    )


def _swap(store: ObjectStore, new: Current, old: Current | None, etag: str | None) -> None:
    """Replaces CURRENT where it is what was read; a lost answer is resolved by reading back. Where the index has a log,
    that ends, and the next one begins: no write is acknowledged behind its end.
    """
    if old is not None and old.named_log is not None:
        switch_log(store, new, old)
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    data = pointer(new, {"previous": old.generation if old else None, "published": now})
    for last in (False, True):
        try:
            store.swap("CURRENT", data, etag)
            return
        except StoreError as error:
            current, changed, _ = _current(store)
            if current is not None and current.generation == new.generation:
                return
            if changed != etag:
                raise _outrun(current.generation if current else "none", new.generation) from error
            if last:
                raise


def check_folded(store: ObjectStore, current: Current | None) -> None:
    """Raises InputError where the log of an index with this CURRENT has rows that its generation does not have."""
    if current is not None and current.named_log is not None and not current.deleted:
        _check_folded(asyncio.run(read_log(StoreLog(store), time.monotonic)))


def _check_folded(state: LogState) -> None:
    if state.tail.rows:
        raise InputError(
            f"the log has writes to {len(state.tail.rows):,} rows that no generation has",
            hint="`vantage compact` first, or they would be lost",
        )


def switch_log(store: ObjectStore, new: Current, old: Current) -> None:
    """Ends the log of an index, and makes a generation live with the next one; `old` was live, or was deleted.

    Raises InputError as `check_folded`, ConflictError where another came first.
    """
    new = replace(new, previous=old.generation)

    async def make(state: LogState) -> Current:
        if state.current.generation != old.generation:
            raise _outrun(state.current.generation, new.generation)
        _check_folded(state)
        return new

    async def run() -> None:
        log = StoreLog(store)
        if old.deleted:
            await _take_over(log, new, old)
            return
        after = await switch(log, await read_log(log, time.monotonic), make, time.monotonic)
        if after.current.generation != new.generation:
            raise _outrun(after.current.generation, new.generation)

    asyncio.run(run())


async def _take_over(log: StoreLog, new: Current, old: Current) -> None:
    """Makes a generation live under the name of a deleted index, with a log of its own. Raises BusyError too early."""
    found = await log.get("CURRENT", CURRENT_BYTES_MAX)
    now = None if found is None else Current.unpack(found[0], "CURRENT")
    if found is None or now != old:
        raise _outrun(now.generation if now else "none", new.generation)
    check_over(old, time.time())
    nonce = secrets.token_hex(NONCE_BYTES)
    made = replace(new, named_log=LogName(secrets.token_hex(8), 1), counter=old.counter + 1, nonce=nonce)
    if not await swap(log, packed(made, {}), found[1], nonce):
        raise _outrun("another one", new.generation)


def _group(store: ObjectStore) -> dict[str, list[StoredObject]]:
    """By generation: what has a name that the format knows."""
    out: dict[str, list[StoredObject]] = {}
    for stored in store.list():
        name, _, rest = stored.key.partition("/")
        if rest and kind_of(stored.key) != "log":
            out.setdefault(name, []).append(stored)
    return out


def generations(store: ObjectStore) -> list[dict[str, Any]]:
    """Every generation in the bucket, newest first; `whole` by names and sizes, which `verify` checks to the byte.

    `bytes` are its own: it may name objects of others. One that is not whole may have objects that others name.
    """
    current, _, _ = _current(store)
    out, grouped = list[dict[str, Any]](), _group(store)
    all_sizes = {s.key: s.size for stored in grouped.values() for s in stored}
    if current is None and not grouped:
        live(store)  # says so
    for name, stored in grouped.items():
        if all(s.key.startswith(f"{name}/{MARK}") for s in stored):  # of a gc that died
            continue
        manifest, entire = dict[str, Any](), False
        with suppress(DamagedError):
            text = store.get(f"{name}/manifest.json")
            objects = manifest_objects(text[0], name) if text else []
            manifest = json.loads(text[0]) if text else {}
            entire = bool(objects) and all(all_sizes.get(o.key) == o.size for o in objects)
        out.append(
            {"generation": name, "live": current is not None and current.generation == name, "whole": entire,
             "bytes": sum(s.size for s in stored), "written": max(s.modified for s in stored),
             "rows": manifest.get("rows"), "contract": manifest.get("contract")}
        )  # fmt: skip
    return sorted(out, key=lambda g: (g["written"], g["generation"]), reverse=True)


def find_generation(store: ObjectStore, generation: str) -> tuple[Current, list[ObjectName], bytes]:
    """What CURRENT would be with this generation live; its objects; its manifest. NotFoundError without a manifest."""
    text = store.get(f"{generation}/manifest.json") if GENERATION.fullmatch(generation) else None
    if text is None:
        raise NotFoundError(f"there is no whole generation {generation}", hint="`vantage generations` lists them")
    objects = manifest_objects(text[0], generation)
    root = next((o for o in objects if o.key == f"{generation}/root.bin"), None)
    if root is None:
        raise DamagedError(f"{generation}/manifest.json: names no root.bin", hint="publish it again")
    manifest = ObjectName(f"{generation}/manifest.json", len(text[0]), hashlib.sha256(text[0]).hexdigest())
    return Current(generation, root, manifest), objects, text[0]


def rollback(store: ObjectStore, generation: str | None = None) -> dict[str, Any]:
    """Makes a generation live again, the one before by default, once each of its objects was read and is whole.

    Raises InputError where none can be named, DamagedError where it is not whole, ConflictError as publish.
    """
    with beside(store):
        return _rollback(store, generation)


def _rollback(store: ObjectStore, generation: str | None) -> dict[str, Any]:
    current, etag, members = live(store)
    target = members.get("previous") if generation is None else generation
    if not isinstance(target, str) or not GENERATION.fullmatch(target):
        if generation is not None:
            raise InputError(f"{generation!r} is not a generation", hint="name one of `vantage generations`")
        raise InputError("which generation was live before is not known", hint="name one of `vantage generations`")
    if target == current.generation:
        return {"generation": target, "previous": members.get("previous"), "swapped": False}
    new, objects, text = find_generation(store, target)
    bad = [o.key for o in objects if store.digest(o.key) != (o.size, o.sha256)]
    if bad:
        raise DamagedError(f"{bad[0]}: is missing or not what was written", hint="name another, or publish it again")
    if bad := unlike(store, new, objects):
        raise DamagedError(bad[0], hint="name another, or publish it again")
    seal(store, new, objects, text)
    _swap(store, new, current, etag)
    return {"generation": target, "previous": current.generation, "swapped": True}


def gc(store: ObjectStore, older_than: float, *, dry_run: bool = False) -> dict[str, Any]:
    """Deletes generations, and what interrupted publishes left, whose newest object is older than so many seconds.

    Never the live one, nor the one that it would roll back to, nor what a generation names that stays. A mark of this
    run comes first, then a second look: whoever makes a generation live writes its manifest anew and then looks for
    marks where its objects lie (`seal`), so one of the two sees the other. A compaction need not look where it names
    what the live generation names: that stays until it is not live any more, and then the compaction comes too late.
    The manifest goes next: what is left of a generation then cannot be rolled back to, and the next run deletes it.
    Marks of other runs stay, until they are so old that their run must have died.
    """
    with beside(store):
        return _gc(store, older_than, dry_run)


def _gc(store: ObjectStore, older_than: float, dry_run: bool) -> dict[str, Any]:
    current, _, _ = live(store)
    deleted, freed, run = [], 0, MARK + secrets.token_hex(8)
    if current.named_log is not None and not dry_run:
        asyncio.run(collect(StoreLog(store), time.monotonic, time.time(), max(older_than, GRACE_S)))
    grouped = _group(store)
    for name, seen in sorted(grouped.items()):
        mark, stored = f"{name}/{run}", _garbage(store, name, older_than, grouped)
        if not dry_run:
            for s in seen:
                if s.key.startswith(f"{name}/{MARK}") and time.time() - s.modified > MARK_S:
                    store.delete(s.key)
            if stored:
                store.put(mark, b"")
                stored = _garbage(store, name, older_than, _group(store))
                if not stored:
                    store.delete(mark)
        if not stored:
            continue
        deleted.append(name)
        freed += sum(s.size for s in stored)
        if dry_run:
            continue
        for s in sorted(stored, key=lambda s: s.key != f"{name}/manifest.json"):
            store.delete(s.key)
        store.delete(mark)
    return {"deleted": deleted, "bytes": freed, "dry_run": dry_run}


def _garbage(
    store: ObjectStore, name: str, older_than: float, grouped: dict[str, list[StoredObject]]
) -> list[StoredObject]:
    """Objects of a generation that may go, of what there is as `_group` has it, but for marks; none of one that may
    not.
    """
    asked = time.time()  # before CURRENT, as whoever is held up between the two would take a new one for old
    current, _, members = live(store)
    own, kept = list[StoredObject](), set[str]()
    for other, found in grouped.items():
        stored = [s for s in found if not s.key.startswith(f"{other}/{MARK}")]
        young = any(asked - s.modified < older_than for s in stored)
        if young or other in (current.generation, members.get("previous")):
            kept.add(other)
        elif other == name:
            own = stored
    return own and _unnamed(store, own, kept, current.generation)


def _unnamed(store: ObjectStore, objects: list[StoredObject], kept: set[str], own: str) -> list[StoredObject]:
    """Those of some objects that no generation names which is kept; none where one does not tell. own: the live one."""
    named = set[str]()
    for name in kept:
        text = store.get(f"{name}/manifest.json")
        if text is None and name != own:
            continue  # a publish that is not through yet: it looks for marks
        try:
            named |= {o.key for o in manifest_objects(text[0] if text else b"", name)}
        except DamagedError:
            return []
    return [s for s in objects if s.key not in named]


def unlike(store: ObjectStore, current: Current, objects: list[ObjectName]) -> list[str]:
    """What root.bin counts on and the manifest does not name, or not in that size; a sentence each."""
    generation, sizes = current.generation, {o.key: o.size for o in objects}
    try:
        root = Root.unpack(store.read(current.root.key, 0, current.root.size), current.root.key)
    except DamagedError as error:
        return [error.message]
    stated = dict(zip(root.objects.resolve("", generation), root.objects.sizes, strict=True))
    stated.pop(current.root.key, None)
    return [
        f"{key}: root.bin counts on {size} bytes, the manifest names {sizes.get(key, 'no such object')}"
        for key, size in stated.items()
        if sizes.get(key) != size
    ] + [f"{key}: root.bin knows no such object" for key in sizes if key not in stated and key != current.root.key]


def verify(store: ObjectStore, progress: Progress = SILENT) -> dict[str, Any]:
    """Reads every object of the live generation and compares size and SHA-256; `damage` is a list of sentences."""
    current, _, _ = live(store)
    damage: list[str] = []
    try:
        text = store.get(current.manifest.key)
        if text is None or hashlib.sha256(text[0]).hexdigest() != current.manifest.sha256:
            raise DamagedError(f"{current.manifest.key}: is missing or not what CURRENT says")
        objects = manifest_objects(text[0], current.generation)
    except DamagedError as error:
        return {"generation": current.generation, "objects": 1, "bytes": 0, "damage": [error.message]}
    if current.root not in objects:
        damage.append(f"{current.root.key}: CURRENT and the manifest name different ones")
    total, done = sum(o.size for o in objects), 0
    for o in objects:
        try:
            identity = store.digest(o.key)
        except DamagedError as error:
            damage.append(error.message)
            continue
        if identity is None:
            damage.append(f"{o.key}: is missing")
        elif identity[0] != o.size:
            damage.append(f"{o.key}: {identity[0]} bytes, wants {o.size}")
        elif identity[1] != o.sha256:
            damage.append(f"{o.key}: SHA-256 differs")
        done += o.size
        progress(done / total)
    if current.root in objects and not any(d.startswith(current.root.key) for d in damage):
        damage += unlike(store, current, objects)
    return {"generation": current.generation, "objects": len(objects) + 1, "bytes": total + len(text[0]),
            "damage": damage}  # fmt: skip
