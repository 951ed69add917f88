"""A cold isolate beside a warm object, on local workerd: GETs and bytes saved, and time.

    python -m bench.warm BUCKET INDEX QUERIES [--queries 300] [--timeout-ms 25]

BUCKET is a folder of indexes; QUERIES a Parquet or .npy file. Every query is asked of an isolate that has just lost its
open index and its cache, as a new one would have none. The first half of the queries fills the object; each of the
second half is asked twice, by an isolate that does not ask the object and by one that does. Times are of this machine,
where an R2 read is a read of its disk: modelled_ms is what the reads of the bucket would take, without the call to the
object. --timeout-ms: how long an isolate waits for the object; a busy machine needs more than production's 25.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.common import project_with
from build_index.ingest.queries import read_queries
from build_index.serve import load, serve

WARM_BYTES = 6 << 20  # as wrangler.toml has it


@dataclass
class Outcome:
    """(receipt with `ms` from outside) of each query counted, without and with the object; answers that differ."""

    without: list[dict[str, Any]] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)
    different: int = 0
    heap: int = 0


def run(bucket: Path, index: str, vectors: list[list[float]], timeout_ms: int) -> Outcome:
    """The first half of the vectors fills the object, the second half is counted."""
    out = Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch, "state")
        load(bucket, state, only=index)
        project = project_with(Path(scratch, "project"), "forgetful_entry.py")
        variables = {"PUBLIC_READ": "1", "VANTAGE_WARM_BYTES": str(WARM_BYTES)}
        with (
            serve(state, variables=variables, project=project) as server,
            httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http,
        ):

            def cold(vector: list[float], wait_ms: int) -> tuple[Any, dict[str, Any]]:
                http.post(f"/forget?timeout_ms={wait_ms}").raise_for_status()
                began = time.perf_counter()
                answer = http.post(f"/v1/indexes/{index}/query", json={"vector": vector}).raise_for_status().json()
                return answer["matches"], answer["receipt"] | {"ms": 1e3 * (time.perf_counter() - began)}

            half = len(vectors) // 2
            for vector in vectors[:half]:
                cold(vector, timeout_ms)
            for vector in vectors[half:]:
                matches, receipt = cold(vector, 0)
                out.without.append(receipt)
                again, receipt = cold(vector, timeout_ms)
                out.beside.append(receipt)
                out.different += again != matches
            out.heap = http.get("/v1/health").json()["heap_bytes"]
    return out


def main() -> int:
    """Prints one line a figure; exit 1 where an answer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("index")
    parser.add_argument("queries_file", type=Path, metavar="QUERIES")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--timeout-ms", type=int, default=25)
    options = parser.parse_args()
    vectors = [v.tolist() for v in read_queries(options.queries_file, options.queries).vectors]
    out = run(options.bucket, options.index, vectors, options.timeout_ms)
    for what, receipts in (("without", out.without), ("beside a warm object", out.beside)):
        means = {n: statistics.mean(r[n] for r in receipts) for n in ("gets", "bytes", "warm_bytes", "modelled_ms")}
        here = statistics.median(r["ms"] for r in receipts)
        print(
            f"{what}, {len(receipts)} queries: {means['gets']:.2f} GETs, {means['bytes']:.0f} bytes of the bucket, "
            f"{means['warm_bytes']:.0f} of the object, modelled_ms {means['modelled_ms']:.1f}; here p50 {here:.0f} ms"
        )
    print(f"answers that differ: {out.different}; Wasm heap {out.heap / 2**20:.1f} MiB")
    return 1 if out.different else 0


if __name__ == "__main__":
    sys.exit(main())
