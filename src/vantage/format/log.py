"""Objects of the write-ahead log: segments, each a group of requests, and ledgers of what lies behind the log's start.

`log/{id}/{seq:020}` is a segment, `log/{id}/ledger-{start:020}-{16 hexadecimal digits}` a ledger; both are sectioned
objects with one section. docs/format.md, section 11, has every byte.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .layout import (
    ATTRIBUTE_ROW_BYTES_MAX,
    DIMENSION_MAX,
    ID_BYTES_MAX,
    ID_KINDS,
    LOG_LEDGER,
    LOG_SEGMENT,
    VECTOR_BYTES,
    VECTOR_KINDS,
    Cursor,
    aligned,
    damaged,
    pack_object,
    unpack_object,
)

LOG_MAGIC = b"VANTLOGS"
NONCE_BYTES = 16
NO_KEY = bytes(16)
CLIENTS_KEY = 0x80  # of a key's first byte: a client chose it, and may send it again for a day
OPERATIONS_MAX = 1000  # of a request
REQUESTS_BYTES_MAX = 4 << 20  # of a segment, together
SEGMENT_BYTES_MAX = REQUESTS_BYTES_MAX + 4096
SEALED_BYTES_MAX = 1 << 16  # of the CURRENT that a seal holds
SEQ_MAX = (1 << 63) - 1
LEDGER_SEGMENTS_MAX = 4096
LEDGER_KEYS_MAX = 1 << 16
LEDGER_BYTES_MAX = 4 << 20
LEDGER_KEY = re.compile(r"log/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/ledger-([0-9]{20})-[0-9a-f]{16}")
SEGMENT_KEY = re.compile(r"log/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/([0-9]{20})")
SEAL = 1  # of the flags

_SEGMENT = struct.Struct("<16sIIIIII")  # nonce, flags, dimension, kind of ids, of vectors, requests, bytes of a CURRENT
_REQUEST = struct.Struct("<16sqIIII")  # key, ms, upserts, patches, deletes, bytes of rows that are patched
_LEDGER = struct.Struct("<II")

Id = int | bytes


class RowShape(NamedTuple):
    """What the rows of an index are like; the names are those of its index section."""

    dimension: int
    id_kind: str
    vector_kind: str

    @property
    def vector_bytes(self) -> int:
        return self.dimension * VECTOR_BYTES[self.vector_kind]


@dataclass(frozen=True)
class Request:
    """What one request does, as a whole; it names an id once.

    key: 16 bytes that a retry has too, or NO_KEY; ms: its writer's clock, since 1970. vectors: of the upserts, one
    after the other, as the index stores them. attributes: of each upsert, a JSON object or b"" for none; changes: of
    each patch, a JSON object whose members replace those of the row. patched_bytes: of the rows of the generation that
    patches change, as the writer found them: vectors and attributes, which whoever reads the log holds too.
    """

    key: bytes
    ms: int
    upserts: Sequence[Id] = ()
    vectors: bytes | memoryview = b""
    attributes: Sequence[bytes] = ()
    patches: Sequence[Id] = ()
    changes: Sequence[bytes] = ()
    deletes: Sequence[Id] = ()
    patched_bytes: int = 0

    @property
    def operations(self) -> int:
        return len(self.upserts) + len(self.patches) + len(self.deletes)


@dataclass(frozen=True)
class Segment:
    """A group of requests that were committed as one, by the writer that drew this nonce; or a seal, behind which the
    log does not go on, with the CURRENT (JSON) that is to be.
    """

    nonce: bytes
    shape: RowShape | None
    requests: Sequence[Request] = ()
    sealed: bytes = b""


@dataclass(frozen=True)
class Ledger:
    """What is still asked of segments behind the log's start: whose they were, and which requests were in them.

    segments: (seq, nonce) of the last ones, rising; keys: request key -> (seq, ms), as they came.
    """

    segments: Sequence[tuple[int, bytes]]
    keys: dict[bytes, tuple[int, int]]


def segment_key(log: str, seq: int) -> str:
    return f"log/{log}/{seq:020}"


def ledger_key(log: str, start: int, name: str) -> str:
    """start: of the log as the ledger's writer found it, 0 for the first one of a log; name: 16 hexadecimal digits."""
    return f"log/{log}/ledger-{start:020}-{name}"


