"""Opens what runs the tasks of a build: nothing for few rows, processes or a Ray cluster for many; and their stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from .pool import Pool, cores
from .stage import Stage
from .tasks import HERE, Tasks, Workers

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..context import BuildContext
    from ..ingest.staging import Staging

STAGE = "stage"  # below the scratch folder
POOL_ROWS = 1 << 18  # of fewer, starting processes gains little, and what a stage would keep is soon made again


@contextmanager
def open_tasks(staging: Staging, context: BuildContext) -> Iterator[Tasks]:
    """What runs the tasks of a build from these rows. Where it ends well, nothing of the stage is left."""
    large, count = staging.rows >= POOL_ROWS, context.workers
    if count is None:
        count = cores() if large else 1
    stage = None
    if context.stage is not None and "://" in context.stage:
        stage = Stage(f"{context.stage}/{staging.content()[:16]}")
        if context.cluster is not None:
            staging.share(stage.address)
    elif context.stage or context.cluster or large:
        stage = Stage(str(context.scratch / STAGE))
    if context.cluster is not None:
        from .cluster import Cluster  # Ray takes a while to load

        opened: AbstractContextManager[Workers | None] = Cluster(context.cluster)
    else:
        opened = Pool(count, context.scratch) if count > 1 else nullcontext()
    with opened as workers:
        yield Tasks(workers, stage) if workers or stage else HERE
    if stage is not None:
        stage.clear()
    shutil.rmtree(context.scratch / STAGE, ignore_errors=True)  # of a build of more rows, that did not end
