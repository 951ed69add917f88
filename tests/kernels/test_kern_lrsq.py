"""lrsq tables, scores and scan against the reference: every bit of tables and integers."""

import make
import numpy as np
import pytest
import reference

import kern

CODE_BYTES = (1, 2, 3, 31, 32, 33, 48, 96, 97, 240, 384, 1536)


def reference_tables(q):
    return reference.lrsq_tables(q.ys, q.fields, q.starts, q.levels, q.fine)


def check_tables(q):
    unit, bias, shifts, entries = reference_tables(q)
    got = np.frombuffer(q.tables, np.uint8)
    assert int.from_bytes(q.tables[:4], "little") == len(entries) // 2
    assert got[4:16].view("<f4").tolist() == [unit, bias, np.float32(q.scale)]
    passes = [0, 8] * q.fine + shifts[q.fine :].tolist()
    assert got[16:32].tolist() == [q.fine] + [0] * 15
    assert got[32:288].tolist() == passes + [0] * (256 - len(passes))
    split = q.fine * reference.SEGMENT
    for segment in range(q.fine):
        want = entries[segment * reference.SEGMENT : (segment + 1) * reference.SEGMENT]
        at = 288 + 2048 * segment
        assert (got[at : at + want.size].reshape(-1, 16) == want & 255).all()
        assert (got[at + 1024 : at + 1024 + want.size].reshape(-1, 16) == want >> 8).all()
    rest = entries[split:]
    assert (got[288 + 2048 * q.fine :][: rest.size].reshape(-1, 16) == rest).all()


def check_scores(q, b, base=0.25):
    want = reference.lrsq_scores(reference_tables(q), b.ranges, b.codes, b.f, b.h, base, q.scale)[: b.n]
    out = np.zeros(b.n, np.int32)
    assert kern.lrsq_scores(b.data, *b.places, b.n, base, 7, q.tables, out) == b.n
    assert (out == want).all()
    capacity = 5
    pool = bytearray(kern.pool_size(capacity))
    kern.pool_reset(pool, capacity)
    assert kern.lrsq_scan(b.data, *b.places, b.n, base, 7, q.tables, pool) == b.n
    offers = [(int(s), int(r), 7, i) for i, (s, r) in enumerate(zip(want, b.rows[: b.n], strict=True))]
    assert make.entries(pool, capacity) == reference.pool(offers, capacity)


@pytest.mark.parametrize("fine", [0, 1, 2, 16])
@pytest.mark.parametrize("code_bytes", CODE_BYTES)
def test_scores(code_bytes, fine):
    rng = np.random.default_rng(code_bytes)
    q = make.query(rng, code_bytes, min(fine, -(-code_bytes // 32)))
    check_tables(q)
    for n in (0, 1, 15, 16, 17, 63, 64, 65, 100, 300):
        check_scores(q, make.block(rng, code_bytes, n, rng.integers(0, n + 1, n)))


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("spread", [0.0, 1e-38, 1e-20, 1.0, 1e30])
def test_extremes(fill, spread):
    rng = np.random.default_rng(fill)
    q = make.query(rng, 97, spread=spread)
    check_tables(q)
    with np.errstate(over="ignore"):
        check_scores(q, make.block(rng, 97, 40, np.arange(40), fill))


def test_longest_code_does_not_overflow():
    rng = np.random.default_rng(1)
    q = make.query(rng, 7680, 16)
    tables = np.frombuffer(q.tables, np.uint8)
    tables[32:288], tables[288:] = 8, 255  # the largest tables there can be: S = 256 x 16320 x 256
    tables[4:16].view("<f4")[:] = 1, 0, 1
    b = make.block(rng, 7680, 17, np.arange(17))
    data = bytearray(b.data)
    data[1:17] = np.array([1, 0, 0, 0], np.float32).tobytes()
    out = np.zeros(17, np.int32)
    kern.lrsq_scores(data, *b.places, 17, 0, 0, tables, out)
    assert out.tolist() == [256 * 16320 * 256] * 17


@pytest.mark.parametrize("ranges", [[0, 0, 3e38, 0], [0, 0, -3e38, 0], [3e38] * 4, [3e38, 0, -3e38, -3e38]])
def test_scores_are_clamped(ranges):
    rng = np.random.default_rng(3)
    q = make.query(rng, 33, scale=3e38)
    b = make.block(rng, 33, 50, np.arange(50))
    b.ranges = np.array(ranges, np.float32)
    b.data = b.data[:1] + b.ranges.tobytes() + b.data[17:]
    with np.errstate(over="ignore", invalid="ignore"):
        check_scores(q, b)


def test_refusals():
    rng = np.random.default_rng(5)
    q, b = make.query(rng, 4), make.block(rng, 4, 20, np.arange(20))
    pool = bytearray(kern.pool_size(3))
    kern.pool_reset(pool, 3)

    def scan(data=b.data, places=b.places, n=20, base=0.0, tables=q.tables, pool=pool):
        kern.lrsq_scan(data, *places, n, base, 0, tables, pool)

    def tables(ys=q.ys, fields=q.fields, starts=q.starts, levels=q.levels, scale=1.0, size=416):
        kern.lrsq_tables(ys, fields, starts, levels, scale, 0, bytearray(size))

    for name, value, message in (
        ("data", b.data[:-49], "rows at 209 of 80 bytes end beyond data of 288"),
        ("places", (*b.places[:4], 2**48), "rows at 281474976710656"),
        ("places", (-1, *b.places[1:]), "ranges_at is -1, want 0 to"),
        ("places", (2**70, *b.places[1:]), "ranges_at has more than 64 bits"),
        ("n", 33, "codes at 17 of 192 bytes|rows at"),
        ("base", float("inf"), "base is not a finite float32"),
        ("base", 1e39, "base is not a finite float32"),
        ("tables", bytes(300), "for codes of 0"),
        ("tables", q.tables[:-1], "tables has 415 bytes for codes of 4"),
        ("tables", bytes(q.tables[:32]) + b"\x09" * 256 + bytes(128), "tables has a shift above 8"),
        ("data", b.data[:1] + np.array([0, np.nan, 0, 0], "<f4").tobytes() + b.data[17:], "number 1 of ranges"),
        ("pool", bytearray(100), "pool is not a pool"),
        ("pool", pool[:-1], "pool is not a pool"),
    ):
        with pytest.raises(ValueError, match=message):
            scan(**{name: value})
    broken = q.fields.copy()
    for field, value in (("axis", 40), ("width", 0), ("width", 5), ("shift", 4), ("level_at", 2**32 - 1)):
        broken[:] = q.fields
        broken[field][3] = value
        with pytest.raises(ValueError, match="field 3 .* is out of range"):
            tables(fields=broken)
    down, huge, nan = q.starts.copy(), np.full_like(q.levels, 3e38), q.ys.copy()
    down[2], nan[4] = 0, np.nan
    for name, value, message in (
        ("ys", nan, "ys\\[4\\] is not finite"),
        ("starts", down, "starts of nibble 1"),
        ("starts", q.starts + 1, "starts of nibble 7"),
        ("starts", q.starts[:-1], "nibbles even"),
        ("levels", huge, "the sums of nibble 0 are not finite"),
        ("scale", float("nan"), "scale is not a finite float32"),
        ("size", 415, "tables has 415 bytes, needs 416"),
    ):
        with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
            tables(**{name: value})
