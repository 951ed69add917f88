"""What reads cost: the model of time, prices, and the most that a query or a request may spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .format import RERANK_MAX

LANES = 6  # connections a Worker may hold open (Cloudflare docs, Workers limits, 2026-11)
ROUND_MS = 40.0  # to the first byte of an R2 read, assumed: docs/costs.md
LANE_BYTES_PER_MS = 60_000.0  # 60 MB/s a lane, assumed: docs/costs.md
CLASS_B_USD = 0.36e-6  # one R2 read, 2026-11
STORAGE_USD_PER_GB_MONTH = 0.015  # R2, 2026-11
REQUEST_USD = 0.30e-6  # one Worker request past the included 10 M, 2026-11


@dataclass(frozen=True)
class Budget:
    """The most a query may spend. The defaults fit the free plan's 50 subrequests.

    waves: routing pages, blocks, blocks again, full vectors, attributes. ms: of time, None: as long as it takes.
    """

    gets: int = 48
    bytes: int = 64 << 20
    waves: int = 5
    ms: int | None = None

    def within(self, limits: Limits) -> Budget:
        """This budget, with no more GETs and bytes than a request may read."""
        return replace(self, gets=min(self.gets, limits.gets), bytes=min(self.bytes, limits.bytes))


@dataclass(frozen=True)
class Limits:
    """The most of one request, all its vectors together; who runs a service may lower them. exact: whether it is on."""

    vectors: int = 256
    top_k: int = 1000
    rerank: int = RERANK_MAX
    gets: int = 1000  # as they are sent; the platform allows a paid Worker 10,000
    bytes: int = 1 << 30
    exact: bool = True


def wave_ms(sizes: Sequence[int]) -> float:
    """Modelled milliseconds of a wave of reads: 40 a round, and the fullest of six lanes, longest first, at 60 MB/s."""
    if not sizes:
        return 0.0
    lanes = [0] * LANES
    for size in sorted(sizes, reverse=True):
        lanes[lanes.index(min(lanes))] += size
    return ROUND_MS * -(-len(sizes) // LANES) + max(lanes) / LANE_BYTES_PER_MS
