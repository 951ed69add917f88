"""When a query has to end, and its reads with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any


class Deadline:
    """When a query has to end, finished or not: at a time of the loop's clock, or by `end` (nobody waits for it)."""

    def __init__(self, at: float | None = None) -> None:
        self.at, self._ended = at, False
        self._reads: set[asyncio.Task[Any]] = set()

    @classmethod
    def after(cls, ms: int | None) -> Deadline:
        """So many milliseconds from now; None: no end."""
        return cls(None if ms is None else asyncio.get_running_loop().time() + ms / 1000)

    @property
    def over(self) -> bool:
        return self._ended or (self.at is not None and asyncio.get_running_loop().time() >= self.at)

    def end(self) -> None:
        """Gives up the reads in flight."""
        self._ended = True
        for task in self._reads:
            task.cancel()

    async def wait(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Deadline all reads are done, one has failed, or it is over; then those that are left are cancelled."""
        self._reads.update(tasks)
        loop = asyncio.get_running_loop()
        # Pyodide's loop refuses times that are past, and this one may be by now.
        timer = None if self.at is None else loop.call_later(max(0.0, self.at - loop.time()), self.end)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if timer is not None:
                timer.cancel()
            self._reads.difference_update(tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # so that nothing is read or used after the wave
