"""Kernels of filters: counts and tails as the reference, masks, and rows of many blocks with their own scores."""

from collections import Counter

import make
import numpy as np
import pytest
import reference

import kern
from vantage.format import pack_columns

F32 = np.float32


@pytest.mark.parametrize(("buckets", "blocks"), [(0, 1), (1, 1), (3, 5), (64, 1033)])
def test_counts(buckets: int, blocks: int) -> None:
    rng = np.random.default_rng(buckets)
    table = rng.integers(0, 90, (buckets, blocks)).astype(np.uint8)
    weights = (rng.random(buckets) * (rng.random(buckets) < 0.7)).astype(F32)
    out = rng.random(blocks).astype(F32)
    want = reference.sum_counts(table, weights, out)
    assert kern.sum_counts(table, weights, out) == blocks
    assert (out == want).all()


@pytest.mark.parametrize("blocks", [1, 2, 5, 1033])
@pytest.mark.parametrize("wanted", [0.01, 3, 100, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_tails(blocks: int, wanted: float, scale: float) -> None:
    rng = np.random.default_rng(blocks)
    counts = (rng.integers(0, 200, blocks) * (rng.random(blocks) < 0.6)).astype(F32)
    base, sigma = (rng.standard_normal(blocks) * scale).astype(F32), (rng.random(blocks) * scale + 1e-9).astype(F32)
    out = np.zeros(blocks, np.uint32)
    assert kern.tail_probabilities(counts, base, sigma, wanted, out) == blocks
    assert (out == reference.tail_probabilities(counts, base, sigma, wanted)).all()
    assert ((out > 0) == (counts > 0)).all()


def test_tails_hold_what_is_wanted() -> None:
    """The nearest of equal blocks holds the most, and k answers are shared by as many rows as reach their score."""
    counts, sigma = np.full(50, 100, F32), np.full(50, 0.1, F32)
    base = np.linspace(1, -1, 50, dtype=F32)
    out = np.zeros(50, np.uint32)
    kern.tail_probabilities(counts, base, sigma, 10, out)
    few = out.copy()
    kern.tail_probabilities(counts, base, sigma, 1000, out)
    assert (np.diff(out.astype(int)) <= 0).all() and few[0] > out[0] and abs(int(out.sum()) - 2**20) < 50


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((bytes(4), bytes(4), bytes(4), 1, bytearray(4)), "a count, base or sigma that is none"),
        ((F32([-1]), F32([0]), F32([1]), 1, bytearray(4)), "a count, base or sigma that is none"),
        ((F32([1]), F32([np.inf]), F32([1]), 1, bytearray(4)), "a count, base or sigma that is none"),
        ((F32([1]), F32([3e38]), F32([1]), 1, bytearray(4)), "a count, base or sigma that is none"),
        ((F32([np.nan]), F32([0]), F32([1]), 1, bytearray(4)), "a count, base or sigma that is none"),
        ((bytes(4), bytes(4), bytes(4), 0, bytearray(4)), "wanted is not above 0"),
        ((bytes(8), bytes(4), bytes(4), 1, bytearray(4)), "counts has 8 bytes"),
        ((bytes(4), bytes(4), bytes(4), 1, bytearray(0)), "out has 0 bytes"),
    ],
)
def test_tails_refused(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"tail_probabilities: .*{message}"):
        kern.tail_probabilities(*args)


