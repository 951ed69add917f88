"""Every router, kind of copy and rotation in workerd: blocks that are planned and answers are those of CPython."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from build_index.build import build
from build_index.evaluate import open_index
from build_index.fit import Options
from build_index.rotations import ROTATIONS
from build_index.routers import ROUTERS
from build_index.serve import ROOT, Server
from build_index.source import open_source
from build_index.spill import SPILLS
from vantage import api
from vantage.index import Query

pytestmark = pytest.mark.edge

ROWS, DIMENSION, ASKED = 3000, 96, 12
WAYS = [("router", name) for name in ROUTERS] + [("spill", name) for name in SPILLS]
WAYS += [("rotation", name) for name in ROTATIONS]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    table = pq.read_table(ROOT / "sample" / "wordnet.parquet", columns=["vector"])
    x = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return x[: ROWS + ASKED, :DIMENSION].astype(np.float32)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Path:
    """An index a way, named by it."""
    folder, scratch = tmp_path_factory.mktemp("ways"), tmp_path_factory.mktemp("source") / "rows.parquet"
    flat = pa.array(rows[:ROWS].ravel())
    pq.write_table(
        pa.table({"id": np.arange(ROWS), "vector": pa.FixedSizeListArray.from_arrays(flat, DIMENSION)}), scratch
    )
    for what, name in WAYS:
        chosen = {"router": "lse", "spill": "soar", "spill_share": 0.4} | {what: name}
        options = Options(0.9, 10, **chosen)  # type: ignore[arg-type]
        build(
            open_source([scratch]), folder / f"{what}-{name}", options, "cosine",
            wide=False, say=lambda *_: None, tell=lambda _: None,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_way_plans_and_answers_as_in_cpython(
    worker: Callable[..., Server], bucket: Path, rows: np.ndarray, way: tuple[str, str]
) -> None:
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0")
    index = open_index(bucket / "-".join(way))
    with httpx.Client(base_url=f"{server.url}/v1/indexes/{index.name}", timeout=60, trust_env=False) as http:
        for vector in rows[ROWS:].tolist():
            plan = http.post("/query", json={"vector": vector, "explain": True}).json()
            assert plan == api.explain(index, Query(vector))
            got = http.post("/query", json={"vector": vector, "top_k": 50}).json()
            want = api.answer_body(asyncio.run(index.query(Query(vector, 50))), ["receipt"])
            assert got["matches"] == want["matches"]
            counted = ("gets", "bytes", "waves", "blocks", "rows")
            assert [got["receipt"][k] for k in counted] == [want["receipt"][k] for k in counted]
