"""held.bin: the rows that prices are measured by, and what the manifest says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vantage.format import Root, TwoLevelSection

from ..ingest.rows import F32, Ints, Rows
from ..neighbours.exact import neighbours_at
from ..tune.choose import Choice
from ..tune.contract import target_point
from ..tune.living import HELD_BYTES, HELD_KEY, HELD_ROWS, NEAR, Held, rebuild_pays
from .objects import ObjectList, sync
from .vectors import stored_values


def first_held(rows: Rows, choice: Choice, kind: str) -> Held | None:
    """Those that the prices of a build were measured on, or as many of them as are held, by row, with their neighbours
    by the vectors as they are stored; None where no price is measured again: all is read, or the router has two levels.
    """
    layout, contract = choice.layout, choice.contract
    if choice.asked is None or layout.blocks == 1 or isinstance(layout.section, TwoLevelSection):
        return None
    asked, listed = choice.asked
    most = min(HELD_ROWS, max(1, HELD_BYTES // (4 * rows.dimension)), len(asked))
    some = np.linspace(0, len(asked) - 1, most).astype(np.int64)
    asked, listed = asked[some], listed[some]

    def stored(of: Ints) -> F32:
        return stored_values(rows.stored.gather(of), kind, of).astype(np.float32)

    vectors = stored(asked)
    queries = rows.scaled(vectors)
    near, cost = np.full((most, NEAR), -1, np.int32), np.full((most, NEAR), np.inf, np.float32)
    count = min(NEAR, listed.shape[1])
    for i, own in enumerate(listed.astype(np.int64)):
        x = rows.scaled(stored(own))
        at, apart = neighbours_at(queries[i : i + 1], iter([(0, x)]), count, rows.metric)
        near[i, :count], cost[i, :count] = own[at[0]], apart[0]
    return Held(
        asked, vectors, near, cost, np.zeros(most, bool), layout.sizes(), 0, rows.count, 0, contract.target, rows.count,
        target_point(contract).nbytes,
    )  # fmt: skip


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
