"""Every router, codec, rotation, kind of copy and second waves in workerd: plans and answers are CPython's."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import explained

from build_index.blocks.copies import COPY_RULES
from build_index.bucket.open import open_index
from build_index.build import build
from build_index.codecs import CODECS
from build_index.codecs.rotations import ROTATIONS
from build_index.context import BuildContext
from build_index.hashing import codewords
from build_index.ingest.open import open_source
from build_index.neighbours import truth
from build_index.routers import ROUTERS, ecvh, mlp, trained, tree
from build_index.serve import ROOT, Server
from build_index.tune import codes, renditions
from build_index.tune.options import Options
from vantage.format import MlpSection
from vantage.http.bodies import answer_body
from vantage.index import Index
from vantage.search.query import Query

pytestmark = pytest.mark.edge

ROWS, DIMENSION, ASKED = 2000, 96, 12
# Each router, with a codec, a rotation and a kind of copy; every name of every table has its turn.
TABLES = {"router": list(ROUTERS), "codec": list(CODECS), "rotation": list(ROTATIONS), "copies": list(COPY_RULES)}
WAYS = [
    {table: names[i % len(names)] for table, names in TABLES.items()} for i in range(max(map(len, TABLES.values())))
]
WAYS += [{"router": "mlp", "error_norms": True}]  # its blocks lie in the root
WAYS += [{"router": "lse", "error_norms": True}, {"router": "mlp"}, {"router": "lse", "second_wave": True}]
INLINE, PROOFS, PROGRESSIVE, SECOND = WAYS[-4:]
RECALLS = (0.9, 0.97, 0.99)  # asked of the calibrated index: by either length of codes; the last takes exact scores


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    table = pq.read_table(ROOT / "sample" / "wordnet.parquet", columns=["vector"])
    x = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return x[: ROWS + ASKED, :DIMENSION].astype(np.float32)


@pytest.fixture(scope="module")
def brief() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray, brief: pytest.MonkeyPatch) -> Path:
    """An index a way, named by it. Training and tuning are cut short: what counts is that both sides say the same."""
    folder, scratch = tmp_path_factory.mktemp("ways"), tmp_path_factory.mktemp("source") / "rows.parquet"
    flat = pa.array(rows[:ROWS].ravel())
    columns = {"id": np.arange(ROWS), "note": [f"note {i % 37}" for i in range(ROWS)]}
    pq.write_table(pa.table(columns | {"vector": pa.FixedSizeListArray.from_arrays(flat, DIMENSION)}), scratch)
    for module in (ecvh, mlp, trained, tree, codewords):
        brief.setattr(module, "STEPS", 40)
    for i, way in enumerate(WAYS):
        recall = 0.4 if way.get("codec") in ("sign", "ecvh", "pq") else 0.9  # so short, they reach no more
        share = None if way.get("copies") == "none" else 0.4
        options = Options(recall, 10, **{"copies": "soar", "copies_share": share} | way)  # type: ignore[arg-type]
        metric = "dot" if way is SECOND else "cosine"  # HTTP rounds no score of dot: equal ones are equal integers
        # Few blocks would go without regions: these keep them, and look into most of them.
        kept = {"FLAT_BLOCKS_MAX": 0, "BEAMS": (0.7,), "BEAM_LOSS": np.inf, "STEPS": 100}
        with (
            patch.multiple(mlp, **(kept if way is PROGRESSIVE else {"STEPS": mlp.STEPS})),
            patch.object(codes, "CODE_BITS", codes.CODE_BITS if way is SECOND else (5,)),
            patch.object(renditions, "INLINE_BYTES", 0),  # so that there are blocks to read
            patch.object(truth, "HELD_OUT_FEW", truth.HELD_OUT_FEW if way is SECOND else 100),
            patch.object(renditions, "INLINE_BYTES", (1 << 22) * (way is INLINE)),
        ):
            build(open_source([scratch]), BuildContext(folder / f"way-{i}", metric, options))
    return folder


def opened(bucket: Path, way: dict[str, str | bool]) -> Index:
    return open_index(bucket / f"way-{WAYS.index(way)}")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_a_way_plans_and_answers_as_in_cpython(
    worker: Callable[..., Server], bucket: Path, rows: np.ndarray, way: dict[str, str | bool]
) -> None:
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index = opened(bucket, way)
    if way is PROGRESSIVE:
        section = index.root.router
        assert isinstance(section, MlpSection) and section.regions
        assert section.regions.beam < len(section.regions.first_block) - 1
    with httpx.Client(base_url=f"{server.url}/v1/indexes/{index.name}", timeout=60, trust_env=False) as http:
        for vector in rows[ROWS:].tolist():
            plan = http.post("/query", json={"vector": vector, "explain": True}).json()
            assert plan == explained(index, Query(vector))
            for include in (["receipt"], ["receipt", "attributes"]):
                got = http.post("/query", json={"vector": vector, "top_k": 50, "include": include}).json()
                query = Query(vector, 50, attributes="attributes" in include)
                want = answer_body(asyncio.run(index.query(query)), include)
                assert got["matches"] == want["matches"]
                counted = ("gets", "bytes", "waves", "blocks", "rows")
                assert [got["receipt"][k] for k in counted] == [want["receipt"][k] for k in counted]
                assert way is not INLINE or got["receipt"]["gets"] == 0
            assert all(m["attributes"] == {"note": f"note {m['id'] % 37}"} for m in got["matches"])


def test_second_waves_are_those_of_cpython(worker: Callable[..., Server], bucket: Path, rows: np.ndarray) -> None:
    """Which queries read again, what, and what they estimate; at the promise's k, since a greater one has none."""
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index = opened(bucket, SECOND)
    k, waves = index.root.contract.k, dict[float, list[int]]()
    with httpx.Client(base_url=f"{server.url}/v1/indexes/{index.name}", timeout=60, trust_env=False) as http:
        for recall in RECALLS:
            promise = index.segment.promise(Query(rows[0].tolist(), k, recall))
            assert promise.threshold > 0
            for vector in rows[ROWS:].tolist():
                got = http.post("/query", json={"vector": vector, "top_k": k, "recall": recall}).json()
                want = answer_body(asyncio.run(index.query(Query(vector, k, recall))), ["receipt"])
                for name in ("matches", "scores", "complete", "recall_estimate"):
                    assert got[name] == want[name]
                counted = ("gets", "bytes", "waves", "blocks", "rows", "rows_ranked")
                assert [got["receipt"][c] for c in counted] == [want["receipt"][c] for c in counted]
                waves.setdefault(recall, []).append(got["receipt"]["waves"] - (promise.rerank > 0))
    assert promise.rerank > 0
    for asked in waves.values():
        assert asked.count(2) >= 3 and 1 in asked, waves  # so that the comparison is of second waves too


def test_an_exact_answer_is_proven_as_in_cpython(worker: Callable[..., Server], bucket: Path, rows: np.ndarray) -> None:
    """The same ids, scores and proof, from the same bounds in the same arithmetic."""
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index = opened(bucket, PROOFS)
    with httpx.Client(base_url=f"{server.url}/v1/indexes/{index.name}", timeout=60, trust_env=False) as http:
        for vector in rows[ROWS:].tolist():
            got = http.post("/query", json={"vector": vector, "top_k": 20, "exact": True}).json()
            want = answer_body(asyncio.run(index.query(Query(vector, 20, exact=True))), ["receipt"])
            assert got["matches"] == want["matches"]
            assert got["complete"] and got["scores"] == "exact"
            counted = ("gets", "bytes", "waves", "blocks", "rows", "rows_ranked", "proof")
            assert [got["receipt"][k] for k in counted] == [want["receipt"][k] for k in counted]
