"""What the workers of a pool do in the tests of tasks: each of them imports this module, and little with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from vantage.errors import LimitError


def _square(shared: int, piece: int) -> tuple[np.ndarray]:
    return (np.array([shared + piece**2]),)


def _refuse(shared: int, piece: int) -> tuple[np.ndarray]:
    if piece == 5:
        raise LimitError("the piece", piece, 4, hint="give a smaller one", param="piece")
    return (np.array([piece]),)


class _OddError(Exception):
    """Pickle makes it again without its arguments, which it refuses."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is odd")


def _refuse_oddly(shared: int, piece: int) -> tuple[np.ndarray]:
    raise _OddError(piece, shared)


def _die_once(shared: str, piece: int) -> tuple[np.ndarray]:
    path = Path(shared) / str(piece)
    if piece % 7 == 3 and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return (np.array([piece]),)


def _die(shared: None, piece: int) -> tuple[np.ndarray]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
