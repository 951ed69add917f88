"""A log as its sequencer tells it in one call, for a reader that follows it; and as the bucket has it, without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..errors import StoreError
from ..format.log import SEGMENT_KEY
from .sequencer import News
from .state import FRESH_S, Clock, LogState
from .store import LogReader

SINCE_S = 0.1  # a sequencer that takes longer is left alone: the bucket is as quick
CURRENT_S = FRESH_S / 2  # a reader whose CURRENT is older is sent it again, so that it needs not ask for it

# (name of an index, etag of the reader's CURRENT, its log, its seq) -> see Sequencer.since
Since = Callable[[str, str, str, int], Awaitable[News]]


def pack_news(news: News) -> dict[str, Any]:
    """As objects send it: `data` is CURRENT, of the length `current`, and then segments of these lengths."""
    return {
        "current": len(news.current or b""), "etag": news.etag, "log": news.log, "seq": news.seq,
        "first": news.first, "segments": [len(one) for one in news.segments],
        "data": b"".join([news.current or b"", *news.segments]),
    }  # fmt: skip


def unpack_news(told: Mapping[str, Any]) -> News:
    """What `pack_news` has packed. Raises StoreError where the lengths do not fit."""
    data, at, segments = told["data"], int(told["current"]), list[bytes]()
    current = data[:at] or None
    for length in told["segments"]:
        segments.append(data[at : at + int(length)])
        at += int(length)
    if at != len(data):
        raise StoreError("the news of a log are cut", hint="ask the bucket")
    return News(current, str(told["etag"]), str(told["log"]), int(told["seq"]), int(told["first"]), segments)


async def relayed(ask: Since, name: str, state: LogState, bucket: LogReader, clock: Clock) -> LogReader:
    """What a reader in this state follows its log by: without a GET, where the sequencer answers; else the bucket.

    It sees all writes that the sequencer has acknowledged before, and those of others that were a second ago.
    """
    log = state.current.log.id
    etag = "" if clock() - state.read_at > CURRENT_S else state.etag
    try:
        news = await asyncio.wait_for(ask(name, etag, log, state.seq), SINCE_S)
    except Exception:  # late, gone or broken
        return bucket
    return _Relayed(news, bucket) if news.log == log else bucket


class _Relayed:
    """What news tell; what they do not, the bucket does."""

    def __init__(self, news: News, bucket: LogReader) -> None:
        self.news, self.bucket = news, bucket
        self.segments = dict(enumerate(news.segments, news.first))
        self.last = max(news.seq, *self.segments, 0)

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        """See LogReader."""
        if key == "CURRENT" and self.news.current is not None:
            return self.news.current, self.news.etag
        return await self.bucket.get(key, most)

    async def get_several(self, keys: Sequence[str], most: int) -> list[tuple[bytes, str] | None]:
        """See LogReader."""
        return await asyncio.gather(*(self._segment(key, most) for key in keys))

    async def _segment(self, key: str, most: int) -> tuple[bytes, str] | None:
        match = SEGMENT_KEY.fullmatch(key)
        if match is not None and match[1] == self.news.log:
            seq = int(match[2])
            if seq in self.segments:
                return self.segments[seq], ""
            if seq > self.last:
                return None
        return await self.bucket.get(key, most)
