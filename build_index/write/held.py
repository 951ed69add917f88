"""held.bin: the rows that prices are measured by, and what the manifest says of them."""

from __future__ import annotations

from typing import Any

from vantage.format import Root

from ..tune.living import HELD_KEY, Held, rebuild_pays
from .objects import ObjectList, sync


def write_held(held: Held, kind: str, objects: ObjectList) -> None:
    """Writes the object; kind: of the stored vectors."""
    data = held.pack(kind)
    _, path = objects.begin(HELD_KEY)
    with path.open("wb") as file:
        file.write(data)
        sync(file)
    objects.end(HELD_KEY, len(data))


def living_dict(root: Root, held: Held, *, measured: bool) -> dict[str, Any]:
    """What the manifest says of the rows held, and of what queries read since the build; measured: in this
    generation.
    """
    return {
        "held": len(held.rows), "later": int(held.later.sum()), "measured": measured, "changed": held.changed,
        "numbers": held.numbers, "gone": held.gone,
        "built": {"rows": held.built_rows, "bytes": held.built_bytes}, "rebuild_pays": rebuild_pays(root, held),
    }  # fmt: skip
