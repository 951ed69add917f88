"""Counted work of a query: the receipt. The same on every machine; `modelled_ms` is computed from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .cost import Budget, wave_ms


@dataclass
class Receipt:
    """What a query cost. Opening an index is apart (opened_gets, opened_bytes, opened_rpc), and so is looking for what
    was written since (log_gets, log_bytes). seq: of the last write that the answer has seen.
    """

    gets: int = 0
    bytes: int = 0
    waves: int = 0
    blocks: int = 0
    blocks_cached: int = 0
    rows: int = 0
    rows_ranked: int = 0
    retries: int = 0
    hedged: int = 0  # GETs of `gets` that were sent because another was slow
    warm_rpc: int = 0  # calls to a warm place
    warm_bytes: int = 0  # from there, so not of `bytes`
    opened_gets: int = 0
    opened_bytes: int = 0
    opened_rpc: int = 0
    log_gets: int = 0
    log_bytes: int = 0
    fresh: int = 0  # rows of the log that were scanned
    superseded: int = 0  # ids that the log has, whose rows in the generation do not count
    seq: int = 0
    generation: str = ""
    proof: dict[str, Any] | None = None  # of an exact answer; see exact.Proof
    wave_sizes: list[list[int]] = field(default_factory=list)

    def add_opening(self, opening: Receipt) -> None:
        """Adds what it took to open an index, apart from the query's own reads."""
        self.opened_gets += opening.gets
        self.opened_bytes += opening.bytes
        self.opened_rpc += opening.opened_rpc

    def count_wave(self, sizes: list[int]) -> None:
        """Counts a wave of reads of these sizes."""
        self.gets += len(sizes)
        self.bytes += sum(sizes)
        self.waves += 1
        self.wave_sizes.append(sizes)

    def add_scan(self, other: Receipt) -> None:
        """Adds the work of one query of a request."""
        for name in ("blocks", "blocks_cached", "rows", "rows_ranked", "fresh"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.superseded = max(self.superseded, other.superseded)

    def left_of(self, budget: Budget, reserved: int = 0) -> Budget:
        """What a budget still allows after this work; `reserved` GETs and waves are kept for later."""
        return replace(
            budget,
            gets=budget.gets - self.gets - reserved,
            bytes=budget.bytes - self.bytes,
            waves=budget.waves - self.waves - reserved,
        )

    def added_to(self, budget: Budget) -> Budget:
        """A budget that this work, done already, takes nothing from."""
        return replace(
            budget, gets=budget.gets + self.gets, bytes=budget.bytes + self.bytes, waves=budget.waves + self.waves
        )

    @property
    def modelled_ms(self) -> float:
        """Waves add up; CPU is apart."""
        return sum(wave_ms(sizes) for sizes in self.wave_sizes)

    def as_dict(self) -> dict[str, Any]:
        """For answers: every counter, modelled_ms, and the proof where there is one."""
        counters = {k: v for k, v in vars(self).items() if k != "wave_sizes" and (k != "proof" or v is not None)}
        return counters | {"modelled_ms": round(self.modelled_ms, 2)}
