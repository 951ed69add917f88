"""What generations that are made from the live one share: they name its objects, and prices are measured again."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage import VERSION
from vantage.errors import DamagedError
from vantage.format import ROOT_BYTES_MAX, ROOT_KEY, Current, Directory, ObjectName, Root

from .bucket.generations import find_generation
from .bucket.rows import Stored, open_part
from .bucket.store import ObjectStore
from .simulate.stored import Opened
from .tune.living import HELD_KEY, Held, renew
from .tune.options import Options
from .write.held import living_dict, write_held
from .write.manifest import contract_dict
from .write.objects import ObjectList, sync
from .write.publish import Named, name_generation
from .write.reopen import with_new_names

CENTRES_KEY = "compaction.bin"  # the centres of an index whose root has none, for the next flush


class Live(NamedTuple):
    """A generation as it lies in a store: objects as its manifest names them."""

    stored: Stored
    current: Current
    objects: list[ObjectName]
    manifest: dict[str, Any]


def open_live(store: ObjectStore, current: Current) -> Live:
    """The generation that CURRENT names. Raises NotFoundError, DamagedError where it is not what was written."""
    _, objects, text = find_generation(store, current.generation)
    data = store.read(current.root.key, 0, current.root.size)
    if hashlib.sha256(data).hexdigest() != current.root.sha256:
        raise DamagedError(f"{current.root.key}: is not what CURRENT says", hint="`vantage verify` tells more")
    root = Root.unpack(data, current.root.key)
    keys = root.objects.resolve("", current.generation)
    manifest = json.loads(text)
    return Live(Stored(store, root, keys), current, objects, manifest if root.is_empty else with_new_names(manifest))


def object_of(live: Live, number: int) -> bytes:
    """An object of the generation, whole."""
    [stated] = [o for o in live.objects if o.key == live.stored.keys[number]]
    data = live.stored.store.read(stated.key, 0, stated.size)
    if hashlib.sha256(data).hexdigest() != stated.sha256:
        raise DamagedError(f"{stated.key}: is not what was written", hint="`vantage verify` tells what is damaged")
    return data


def named_from(root: Root, generation: str, *, keep_held: bool) -> tuple[Root, list[int]]:
    """(a root that names the objects of a generation from another one, those alone that it needs; the numbers that
    these had). keep_held: the object of rows held stays.
    """
    keys = [key if key.startswith("../") else f"../{generation}/{key}" for key in root.objects.keys]
    directory, pages = root.directory, root.rows
    assert directory is not None
    named = {number for places in directory.places for number in places.object} | {s.object for s in root.id_pages}
    named |= {*pages.vector_object, *pages.fact_object, *(pages.attribute_object if root.names else ())}
    named |= {number for p in root.projections for places in p.directory.places for number in places.object}
    named |= {o.first + i for p in root.projections for o in p.objects for i in range(o.total)}
    others = (CENTRES_KEY, HELD_KEY) if keep_held else (CENTRES_KEY,)
    named |= {number for number, key in enumerate(keys) if key.rpartition("/")[2] in others}
    numbers = sorted(named)
    new = np.zeros(len(keys), np.uint32)
    new[numbers] = np.arange(len(numbers))

    def renumbered(column: Any) -> array[int]:
        return array("I", new[np.asarray(column, np.int64)].tolist())

    def moved(of: Directory) -> Directory:
        return replace(of, places=tuple(replace(p, object=renumbered(p.object)) for p in of.places))

    return replace(
        root,
        objects=replace(
            root.objects,
            keys=tuple(keys[i] for i in numbers), sizes=tuple(root.objects.sizes[i] for i in numbers),
        ),
        directory=moved(directory),
        rows=replace(
            pages, vector_object=renumbered(pages.vector_object), fact_object=renumbered(pages.fact_object),
            attribute_object=renumbered(pages.attribute_object),
        ),
        id_pages=tuple(replace(s, object=int(new[s.object])) for s in root.id_pages),
        projections=tuple(
            replace(p, directory=moved(p.directory), objects=[o._replace(first=int(new[o.first])) for o in p.objects])
            for p in root.projections
        ),
    ), numbers  # fmt: skip


def priced(live: Live, new: Root, objects: ObjectList, building: Path) -> tuple[Root, dict[str, Any]]:
    """The root with prices measured again, and what the manifest says of them; the rows held are written."""
    stored, manifest = live.stored, live.manifest
    place = _held_at(live)
    assert place is not None
    with Opened(building) as files:

        def read(key: str, offset: int, nbytes: int) -> bytes:
            if key.startswith("../"):
                return stored.store.read(key[3:], offset, nbytes)
            return files.read(key, offset, nbytes)

        held = Held.unpack(object_of(live, place), stored.root, stored.keys[place])
        options = Options(second_wave=manifest["contract"]["second_wave"])
        renewed = renew(new, read, held, seed=manifest["seed"], second_wave=options.second_wave)
    measured = renewed is not None
    new, held = renewed or (new, held)
    write_held(held, new.index.vector_kind, objects)
    new = replace(new, objects=objects.pack())
    assert new.promises is not None
    return new, {
        "contract": contract_dict(new.contract, new.promises, options),
        "living": living_dict(new, held, measured=measured),
    }  # fmt: skip


def holds_rows(live: Live) -> bool:
    """Whether an index keeps rows that prices are measured by: not where all is read, nor under two levels."""
    return _held_at(live) is not None


def _held_at(live: Live) -> int | None:
    """The number of the object of the rows held."""
    return next((i for i, key in enumerate(live.stored.keys) if key.endswith(f"/{HELD_KEY}")), None)


def sources_of(stored: Stored) -> Iterator[npt.NDArray[np.int64]]:
    """The positions that rows had in the source, by their numbers, in pieces."""
    for part in sorted(set(stored.root.rows.vector_object)):
        with open_part(stored, part) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=["source_row"])["source_row"].to_numpy()


def write_successor(
    live: Live, new: Root, building: Path, numbers: Iterable[int], flushed: dict[str, Any], prices: dict[str, Any]
) -> Named | str:
    """Writes root and manifest beside the new objects of a generation, and names the folder by its content. numbers: of
    the objects of the live one that stay. flushed, prices: of the manifest, where none were measured none. A string
    says why no reader would take it.
    """
    data = new.pack()
    if len(data) > ROOT_BYTES_MAX:
        return f"its root would have {len(data):,} bytes, more than {ROOT_BYTES_MAX:,}"
    Root.unpack(data, ROOT_KEY)  # what is written is what a reader takes
    with (building / ROOT_KEY).open("wb") as file:
        file.write(data)
        sync(file)
    others = {live.stored.keys[number] for number in numbers}
    manifest = {name: value for name, value in live.manifest.items() if name not in ("generation", "objects")} | {
        "builder": VERSION, "rows": new.live_rows, "copies": new.index.slots - new.directory.at_home,  # type: ignore[union-attr]
        "flushed": flushed, **prices,
    }  # fmt: skip
    if not prices and "living" in manifest:
        manifest["living"] = manifest["living"] | {"measured": False}
    named = name_generation(building, manifest, [o for o in live.objects if o.key in others])
    building.rename(building.parent / named.current.generation)
    return named
