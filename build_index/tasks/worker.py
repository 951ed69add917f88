"""What a worker does for one task. It holds what the tasks of one map share, until those of the next one come."""

from __future__ import annotations

import pickle
from typing import Any

from .stage import Arrays, Stage
from .tasks import Function, run

_held: dict[str, Any] = {}


def work(function: Function, name: str, packed: bytes | str, piece: object, key: str, stage: Stage | None) -> Arrays:
    """The result of a task. packed: what its map shares, by `pickling.packed`, or the path of a file of it; name: of
    function and that.
    """
    if name not in _held:
        _held.clear()
        if isinstance(packed, str):
            with open(packed, "rb") as file:
                _held[name] = pickle.load(file)
        else:
            _held[name] = pickle.loads(packed)
    return run(function, _held[name], piece, key, stage)
