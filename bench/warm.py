"""A cold isolate beside a warm object, on local workerd: GETs and bytes saved, and time.

    python bench/warm.py BUCKET INDEX QUERIES [--queries 300] [--warm-bytes 16777216]

BUCKET is a folder of indexes; QUERIES a Parquet or .npy file. Every query is asked of an isolate that has just lost its
open index and its cache, as a new one would be. The first half of the queries fills the object, the second half is
counted: once without a warm object, once with it. Times are of this machine, where an R2 read is a read of its disk:
modelled_ms is what the reads of the bucket would take, without the call to the object.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from build_index.evaluate import read_queries
from build_index.serve import ROOT, load, serve


def forgetful_project(folder: Path) -> Path:
    """The Worker's project with tests/edge/forgetful_entry.py as its main; all else is production's."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/edge/forgetful_entry.py", folder / "src")
    (folder / "python_modules").symlink_to(ROOT / "python_modules", target_is_directory=True)
    config = (ROOT / "wrangler.toml").read_text()
    (folder / "wrangler.toml").write_text(config.replace("src/entry.py", "src/forgetful_entry.py"))
    return folder


def ask_cold(http: httpx.Client, index: str, vector: list[float]) -> tuple[dict[str, Any], float]:
    """The answer of an isolate that has nothing, and the milliseconds it took."""
    http.post("/forget").raise_for_status()
    began = time.perf_counter()
    answer = http.post(f"/v1/indexes/{index}/query", json={"vector": vector, "top_k": 10}).raise_for_status()
    return answer.json(), 1e3 * (time.perf_counter() - began)


def run(state: Path, project: Path, index: str, vectors: list[list[float]], warm_bytes: int) -> list[dict[str, Any]]:
    """Receipts of the second half of the vectors, each with `ms` and `matches`, after the first half."""
    variables = {"PUBLIC_READ": "1", "VANTAGE_WARM_BYTES": str(warm_bytes)}
    out = []
    with (
        serve(state, variables=variables, project=project) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        for i, vector in enumerate(vectors):
            answer, ms = ask_cold(http, index, vector)
            if i >= len(vectors) // 2:
                out.append(answer["receipt"] | {"ms": ms, "matches": answer["matches"]})
        heap = http.get("/v1/health").json()["heap_bytes"]
    print(f"  heap {heap / 2**20:.1f} MiB")
    return out


def main() -> None:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("index")
    parser.add_argument("queries_file", type=Path, metavar="QUERIES")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--warm-bytes", type=int, default=16 << 20)
    options = parser.parse_args()
    vectors = [v.tolist() for v in read_queries(options.queries_file, options.queries).vectors]
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch, "state")
        load(options.bucket, state, only=options.index)
        project = forgetful_project(Path(scratch, "project"))
        for what, budget in (("without", 0), ("with", options.warm_bytes)):
            print(f"{what} a warm object of {budget} bytes:")
            found[what] = receipts = run(state, project, options.index, vectors, budget)

            def mean(name: str, of: list[dict[str, Any]] = receipts) -> float:
                return statistics.mean(r[name] for r in of)

            print(f"  a query: {mean('gets'):.2f} GETs, {mean('bytes'):.0f} bytes, {mean('warm_bytes'):.0f} warm bytes")
            here = statistics.median(r["ms"] for r in receipts)
            print(f"  modelled_ms {mean('modelled_ms'):.1f}; here p50 {here:.1f} ms")
    same = sum(a["matches"] == b["matches"] for a, b in zip(found["without"], found["with"], strict=True))
    print(f"same answers: {same} of {len(found['with'])}")


if __name__ == "__main__":
    main()
