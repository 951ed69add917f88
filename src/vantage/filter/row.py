"""Whether a filter takes one row, by its attributes: the semantics of columns, without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..format import FilterField
from .keys import float_key, text_hash, time_key
from .parse import Bound, Cut, Junction, Negation, Node


def takes(node: Node | None, fields: Sequence[FilterField], names: Sequence[str], row: Mapping[str, Any]) -> bool:
    """Of a tree as `parse_filter` gives it for these fields and names. row: attributes by name, as JSON has them."""
    if node is None:
        return True
    if isinstance(node, Negation):
        return not takes(node.part, fields, names, row)
    if isinstance(node, Junction):
        join = any if node.either else all
        return join(takes(part, fields, names, row) for part in node.parts)
    field = fields[node.field]
    value = row.get(names[field.attribute])
    values = [] if value is None else value if field.many else [value]
    places = [_place(one, field) for one in values if one is not None]
    return any(low <= first and last <= high for first, last in places for low, high in node.spans)  # type: ignore[operator]


def _place(value: Any, field: FilterField) -> tuple[Bound, Bound]:
    """Where a value lies among those of its field."""
    if field.kind == "text" and not field.hashed:
        text = value.encode()
        return Cut(text), Cut(text, True)
    if field.kind == "text":
        key = text_hash(value.encode())
    elif field.kind == "number":
        key = float_key(float(value))
    else:
        key = time_key(value) if field.kind == "time" else int(value)
    return key, key
