"""Takes values to other processes: pickle, and the memory views of sections too. Never reads what lies in a bucket."""

from __future__ import annotations

import io
import pickle
from array import array
from typing import Any


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, memoryview):
            return _view, (bytes(value), value.format, value.shape)
        return NotImplemented


def packed(value: Any) -> bytes:
    """Pickled, memory views too; pickle.loads reads it."""
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def _view(data: bytes, kind: str, shape: tuple[int, ...]) -> memoryview:
    if not data:  # nothing can be cast to
        return memoryview(array(kind))
    return memoryview(data).cast(kind, shape)  # type: ignore[call-overload, no-any-return]