@pytest.mark.parametrize("n", [1, 16, 17, 700])
@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("span", [1, 12, 1 << 40])
def test_values_of_a_column(n: int, nulls: bool, span: int) -> None:
    """Of a table, of keys as they are, and of lists: each value once, with the rows of the mask that have it."""
    rng = np.random.default_rng(n)
    single = [[] if nulls and rng.random() < 0.3 else [int(rng.integers(-3, span))] for _ in range(n)]
    lists = [sorted({int(v) for v in rng.integers(0, span, rng.integers(4))}) for _ in range(n)]
    plane = pack_columns([None, (False, single), (True, lists)])
    for share in (0, 0.2, 1):
        taken = rng.random(n) < share
        mask = np.packbits(taken, bitorder="little").tobytes() + bytes(2)
        for number, column in ((1, single), (2, lists)):
            some = [own for own, here in zip(column, taken, strict=True) if here]
            out = np.zeros(1 + 2 * max(n, len({v for own in column for v in own})), np.int64)
            pairs = kern.column_counts(plane, n, 3, number, mask, out)
            found: Counter[int] = Counter()
            for key, rows in out[1 : 1 + 2 * pairs].reshape(-1, 2).tolist():
                found[key] += rows
            assert found == Counter(v for own in some for v in own)
            assert out[0] == sum(map(bool, some)) and (pairs == len(found) or number == 1)


@pytest.mark.parametrize(
    ("change", "args", "message"),
    [
        ((), (4, 2, 2), "column is 2"),
        ((), (4, 1, 0), "has 2 columns, not 1"),
        ((), (40, 2, 1), "mask has 2 bytes"),
        ((0, b"\x01"), (4, 2, 0), "column 0 is not in the plane"),
        ((4, b"\x07"), (4, 2, 1), "coding 7"),
        ((36, b"\x02"), (4, 2, 0), "do not rise"),
        ((38, b"\xff"), (4, 2, 0), "code 3"),
    ],
)
def test_values_refused(change: tuple, args: tuple, message: str) -> None:
    plane = bytearray(pack_columns([(False, [[5], [6], [5], []]), (True, [[1, 2], [], [2], [1]])]))
    if message.endswith("not in the plane"):
        plane = bytearray(pack_columns([None, (False, [[1]] * 4)]))
    elif change:
        plane[change[0] : change[0] + 1] = change[1]
    with pytest.raises(ValueError, match=f"column_counts: .*{message}"):
        kern.column_counts(plane, *args, b"\xff\xff", bytearray(8 + 16 * 70000))
    with pytest.raises(ValueError, match="room for 1 pairs, not 2"):
        kern.column_counts(pack_columns([(False, [[5], [6]])]), 2, 1, 0, b"\xff\xff", bytearray(24))


