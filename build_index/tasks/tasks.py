"""Maps pure functions over pieces of a build's work, here or in workers, and takes from a stage what is there."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..progress import SILENT, Progress
from .digest import code, digest
from .stage import Arrays, Stage

# (what all pieces share, a piece) -> arrays. A function of a module, since workers import it.
Function = Callable[[Any, Any], Arrays]


@dataclass(frozen=True)
class Batch:
    """The tasks of one map. name: of this map, by its content where a stage keeps its results; else stage is None."""

    function: Function
    shared: object
    name: str
    pieces: Sequence[object]
    stage: Stage | None

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> tuple[object, str]:
        """(piece, key of its result in the stage, '' where it is not kept)."""
        piece = self.pieces[number]
        key = f"{self.function.__name__.strip('_')}/{digest(self.name, piece)}" if self.stage else ""
        return piece, key


class Workers(Protocol):
    """Where tasks run, if not here."""

    def run(self, batch: Batch) -> Iterator[Arrays]:
        """The results in the order of the pieces. A worker that dies is replaced, and its tasks run again; raises
        VantageError where they die each time.
        """


class Lazy(Sequence[Any]):
    """So many pieces, each made when it is its turn."""

    def __init__(self, count: int, make: Callable[[int], object]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        return self._make(number)


@dataclass(frozen=True)
class Tasks:
    """workers: None runs every task here, one after the other. stage: keeps results; None keeps nothing."""

    workers: Workers | None = None
    stage: Stage | None = None

    def map(
        self, function: Function, shared: object, pieces: Sequence[object], progress: Progress = SILENT, *,
        keep: bool = True,
    ) -> Iterator[Arrays]:  # fmt: skip
        """function(shared, piece) of each piece, in their order; so many at a time as there are workers.

        keep: in the stage, if there is one; not where results are large and soon made again.
        """
        stage = self.stage if keep else None
        name = digest(code(), function, shared) if stage else secrets.token_hex(16)
        batch = Batch(function, shared, name, pieces, stage)
        results: Iterator[Arrays]
        if self.workers is None or len(pieces) == 1:
            results = (run(function, shared, *batch[number], stage) for number in range(len(batch)))
        else:
            results = self.workers.run(batch)
        for done, result in enumerate(results, 1):
            progress(done / len(pieces))
            yield result

    def once(self, what: str, given: object, make: Callable[[], Arrays]) -> Arrays:
        """What `make` gives, which follows from `given`; from the stage where it is there."""
        return self.stage.kept(f"{what}/{digest(code(), what, given)}", make) if self.stage else make()


def run(function: Function, shared: object, piece: object, key: str, stage: Stage | None) -> Arrays:
    """One task: what the stage keeps by this key, or what the function makes."""
    if stage is None or not key:
        return function(shared, piece)
    return stage.kept(key, lambda: function(shared, piece))


HERE = Tasks()
