"""Runs tasks in processes of this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from loky import ProcessPoolExecutor  # type: ignore[import-untyped]

from vantage.errors import VantageError

from .pickling import packed
from .stage import Arrays, Stage
from .tasks import Function
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

    def run(
        self, function: Function, shared: object, name: str, pieces: Sequence[object], keys: Sequence[str],
        stage: Stage | None,
    ) -> Iterator[Arrays]:  # fmt: skip
        """See Workers."""
        path = self.scratch / f"shared-{name}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(shared))
        try:
            yield from self._in_order(
                [(function, name, str(path), piece, key, stage) for piece, key in zip(pieces, keys, strict=True)]
            )
        finally:
            path.unlink(missing_ok=True)

    def _in_order(self, calls: list[tuple[object, ...]]) -> Iterator[Arrays]:
        waiting, sent, deaths = deque[Future[Arrays]](), 0, 0
        try:
            while waiting or sent < len(calls):
                try:
                    while sent < len(calls) and len(waiting) < AHEAD * self.count:
                        waiting.append(self._processes.submit(work, *calls[sent]))
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
