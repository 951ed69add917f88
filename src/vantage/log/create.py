"""Makes an empty index: a generation without rows, and a CURRENT that names it and its log. Writes find it at once."""

from __future__ import annotations

import json
import secrets
from array import array
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

from .. import VERSION as VANTAGE_VERSION
from ..admission import BusyError
from ..errors import StoreError
from ..format import VERSION, FilterField, IndexSection, Root
from ..format.current import Current, LogName, ObjectName
from ..format.log import NONCE_BYTES
from ..read.reader import CURRENT_BYTES_MAX
from .move import swap
from .segment import Draw
from .state import FRESH_S, TRIES
from .store import LogStore

DELETED_S = 2 * FRESH_S  # for so long a name stays free: whoever read CURRENT before may still write


class Attribute(NamedTuple):
    """type: as schemas have it. kind: what filters compare it as, or the texts of its lists, with `many`; None: it is
    only stored.
    """

    name: str
    type: str
    kind: str | None
    many: bool = False


class NewIndex(NamedTuple):
    """What an index is to hold. attributes: in the order of the schema; model: what makes its vectors."""

    metric: str
    dimension: int
    id_kind: str
    vector_kind: str
    attributes: tuple[Attribute, ...] = ()
    model: str | None = None


def new_of(root: Root) -> NewIndex:
    """What an index holds, whatever is in it."""
    index, fields = root.index, {field.attribute: field for field in root.filters}
    attributes = []
    for i, one in enumerate(root.schema["attributes"]):
        field = fields.get(i)
        kind, many = (None, False) if field is None else (field.kind, field.many)
        attributes.append(Attribute(one["name"], one["type"], kind, many))
    model = root.schema.get("model")
    return NewIndex(
        index.metric, index.dimension, index.id_kind, index.vector_kind, tuple(attributes), model
    )  # fmt: skip


def root_of(new: NewIndex) -> Root:
    """The root of an empty index."""
    origin = memoryview(array("f", bytes(4 * new.dimension if new.metric == "l2" else 0)))
    index = IndexSection(
        new.metric, new.dimension, 0, 0, new.id_kind, new.vector_kind, "lrsq", "lse", 1.0, 0, False, origin
    )  # fmt: skip
    fields = tuple(
        FilterField(i, one.kind, one.many, True, 0, 0, 0, 0) for i, one in enumerate(new.attributes) if one.kind
    )
    return Root.empty(index, _schema(new), fields)


def _schema(new: NewIndex) -> dict[str, Any]:
    attributes = [{"name": one.name, "type": one.type} for one in new.attributes]
    return {"attributes": attributes} | ({"model": new.model} if new.model is not None else {})


class Generation(NamedTuple):
    """An empty generation: what CURRENT says of it, root.bin and manifest.json."""

    current: Current
    root: bytes
    manifest: bytes


def empty_generation(new: NewIndex, nonce: str, built: dict[str, Any] | None = None) -> Generation:
    """One that no other has the name of: a nonce is in its manifest, so that no gc of an older one deletes it. built:
    what the next build is told, where there was one before.
    """
    root = root_of(new).pack()
    stated = {"root.bin": (len(root), sha256(root).hexdigest())}
    members: dict[str, Any] = {
        "format": VERSION, "builder": VANTAGE_VERSION, "rows": 0, "dimension": new.dimension, "metric": new.metric,
        "id": new.id_kind, "vectors": new.vector_kind, **_schema(new), "blocks": 0, "nonce": nonce,
        **({"built": built} if built else {}),
    }  # fmt: skip
    name = sha256(json.dumps([stated, members]).encode()).hexdigest()[:16]
    objects = [{"key": f"{name}/{key}", "size": size, "sha256": digest} for key, (size, digest) in stated.items()]
    text = json.dumps(members | {"generation": name, "objects": objects}, indent=1, ensure_ascii=False).encode() + b"\n"
    current = Current(
        name,
        ObjectName(f"{name}/root.bin", *stated["root.bin"]),
        ObjectName(f"{name}/manifest.json", len(text), sha256(text).hexdigest()),
    )
    return Generation(current, root, text)


async def put_generation(store: LogStore, made: Generation) -> None:
    """Puts its objects, the manifest last. Raises StoreError."""
    await store.create(made.current.root.key, made.root)
    await store.create(made.current.manifest.key, made.manifest)


def check_over(old: Current, now: float) -> None:
    """Raises BusyError while who wrote to an index that was deleted may not know of that. now: seconds since 1970."""
    if abs(now - old.deleted / 1000) < DELETED_S:
        hint = f"try again in {DELETED_S:.0f} seconds, or take another name"
        raise BusyError("an index of this name was deleted a moment ago", hint=hint)


async def create(store: LogStore, new: NewIndex, now: float, draw: Draw = secrets.token_bytes) -> bool:
    """Makes the index where there is none, or one that was deleted; whether it is known to have. now: seconds since
    1970. False: another one is there, perhaps by a call whose answer was lost.

    Of several that do so at once one does. Raises BusyError while who wrote to a deleted index may not know of that;
    DamagedError, StoreError.
    """
    for _ in range(TRIES):
        found = await store.get("CURRENT", CURRENT_BYTES_MAX)
        old = Current.unpack(found[0], "CURRENT") if found else None
        if old is not None and not old.deleted:
            return False
        if old is not None:
            check_over(old, now)
        made, nonce = empty_generation(new, draw(NONCE_BYTES).hex()), draw(NONCE_BYTES).hex()
        await put_generation(store, made)
        counter, previous = (old.counter + 1, old.generation) if old else (1, None)
        log = LogName(draw(8).hex())  # one of its own: that of a deleted index stays
        new_current = replace(made.current, named_log=log, counter=counter, nonce=nonce, previous=previous)
        if await swap(store, new_current.pack(), found[1] if found else None, nonce):
            return True
    raise StoreError("others always made an index of this name first", hint="try again")
