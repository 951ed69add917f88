"""Names values by their content, so that a result can be found again by what it was made from."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

import kern
import vantage


@runtime_checkable
class Named(Protocol):
    """A value that knows a name of its content, as rows in files do."""

    def content(self) -> str: ...


def digest(*values: object) -> str:
    """32 hexadecimal digits: the same for values of the same types and content, in any process.

    Takes what is built of numbers, text, bytes, arrays, tuples, lists, dictionaries, dataclasses (but for fields that
    are not compared), functions of modules, and `Named`. Raises TypeError for anything else.
    """
    sha = hashlib.sha256()
    _feed(sha.update, values)
    return sha.hexdigest()[:32]


@cache
def code() -> str:
    """Name of the code that runs here: of all modules, and of the kernels."""
    sha = hashlib.sha256()
    for folder in (Path(__file__).parent.parent, Path(vantage.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            sha.update(path.read_bytes())
    sha.update(Path(kern.__file__).read_bytes())
    return sha.hexdigest()[:32]


def _feed(take: Callable[[Any], None], value: Any) -> None:
    kind = type(value)
    take(f"\n{kind.__module__}.{kind.__qualname__} ".encode())
    if value is None or isinstance(value, bool | int | float | str):
        take(repr(value).encode())
    elif isinstance(value, np.ndarray | np.generic):
        own = np.ascontiguousarray(value)
        take(f"{own.dtype.str}{own.shape}".encode())
        take(own.reshape(-1).view(np.uint8))
    elif isinstance(value, bytes | bytearray | memoryview | array):
        view = memoryview(value)
        take(f"{view.format}{view.shape}".encode())
        take(view)
    elif isinstance(value, Named):
        take(value.content().encode())
    elif isinstance(value, tuple | list):
        take(str(len(value)).encode())
        for one in value:
            _feed(take, one)
    elif isinstance(value, dict):
        _feed(take, sorted(value.items()))
    elif is_dataclass(value):
        for field in fields(value):
            if field.compare:
                take(field.name.encode())
                _feed(take, getattr(value, field.name))
    elif callable(value) and hasattr(value, "__qualname__"):
        take(f"{value.__module__}.{value.__qualname__}".encode())
    else:
        raise TypeError(f"{kind} has no name by its content")
