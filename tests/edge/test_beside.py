"""A cold isolate beside a warm object in workerd: the same answers, and bytes that the bucket is spared."""

import pytest
from doubles import Built

from bench import warm

pytestmark = pytest.mark.edge


def test_a_cold_isolate_reads_less_beside_a_warm_object(words: Built) -> None:
    """Each query is asked by isolates that have lost everything: only the object's blocks outlive them."""
    vectors = words.queries[:4].tolist()
    out = warm.run(words.bucket, "words", [*vectors, *vectors], timeout_ms=5000)
    assert not out.different
    assert all(r["gets"] and not r["warm_rpc"] for r in out.without)
    assert all((r["gets"], r["bytes"], r["opened_rpc"]) == (0, 0, 1) and r["warm_bytes"] for r in out.beside)
