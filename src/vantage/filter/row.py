"""Whether a filter takes one row, by its attributes: the semantics of columns, without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..format import FilterField
from .facet import values_of
from .parse import Cut, Junction, Negation, Node


def takes(node: Node | None, fields: Sequence[FilterField], names: Sequence[str], row: Mapping[str, Any]) -> bool:
    """Of a tree as `parse_filter` gives it for these fields and names. row: attributes by name, as JSON has them.

    Raises DamagedError for a value that no row of the index can have.
    """
    if node is None:
        return True
    if isinstance(node, Negation):
        return not takes(node.part, fields, names, row)
    if isinstance(node, Junction):
        join = any if node.either else all
        return join(takes(part, fields, names, row) for part in node.parts)
    field = fields[node.field]
    for value in values_of(field, row.get(names[field.attribute]), "a row"):
        first, last = (Cut(value), Cut(value, True)) if isinstance(value, bytes) else (value, value)
        if any(low <= first and last <= high for low, high in node.spans):  # type: ignore[operator]
            return True
    return False
