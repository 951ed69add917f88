"""Reads of a compaction: those that lie close are one, and some are under way at a time, in bounds."""

from __future__ import annotations

from threading import Barrier, Lock

import pytest

from build_index.bucket.rows import AHEAD_BYTES, BRIDGED_BYTES, READS, Span, gather, read_ahead
from vantage.errors import DamagedError, StoreError
from vantage.kernels import crc32c
from vantage.read.waves import Item


def test_reads_wait_side_by_side_and_come_in_turn() -> None:
    meet = Barrier(READS)

    def read(key: str, offset: int, nbytes: int) -> bytes:
        meet.wait(30)  # one after another would never get there
        return b"%s %d" % (key.encode(), offset)

    spans = [Span("a", i, 1) for i in range(2 * READS)]
    assert [*read_ahead(read, spans)] == [b"a %d" % i for i in range(2 * READS)]


@pytest.mark.parametrize("nbytes", [1, AHEAD_BYTES // 3, AHEAD_BYTES, 2 * AHEAD_BYTES])
def test_no_more_is_read_ahead_than_may_be(nbytes: int) -> None:
    begun, most, lock = 0, 0, Lock()

    def read(key: str, offset: int, nbytes: int) -> bytes:
        nonlocal begun
        with lock:
            begun += 1
        return b""

    for taken, _ in enumerate(read_ahead(read, [Span("a", i, nbytes) for i in range(50)])):
        most = max(most, begun - taken)
    assert begun == 50 and most <= min(READS, max(1, AHEAD_BYTES // nbytes)) + 1  # and the one that was taken


def test_items_that_lie_close_are_read_together_and_looked_at() -> None:
    data, reads = bytes(range(256)) * 1024, list[tuple[int, int]]()

    def read(key: str, offset: int, nbytes: int) -> bytes:
        reads.append((offset, nbytes))
        return data[offset : offset + nbytes]

    def item(offset: int) -> Item:
        return Item("a", offset, 10, len(data), crc32c(data[offset : offset + 10]), f"item {offset}")

    far = 100 + BRIDGED_BYTES + 11
    items = [item(far), item(100), item(50)]
    assert dict(gather(read, items)) == {i: data[one.offset :][:10] for i, one in enumerate(items)}
    assert sorted(reads) == [(50, 60), (far, 10)]
    with pytest.raises(DamagedError, match="item 50 is not what was written"):
        dict(gather(read, [item(far), item(50)._replace(crc=1)]))
    with pytest.raises(DamagedError, match="item 9"):
        dict(gather(lambda key, offset, nbytes: data[offset:][: nbytes - 1], [item(9)]))


def test_a_read_that_fails_ends_it() -> None:
    def read(key: str, offset: int, nbytes: int) -> bytes:
        if offset == 7:
            raise StoreError("gone")
        return b"x"

    found = list[bytes]()
    with pytest.raises(StoreError, match="gone"):
        for data in read_ahead(read, [Span("a", i, 1) for i in range(20)]):
            found.append(data)
    assert len(found) == 7
