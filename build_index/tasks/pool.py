"""Runs tasks in processes of this machine.

Each worker has a pipe of its own. The pools of concurrent.futures and of loky have one for all results: a worker that
is killed while it writes a result leaves theirs half written, and everybody waits for ever.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from vantage.errors import VantageError

from ..heap import unmap_large_buffers
from ..pinned import THREADS
from .pickling import packed
from .stage import Arrays
from .tasks import Batch

DEATHS_MAX = 4  # of workers by one task
AHEAD = 2  # times the workers: so many results at most wait for their turn


class _Worker:
    """A process that runs `worker.main`."""

    def __init__(self) -> None:
        own, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "build_index.tasks.worker", str(other.fileno())], pass_fds=[other.fileno()],
                env=os.environ | THREADS | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self.connection = Connection(own.detach())

    def ask(self, task: bytes) -> tuple[bool, Any]:
        """(whether a task ended well, its result or the error that it raised). EOFError or OSError where the worker has
        died.
        """
        self.connection.send_bytes(task)
        out: tuple[bool, Any] = pickle.loads(self.connection.recv_bytes())
        return out

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class Pool:
    """`count` worker processes; a context manager that ends them. scratch: a folder, for what tasks of a map share."""

    def __init__(self, count: int, scratch: Path) -> None:
        unmap_large_buffers()
        self.count, self.scratch, self._ends = count, scratch, False
        self._threads, self._idle = ThreadPoolExecutor(count), SimpleQueue[_Worker]()
        self._workers = {_Worker() for _ in range(count)}
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._ends = True
        for worker in self._workers.copy():  # the threads that wait for them hear of it
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def run(self, batch: Batch) -> Iterator[Arrays]:
        """See Workers."""
        path = self.scratch / f"shared-{batch.name}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(batch.shared))
        waiting, sent = deque[Future[Arrays]](), 0
        try:
            while waiting or sent < len(batch):
                while sent < len(batch) and len(waiting) < AHEAD * self.count:
                    task = packed((batch.function, batch.name, str(path), *batch[sent], batch.stage))
                    waiting.append(self._threads.submit(self._ask, task))
                    sent += 1
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
            path.unlink(missing_ok=True)

    def _ask(self, task: bytes) -> Arrays:
        """The result of a task by a worker that is idle; of another one, where it dies."""
        worker = self._idle.get()
        try:
            for _ in range(DEATHS_MAX):
                try:
                    ended_well, result = worker.ask(task)
                    break
                except (EOFError, OSError):
                    if self._ends:
                        raise
                    self._workers.discard(worker)
                    worker.end()
                    status = worker.process.returncode
                    worker = _Worker()
                    self._workers.add(worker)
            else:
                raise VantageError(
                    f"a task ended {DEATHS_MAX} worker processes, the last one by {_named(status)}",
                    hint="there may be too little memory: give fewer --workers",
                )
        finally:
            self._idle.put(worker)
        if not ended_well:
            raise result
        out: Arrays = result
        return out


def _named(status: int) -> str:
    """What ended a process."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
