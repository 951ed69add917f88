"""A short soak: workerd under faults and switches of generation, each answer held against CPython's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.common import HEAP_MAX
from bench.faults import soak

pytestmark = pytest.mark.edge

SECONDS = 60.0  # `python -m bench.faults.soak` takes five minutes


def test_no_answer_is_wrong_while_everything_fails(generations: tuple[Any, Any], tmp_path: Path) -> None:
    for name, built in zip(("first", "second"), generations, strict=True):
        shutil.copytree(built.bucket / built.name, tmp_path / name)
    out = soak.soak(tmp_path, SECONDS, clients=16, seed=11, ttl_s=1.0)
    assert not out.wrong
    assert out.recovered
    assert out.latencies and len(out.by_generation) == 2 and out.faults.total()
    assert 0 < out.heap <= HEAP_MAX
