"""Batched kernels of the builder give, bit for bit, what their plain forms in one_by_one.py do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import answered_one_by_one, plans_one_by_one, recall_one_by_one

import kern
from build_index.neighbours.truth import Truth, untied
from build_index.simulate.measure import Candidates, judge, plans

U32 = np.uint32


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 20), blocks=st.integers(1, 400), log_bytes=st.floats(6, 22.5), share=st.floats(0.01, 1),
    log_price=st.one_of(st.none(), st.floats(0, 31)), gets=st.sampled_from([1, 2, 5, 6, 7, 12, 13, 36, 64]),
    done=st.booleans(), alike=st.booleans(),
)  # fmt: skip
def test_plans_are_those_of_the_edge(
    seed: int, blocks: int, log_bytes: float, share: float, log_price: float | None, gets: int, done: bool, alike: bool
) -> None:
    """Few and many blocks with a probability, cuts, long lanes, rounds of lanes, ties, blocks that were read before."""
    rng = np.random.default_rng(seed)
    p = rng.exponential(2.0 ** rng.integers(2, 14), (8, blocks)).astype(U32) * (rng.random((8, blocks)) < share)
    sizes = np.maximum(1, 2**log_bytes * (np.ones(blocks) if alike else rng.random(blocks))).astype(np.int64)
    if alike:
        p = np.minimum(p, 3)
    before = rng.random((8, blocks)) < 0.3 if done else None
    price = 0 if log_price is None else min(int(2**log_price), ((1 << 59) - 1) // int(sizes.sum() + 16 * blocks))
    mine, theirs = (of(p.astype(U32), sizes, price, gets, before) for of in (plans, plans_one_by_one))
    assert mine.ranges == theirs.ranges
    assert (mine.blocks == theirs.blocks).all()


def test_more_pieces_than_ranges() -> None:
    """Where cutting takes more GETs than a plan may have ranges."""
    p, sizes = np.full((3, 40), 1 << 10, U32), np.full(40, 3 << 20)
    mine = plans(p, sizes, 0, 6)
    assert mine.ranges == plans_one_by_one(p, sizes, 0, 6).ranges == [[3 << 20] * 40] * 3


def candidates(rng: np.random.Generator, queries: int, kept: int, blocks: int, k: int) -> Candidates:
    """Rows with up to five copies each; some queries have found fewer, and some neighbours tie."""
    block, row = np.full((2, queries, kept), -1, np.int32)
    for i in range(queries):
        count = int(rng.integers(0, kept + 1))
        block[i, :count], row[i, :count] = rng.integers(0, blocks, count), rng.integers(0, max(1, kept // 3), count)
    truth = untied(np.argsort(rng.random((queries, kept)), 1)[:, :k].astype(np.int32))
    better = np.maximum.accumulate(np.where(rng.random(truth.better.shape) < 0.3, 0, truth.better), 1)
    better[0, k // 2 :] = -1
    return judge(block, row, Truth(truth.rows, better.astype(np.int32), truth.last, truth.more))


@pytest.mark.parametrize("kept", [1, 7, 60])
def test_answers_and_recall(kept: int) -> None:
    rng = np.random.default_rng(kept)
    k = max(1, kept // 4)
    found = candidates(rng, 60, kept, 9, k)
    for share in (0.0, 0.4, 1.0):
        read = rng.random((60, 9)) < share
        for most in (1, k, 2 * k + 1, kept):
            assert (found.answered(read, most) == answered_one_by_one(found, read, most)).all()
            assert (found.recall(read, k, most) == recall_one_by_one(found, read, k, most)).all()


def test_refusals() -> None:
    p, size, at, flags = np.ones((2, 3), U32), np.full(3, 100, U32), np.arange(3, dtype=np.uint64) * 112, bytes(3)
    room = [bytearray(4 * 24), bytearray(8), bytearray(6), bytearray(kern.plan_queries_size(3))]
    assert kern.plan_queries(p, size, at, flags, 1, 6, *room) == 2
    for arguments, message in (
        ((p[:, :2].copy(), size, at, flags, 1, 6, *room), "p has 16 bytes, wants exactly 12"),
        ((p, size, at[:2], flags, 1, 6, *room), "at has 16 bytes, wants exactly 24"),
        ((p, size, at, bytes(4), 1, 6, *room), "flags has 4 bytes, wants exactly 6"),
        ((p, size, at, flags, 1, 65, *room), "ranges_max is 65"),
        ((p, size, at // 2, flags, 1, 6, *room), "block 0 ends after the next begins"),
        ((p, size, at + (1 << 53), flags, 1, 6, *room), "beyond 2.52"),
        ((p, size, at, flags, 1, 6, *room[:3], bytearray(9)), "scratch has 9 bytes"),
        ((np.full((2, 3), 2**32 - 1, U32).repeat(20, 1), *(x.repeat(20) for x in (size * U32(0), at * 0)), bytes(60),
          1, 6, bytearray(8), bytearray(8), bytearray(120), bytearray(kern.plan_queries_size(60))), "reaches 2.60"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            kern.plan_queries(*arguments)
    some, read, out = np.zeros((1, 4), np.int32), bytes(3), bytearray(4)
    assert kern.find_answered(some, some - 1, read, 1, 4, 3, 2, out) == 1
    for block, twin in ((some + 3, some - 1), (some, some)):
        with pytest.raises(ValueError, match="block out of range or a twin"):
            kern.find_answered(block, twin, read, 1, 4, 3, 2, out)
        with pytest.raises(ValueError, match="block out of range or a twin"):
            kern.count_right(block, twin, read, 1, 4, 3, 2, some, some, 1, out)
