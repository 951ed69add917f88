"""A short soak: workerd under faults and switches of generation, each answer held against CPython's."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from faults import RATES

from bench.faults import soak

pytestmark = pytest.mark.edge

ROUNDS = 2  # in each quarter: a thousand answers under faults; `python -m bench.faults.soak` takes five minutes
HEAP = 54 << 20  # it is 36 MiB from the 150th answer on; 20 kB that each leaves behind make it 62


def test_no_answer_is_wrong_while_everything_fails(generations: tuple[Any, Any], tmp_path: Path) -> None:
    for name, built in zip(("first", "second"), generations, strict=True):
        shutil.copytree(built.bucket / built.name, tmp_path / name)
    out = soak.soak(tmp_path, 0.0, clients=16, seed=11, ttl_s=1.0, rounds=ROUNDS)
    assert not out.wrong
    assert out.recovered
    assert len(out.latencies) >= 4 * ROUNDS * soak.VECTORS * len(soak.KINDS)
    assert len(out.by_generation) == 2 and set(out.faults) == set(RATES)
    assert 0 < out.heap <= HEAP
