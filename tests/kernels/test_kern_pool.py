"""The pool keeps exactly the best distinct rows, whatever the order of the offers."""

import threading

import make
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import kern

small = st.tuples(st.integers(-3, 3), st.integers(0, 12), st.integers(0, 2))


def filled(capacity, lists):
    """lists of (scores, rows, place) -> a pool to which they were offered, and the offers"""
    pool = bytearray(kern.pool_size(capacity))
    kern.pool_reset(pool, capacity)
    offers = []
    for scores, rows, place in lists:
        kern.pool_offer(pool, np.array(scores, np.int32), np.array(rows, np.uint32), place)
        offers += [(int(s), int(r), place, i) for i, (s, r) in enumerate(zip(scores, rows, strict=True))]
    return pool, offers


@settings(max_examples=60, deadline=None)
@given(st.lists(small, max_size=60), st.integers(1, 9), st.randoms(use_true_random=False))
def test_small(offers, capacity, random):
    shuffled = offers.copy()
    random.shuffle(shuffled)
    for order in (offers, shuffled):
        pool, made = filled(capacity, [([s], [r], p) for s, r, p in order])
        assert make.entries(pool, capacity) == reference.pool(made, capacity)


@pytest.mark.parametrize("capacity", [1, 3, 97, 300])
@pytest.mark.parametrize("spread", [1, 30, 2**31 - 1])
@pytest.mark.parametrize("rows", [1, 200, 20_000])
def test_many(capacity, spread, rows):
    """Ties, copies and compactions; and a finish in the middle changes nothing."""
    rng = np.random.default_rng(capacity + spread + rows)
    lists = [(rng.integers(-spread - 1, spread + 1, 3000), rng.integers(0, rows, 3000), place) for place in (2, 0, 1)]
    pool, offers = filled(capacity, lists)
    want = reference.pool(offers, capacity)
    assert make.entries(pool, capacity) == want
    pool, _ = filled(capacity, lists[:1])
    make.entries(pool, capacity)
    for scores, rows_, place in lists[1:]:
        kern.pool_offer(pool, scores.astype(np.int32), rows_.astype(np.uint32), place)
    assert make.entries(pool, capacity) == want
    assert make.entries(pool, capacity) == want


@pytest.mark.parametrize("order", [1, -1])
def test_sorted_offers(order):
    scores = np.arange(5000)[::order]
    pool, offers = filled(300, [(scores, scores * 7 % 5003, 0)])
    assert make.entries(pool, 300) == reference.pool(offers, 300)


def test_ends_of_the_scale():
    low, high = -(2**31), 2**31 - 1
    pool, offers = filled(2, [([low, high, 0, high, low] * 100, [0, 2**32 - 1, 5, 4, 1] * 100, 2**32 - 1)])
    assert make.entries(pool, 2) == reference.pool(offers, 2)
    pool, offers = filled(70, [([low] * 400, range(400, 0, -1), 0)])
    assert make.entries(pool, 70) == reference.pool(offers, 70)


def test_largest():
    rng = np.random.default_rng(9)
    pool, offers = filled(65536, [(rng.integers(0, 1000, 200_000), rng.permutation(200_000), 0)])
    assert make.entries(pool, 65536) == reference.pool(offers, 65536)


def test_refusals():
    pool, _ = filled(4, [])
    for call, message in (
        (lambda: kern.pool_size(0), "capacity is 0, want 1 to 65536"),
        (lambda: kern.pool_size(65537), "capacity is 65537"),
        (lambda: kern.pool_reset(bytearray(100), 4), "pool has 100 bytes, needs"),
        (lambda: kern.pool_offer(bytearray(10), b"", b"", 0), "pool is not a pool"),
        (lambda: kern.pool_offer(pool, bytes(8), bytes(4), 0), "rows has 4 bytes, wants exactly 8"),
        (lambda: kern.pool_offer(pool, bytes(7), bytes(7), 0), "scores has 7 bytes, wants exactly 4"),
        (lambda: kern.pool_offer(pool, bytes(4), bytes(4), 2**32), "place is 4294967296"),
        (lambda: kern.pool_finish(pool, bytearray(63)), "out has 63 bytes, needs 64"),
        (lambda: kern.pool_finish(pool, memoryview(pool)[-64:]), "pool overlaps out"),
        (lambda: kern.pool_finish(pool), "takes 2"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    assert make.entries(pool, 4) == []  # a refusal leaves the pool usable


def test_threads_do_not_share_a_pool():
    """Scans in threads with a pool each are right; one pool in two scans is refused, not corrupted."""
    rng = np.random.default_rng(2)
    q, b = make.query(rng, 96), make.block(rng, 96, 20_000, np.arange(20_000))
    pools = [filled(300, [])[0] for _ in range(4)]
    shared, refused = filled(300, [])[0], []

    def work(pool):
        kern.lrsq_scan(b.data, *b.places, b.n, 0, 0, q.tables, pool)
        for _ in range(20):
            try:
                kern.lrsq_scan(b.data, *b.places, b.n, 0, 0, q.tables, shared)
            except ValueError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work, args=(pool,)) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(make.entries(pool, 300) == make.entries(pools[0], 300) for pool in [*pools, shared])
    assert set(refused) <= {"lrsq_scan: pool is in use by another thread"}