@pytest.mark.parametrize("n", [0, 1, 16, 17, 333])
@pytest.mark.parametrize("share", [0, 0.01, 1])
def test_dead_rows(n: int, share: float) -> None:
    rng = np.random.default_rng(n)
    dead = np.packbits(rng.random(999) < share, bitorder="little").tobytes()
    rows = rng.integers(0, 1100, n).astype("<u4")  # some are beyond the bitmap
    data, out = rng.bytes(3) + rows.tobytes(), bytearray(b"\xff" * (-(-n // 16) * 2))
    want = reference.dead_rows(rows, dead)
    assert kern.dead_rows(data, 3, n, dead, out) == want.sum()
    assert bytes(out) == np.packbits(want, bitorder="little").tobytes().ljust(len(out), b"\0")
    assert kern.dead_rows(data, 3, n, b"", out) == 0 and not any(out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((bytes(11), 0, 3, b"", bytearray(2)), "data has 11 bytes, needs 12"),
        ((bytes(12), 1, 3, b"", bytearray(2)), "data has 12 bytes, needs 13"),
        ((bytes(12), 0, 3, b"", bytearray(1)), "out has 1 bytes, needs 2"),
        ((bytes(12), -1, 3, b"", bytearray(2)), "rows_at is -1"),
    ],
)
def test_dead_rows_refused(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"dead_rows: {message}"):
        kern.dead_rows(*args)


@pytest.mark.parametrize(("code_bytes", "fine"), [(7, 0), (97, 2)])
@pytest.mark.parametrize("n", [1, 15, 64, 200])
def test_a_mask_leaves_rows_out(code_bytes: int, fine: int, n: int) -> None:
    rng = np.random.default_rng(n)
    q, b = make.query(rng, code_bytes, fine), make.block(rng, code_bytes, n, np.arange(n))
    scores = np.zeros(n, np.int32)
    kern.lrsq_scores(b.data, *b.places, n, 0.5, 3, q.tables, scores)
    for share in (0, 0.03, 0.5, 1):
        taken = rng.random(n) < share if share < 1 else np.ones(n, bool)
        mask = np.packbits(taken, bitorder="little").tobytes() + bytes(40)
        pool = bytearray(kern.pool_size(50))
        kern.pool_reset(pool, 50)
        kern.lrsq_scan(b.data, *b.places, n, 0.5, 3, q.tables, pool, mask)
        offers = [(int(scores[i]), i, 3, i) for i in np.flatnonzero(taken)]
        assert make.entries(pool, 50) == reference.pool(offers, 50)
        kern.pool_reset(pool, 50)
        kern.pool_offer(pool, scores, np.arange(n, dtype=np.uint32), 3, mask)
        assert make.entries(pool, 50) == reference.pool(offers, 50)


@pytest.mark.parametrize(("code_bytes", "fine"), [(1, 0), (33, 1), (97, 2)])
@pytest.mark.parametrize("path", [0, 1, 2])
def test_rows_of_many_blocks(code_bytes: int, fine: int, path: int) -> None:
    """Every row has the integer that a scan of its own block gives it, on every path."""
    rng = np.random.default_rng(code_bytes)
    q = make.query(rng, code_bytes, fine)
    sizes, bases = (5, 40, 1, 90), np.array([0.5, -1.25, 3.0, 1e-3], F32)
    blocks = [make.block(rng, code_bytes, n, np.arange(n)) for n in sizes]
    rows, want, codes, factors = [], [], [], []
    for number, (block, n, base) in enumerate(zip(blocks, sizes, bases, strict=True)):
        scores, (_, codes_at, f_at, h_at, _) = np.zeros(n, np.int32), block.places
        kern.lrsq_scores(block.data, *block.places, n, float(base), 0, q.tables, scores)
        groups = np.frombuffer(block.data, np.uint8)[codes_at : codes_at + -(-n // 16) * 16 * code_bytes]
        own = groups.reshape(-1, code_bytes, 16).transpose(0, 2, 1).reshape(-1, code_bytes)[:n]
        for i in range(n):
            rows.append(number)
            want.append(int(scores[i]))
            codes.append(own[i])
            factors.append((block.data[f_at + i], block.data[h_at + i]))
    order = rng.permutation(len(rows))[:111]
    n, padded = len(order), 112
    table = np.zeros((padded, code_bytes), np.uint8)
    table[:n] = np.array(codes)[order]
    ranges = b"".join(bytes(block.data[block.places[0] : block.places[0] + 16]) for block in blocks)
    f, h = (np.array([factors[i][k] for i in order], np.uint8).tobytes() + b"\0" for k in (0, 1))
    homes = np.array([rows[i] for i in order], np.uint8).tobytes() + b"\0"
    data = ranges + homes + reference.interleave(table) + f + h + np.arange(n, dtype=np.uint32).tobytes()
    at = np.cumsum([0, 64, padded, padded * code_bytes, padded, padded]).tolist()
    pool, taken = bytearray(kern.pool_size(200)), rng.random(n) < 0.6
    before = kern.scan_path(path)
    try:
        for mask in (None, np.packbits(taken, bitorder="little").tobytes()):
            kern.pool_reset(pool, 200)
            more = () if mask is None else (mask,)
            assert kern.lrsq_scan_mixed(data, *at, n, 4, bases, 9, q.tables, pool, *more) == n
            offers = [(want[order[i]], i, 9, i) for i in range(n) if mask is None or taken[i]]
            assert make.entries(pool, 200) == reference.pool(offers, 200)
        spoilt = data[: at[1]] + b"\x04" + data[at[1] + 1 :]
        with pytest.raises(ValueError, match="row 0 is of block 4 of 4"):
            kern.lrsq_scan_mixed(spoilt, *at, n, 4, bases, 9, q.tables, pool)
    finally:
        kern.scan_path(255)
    assert before <= 2
