"""Hands writes to the sequencer of an index, and to its bucket where there is none that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import VantageError
from .create import NewIndex, create
from .remove import remove
from .sequencer import SEEN_S, Sequencer
from .state import Clock
from .store import LogStore
from .submission import Done, Submission, pack_submission, unpack_outcome

SUBMIT_S = 10.0  # a sequencer that takes longer is taken for gone
UNSEEN_S = SEEN_S + 0.1  # and may for so long tell readers nothing of what went past it: clocks of Workers are coarse

# (name of an index, a packed submission) -> the packed outcome
Rpc = Callable[[str, bytes], Awaitable[str]]


class WriteClient:
    """Of all indexes of a bucket. store_of: the objects of an index; rpc: asks its sequencer, None where there is none.

    A sequencer that fails or is late may have written all the same. So what goes to the bucket then has the same key,
    and is not done twice. It may also answer readers again by then: so nobody is told of what went past it before it
    must have seen that.
    """

    def __init__(self, store_of: Callable[[str], LogStore], clock: Clock, rpc: Rpc | None = None) -> None:
        self.store_of, self.clock, self.rpc = store_of, clock, rpc

    async def submit(
        self, name: str, submission: Submission, before: Callable[[], Awaitable[None]],
        after: Callable[[], Awaitable[None]],
    ) -> Done:  # fmt: skip
        """See Sequencer.submit. before: what is waited for before the log is read here; after: once it is let go of."""
        if self.rpc is not None:
            try:
                answer = await asyncio.wait_for(self.rpc(name, pack_submission(submission)), SUBMIT_S)
                return unpack_outcome(answer)
            except VantageError:
                raise
            except Exception:  # late, gone or broken
                pass
        await before()
        done = await Sequencer(self.store_of(name), self.clock).submit(submission)
        await after()
        if self.rpc is not None:
            await asyncio.sleep(UNSEEN_S)
        return done

    async def create(self, name: str, new: NewIndex, now: float) -> bool:
        """See vantage.log.create."""
        return await create(self.store_of(name), new, now)

    async def remove(self, name: str, now: float) -> int:
        """See vantage.log.remove."""
        return await remove(self.store_of(name), self.clock, now)
