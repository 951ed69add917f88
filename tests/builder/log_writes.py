"""Writes to the log of an index, for the builder's tests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import ObjectStore
from vantage.format.log import NO_KEY, Request, RowShape
from vantage.log.commit import commit
from vantage.log.conditions import Write
from vantage.log.state import read_log


def write_rows(store: ObjectStore, shape: RowShape, **parts: Any) -> None:
    """One request, committed to the log; parts: of a Request."""

    async def run() -> None:
        log = StoreLog(store)
        state = await read_log(log, time.monotonic)
        _, (outcome,) = await commit(log, state, [Write(Request(NO_KEY, 0, **parts))], shape, nothing, time.monotonic)
        assert isinstance(outcome, int), outcome

    asyncio.run(run())


async def nothing(current: Any, ids: Any) -> Any:
    """No condition asks for a row."""
    raise AssertionError