def _pack_texts(texts: Sequence[bytes]) -> bytes:
    ends, at = [0], 0
    for text in texts:
        at += len(text)
        ends.append(at)
    body = struct.pack(f"<{len(ends)}I", *ends) + b"".join(texts)
    return body.ljust(aligned(len(body), 8), b"\0")


def _take_texts(cursor: Cursor, n: int, most: int, what: str) -> list[bytes]:
    ends = cursor.column("I", n + 1)
    body = cursor.take(ends[n])
    texts = []
    for low, high in zip(ends, ends[1:], strict=False):
        if low > high or high - low > most or high > len(body):
            raise damaged(cursor.label, f"{what} at bytes {low} to {high} of {len(body)}")
        texts.append(bytes(body[low:high]))
    if ends[0]:
        raise damaged(cursor.label, f"{what} begin at byte {ends[0]}")
    cursor.take(-cursor.at % 8)
    return texts


def pack_request(request: Request, shape: RowShape) -> bytes:
    """Its bytes in a segment, a multiple of 8."""
    ids = [*request.upserts, *request.patches, *request.deletes]
    counts = len(request.upserts), len(request.patches), len(request.deletes)
    head = _REQUEST.pack(request.key, request.ms, *counts, request.patched_bytes)
    if shape.id_kind == "i64":
        names = struct.pack(f"<{len(ids)}q", *ids)
    else:
        names = _pack_texts([i for i in ids if isinstance(i, bytes)])
    vectors = bytes(request.vectors).ljust(aligned(len(request.vectors), 8), b"\0")
    return head + names + _pack_texts([*request.attributes, *request.changes]) + vectors


def least_operations(key: bytes) -> int:
    """Of a request with this key: one that a client chose may stand alone, as nothing was to do for it."""
    return 0 if key[0] & CLIENTS_KEY else 1


def _take_request(cursor: Cursor, shape: RowShape) -> Request:
    key, ms, upserts, patches, deletes, patched_bytes = cursor.unpack(_REQUEST)
    n = upserts + patches + deletes
    if not least_operations(key) <= n <= OPERATIONS_MAX:
        raise damaged(cursor.label, f"a request of {n} operations, 1 to {OPERATIONS_MAX} are right")
    ids: Sequence[Id]
    ids = cursor.column("q", n).tolist() if shape.id_kind == "i64" else _take_texts(cursor, n, ID_BYTES_MAX, "ids")
    if len(set(ids)) != n:
        raise damaged(cursor.label, "a request names an id twice")
    texts = _take_texts(cursor, upserts + patches, ATTRIBUTE_ROW_BYTES_MAX, "attributes")
    vectors = cursor.take(upserts * shape.vector_bytes)
    cursor.take(-cursor.at % 8)
    return Request(
        key, ms, ids[:upserts], vectors, texts[:upserts], ids[upserts : upserts + patches], texts[upserts:],
        ids[upserts + patches :], patched_bytes,
    )  # fmt: skip


def unpack_request(data: bytes | memoryview, shape: RowShape, label: str) -> Request:
    """A request that `pack_request` has packed. Vectors are a view into data."""
    cursor = Cursor(memoryview(data), label)
    request = _take_request(cursor, shape)
    cursor.end()
    return request


def pack_segment(nonce: bytes, shape: RowShape, requests: Sequence[bytes]) -> bytes:
    """A segment of requests that `pack_request` has packed."""
    kinds = ID_KINDS.index(shape.id_kind), VECTOR_KINDS.index(shape.vector_kind)
    head = _SEGMENT.pack(nonce, 0, shape.dimension, *kinds, len(requests), 0)
    return pack_object(LOG_MAGIC, [(LOG_SEGMENT, head + b"".join(requests))])


