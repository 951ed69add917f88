"""Moves CURRENT: the log's start behind what a generation has, and from a sealed log to the next one."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import DamagedError, StoreError
from ..format.current import Current, LogName, ObjectName
from ..format.log import (
    NONCE_BYTES,
    Ledger,
    ledger_key,
    pack_ledger,
    pack_seal,
    segment_key,
)
from .segment import Draw, put
from .state import FRESH_S, TRIES, Clock, LogState, read_current, read_log, whole_state
from .store import LogStore

KEYS_MS = 24 * 3600 * 1000  # for so long a request's key is known, of the last LEDGER_KEYS_MAX requests that have one


async def advance(
    store: LogStore,
    state: LogState,
    generation: str,
    root: ObjectName,
    manifest: ObjectName,
    start: int,
    now: float,
    members: Mapping[str, Any] | None = None,
    draw: Draw = secrets.token_bytes,
) -> bool:
    """Makes a generation live that has all segments before `start`; whether it is known to be.

    `state` is the one that the generation was made from, and was not followed since: CURRENT is replaced only where it
    is the one read then. now: seconds since 1970. members: of CURRENT, beside those of the format. False: begin anew
    from another state; the new objects may be live all the same, where an answer was lost, so a gc alone deletes them.
    """
    log = state.current.log
    if not log.start <= start <= state.tail.next or not state.has_ledger:
        raise ValueError("a log starts behind what its generation has, and its ledger was read")
    ledger = _ledger(state, start, state.tail.nonces, now * 1000 - KEYS_MS)
    name = ledger_key(log.id, log.start, draw(8).hex())
    await store.create(name, pack_ledger(ledger))
    new = Current(
        generation, root, manifest, LogName(log.id, start, name), state.current.counter + 1, draw(NONCE_BYTES).hex()
    )
    return await swap(store, packed(new, {**state.members, **(members or {})}), state.etag, new.nonce)


def _ledger(state: LogState, start: int, nonces: Iterable[tuple[int, bytes]], since: float) -> Ledger:
    """Of the segments before `start`, without the keys of requests from before a time in ms."""
    return Ledger([(seq, nonce) for seq, nonce in nonces if seq < start], state.tail.keys_before(start, since))


def packed(new: Current, members: Mapping[str, Any]) -> bytes:
    """A CURRENT, with members that it has beside those of the format."""
    return json.dumps({**members, **json.loads(new.pack())}, indent=1).encode() + b"\n"


async def swap(store: LogStore, data: bytes, etag: str | None, nonce: str) -> bool:
    """Replaces the CURRENT of this etag, None: none; whether it is known to have. A lost answer is resolved by reading
    it back.
    """
    for _ in range(TRIES):
        try:
            if etag is None:
                return await store.create("CURRENT", data)
            return await store.swap("CURRENT", data, etag)
        except StoreError:
            found = await store.get("CURRENT", 1 << 16)
            if found is not None and Current.unpack(found[0], "CURRENT").nonce == nonce:
                return True
            if (None if found is None else found[1]) != etag:
                return False
    return False


async def name_log(store: LogStore, state: LogState, draw: Draw) -> None:
    """Makes CURRENT name the log that an index as it was built has; another may have done so, or made another one live.

    A publisher that replaces a CURRENT without a log need not seal one: whoever writes first replaces it too.
    """
    current, nonce = state.current, draw(NONCE_BYTES).hex()
    new = replace(current, named_log=current.log, counter=current.counter + 1, nonce=nonce)
    await swap(store, packed(new, state.members), state.etag, nonce)


# What a log goes on from, once it is sealed behind a state: a CURRENT whose log and counter do not matter.
Make = Callable[[LogState], Awaitable[Current]]


async def switch(
    store: LogStore, state: LogState, make: Make, clock: Clock, draw: Draw = secrets.token_bytes
) -> LogState:
    """Seals the log and goes on in another, from a generation that `make` gives for the state at the log's end.

    No write can be acknowledged between that state and the new log. `make` is asked again where another writer came
    first. The objects that it names must be such that a gc keeps them for an hour, named or not. A rollback gives an
    older generation: what was written since is dropped. Once the seal is there, anybody finishes (`finish`).
    """
    for _ in range(TRIES):
        state = await unsealed(store, state, clock, draw)
        made_at, seq, log = clock(), state.tail.next, draw(8).hex()
        new = replace(await make(state), named_log=LogName(log, seq + 1), counter=state.current.counter + 1)
        nonce = draw(NONCE_BYTES)
        if clock() - made_at > FRESH_S:  # a gc may soon take what it names: so it is put now or never
            continue
        if await put(store, segment_key(state.current.log.id, seq), pack_seal(nonce, new.pack()), nonce, tries=1):
            after = await unsealed(store, state, clock, draw)
            if after.current.log.id == log or dict(after.tail.nonces).get(seq) == nonce:
                return after
            state = after
    raise StoreError("other writers always came first", hint="try again")


async def unsealed(store: LogStore, state: LogState, clock: Clock, draw: Draw) -> LogState:
    """The state at the end of a log that goes on, with its ledger; a sealed one is finished first."""
    for _ in range(TRIES):
        state = await whole_state(store, state, clock)
        if state.seal is None:
            return state
        await _finish(store, state, clock, draw)
        state = await read_log(store, clock)
    raise StoreError("the log was sealed again and again", hint="try again")


async def _finish(store: LogStore, state: LogState, clock: Clock, draw: Draw) -> None:
    """Makes the CURRENT live that the seal at the end of a log holds, unless another did, or the seal is void: created
    behind the log's start by somebody who came too late.
    """
    assert state.seal is not None
    seq, log = state.tail.next, state.current.log.id
    new = Current.unpack(state.seal.sealed, segment_key(log, seq))
    if new.log.id == log or new.log.start != seq + 1:
        raise DamagedError(f"{segment_key(log, seq)}: seals the log for no other", hint="a writer is broken")
    nonces = [*state.tail.nonces, (seq, state.seal.nonce)]
    for _ in range(TRIES):
        data, etag, _ = await read_current(store, clock)
        now = Current.unpack(data, "CURRENT")
        if now.log.id != log or now.log.start > seq:
            return
        name = ledger_key(new.log.id, 0, draw(8).hex())
        await store.create(name, pack_ledger(_ledger(state, seq + 1, nonces, -math.inf)))
        nonce = draw(NONCE_BYTES).hex()
        made = replace(new, named_log=LogName(new.log.id, new.log.start, name), counter=now.counter + 1, nonce=nonce)
        if await swap(store, packed(made, {}), etag, nonce):
            return
