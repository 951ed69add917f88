"""Who may work in an isolate at once: requests enter in order, as many as memory has room for; the others wait, or are
told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import StoreError

REQUEST_BYTES = 128 << 10  # a request as the SDK wraps it, its headers and its answer's
BODY_COPIES = 6  # a body as it came, as one piece, and its numbers as Python objects
WAITING_MAX = 128  # a request that waits holds memory too
WAIT_S = 10.0
GONE_S = 60.0  # no request works as long: its context was ended, and nothing of it runs any more
SILENT_S = 5.0  # likewise of one that waits, which looks far more often
POLL_S = 0.005
POLL_S_MAX = 0.25


class BusyError(StoreError):
    """The isolate has too much to do: ask again a little later."""

    code = "busy"


class _Ticket:
    """A request that waits or works: its price in bytes, and when it was last heard of."""

    def __init__(self, nbytes: int, now: float) -> None:
        self.nbytes, self.heard = nbytes, now


class Admission:
    """Room for requests, in bytes. One that needs more than all of it works alone.

    Each request looks by a timer of its own whether its turn has come: in a Worker nothing may be resumed by another
    request, whose context ends before it. A request whose context was ended says nothing any more, so both kinds of
    tickets run out.
    """

    def __init__(self, room: int, gone_s: float = GONE_S) -> None:
        self.room, self.gone_s = room, gone_s
        self._waiting: list[_Ticket] = []
        self._working: list[_Ticket] = []

    @property
    def held(self) -> int:
        """Bytes of those that work."""
        return sum(t.nbytes for t in self._working)

    @asynccontextmanager
    async def enter(self, nbytes: int, deadline: float | None = None) -> AsyncIterator[None]:
        """Waits for room for so many bytes, and holds it.

        deadline: of the loop's clock, when one that passes several doors has waited enough; None: WAIT_S from now.
        Raises BusyError then, or at once where too many wait.
        """
        clock = asyncio.get_running_loop().time
        ticket = _Ticket(nbytes, clock())
        self._drop_the_gone(ticket.heard)
        if len(self._waiting) >= WAITING_MAX:
            raise BusyError(f"{WAITING_MAX} requests wait already", hint="ask again in a second")
        self._waiting.append(ticket)
        until = ticket.heard + WAIT_S if deadline is None else deadline
        try:
            while not self._fits(ticket):
                ahead = self._waiting.index(ticket) if ticket in self._waiting else len(self._waiting)
                await asyncio.sleep(min(POLL_S_MAX, POLL_S * (1 + ahead)))
                ticket.heard = clock()
                self._drop_the_gone(ticket.heard)
                if ticket.heard >= until:  # also where there is room now: who worked may have kept the loop for long
                    raise BusyError("there was no room for this request in time", hint="ask again in a second")
            self._waiting.remove(ticket)
            self._working.append(ticket)
            yield
        finally:
            for tickets in (self._waiting, self._working):
                if ticket in tickets:
                    tickets.remove(ticket)

    def _fits(self, ticket: _Ticket) -> bool:
        """Whether it is this one's turn, and there is room."""
        if ticket not in self._waiting:  # it was silent for long, and is heard of again: last in order
            self._waiting.append(ticket)
        return self._waiting[0] is ticket and (not self._working or self.held + ticket.nbytes <= self.room)

    def _drop_the_gone(self, now: float) -> None:
        self._waiting = [t for t in self._waiting if now - t.heard < SILENT_S]
        self._working = [t for t in self._working if now - t.heard < self.gone_s]


def request_bytes(length: int) -> int:
    """What a request with a body of so many bytes holds of it at the most."""
    return REQUEST_BYTES + BODY_COPIES * length
