"""Makes a written generation the live one of its folder; what is the same is not written again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vantage.errors import DamagedError
from vantage.format import Current, ObjectName

from ..bucket.generations import (
    check_unmarked,
    folders,
    manifest_objects,
    name_of,
    pointer,
    seal,
    switch_log,
)
from ..bucket.store import FolderStore
from .objects import sync


class Named(NamedTuple):
    """A generation that was written: what CURRENT would be, its own objects, and its manifest."""

    current: Current
    objects: list[ObjectName]
    text: bytes


def name_generation(building: Path, manifest: dict[str, Any], others: Iterable[ObjectName] = ()) -> Named:
    """Names what lies in a folder by its content, and writes its manifest there. others: objects of other generations
    that it names too.
    """
    objects = {
        str(p.relative_to(building)): (p.stat().st_size, _sha256(p)) for p in sorted(building.rglob("*")) if p.is_file()
    }
    objects |= {f"../{o.key}": (o.size, o.sha256) for o in others}
    generation = name_of(objects, manifest)
    keys = [key[3:] if key.startswith("../") else f"{generation}/{key}" for key in objects]
    named = [ObjectName(key, size, sha) for key, (size, sha) in zip(keys, objects.values(), strict=True)]
    manifest = manifest | {"generation": generation, "objects": [vars(o) for o in named]}
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    with (building / "manifest.json").open("wb") as file:
        file.write(text)
        sync(file)
    current = Current(
        generation,
        ObjectName(f"{generation}/root.bin", *objects["root.bin"]),
        ObjectName(f"{generation}/manifest.json", len(text), hashlib.sha256(text).hexdigest()),
    )
    return Named(current, [o for o in named if o.key.startswith(f"{generation}/")], text)


def make_live(out: Path, building: Path, manifest: dict[str, Any]) -> tuple[Current, int]:
    """Names the generation by its content, renames it into place, then replaces CURRENT.

    Raises ConflictError where a gc is deleting a generation of the same content.
    """
    current, objects, text = name_generation(building, manifest)
    generation, nbytes = current.generation, sum(o.size for o in objects) + len(text)
    target, before = out / generation, live_of(out)
    old = before.generation if before and not before.deleted else None
    check_unmarked(FolderStore(out), current, objects)
    # What is there already, whole, may be live: moving it would leave CURRENT without its objects for a moment.
    if _holds(out, [*objects, current.manifest]):
        seal(FolderStore(out), current, objects, text)
    else:
        if target.exists():  # damaged since
            target.rename(building / "replaced")
        building.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    if old != generation:
        if before is not None and before.named_log is not None:
            switch_log(FolderStore(out), current, before)
            return current, nbytes
        (out / ".CURRENT.new").unlink(missing_ok=True)
        with (out / ".CURRENT.new").open("xb") as file:
            file.write(pointer(current, {"previous": old} if old else {}))
            sync(file)
        (out / ".CURRENT.new").replace(out / "CURRENT")
        kept = {generation, old} | (_folders_of(out, before) if before else set())
        for stale in out.iterdir():  # a folder keeps the live generation and the one before it, and what they name
            ours = re.fullmatch("[0-9a-f]{16}", stale.name) and (stale / "manifest.json").is_file()
            if ours and stale.name not in kept:
                shutil.rmtree(stale, ignore_errors=True)
    return current, nbytes


def _folders_of(out: Path, current: Current) -> set[str]:
    """The generations whose objects one names; none where its manifest is damaged, which nothing goes back to."""
    with suppress(DamagedError):
        return folders(manifest_objects((out / current.manifest.key).read_bytes(), current.generation))
    return set()


def _holds(folder: Path, objects: list[ObjectName]) -> bool:
    """Whether the objects in a folder have these sizes and SHA-256."""
    with suppress(DamagedError):
        return all(FolderStore(folder).digest(o.key) == (o.size, o.sha256) for o in objects)
    return False


def live_of(out: Path) -> Current | None:
    """CURRENT of a folder, None where there is none that can be read."""
    with suppress(Exception):
        return Current.unpack((out / "CURRENT").read_bytes(), "CURRENT")
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
