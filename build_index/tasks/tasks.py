"""Maps pure functions over pieces of a build's work, here or in workers, and takes from a stage what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..progress import SILENT, Progress
from .digest import code, digest
from .stage import Arrays, Stage

# (what all pieces share, a piece) -> arrays. A function of a module, since workers import it.
Function = Callable[[Any, Any], Arrays]


class Workers(Protocol):
    """Where tasks run, if not here."""

    def run(
        self, function: Function, shared: object, name: str, pieces: Sequence[object], keys: Sequence[str],
        stage: Stage | None,
    ) -> Iterator[Arrays]:  # fmt: skip
        """The results in the order of the pieces. name: of function and shared; keys: of results, '' for none that is
        kept. A worker that dies is replaced, and its tasks run again; raises VantageError where they die each time.
        """


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
        name, keys = "", [""] * len(pieces)
        if self.workers or (self.stage and keep):
            name = digest(code(), function, shared)
        if self.stage and keep:
            keys = [f"{function.__name__.strip('_')}/{digest(name, piece)}" for piece in pieces]
        results: Iterator[Arrays]
        if self.workers is None or len(pieces) == 1:
            results = (run(function, shared, *one, self.stage) for one in zip(pieces, keys, strict=True))
        else:
            results = self.workers.run(function, shared, name, pieces, keys, self.stage)
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
