"""Which attributes can be filtered by: those that were named, or all of types that compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from vantage.errors import InputError, NotFoundError
from vantage.filter.parse import RESERVED

from ..ingest.formats.types import is_list, is_text


@dataclass(frozen=True)
class Declared:
    """An attribute to filter by: its number in the schema; kind of its values, or where many of those of its lists.

    asked: it was named, and is not left out for what it costs.
    """

    attribute: int
    name: str
    kind: str
    many: bool
    asked: bool


def declare(attributes: pa.Schema, names: Sequence[str] | None) -> list[Declared]:
    """Those of these names, in the order of the schema; None: every scalar attribute of a type that compares
    and whose name is none of the dialect's.

    Raises NotFoundError for a name that is no attribute, InputError for one of another type or such a name.
    """
    for name in names or ():
        if name not in attributes.names:
            known = ", ".join(attributes.names) or "none"
            raise NotFoundError(f"there is no attribute {name!r} to filter by", hint=f"attributes are: {known}"[:400])
        if kind_of(attributes.field(name).type) is None:
            raise InputError(
                f"{name!r} is of type {attributes.field(name).type}, which cannot be filtered by",
                hint="strings, lists of them, numbers, true and false, dates and timestamps can",
            )
        if name in RESERVED:
            raise InputError(f"{name!r} is an operator of filters, not an attribute", hint="rename it to filter by it")
    out = []
    for number, field in enumerate(attributes):
        kind = None if field.name in RESERVED else kind_of(field.type)
        if kind is not None and (field.name in names if names is not None else not kind[1]):
            out.append(Declared(number, field.name, *kind, names is not None))
    return out


def kind_of(type_: pa.DataType) -> tuple[str, bool] | None:
    """(kind of values, whether there are lists of them), None for a type that does not compare."""
    if isinstance(type_, pa.DictionaryType):
        return kind_of(type_.value_type)
    if is_list(type_):
        inner = kind_of(type_.value_type)
        return ("text", True) if inner == ("text", False) else None
    if is_text(type_):
        return "text", False
    if pa.types.is_boolean(type_):
        return "boolean", False
    if pa.types.is_integer(type_):
        return "integer", False
    if pa.types.is_floating(type_):
        return "number", False
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "time", False
    return None
