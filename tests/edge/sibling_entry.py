"""GET /hops asks siblings by RPC, a Durable Object each, as a fan-out would: main of the project of
bench/research/fan_out.py.

?times= so often, one after another; ?siblings= so many at once. Each gets a vector and gives back a hundred answers.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

from workers import DurableObject, Response

import entry
from entry import IndexLog  # noqa: F401  wrangler looks for the classes of the Worker here

QUERY, ANSWER = bytes(4 * 384), bytes(12 * 100)  # a vector as f32; a hundred ids of 8 bytes with their scores


class Default(entry.Default):
    """HTTP."""

    async def fetch(self, request: Any) -> Any:
        url = urlsplit(request.url)
        if url.path != "/hops":
            return await super().fetch(request)
        times, siblings = (int(parse_qs(url.query)[name][0]) for name in ("times", "siblings"))
        stubs = [self.env.WARM.getByName(f"sibling {i}") for i in range(siblings)]
        for _ in range(times):
            answers = await asyncio.gather(*(stub.part(QUERY) for stub in stubs))
            assert all(len(bytes(answer)) == len(ANSWER) for answer in answers)
        return Response("")


class WarmIndex(DurableObject):
    """A sibling that has nothing to read."""

    async def part(self, query: Any) -> bytes:
        assert len(bytes(query)) == len(QUERY)
        return ANSWER
