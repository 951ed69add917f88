"""What can be filtered by, for people: the values that each attribute has, and the bytes that filtering by it takes."""

from __future__ import annotations

from typing import Any

from ..format import FilterField, Root
from .facet import value_of

CHARS_MAX = 80  # of a least or largest text: a text may have a million
BUCKET_BYTES, CHUNK_BYTES = 20, 20  # in the root, about: of a bucket its ends, of a chunk its entry of the directory


def describe_attributes(root: Root) -> list[dict[str, Any]]:
    """Of each attribute its `name` and `type`, and as `filter` what filters know of it, or None where they cannot.

    min and max are as answers have them, None where there is no value, or no order is kept; longer texts are cut to
    CHARS_MAX and end in an ellipsis. bytes, about: of its column in all `blocks`, in the `root`, of its `projection`.
    Raises DamagedError for values that its kind does not have.
    """
    places = {field.attribute: place for place, field in enumerate(root.filters)}
    return [
        {"name": one["name"], "type": one["type"], "filter": _field(root, places[i]) if i in places else None}
        for i, one in enumerate(root.schema["attributes"])
    ]


def _field(root: Root, place: int) -> dict[str, Any]:
    field = root.filters[place]
    projection = next((p for p in root.projections if p.field == place), None)
    in_root = 40 + 4 * (len(field.ends) + len(field.keys)) + len(field.texts)
    if root.counts:
        counts = root.counts.fields[place]
        in_root += BUCKET_BYTES * len(counts.low) + len(counts.table)
    if projection:
        in_root += BUCKET_BYTES * len(projection.low) + CHUNK_BYTES * len(projection.block)
        in_root += 4 * (len(projection.first) - 1) * len(projection.low) * (not root.paged)
    least, largest = _ends(field)
    objects = zip(root.objects.keys, root.objects.sizes, strict=True)
    return {
        "kind": field.kind, "list": field.many, "hashed": field.hashed, "rows": field.rows,
        "distinct": field.distinct, "min": least,
        "max": largest, "in_blocks": field.in_blocks, "projection": projection is not None,
        "bytes": {
            "blocks": round(field.row_bytes * root.index.slots * len(root.renditions)) if field.in_blocks else 0,
            "root": in_root,
            "projection": sum(size for key, size in objects if f"/{key}".find(f"/projection-{place}-") >= 0),
        },
    }  # fmt: skip


def _ends(field: FilterField) -> tuple[Any, Any]:
    """The least and the largest value."""
    if not field.rows:
        return None, None
    if field.kind == "text":
        known = [rank for rank in range(len(field.ends) - 1) if field.totals[rank]]
        return (_cut(field.text_at(known[0])), _cut(field.text_at(known[-1]))) if known else (None, None)
    return value_of(field, field.low), value_of(field, field.high)


def _cut(text: bytes) -> str:
    whole = text.decode(errors="replace")
    return whole if len(whole) <= CHARS_MAX else whole[: CHARS_MAX - 1] + "…"
