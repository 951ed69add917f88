"""What a worker does. It holds what the tasks of one map share, until those of the next one come."""

from __future__ import annotations

import pickle
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from vantage.errors import VantageError

from ..heap import unmap_large_buffers
from .pickling import packed
from .stage import Arrays, Stage
from .tasks import Function, run

_held: dict[str, Any] = {}


def work(function: Function, name: str, shared: bytes | str, piece: object, key: str, stage: Stage | None) -> Arrays:
    """The result of a task. shared: what its map shares, by `pickling.packed`, or the path of a file of it; name: of
    the map.
    """
    if name not in _held:
        _held.clear()
        if isinstance(shared, str):
            with open(shared, "rb") as file:
                _held[name] = pickle.load(file)
        else:
            _held[name] = pickle.loads(shared)
    return run(function, _held[name], piece, key, stage)


def main(descriptor: int) -> None:
    """Does the tasks that come through a pipe, until it is closed: see pool._Worker."""
    unmap_large_buffers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who drives the build hears of it too, and closes the pipe
    connection = Connection(descriptor)
    while True:
        try:
            task = connection.recv_bytes()
        except EOFError:
            return
        try:
            answer = packed((True, work(*pickle.loads(task))))
        except Exception as error:
            answer = _told(error)
        connection.send_bytes(answer)


def _told(error: Exception) -> bytes:
    """An error as it goes to who drives the build; one that no pickle takes, or gives back, by its words."""
    try:
        out = packed((False, error))
        pickle.loads(out)
        return out
    except Exception:
        return packed((False, VantageError(f"{type(error).__name__}: {error}", hint="report it")))


if __name__ == "__main__":
    # The module that others import, and not `__main__`, so that there is one of all that it holds.
    from build_index.tasks.worker import main as serve

    serve(int(sys.argv[1]))
