"""Runs tasks in processes of this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from loky import ProcessPoolExecutor  # type: ignore[import-untyped]

from vantage.errors import VantageError

from .pickling import packed
from .stage import Arrays
from .tasks import Batch
from .worker import work

DEATHS_MAX = 5  # of workers, in a row, without a result between them
AHEAD = 2  # times the workers: so many results at most wait for their turn
# A worker does one task on one thread: so its sums are the same with any number of workers.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Pool:
    """`count` worker processes; a context manager that ends them. scratch: a folder, for what tasks of a map share."""

    def __init__(self, count: int, scratch: Path) -> None:
        self.count, self.scratch = count, scratch
        self._processes = self._start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._processes.shutdown(wait=True, kill_workers=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.count, env=THREADS)

    def run(self, batch: Batch) -> Iterator[Arrays]:
        """See Workers."""
        path = self.scratch / f"shared-{batch.name}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(batch.shared))
        try:
            yield from self._in_order(batch, str(path))
        finally:
            path.unlink(missing_ok=True)

    def _in_order(self, batch: Batch, path: str) -> Iterator[Arrays]:
        waiting, sent, deaths = deque[Future[Arrays]](), 0, 0
        try:
            while waiting or sent < len(batch):
                try:
                    while sent < len(batch) and len(waiting) < AHEAD * self.count:
                        task = batch.function, batch.name, path, *batch[sent], batch.stage
                        waiting.append(self._processes.submit(work, *task))
                        sent += 1
                    result = waiting[0].result()
                except BrokenProcessPool as error:
                    deaths += 1
                    if deaths > DEATHS_MAX:
                        raise VantageError(
                            f"worker processes died {deaths} times in a row: {str(error).splitlines()[0]}",
                            hint="there may be too little memory: give fewer --workers",
                        ) from None
                    self._processes.shutdown(wait=True, kill_workers=True)
                    self._processes = self._start()
                    sent -= len(waiting)
                    waiting.clear()
                    continue
                deaths = 0
                waiting.popleft()
                yield result
        finally:
            for one in waiting:
                one.cancel()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
