"""How quick the bucket has been, and so when a second request for the same bytes is worth it."""

from __future__ import annotations

from collections import deque

from ..cost import LANE_BYTES_PER_MS

HEDGE_SHARE = 0.05  # second requests, of all reads
HEDGE_BURST = 6.0  # saved up at most
HEDGE_MARGIN = 1.25  # times the 95th percentile: without it the many that are just past it use up the share
HEDGE_AFTER_S = 0.02  # sooner, a second request would hardly come back before the first
LATENCIES_KEPT = 128  # latencies remembered
LATENCIES_MIN = 20  # fewer say nothing of a 95th percentile


class Hedging:
    """How quick the bucket has been lately, and the second requests that may be sent because of it."""

    def __init__(self) -> None:
        self._first_byte: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._tokens = 0.0

    def note(self, seconds: float, length: int) -> None:
        """A read of `length` bytes took so long, or was given up after so long."""
        self._first_byte.append(seconds - length / LANE_BYTES_PER_MS / 1000)
        self._tokens = min(HEDGE_BURST, self._tokens + HEDGE_SHARE)

    def delay(self, length: int) -> float | None:
        """Seconds until a read of `length` bytes is well past the 95th percentile; None while that is not known."""
        if len(self._first_byte) < LATENCIES_MIN:
            return None
        p95 = sorted(self._first_byte)[int(0.95 * len(self._first_byte))]
        return max(HEDGE_MARGIN * p95 + length / LANE_BYTES_PER_MS / 1000, HEDGE_AFTER_S)

    def take(self) -> bool:
        """Whether a second request may be sent now; it is then paid for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
