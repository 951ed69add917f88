"""An HTTP answer, written as JSON in pieces, so that memory needs no long hole."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import DamagedError
from ..search.rank import Match
from .request import JSON

PART_BYTES = 64 << 10  # of a reply, as it is written


@dataclass
class Reply:
    """An HTTP answer, and what to do after it (waitUntil). parts: its bytes, written by `handle`; none for HEAD."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    after: list[Awaitable[Any]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)

    @property
    def sent(self) -> bytes:
        """All of its bytes."""
        return b"".join(self.parts)

    def text(self) -> str:
        """The body as JSON."""
        return "".join(_pieces(self.body))

    def write(self) -> None:
        """Fills `parts`, none of them long, so that memory needs no long hole. Raises DamagedError for a number that
        JSON does not have: it came from the index."""
        if self.body is None or isinstance(self.body, bytes):
            self.parts = [self.body] if self.body else []
            return
        try:
            part = bytearray()
            for piece in _pieces(self.body):
                part += piece.encode(errors="backslashreplace")  # half a surrogate pair, as JSON spells it
                if len(part) >= PART_BYTES:
                    self.parts.append(bytes(part))
                    part.clear()
            self.parts.append(bytes(part))
        except ValueError:
            raise DamagedError(
                "the index holds a number that is not finite", hint="build it again, or ask for less with include"
            ) from None


def json_text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_numbers)


def _numbers(match: Match) -> list[float] | None:
    """The vector of a match: numbers are made of it as it is written, for they take many times its bytes."""
    return match.vector


def _pieces(body: Any) -> Iterator[str]:
    """A body as JSON, a match or row at a time, so that no large one is held twice, and of few at once the pieces that
    `json` makes; what can be called is made as it comes.
    """
    body = body() if callable(body) else body
    name = next(
        (n for n in ("results", "matches", "rows") if isinstance(body, dict) and isinstance(body.get(n), list)), None
    )
    if name is None:
        yield json_text(body)
        return
    yield f'{{"{name}":['
    for i, one in enumerate(body[name]):
        if i:
            yield ","
        yield from _pieces(one)
    rest = json_text({k: v for k, v in body.items() if k != name})[1:]
    yield f"],{rest}" if len(rest) > 1 else "]}"
