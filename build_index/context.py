"""What a build goes by from its first stage to its last: where it writes, metric, options, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .progress import SILENT, Progress
from .tune.options import Options

if TYPE_CHECKING:
    from .filters.estimate import FilterEstimate


def unheard(sentence: str) -> None:
    """Keeps no note."""


def _unseen(estimates: Sequence[FilterEstimate]) -> None:
    """Shows no plan."""


@dataclass(frozen=True)
class BuildContext:
    """Work on the index in the folder `out`, which lies in a bucket folder; every stage that needs more than its input
    takes it.

    options: also the seed, and the memory that the work may use. progress: hears of every phase. note: takes what is
    found out about the rows, a sentence each. skip_bad_rows: rows that an index cannot hold are left out and counted.
    workers: processes that run tasks; None: one a core for many rows. cluster: address of a Ray cluster that runs them
    instead. stage: a folder, or an address in a bucket, that keeps what tasks have made until the build is whole; None:
    the index's own folder, for many rows. plan: takes what filtering by each attribute will cost, before the work
    begins.
    """

    out: Path
    metric: str
    options: Options = Options()
    progress: Progress = SILENT
    note: Callable[[str], None] = unheard
    skip_bad_rows: bool = False
    workers: int | None = None
    cluster: str | None = None
    stage: str | None = None
    plan: Callable[[Sequence[FilterEstimate]], None] = _unseen

    @property
    def scratch(self) -> Path:
        """The folder of scratch files, which is gone when the work has ended; but for a stage, where it has failed."""
        if self.stage is None or "://" in self.stage:
            return self.out.absolute() / ".scratch"
        return Path(self.stage).absolute() / f"{self.out.name}.scratch"

    @property
    def building(self) -> Path:
        """The folder of a generation that is not whole yet."""
        return self.out / ".building"
