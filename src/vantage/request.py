"""Bodies and query strings -> queries, each field checked by name."""

from __future__ import annotations

import json
import re
from array import array
from typing import Any
from urllib.parse import parse_qsl

from .errors import InputError, LimitError
from .format import DIMENSION_MAX, VECTORS
from .index import Query
from .plan import Budget

VECTORS_MAX = 256
BODY_BYTES_MAX = VECTORS.size + VECTORS_MAX * DIMENSION_MAX * 4  # the most vectors of the most numbers, as float32
BINARY = "application/octet-stream"
FIELDS = ("vector", "vectors", "id", "top_k", "include", "recall", "rerank", "budget", "explain", "exact", "model")
OPTIONS = ("top_k", "include", "recall", "rerank", "explain", "exact", "model")  # of a query string
INTEGER = re.compile(r"-?[0-9]{1,20}")
INCLUDE = ("attributes", "vector", "receipt")
INCLUDE_DEFAULT = ["receipt"]


def fields_of(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the body is not JSON", hint='send {"vector": [...], "top_k": 10}') from None
    if not isinstance(fields, dict):
        raise InputError("the body is not a JSON object", hint='send {"vector": [...], "top_k": 10}')
    for name in fields:
        _known(name, FIELDS, name)
    return fields


class TooLargeError(LimitError):
    """The body is too large: nbytes is its length."""

    status = 413

    def __init__(self, nbytes: int) -> None:
        super().__init__("the body", nbytes, BODY_BYTES_MAX, hint="send fewer vectors a request")


def _known(name: str, names: tuple[str, ...], param: str) -> None:
    if name not in names:
        raise InputError(f"unknown field {name[:80]!r}", hint=f"known are: {', '.join(names)}", param=param[:80])


def _integer(value: Any, param: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{param} is not an integer", hint="send a whole number", param=param)
    return value


def queries_of(fields: dict[str, Any]) -> tuple[list[Query], bool]:
    if sum(name in fields for name in ("vector", "vectors", "id")) != 1:
        raise InputError("send one of vector, vectors and id", hint='{"vector": [...]}', param="vector")
    many, by_id = "vectors" in fields, "id" in fields
    vectors = fields["vectors"] if many else [[] if by_id else fields["vector"]]
    if not isinstance(vectors, list) or not all(isinstance(v, list | array) for v in vectors):
        param = "vectors" if many else "vector"
        raise InputError(f"{param} is not a list of {'lists of ' * many}numbers", hint="send JSON arrays", param=param)
    if not 1 <= len(vectors) <= VECTORS_MAX:
        raise LimitError(
            "the number of vectors", len(vectors), f"1 to {VECTORS_MAX}", hint="send several requests", param="vectors"
        )
    include = fields.get("include", INCLUDE_DEFAULT)
    if not isinstance(include, list) or not all(isinstance(i, str) for i in include):
        raise InputError("include is not a list of names", hint=f"known are: {', '.join(INCLUDE)}", param="include")
    for name in include:
        _known(name, INCLUDE, "include")
    recall = fields.get("recall")
    # NaN and infinity are numbers to Python's JSON alone, and an error may not repeat them.
    if recall is not None and (
        isinstance(recall, bool) or not isinstance(recall, int | float) or not abs(recall) < 1e9
    ):
        raise InputError("recall is not a number", hint="0.95 is a usual target", param="recall")
    if recall is not None and not 0 < recall < 1:
        raise LimitError("recall", recall, "between 0 and 1", hint="0.95 is a usual target", param="recall")
    if not isinstance(fields.get("explain", False), bool):
        raise InputError("explain is neither true nor false", hint="send true for the plan alone", param="explain")
    if not isinstance(fields.get("exact", False), bool):
        raise InputError("exact is neither true nor false", hint="send true for a proven answer", param="exact")
    rerank = _integer(fields.get("rerank", 0), "rerank")
    if rerank < 0:
        raise LimitError("rerank", rerank, "0 or more", hint="0 switches it off", param="rerank")
    query = Query(
        None, _integer(fields.get("top_k", 10), "top_k"), recall, rerank, "attributes" in include, "vector" in include,
        _budget(fields.get("budget", {})), exact=fields.get("exact", False),
        id=_identifier(fields["id"]) if by_id else None,
    )  # fmt: skip
    names = [f"vectors[{i}]" if many else "vector" for i in range(len(vectors))]
    return [Query(**{**vars(query), "vector": v, "param": n}) for v, n in zip(vectors, names, strict=True)], many


def _identifier(value: Any) -> int | bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InputError("id is not UTF-8", hint="send the id as it was given", param="id") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError("id is neither a string nor an integer", hint="send one id", param="id")
    return value


def _budget(fields: Any) -> Budget:
    if not isinstance(fields, dict):
        raise InputError("budget is not an object", hint='{"gets": 6, "bytes": 4000000, "waves": 1}', param="budget")
    usual = Budget()
    for name, value in fields.items():
        _known(name, ("gets", "bytes", "waves", "ms"), f"budget.{name}")
        most = {"gets": 1000, "bytes": 1 << 30, "waves": 5, "ms": 60_000}[name]
        if not 0 <= _integer(value, f"budget.{name}") <= most:
            raise LimitError(
                f"budget.{name}", value, f"0 to {most}", hint="leave it out for the default", param=f"budget.{name}"
            )
    return Budget(**{**vars(usual), **fields})


def options_of(text: str) -> dict[str, Any]:
    """Fields of a query string, for a body that has no room for them."""
    fields: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        _known(name, OPTIONS, name)
        if name == "include":
            fields[name] = [v for v in value.split(",") if v]
        elif name == "model":
            fields[name] = value
        else:
            try:
                fields[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise InputError(f"{name} is not a number, true or false", hint="top_k=10", param=name) from None
    return fields
