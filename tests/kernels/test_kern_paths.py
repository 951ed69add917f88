"""Every path of the scan that this processor has gives the reference's integers."""

import make
import numpy as np
import pytest
import reference

import kern

PATHS = ("plain", "avx2", "avx512")


@pytest.fixture(params=range(len(PATHS)), ids=PATHS)
def path(request):
    if kern.scan_path(request.param) != request.param:
        kern.scan_path(255)
        pytest.skip(f"this processor has no {PATHS[request.param]}")
    yield request.param
    kern.scan_path(255)


def wanted(q, b, base):
    tables = reference.lrsq_tables(q.ys, q.fields, q.starts, q.levels, q.fine)
    return reference.lrsq_scores(tables, b.ranges, b.codes, b.f, b.h, base, q.scale)[: b.n]


def scores(q, b, base):
    out = np.zeros(b.n, np.int32)
    assert kern.lrsq_scores(b.data, *b.places, b.n, base, 0, q.tables, out) == b.n
    return out


# All remainders of four code bytes, of two, of a segment; whole fine segments and a short one.
@pytest.mark.parametrize("fine", [0, 1, 2])
@pytest.mark.parametrize("code_bytes", [1, 2, 3, 4, 5, 31, 32, 33, 34, 48, 63, 66, 99])
def test_scores(path, code_bytes, fine):
    rng = np.random.default_rng([code_bytes, fine])
    q = make.query(rng, code_bytes, min(fine, -(-code_bytes // 32)))
    for n in (1, 16, 17, 64, 65, 131):
        b = make.block(rng, code_bytes, n, rng.permutation(n))
        assert (scores(q, b, 0.25) == wanted(q, b, 0.25)).all()


def test_scan_keeps_the_same_rows(path):
    rng = np.random.default_rng(3)
    q = make.query(rng, 45, 1)
    pool = bytearray(kern.pool_size(7))
    kern.pool_reset(pool, 7)
    offers = []
    for place in range(6):
        b = make.block(rng, 45, 500 + place, rng.integers(0, 900, 500 + place))
        b.rows = b.rows[: b.n]
        kern.lrsq_scan(b.data, *b.places, b.n, 0.0, place, q.tables, pool)
        found = wanted(q, b, 0.0).tolist()
        offers += [(score, int(row), place, i) for i, (score, row) in enumerate(zip(found, b.rows, strict=True))]
    assert make.entries(pool, 7) == reference.pool(offers, 7)


@pytest.mark.parametrize("fill", [0, 255])
def test_largest_sums(path, fill):
    """Every entry 255 and every shift 8: the largest sum of a segment, in each of its lanes."""
    rng = np.random.default_rng(1)
    q = make.query(rng, 96, 3)
    tables = np.frombuffer(q.tables, np.uint8)
    tables[32:288], tables[288:], tables[4:16].view("<f4")[:] = 8, 255, (1, 0, 1)
    b = make.block(rng, 96, 70, np.arange(70), fill)
    data = b.data[:1] + np.array([1, 0, 0, 0], "<f4").tobytes() + b.data[17:]
    out = np.zeros(70, np.int32)
    kern.lrsq_scores(data, *b.places, 70, 0, 0, q.tables, out)
    assert out.tolist() == [2 * 3 * 64 * 255 << 8] * 70


def test_ranges_that_are_huge(path):
    rng = np.random.default_rng(5)
    q = make.query(rng, 33, scale=3e38)
    for ranges in ([0, 0, 3e38, 0], [3e38] * 4, [3e38, 0, -3e38, -3e38]):
        b = make.block(rng, 33, 50, np.arange(50))
        b.ranges = np.array(ranges, np.float32)
        b.data = b.data[:1] + b.ranges.tobytes() + b.data[17:]
        with np.errstate(over="ignore", invalid="ignore"):
            assert (scores(q, b, 0.25) == wanted(q, b, 0.25)).all()


def test_path_is_a_number():
    with pytest.raises(ValueError, match="most is 256, want 0 to 255"):
        kern.scan_path(256)