def pack_seal(nonce: bytes, current: bytes) -> bytes:
    """A seal with the CURRENT that is to be."""
    return pack_object(LOG_MAGIC, [(LOG_SEGMENT, _SEGMENT.pack(nonce, SEAL, 0, 0, 0, 0, len(current)) + current)])


def unpack_segment(data: bytes | memoryview, name: str) -> Segment:
    """Vectors are views into data. What texts of attributes hold is not looked at: whoever uses one parses it."""
    cursor = _opened(data, LOG_SEGMENT, SEGMENT_BYTES_MAX, name)
    nonce, flags, dimension, ids, vectors, count, sealed = cursor.unpack(_SEGMENT)
    if flags & ~SEAL:
        raise damaged(cursor.label, f"flags {flags:#x}: a newer writer made it")
    if flags:
        if count or not 1 <= sealed <= SEALED_BYTES_MAX:
            raise damaged(cursor.label, f"a seal of {count} requests and {sealed} bytes of CURRENT")
        current = bytes(cursor.take(sealed))
        cursor.end()
        return Segment(nonce, None, sealed=current)
    if not 1 <= dimension <= DIMENSION_MAX or ids >= len(ID_KINDS) or vectors >= len(VECTOR_KINDS) or sealed:
        raise damaged(cursor.label, f"dimension {dimension}, kinds {ids} and {vectors}, {sealed} bytes of CURRENT")
    shape = RowShape(dimension, ID_KINDS[ids], VECTOR_KINDS[vectors])
    if not 1 <= count <= len(data) // _REQUEST.size:
        raise damaged(cursor.label, f"{count} requests")
    requests = [_take_request(cursor, shape) for _ in range(count)]
    cursor.end()
    return Segment(nonce, shape, requests)


def pack_ledger(ledger: Ledger) -> bytes:
    n, m = len(ledger.segments), len(ledger.keys)
    body = struct.pack(f"<{n}Q", *(seq for seq, _ in ledger.segments))
    body += b"".join(nonce for _, nonce in ledger.segments)
    body += struct.pack(f"<{m}Q", *(seq for seq, _ in ledger.keys.values()))
    body += struct.pack(f"<{m}q", *(ms for _, ms in ledger.keys.values()))
    return pack_object(LOG_MAGIC, [(LOG_LEDGER, _LEDGER.pack(n, m) + body + b"".join(ledger.keys))])


def unpack_ledger(data: bytes | memoryview, name: str) -> Ledger:
    cursor = _opened(data, LOG_LEDGER, LEDGER_BYTES_MAX, name)
    n, m = cursor.unpack(_LEDGER)
    if n > LEDGER_SEGMENTS_MAX or m > LEDGER_KEYS_MAX:
        raise damaged(cursor.label, f"{n} segments and {m} keys")
    seqs = cursor.column("Q", n).tolist()
    nonces = _sixteens(cursor, n)
    keys_at, ms = cursor.column("Q", m).tolist(), cursor.column("q", m).tolist()
    keys = _sixteens(cursor, m)
    cursor.end()
    return Ledger(
        list(zip(seqs, nonces, strict=True)), dict(zip(keys, zip(keys_at, ms, strict=True), strict=True))
    )  # fmt: skip


def _sixteens(cursor: Cursor, n: int) -> list[bytes]:
    body = bytes(cursor.take(16 * n))
    return [body[16 * i : 16 * i + 16] for i in range(n)]


def _opened(data: bytes | memoryview, kind: int, most: int, name: str) -> Cursor:
    if len(data) > most:
        raise damaged(name, f"{len(data)} bytes, the limit is {most}")
    sections = unpack_object(data, LOG_MAGIC, name)
    if kind not in sections:
        raise damaged(name, "has no section of its kind")
    return Cursor(sections[kind], name)
