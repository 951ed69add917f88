"""Runs tasks on a Ray cluster (Moritz et al., OSDI 2018, arXiv 1712.05889)."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator
from typing import Any

from vantage.errors import InputError, StoreError, VantageError

from ..pinned import THREADS, pinned
from .pickling import packed
from .pool import AHEAD, DEATHS_MAX
from .stage import Arrays
from .tasks import Batch
from .worker import work

REACH_S = 10  # to connect in


class Cluster:
    """The Ray cluster at an address, as `ray.init` takes it, `local` for one on this machine alone; a context manager.

    Every machine has Vantage installed, and reaches the stage. Raises InputError without Ray or for what is no address,
    StoreError where there is no cluster.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("Ray is not installed", hint="pip install 'vantage-search[ray]'") from None
        self.ray: Any = ray
        settings = {name: os.environ[name] for name in pinned() if name in os.environ} | THREADS
        local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        _check_reached(address)
        try:
            ray.init(
                address, runtime_env={"env_vars": settings}, log_to_driver=False, logging_level=logging.ERROR, **local
            )
        except ValueError as error:
            raise InputError(f"{address} is no address of a Ray cluster: {error}", hint="give HOST:PORT") from None
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            what = str(error).strip().splitlines()[0]
            raise StoreError(f"no Ray cluster at {address}: {what}", hint="see `ray status` there") from None
        self._work = self.ray.remote(max_retries=DEATHS_MAX, num_cpus=1)(work)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def run(self, batch: Batch) -> Iterator[Arrays]:
        """See Workers."""
        held, waiting = self.ray.put(packed(batch.shared)), deque[Any]()
        ahead = AHEAD * max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        for number in range(len(batch)):
            if len(waiting) == ahead:
                yield self._result(waiting.popleft())
            waiting.append(self._work.remote(batch.function, batch.name, held, *batch[number], batch.stage))
        while waiting:
            yield self._result(waiting.popleft())

    def _result(self, reference: Any) -> Arrays:
        try:
            out: Arrays = self.ray.get(reference)
            return out
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            raise VantageError(
                f"Ray gave a task up: {str(error).splitlines()[0]}",
                hint="see `ray status`, and the logs of its workers",
            ) from None


def _check_reached(address: str) -> None:
    """Raises StoreError where nothing answers at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), REACH_S).close()
        except (OSError, OverflowError) as error:
            raise StoreError(f"no Ray cluster at {address}: {error}", hint="see `ray status` there") from None
