"""Puts the next segment of a log, once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..errors import StoreError
from ..format.log import SEGMENT_BYTES_MAX, unpack_segment
from .state import TRIES
from .store import LogStore

Draw = Callable[[int], bytes]  # so many bytes that nobody else draws


def unknown() -> StoreError:
    return StoreError(
        "whether the write was committed is not known", hint="send it again with the same Idempotency-Key"
    )


async def put(store: LogStore, key: str, data: bytes, nonce: bytes, tries: int = TRIES) -> bool:
    """Creates a segment; whether the one that is there has its nonce. A lost answer is resolved by reading it back.

    Raises StoreError where it cannot be: it may be there, or come yet.
    """
    for _ in range(tries):
        with suppress(StoreError):
            if await store.create(key, data):
                return True
        found = await store.get(key, SEGMENT_BYTES_MAX)
        if found is not None:
            return unpack_segment(found[0], key).nonce == nonce
    raise unknown()
