"""Hedged reads against plain ones on a virtual clock: p50 and p99 of a query's waits, and what the hedges cost.

    python -m bench.hedging [--queries 4000] [--reads 6] [--slow 0.02] [--seed 0]

The real Reader; each read takes a log-normal first byte (median 40 ms, sigma 0.25) and its bytes at 60 MB/s, and
one in fifty takes ten times as long. The time printed is the virtual clock's: modelled_ms in a receipt is computed
from sizes alone and knows nothing of slow reads.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import selectors
import statistics

from vantage.cost import LANE_BYTES_PER_MS, ROUND_MS
from vantage.read import hedge, reader
from vantage.read.bucket import Body, Bytes
from vantage.read.hedge import Hedging
from vantage.read.reader import Reader
from vantage.receipt import Receipt

SIZE = 64 << 10


class Jumping(selectors.SelectSelector):
    """A wait that moves the clock instead of sleeping."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing would ever happen again")
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """A loop on that clock."""

    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Modelled:
    """A bucket of zeros with drawn latencies."""

    def __init__(self, seed: int, slow: float) -> None:
        self.draw, self.slow = random.Random(seed), slow

    async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Body | None:
        assert length is not None
        ms = ROUND_MS * self.draw.lognormvariate(0, 0.25) + length / LANE_BYTES_PER_MS
        await asyncio.sleep(ms / 1000 * (10 if self.draw.random() < self.slow else 1))
        return Bytes(bytes(length), SIZE, "zeros")

    async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        return [], None


async def waits(queries: int, reads: int, seed: int, slow: float) -> tuple[list[float], Receipt]:
    """(milliseconds of each query's one wave; GETs and hedged ones of all)."""
    bucket, total, out = Modelled(seed, slow), Receipt(), []
    clock = asyncio.get_running_loop().time
    for _ in range(queries):
        began, receipt = clock(), Receipt()  # of its own: what a request may read is limited
        assert await Reader(bucket, {}, receipt).wave([("zeros", 0, SIZE, SIZE)] * reads, lambda i, data: None)
        out.append(1000 * (clock() - began))
        total.gets, total.hedged = total.gets + receipt.gets, total.hedged + receipt.hedged
    return out, total


def main() -> None:
    """Prints a line for plain and one for hedged reads, and the ratio of their p99."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--reads", type=int, default=6)
    parser.add_argument("--slow", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    worst = []
    for name, share in (("plain", 0.0), ("hedged", hedge.HEDGE_SHARE)):
        hedge.HEDGE_SHARE, reader._HEDGING = share, Hedging()
        with asyncio.Runner(loop_factory=Loop) as runner:
            ms, receipt = runner.run(waits(options.queries, options.reads, options.seed, options.slow))
        cuts = statistics.quantiles(ms, n=100)
        worst.append(cuts[98])
        more = 100 * receipt.hedged / (receipt.gets - receipt.hedged)
        print(f"{name}: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, {more:.2f}% more GETs")
    print(f"p99 falls by {worst[0] / worst[1]:.2f}x")


if __name__ == "__main__":
    main()
