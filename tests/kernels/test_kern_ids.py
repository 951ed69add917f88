"""Kernels of ids: those that were added are found in every form of a plane, and no others."""

import struct

import numpy as np
import pytest

import kern
from vantage.format import pack_ids


def mask_of(plane: bytes, width: int, n: int, table: bytearray) -> list[bool]:
    out = bytearray(b"\xff" * (2 * -(-n // 16)))
    found = kern.ids_in(plane, width, n, table, out)
    bits = np.unpackbits(np.frombuffer(out, np.uint8), bitorder="little")
    assert found == bits.sum() and not bits[n:].any()
    return bits[:n].astype(bool).tolist()


def ids_of(rng: np.random.Generator, n: int, longest: int) -> list[bytes]:
    return [b"%d:" % i + rng.bytes(int(rng.integers(1, longest))).rstrip(b"\0") for i in range(n)]


@pytest.mark.parametrize("longest", [5, 27, 300])
@pytest.mark.parametrize("n", [0, 1, 16, 333])
def test_texts(n: int, longest: int) -> None:
    rng = np.random.default_rng(n)
    ids = ids_of(rng, n, longest)
    own = [i for i in ids if rng.random() < 0.4]
    width, plane = pack_ids(own)
    table = bytearray(8 * 1024)
    assert kern.ids_add(plane, width, len(own), table) == len(own)
    assert kern.ids_add(plane, width, len(own), table) == 0
    wanted = [i in own for i in ids]
    width, plane = pack_ids(ids)
    assert mask_of(plane, width, n, table) == wanted
    ends = np.cumsum([0, *map(len, ids)]).astype("<u4").tobytes()
    assert mask_of(ends + b"".join(ids), 0, n, table) == wanted


def test_numbers_up_to_the_last_slot() -> None:
    ids = np.concatenate([np.arange(-500, 500), [-(2**63), 2**63 - 1]]).astype("<i8")
    own, table = ids[::2].copy(), bytearray(8 * 512)
    assert kern.ids_add(own, 8, len(own), table) == len(own) == 501
    assert mask_of(ids.tobytes(), 8, len(ids), table) == [True, False] * 501
    assert kern.ids_add(ids[1:22:2].copy(), 8, 11, table) == 11  # all 512 slots
    with pytest.raises(ValueError, match="ids_add: table has no room for id 0"):
        kern.ids_add(ids[23:24], 8, 1, table)
    assert mask_of(ids[23:25].tobytes(), 8, 2, table) == [False, True]


def test_nul_bytes_at_the_end_do_not_count() -> None:
    table = bytearray(64)
    kern.ids_add(b"ab\0\0", 4, 1, table)
    assert mask_of(b"ab", 2, 1, table) == mask_of(struct.pack("<2I", 0, 3) + b"ab\0", 0, 1, table) == [True]
    assert mask_of(b"abc", 3, 1, table) == mask_of(b"\0", 1, 1, table) == [False]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((bytes(7), 8, 1, bytearray(64)), "ids has 7 bytes, needs 8"),
        ((bytes(8), 33, 1, bytearray(64)), "width is 33, want 0 to 32"),
        ((bytes(8), 8, 1, bytearray(72)), "table has 72 bytes, wants 8 times a power of two"),
        ((bytes(8), 8, 1, bytearray(8)), "table has 8 bytes, needs 16"),
        ((bytes(8), 0, 2, bytearray(64)), "ids has 8 bytes, needs 12"),
        ((struct.pack("<3I", 0, 1, 9) + b"ab", 0, 2, bytearray(64)), "id 1 ends outside of the ids"),
        ((struct.pack("<3I", 2, 1, 2) + b"ab", 0, 2, bytearray(64)), "id 0 ends outside of the ids"),
    ],
)
def test_refused(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"ids_add: .*{message}"):
        kern.ids_add(*args)
    with pytest.raises(ValueError, match=f"ids_in: .*{message}"):
        kern.ids_in(*args, bytearray(2))
