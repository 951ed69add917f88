"""Binary bodies of HTTP: vectors in, answers out; docs/http.md is their prose."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from ..errors import InputError, LimitError

VECTORS = struct.Struct("<4sIII")  # magic, version, vectors, dimension; then f32 (vectors, dimension)
VECTORS_MAGIC = b"VANQ"
ANSWERS = struct.Struct("<4sIIIIIII")  # magic, version, answers, matches, id kind, id bytes, JSON bytes, 0
ANSWERS_MAGIC = b"VANA"
WIRE_VERSION = 1
I64_IDS, BYTE_IDS = 0, 1


def unpack_vectors(body: bytes, count_max: int) -> list[array[float]]:
    """Vectors of a request. Raises InputError for a wrong header or length, LimitError for too many vectors."""
    hint = 'send "VANQ", then version 1, vectors and dimension as u32, then float32, all little-endian'
    if len(body) < VECTORS.size or body[:4] != VECTORS_MAGIC:
        raise InputError("the body does not begin with the header of vectors", hint=hint, param="body")
    _, version, count, dimension = VECTORS.unpack_from(body)
    if version != WIRE_VERSION:
        raise InputError(f"the body is of version {version}", hint=hint, param="body")
    if not 1 <= count <= count_max:
        raise LimitError(
            "the number of vectors", count, f"1 to {count_max}", hint="send several requests", param="vectors"
        )
    if len(body) != VECTORS.size + 4 * count * dimension:
        raise InputError(
            f"the body has {len(body)} bytes, its header says {VECTORS.size + 4 * count * dimension}",
            hint=hint, param="body",
        )  # fmt: skip
    values = array("f", body[VECTORS.size :])
    return [values[i * dimension : (i + 1) * dimension] for i in range(count)]


def pack_answers(counts: Sequence[int], scores: Sequence[float], ids: Sequence[int | bytes], tail: bytes) -> bytes:
    """Answers: matches up to the end of each (u32), scores (f32), ids (i64, or u32 offsets and bytes), JSON.

    counts: matches of each answer; scores and ids of all of them, in order.
    """
    ends, total = array("I"), 0
    for count in counts:
        total += count
        ends.append(total)
    numbers = [i for i in ids if isinstance(i, int)]
    names = [i for i in ids if isinstance(i, bytes)]
    plane = array("q", numbers).tobytes()
    if names:
        offsets, at = array("I", [0]), 0
        for name in names:
            at += len(name)
            offsets.append(at)
        plane = offsets.tobytes() + b"".join(names)
    kind = BYTE_IDS if names else I64_IDS
    head = ANSWERS.pack(ANSWERS_MAGIC, WIRE_VERSION, len(counts), total, kind, len(plane), len(tail), 0)
    return head + ends.tobytes() + array("f", scores).tobytes() + plane + tail
