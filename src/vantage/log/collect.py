"""Deletes the objects of logs that no CURRENT can name any more."""

from __future__ import annotations

import secrets
from dataclasses import replace

from ..format.log import LEDGER_KEY, NONCE_BYTES, SEGMENT_KEY
from .move import packed, swap, unsealed
from .segment import Draw
from .state import Clock, read_log
from .store import LogKeeper

GRACE_S = 3600.0  # a call to the bucket that takes longer is taken for failed


async def collect(
    store: LogKeeper, clock: Clock, now: float, grace: float = GRACE_S, draw: Draw = secrets.token_bytes
) -> int:
    """Deletes segments and ledgers that CURRENT stopped naming `grace` seconds ago; how many. now: since 1970.

    When that was, ledgers tell: each is younger than the start of the log that its key says. So what lies before the
    start of a ledger older than `grace` is not named for so long, and nor is another log. CURRENT is replaced before
    anything is deleted (a fence): what was begun from an older one cannot become live. Nothing is deleted where another
    came first.
    """
    state = await unsealed(store, await read_log(store, clock), clock, draw)
    log, etag = state.current.log, state.etag
    listed = [(key, now - modified > grace) for key, modified in await store.list("log/")]
    starts = [int(m[2]) for key, old in listed if old and (m := LEDGER_KEY.fullmatch(key)) and m[1] == log.id]
    proven = max(starts, default=0)
    gone = []
    for key, old in listed:
        segment, ledger = SEGMENT_KEY.fullmatch(key), LEDGER_KEY.fullmatch(key)
        if segment and segment[1] == log.id:
            take = int(segment[2]) < min(proven, log.start)
        elif ledger:
            take = old and key != log.ledger
        else:
            take = old and proven > 0 and segment is not None
        if take:
            gone.append(key)
    if not gone:
        return 0
    nonce = draw(NONCE_BYTES).hex()
    new = replace(state.current, named_log=log, counter=state.current.counter + 1, nonce=nonce)
    if not await swap(store, packed(new, state.members), etag, nonce):
        return 0
    await store.delete(gone)
    return len(gone)
