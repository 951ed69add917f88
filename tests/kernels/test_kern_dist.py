"""crc32c, hamming, dot, l2, matvec: equal to the references, bit for bit, on awkward sizes."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import kern

DIMS = (1, 3, 15, 16, 17, 31, 32, 33, 97, 384, 1536, 4096)
COUNTS = (0, 1, 3, 4, 5, 9)
few = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 303, 1023, 1024, 1039, 1040, 2351, 2352, 2353, 2368, 4417, 9999])
def test_crc32c(size):
    data = np.random.default_rng(size).bytes(size)
    assert kern.crc32c(data) == reference.crc32c(data)
    assert kern.crc32c(data, 0xDEADBEEF) == reference.crc32c(data, 0xDEADBEEF)


@few
@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 3000))
def test_crc32c_chains(a, b, zeros):
    a += bytes(zeros)
    assert kern.crc32c(b"123456789") == 0xE3069283  # the check value of the catalogue of CRCs
    assert kern.crc32c(b, kern.crc32c(a)) == kern.crc32c(a + b)


def test_crc32c_sees_every_bit():
    data = bytearray(np.random.default_rng(1).bytes(3000))
    crcs = {kern.crc32c(data)}
    for bit in range(0, 8 * len(data), 7):
        data[bit // 8] ^= 1 << bit % 8
        crcs.add(kern.crc32c(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(crcs) == 1 + len(range(0, 8 * len(data), 7))


@pytest.mark.parametrize("width", DIMS)
@pytest.mark.parametrize("n", COUNTS)
def test_hamming(n, width):
    rng = np.random.default_rng(width)
    query, codes = rng.integers(0, 256, width, np.uint8), rng.integers(0, 256, (n, width), np.uint8)
    out = np.zeros(n, np.uint32)
    assert kern.hamming(query, codes, n, width, out) == n
    assert (out == reference.hamming(query, codes)).all()


def rows_of(kind, rng, n, dim):
    if kind in ("u8", "i8"):
        return rng.integers(0, 256, (n, dim), np.uint8).view({"u8": np.uint8, "i8": np.int8}[kind])
    rows = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-7, 3, (n, 1))  # small ones are subnormal in f16
    rows[rng.random(rows.shape) < 0.1] = 0
    return rows.astype({"f16": np.float16, "f32": np.float32}[kind])


KINDS = [*((metric, kind) for metric in ("dot", "l2") for kind in ("f16", "f32", "u8")), ("dot", "i8")]


@pytest.mark.parametrize(("metric", "kind"), KINDS)
@pytest.mark.parametrize("dim", DIMS)
def test_distances(metric, kind, dim):
    rng = np.random.default_rng(dim)
    query = rng.standard_normal(dim).astype(np.float32)
    for n in COUNTS:
        rows, out = rows_of(kind, rng, n, dim), np.zeros(n, np.float32)
        stride, offset = rows.itemsize * dim + 5, 3
        data = bytes(offset) + b"".join(row.tobytes() + b"\xff" * 5 for row in rows)
        getattr(kern, f"{metric}_{kind}")(query, data, offset, stride, n, dim, out)
        assert (out.view(np.uint32) == reference.distances(query, rows, metric == "l2").view(np.uint32)).all()


def test_every_f16():
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    out = np.zeros(65536, np.float32)
    kern.dot_f16(np.ones(1, np.float32), every, 0, 2, 65536, 1, out)
    with np.errstate(invalid="ignore"):
        want = every.astype(np.float32) + np.float32(0)  # a sum from 0 is never -0
    assert (np.isnan(out) == np.isnan(want)).all()
    assert (out.view(np.uint32) == want.view(np.uint32))[~np.isnan(want)].all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("n", COUNTS)
def test_matvec(n, dim):
    rng = np.random.default_rng(dim + n)
    query = np.zeros(-(-dim // 32) * 32, np.int16)
    query[:dim] = rng.integers(-32768, 32768, dim)  # sums may wrap
    pad, out = -(-dim // 16) * 16, np.zeros(n, np.int32)
    rows = rng.integers(-128, 128, (n, pad)).astype(np.int8)
    kern.matvec_i8(query, rows, n, dim, out)
    assert (out == reference.matvec(query[:pad], rows)).all()
    nibbles = rng.integers(0, 256, (n, len(query) // 2), np.uint8)
    kern.matvec_i4(query, nibbles, n, dim, out)
    assert (out == reference.matvec(query, reference.unpack_i4(nibbles))).all()


def test_matvec_extremes():
    query, out = np.full(4096, -32768, np.int16), np.zeros(1, np.int32)
    kern.matvec_i8(query, np.full(4096, -128, np.int8), 1, 4096, out)
    assert out[0] == np.int64(4096 * 32768 * 128).astype(np.uint32).view(np.int32)
    kern.matvec_i4(query, bytes(2048), 1, 4096, out)
    assert out[0] == 4096 * 32768 * 8 - 2**32 * (4096 * 32768 * 8 >= 2**31)
