"""Deletes an index: CURRENT says so from then on, and all of its objects stay."""

from __future__ import annotations

import secrets
from dataclasses import replace

from ..errors import StoreError
from ..format.log import NONCE_BYTES
from .move import packed, swap
from .segment import Draw
from .state import TRIES, Clock, read_log
from .store import LogStore


async def remove(store: LogStore, clock: Clock, now: float, draw: Draw = secrets.token_bytes) -> int:
    """Deletes the index at the end of its log; the seq that it was at. now: seconds since 1970.

    Its log is not sealed: a writer that read CURRENT before may be told that its write is done for FRESH_S more, and
    that is kept with the rest. So nothing else may take the name before.

    Raises NotFoundError, DamagedError, StoreError.
    """
    for _ in range(TRIES):
        state = await read_log(store, clock)
        nonce, counter = draw(NONCE_BYTES).hex(), state.current.counter + 1
        gone = replace(
            state.current, named_log=state.current.log, counter=counter, nonce=nonce, deleted=round(now * 1000)
        )
        if await swap(store, packed(gone, state.members), state.etag, nonce):
            return state.seq
    raise StoreError("other writers always came first", hint="try again")
