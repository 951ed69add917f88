"""Opens what runs the tasks of a build: nothing for few rows, processes or a Ray cluster for many; and their stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..bucket.store import store_at
from .pool import Pool, cores
from .stage import Stage
from .tasks import Tasks, Workers

if TYPE_CHECKING:
    from ..context import BuildContext
    from ..ingest.staging import Staging

STAGE = "stage"  # below the scratch folder
POOL_ROWS = 1 << 18  # of fewer, starting processes gains little, and what a stage would keep is soon made again


def open_workers(rows: int, context: BuildContext) -> AbstractContextManager[Workers | None]:
    """What runs the tasks of a build of so many rows. Raises InputError or StoreError where it, or the stage, is not to
    be had.
    """
    if context.stage is not None:
        store_at(context.stage)
    if context.cluster is not None:
        from .cluster import Cluster  # Ray takes a while to load

        return Cluster(context.cluster)
    count = context.workers or (cores() if rows >= POOL_ROWS else 1)
    return Pool(count, context.scratch) if count > 1 else nullcontext()


@contextmanager
def open_tasks(staging: Staging, workers: Workers | None, context: BuildContext) -> Iterator[Tasks]:
    """The tasks of a build from these rows, and their stage, of which nothing is left where the build ends well."""
    stage = None
    if context.stage is not None and "://" in context.stage:
        stage = Stage(f"{context.stage}/{staging.content()[:16]}")
        if context.cluster is not None:
            staging.share(stage.address)
    elif context.stage or context.cluster or staging.rows >= POOL_ROWS:
        stage = Stage(str(context.scratch / STAGE))
    yield Tasks(workers, stage)
    if stage is not None:
        stage.clear()
    shutil.rmtree(context.scratch / STAGE, ignore_errors=True)  # of a build of more rows, that did not end
