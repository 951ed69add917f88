"""How work reports how far it has come: one value that is passed down, and narrowed to a phase or a part of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


def _nobody(phase: str, share: float) -> None:
    """Listens to no report."""


@dataclass(frozen=True)
class Progress:
    """Called with the share of the work that is done, 0 to 1; report(phase, share) hears of it.

    A function hands its progress on as a `phase`, which has a name and a share of its own, or as a `part`, which moves
    the share of the same phase from `low` to `high`.
    """

    report: Callable[[str, float], None] = _nobody
    name: str = ""
    low: float = 0.0
    high: float = 1.0

    def __call__(self, share: float) -> None:
        self.report(self.name, self.low + (self.high - self.low) * share)

    def phase(self, name: str) -> Progress:
        """Of a phase with this name, from its beginning."""
        return Progress(self.report, name)

    def part(self, low: float, high: float) -> Progress:
        """Of work that takes this phase from one share to another."""
        width = self.high - self.low
        return replace(self, low=self.low + width * low, high=self.low + width * high)


SILENT = Progress()
