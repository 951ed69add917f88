"""Makes a written generation the live one of its folder; what is the same is not written again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from vantage.errors import DamagedError
from vantage.format import Current, ObjectName

from ..bucket.generations import check_unmarked, pointer, seal, switch_log
from ..bucket.store import FolderStore
from .objects import sync


def make_live(out: Path, building: Path, manifest: dict[str, Any]) -> tuple[Current, int]:
    """Names the generation by its content, renames it into place, then replaces CURRENT.

    Raises ConflictError where a gc is deleting a generation of the same content.
    """
    objects = {
        str(p.relative_to(building)): (p.stat().st_size, _sha256(p)) for p in sorted(building.rglob("*")) if p.is_file()
    }
    generation = hashlib.sha256(json.dumps([objects, manifest]).encode()).hexdigest()[:16]
    manifest = manifest | {
        "generation": generation,
        "objects": [{"key": f"{generation}/{k}", "size": size, "sha256": sha} for k, (size, sha) in objects.items()],
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    with (building / "manifest.json").open("wb") as file:
        file.write(text)
        sync(file)
    current = Current(
        generation,
        ObjectName(f"{generation}/root.bin", *objects["root.bin"]),
        ObjectName(f"{generation}/manifest.json", len(text), hashlib.sha256(text).hexdigest()),
    )
    target, before = out / generation, live_of(out)
    old = before.generation if before and not before.deleted else None
    check_unmarked(FolderStore(out), generation)
    # What is there already, whole, may be live: moving it would leave CURRENT without its objects for a moment.
    stated = objects | {"manifest.json": (len(text), current.manifest.sha256)}
    if _holds(out, {f"{generation}/{key}": one for key, one in stated.items()}):
        seal(FolderStore(out), current, text)
    else:
        if target.exists():  # damaged since
            target.rename(building / "replaced")
        building.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    if old != generation:
        if before is not None and before.named_log is not None:
            switch_log(FolderStore(out), current, before)
            return current, sum(size for size, _ in objects.values()) + len(text)
        (out / ".CURRENT.new").unlink(missing_ok=True)
        with (out / ".CURRENT.new").open("xb") as file:
            file.write(pointer(current, {"previous": old} if old else {}))
            sync(file)
        (out / ".CURRENT.new").replace(out / "CURRENT")
        for stale in out.iterdir():  # a folder keeps the live generation and the one before it
            ours = re.fullmatch("[0-9a-f]{16}", stale.name) and (stale / "manifest.json").is_file()
            if ours and stale.name not in (generation, old):
                shutil.rmtree(stale, ignore_errors=True)
    return current, sum(size for size, _ in objects.values()) + len(text)


def _holds(folder: Path, objects: dict[str, tuple[int, str]]) -> bool:
    """Whether the objects in a folder have these sizes and SHA-256."""
    with suppress(DamagedError):
        return all(FolderStore(folder).digest(key) == stated for key, stated in objects.items())
    return False


def live_of(out: Path) -> Current | None:
    """CURRENT of a folder, None where there is none that can be read."""
    with suppress(Exception):
        return Current.unpack((out / "CURRENT").read_bytes(), "CURRENT")
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
