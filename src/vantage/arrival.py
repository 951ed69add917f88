"""Bodies on their way: what has come of them is held, never what is still to come, and none of them is waited for
longer than it moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from .admission import POLL_S, POLL_S_MAX, WAIT_S, BusyError
from .errors import InputError

T = TypeVar("T")

ROOM_BYTES = 4 << 20  # of all bodies on their way; the first of them may take more, so that one always goes on
BODIES_MAX = 64  # a request whose body is on its way holds memory too
SILENT_S = 5.0  # so long a body may stand still
BODY_S = 5.0  # a body has so long, and longer by what has come of it
BODY_BYTES_S = 256 << 10
GIVES_WAY_S = POLL_S_MAX  # one that stands still gives way after so long, when another needs its place
SMALL_BYTES = 32 << 10  # for so much of each there is always room: a query of one vector waits for no upload
GONE_S = WAIT_S + SILENT_S  # nothing of a request goes on as long: its context was ended


class RequestTimeoutError(InputError):
    """The body did not come in time."""

    code = "request_timeout"
    status = 408


class Arriving:
    """One body on its way: `held` bytes of it are in memory, `came` are known to have been sent.

    kept_s: seconds that the isolate kept it waiting, with other requests; the rest of the time is the client's.
    """

    def __init__(self, bodies: Bodies, now: float) -> None:
        self.bodies, self.began, self.moved = bodies, now, now
        self.held = self.came = 0
        self.kept_s = 0.0
        self.whole = self.wants_room = False

    async def next(self, piece: Awaitable[T]) -> T:
        """The next piece, waited for as long as a body may stand still.

        Raises RequestTimeoutError past that, BusyError where it gave way to others before.
        """
        clock = asyncio.get_running_loop().time
        task = asyncio.ensure_future(piece)
        try:
            while not task.done():
                # In short turns: another request may need the place, and cannot wake this one. See Admission.
                looked = clock()
                await asyncio.wait([task], timeout=POLL_S_MAX)
                late = max(0.0, clock() - looked - POLL_S_MAX)  # the isolate was, with others: not the client
                self.moved, self.began, self.kept_s = self.moved + late, self.began + late, self.kept_s + late
                if task.done():
                    break
                if self not in self.bodies.arriving:  # too many came at once, which the client is not to blame for
                    raise BusyError("this body stood still, and others needed its place", hint="ask again in a second")
                if clock() >= min(self.moved + SILENT_S, self.began + BODY_S + self.came / BODY_BYTES_S):
                    raise RequestTimeoutError(
                        f"the body stopped after {self.came} bytes", hint="send all of it at once", param="body"
                    )
            self.moved = clock()
            if self not in self.bodies.arriving:  # it gave way while its next piece came: last in order
                self.bodies.arriving.append(self)
            return task.result()
        finally:
            task.cancel()

    async def take(self, nbytes: int, keep: bool = True) -> None:
        """Counts a piece that came, and waits for room for it where it is kept. Raises BusyError after WAIT_S."""
        self.came += nbytes
        if not keep:
            return
        clock = asyncio.get_running_loop().time
        began, self.wants_room = clock(), True
        try:
            while not self.bodies.fits(self, nbytes):
                await asyncio.sleep(10 * POLL_S)
                self.moved = clock()  # it is not the client who is waited for
                self.bodies.make_way(self.moved, 1)
                if self.moved >= began + WAIT_S:
                    raise BusyError("there was no room for this body in time", hint="ask again in a second")
        finally:
            self.wants_room, self.kept_s = False, self.kept_s + clock() - began
        self.held += nbytes


class Bodies:
    """Room for bodies on their way, by the bytes that have come."""

    def __init__(self, room: int = ROOM_BYTES) -> None:
        self.room = room
        self.arriving: list[Arriving] = []  # in the order in which they began

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[Arriving]:
        """A place for one body, and for what comes of it until the context ends.

        Raises BusyError where BODIES_MAX others have one and all of them move.
        """
        one = Arriving(self, asyncio.get_running_loop().time())
        if len(self.arriving) >= BODIES_MAX:
            self.make_way(one.began)
        if len(self.arriving) >= BODIES_MAX:
            raise BusyError(f"{BODIES_MAX} bodies are on their way already", hint="ask again in a second")
        self.arriving.append(one)
        try:
            yield one
        finally:
            if one in self.arriving:
                self.arriving.remove(one)

    def fits(self, one: Arriving, nbytes: int) -> bool:
        """Whether there is room for so many bytes more, or it is small, or the first of those that hold or want any."""
        if one.held + nbytes <= SMALL_BYTES:
            return True
        first = next(a for a in self.arriving if a.held or a.wants_room)
        return first is one or sum(a.held for a in self.arriving) + nbytes <= self.room

    def make_way(self, now: float, held: int = 0) -> None:
        """Gives away the place of the one that has stood still longest and holds so much, and of those that are gone.

        It hears of it at its next look, and its bytes go then.
        """
        self.arriving = [a for a in self.arriving if now - a.moved < GONE_S]
        moving = [a for a in self.arriving if a.whole or a.wants_room or now - a.moved < GIVES_WAY_S]
        still = [a for a in self.arriving if a not in moving and a.held >= held]
        if still:
            self.arriving.remove(min(still, key=lambda a: a.moved))
