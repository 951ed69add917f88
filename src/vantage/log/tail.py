"""The tail of the log as a state: of each id what was written last, and of each request where it is."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..bounded_json import loads
from ..format.layout import ATTRIBUTE_ROW_DEPTH_MAX, ATTRIBUTE_ROW_PARTS_MAX, damaged
from ..format.log import (
    CLIENTS_KEY,
    LEDGER_KEYS_MAX,
    LEDGER_SEGMENTS_MAX,
    NO_KEY,
    Id,
    Request,
    RowShape,
    Segment,
)

UPSERT, PATCH, DELETE = range(3)
# What a tail holds of rows, and of the keys of requests: readers need no less than rows, conditions no less than their
# attributes, and who only tells where the log ends nothing.
NOTHING, ATTRIBUTES, ROWS = range(3)


class Fresh(NamedTuple):
    """The last write of an id: UPSERT a whole row, PATCH members for a row that the generation may have, DELETE none.

    vector: as the index stores it, of an UPSERT; attributes: a JSON object or b"", with what patches replaced since.
    """

    seq: int
    kind: int
    vector: bytes = b""
    attributes: bytes = b""


class Size(NamedTuple):
    """What a segment takes. nbytes: of its object, and of the rows of the generation that its patches change."""

    seq: int
    operations: int
    nbytes: int


def members_of(text: bytes, label: str) -> dict[str, Any]:
    """The attributes of a fresh row. Raises DamagedError where they are no JSON object within bounds."""
    if not text:
        return {}
    try:
        value = loads(text, ATTRIBUTE_ROW_DEPTH_MAX, ATTRIBUTE_ROW_PARTS_MAX)
    except ValueError as error:
        raise damaged(label, f"attributes are not JSON within bounds: {error}"[:300]) from None
    if not isinstance(value, dict):
        raise damaged(label, "attributes are no JSON object")
    return value


def packed_members(members: Mapping[str, Any]) -> bytes:
    """The attributes of a row as the log has them."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def patched(old: Fresh | None, seq: int, change: bytes, label: str) -> Fresh:
    """What a patch makes of an id: nothing of a deleted row."""
    if old is None or old.kind == DELETE:
        return old or Fresh(seq, PATCH, b"", change)
    merged = members_of(old.attributes, label) | members_of(change, label)
    return Fresh(seq, old.kind, old.vector, packed_members(merged))


def effects(request: Request, seq: int, shape: RowShape) -> Iterator[tuple[Id, Fresh | bytes]]:
    """What a request makes of each id: of a patch what it changes."""
    vectors, width = request.vectors, shape.vector_bytes
    for i, (identifier, attributes) in enumerate(zip(request.upserts, request.attributes, strict=True)):
        # A copy, as a view of a part would be an object of a hundred bytes, and hold on to all.
        yield identifier, Fresh(seq, UPSERT, bytes(vectors[i * width : (i + 1) * width]), attributes)
    yield from zip(request.patches, request.changes, strict=True)
    for identifier in request.deletes:
        yield identifier, Fresh(seq, DELETE)


class Tail:
    """Segments from one on, in their order, as a state.

    rows: by id; keys: of the requests seen, those of a ledger too, request key -> (seq, ms); nonces: (seq, nonce) of
    the last segments; sizes: of those whose rows are held; start: of the first whose rows are; next: the seq of the
    next segment; shape: None before the first; holds: NOTHING, ATTRIBUTES or ROWS.
    """

    def __init__(self, start: int, holds: int = ROWS) -> None:
        self.start, self.next, self.holds = start, start, holds
        self.shape: RowShape | None = None
        self.rows: dict[Id, Fresh] = {}
        self.keys: dict[bytes, tuple[int, int]] = {}
        self.nonces: deque[tuple[int, bytes]] = deque(maxlen=LEDGER_SEGMENTS_MAX)
        self.sizes: deque[Size] = deque()

    def apply(self, segment: Segment, nbytes: int, label: str) -> None:
        """The next segment. Raises DamagedError where it does not fit to the others."""
        if segment.shape is None or self.shape not in (None, segment.shape):
            raise damaged(label, "its rows are not like those before it")
        self.shape, seq, requests = segment.shape, self.next, segment.requests
        changes: dict[Id, Fresh] = {}
        for request in requests if self.holds else ():
            for identifier, effect in effects(request, seq, segment.shape):
                if isinstance(effect, bytes):
                    old = changes.get(identifier) or self.rows.get(identifier)
                    effect = patched(old, seq, effect, label)
                changes[identifier] = effect if self.holds == ROWS else effect._replace(vector=b"")
        self.rows.update(changes)
        for request in requests if self.holds else ():
            if request.key != NO_KEY:
                self.keys[request.key] = seq, request.ms
        self.nonces.append((seq, segment.nonce))
        operations, patches = sum(r.operations for r in requests), sum(r.patched_bytes for r in requests)
        self.sizes.append(Size(seq, operations, nbytes + patches))
        self.next += 1

    def hold(self, holds: int) -> None:
        """Holds no more than this from now on."""
        if holds < self.holds:
            self.holds = holds
            self.rows = {i: row._replace(vector=b"") for i, row in self.rows.items()} if holds else {}
            self.keys = self.keys if holds else {}

    def keys_before(self, start: int, since: float = -math.inf) -> dict[bytes, tuple[int, int]]:
        """The keys of the requests before a segment that are known longer, at most LEDGER_KEYS_MAX: the last ones, none
        from before a time in ms.
        """
        keys = {key: at for key, at in self.keys.items() if at[0] < start and at[1] >= since}
        # Those that no client chose are asked for within seconds or never: they go first.
        order = sorted(keys, key=lambda key: (key[0] & CLIENTS_KEY, keys[key][0]))
        for key in order[: max(0, len(keys) - LEDGER_KEYS_MAX)]:
            del keys[key]
        return keys

    def drop(self, start: int) -> None:
        """Forgets the rows that a generation has in which the segments before `start` are, and of the keys of requests
        there those that a ledger has no room for; nonces stay.
        """
        if start <= self.start:
            return
        self.start = start
        self.keys = self.keys_before(start) | {key: at for key, at in self.keys.items() if at[0] >= start}
        while self.sizes and self.sizes[0].seq < start:
            self.sizes.popleft()
        self.rows = {identifier: fresh for identifier, fresh in self.rows.items() if fresh.seq >= start}

    def held(self, start: int) -> tuple[int, int, int]:
        """(segments, operations, bytes) from a segment on."""
        sizes = [size for size in self.sizes if size.seq >= start]
        return len(sizes), sum(size.operations for size in sizes), sum(size.nbytes for size in sizes)
