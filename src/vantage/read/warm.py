"""What a warm place keeps for isolates that are cold, and how an isolate asks it: blocks, whoever read them first."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..bounded_json import loads

CALL_BYTES_MAX = 2 << 20  # of one call, either way: it is in memory up to three times
ASK_TIMEOUT_S = 0.025  # past this the bucket is as quick
REST_S = 10.0  # after a late or broken answer, so that a place far away costs little
COUNTED_MAX = 1 << 14  # items whose hits are known
DEPTH_MAX = 4  # of JSON between an isolate and the object: ranges are lists in a list
HALF_LIFE = 2000  # calls after which a hit counts half
ROOTS_BYTES = 4 << 20  # what the roots of all indexes may take together; one alone may take more

ByteRange = tuple[str, int, int]  # object key, offset, size: the same bytes for ever, as generations are immutable

# One call each, to the warm place of an index: (name, ranges as JSON) -> (what it says as JSON, bytes), and
# (name, ranges as JSON, the bytes of each). They may raise, and may take long.
Ask = Callable[[str, str], Awaitable[tuple[str, memoryview]]]
Give = Callable[[str, str, list[bytes]], Awaitable[None]]


@dataclass(slots=True)
class _Counted:
    hits: float = 0.0
    data: bytes = b""  # empty: not kept


class WarmBlocks:
    """Blocks by byte range, under a byte budget: those that are asked for most, for a byte kept; and roots.

    Hits are those of isolates that do not have the bytes, so they are what keeping them saves. Older ones fade.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.held = budget, 0
        self._counted: dict[tuple[str, int], _Counted] = {}
        self._roots: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._hit = 1.0  # what one counts now: it grows, where all others would have to shrink
        self._floor = 0.0  # benefit of the last that was thrown out

    def answer(self, ranges: str) -> tuple[str, bytes]:
        """JSON {"held": numbers, "wanted": numbers} of byte ranges, and the bytes of those held, joined.

        At most CALL_BYTES_MAX; wanted are those that it would keep if they were given.
        """
        held, lacking, parts, length, room = list[int](), list[int](), list[bytes](), 0, self.budget - self.held
        self._fade()
        for number, (key, offset, size) in enumerate(loads(ranges, DEPTH_MAX)):
            item = self._counted.setdefault((sys.intern(key), offset), _Counted())
            item.hits += self._hit
            if item.data:
                if length + size <= CALL_BYTES_MAX:
                    held.append(number)
                    parts.append(item.data)
                    length += size
            elif size <= room or (size <= self.budget and item.hits / size > self._floor):
                lacking.append(number)
                room -= size
        return json.dumps({"held": held, "wanted": lacking}), b"".join(parts)

    def take(self, ranges: str, data: bytes | memoryview) -> None:
        """Keeps what is given, and throws out what is least worth its bytes."""
        at = 0
        for key, offset, size in loads(ranges, DEPTH_MAX):
            piece = bytes(data[at : at + size])
            at += size
            item = self._counted.setdefault((sys.intern(key), offset), _Counted())
            if len(piece) == size:
                self.held += size - len(item.data)
                item.data = piece
        self._shrink()

    def root(self, name: str) -> tuple[bytes, bytes] | None:
        """(CURRENT, root.bin) of an index, where they are kept."""
        if name in self._roots:
            self._roots.move_to_end(name)
        return self._roots.get(name)

    def keep_root(self, name: str, current: bytes, root: bytes) -> None:
        """Keeps them, and drops those that were asked for longest ago where all take more than ROOTS_BYTES."""
        self._roots[name] = current, root
        self._roots.move_to_end(name)
        while len(self._roots) > 1 and sum(len(kept) for _, kept in self._roots.values()) > ROOTS_BYTES:
            self._roots.popitem(last=False)

    def forget_root(self, name: str) -> None:
        """Drops the root of an index."""
        self._roots.pop(name, None)

    def forget_blocks(self, name: str, keeps: Callable[[str], bool]) -> None:
        """Drops blocks of an index, but those of the objects whose keys are to stay."""
        gone = [k for k in self._counted if k[0].startswith(f"{name}/") and not keeps(k[0])]
        for key in gone:
            self.held -= len(self._counted.pop(key).data)

    def clear(self) -> None:
        """Drops all bytes; what was asked for most is still known."""
        self._roots.clear()
        for item in self._counted.values():
            item.data = b""
        self.held = 0

    def _fade(self) -> None:
        self._hit *= 2 ** (1 / HALF_LIFE)
        if self._hit > 1e100:
            for item in self._counted.values():
                item.hits /= self._hit
            self._floor /= self._hit
            self._hit = 1.0
        if len(self._counted) > COUNTED_MAX:
            idle = sorted(
                (k for k, item in self._counted.items() if not item.data), key=lambda k: self._counted[k].hits
            )
            for key in idle[: COUNTED_MAX // 4]:
                del self._counted[key]

    def _shrink(self) -> None:
        if self.held <= self.budget:
            return
        kept = [item for item in self._counted.values() if item.data]
        kept.sort(key=lambda item: item.hits / len(item.data))
        for item in kept:
            if self.held <= self.budget:
                return
            self._floor = item.hits / len(item.data)
            self.held -= len(item.data)
            item.data = b""


class WarmClient:
    """An isolate's side: asks before it reads, and gives afterwards what was wanted. All failures are of no account."""

    def __init__(self, ask: Ask, give: Give) -> None:
        self.ask_rpc, self.give_rpc = ask, give
        self._rest = 0.0
        self._outbox: dict[ByteRange, bytes] = {}
        self._outbox_bytes = 0

    async def ask(self, ranges: Sequence[ByteRange]) -> tuple[dict[int, memoryview], list[int]]:
        """By number, the bytes that are there, unverified; and which of the others are wanted. All of one index."""
        loop = asyncio.get_running_loop()
        try:
            reply, data = await asyncio.wait_for(
                self.ask_rpc(ranges[0][0].partition("/")[0], json.dumps(ranges)), ASK_TIMEOUT_S
            )
            answer, views, at = loads(reply, DEPTH_MAX), dict[int, memoryview](), 0
            for number in answer["held"]:
                views[number] = data[at : at + ranges[number][2]]
                at += ranges[number][2]
            return views, answer["wanted"]
        except Exception:  # late, gone or broken: the bucket has everything
            self._rest = loop.time() + REST_S
            return {}, []

    @property
    def rests(self) -> bool:
        """Whether it is not worth asking now."""
        return asyncio.get_running_loop().time() < self._rest

    def keep(self, byte_range: ByteRange, data: memoryview) -> None:
        """Copies what was read, and is wanted, for `send`."""
        if byte_range not in self._outbox and self._outbox_bytes + len(data) <= CALL_BYTES_MAX:
            try:
                self._outbox[byte_range] = bytes(data)
            except MemoryError:
                self.drop()
                return
            self._outbox_bytes += len(data)

    def rest(self) -> None:
        """Asks and gives nothing for a while: memory is short here."""
        self.drop()
        self._rest = asyncio.get_running_loop().time() + REST_S

    def drop(self) -> None:
        """Forgets what was to be given away."""
        self._outbox, self._outbox_bytes = {}, 0

    @property
    def full(self) -> bool:
        """Whether there is something to send."""
        return bool(self._outbox)

    async def send(self) -> None:
        """Gives away all that was kept, one call per index; for waitUntil."""
        outbox, self._outbox, self._outbox_bytes = self._outbox, {}, 0
        by_name: dict[str, list[ByteRange]] = {}
        for byte_range in outbox:
            by_name.setdefault(byte_range[0].partition("/")[0], []).append(byte_range)
        for name, ranges in by_name.items():
            try:
                await self.give_rpc(name, json.dumps(ranges), [outbox[p] for p in ranges])
            except Exception:  # raised further, its frames would keep all that was to be given
                self.rest()
