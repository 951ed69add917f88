"""What a build goes by from its first stage to its last: where it writes, metric, options, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .progress import SILENT, Progress
from .tune.options import Options


def _unheard(sentence: str) -> None:
    """Keeps no note."""


@dataclass(frozen=True)
class BuildContext:
    """Work on the index in the folder `out`, which lies in a bucket folder; every stage that needs more than its input
    takes it.

    options: also the seed, and the memory that the work may use. progress: hears of every phase. note: takes what is
    found out about the rows, a sentence each. skip_bad_rows: rows that an index cannot hold are left out and counted.
    """

    out: Path
    metric: str
    options: Options = Options()
    progress: Progress = SILENT
    note: Callable[[str], None] = _unheard
    skip_bad_rows: bool = False

    @property
    def scratch(self) -> Path:
        """The folder of scratch files, which is gone when the work has ended."""
        return self.out / ".scratch"

    @property
    def building(self) -> Path:
        """The folder of a generation that is not whole yet."""
        return self.out / ".building"
