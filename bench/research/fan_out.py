"""Whether it pays to split a query over siblings: isolates with six connections each, asked by RPC.

    python -m bench.research.fan_out QUERIES ROWS... [--metric cosine] [--blocks 512] [--share 0.5] [--code 192]
        [--queries 200] [--hop-ms 2.5,1.2]
    python -m bench.research.fan_out --hops

The first prints, for numbers of isolates that read (the query's own is one of them), the plan of one wave that is
quickest by the model of time (docs/costs.md) among those of 6 to 64 ranges. Ranges go, longest first, to the isolate
that has least to read. All plans reach recall@100 0.95 on the queries themselves; ROWS, QUERIES, blocks and router are
as in bench/research/previews.py. A sibling costs a request ($0.30 a million) and waiting: --hop-ms says how long for
the first and for each further one. CPU is not in it, though siblings also share the scan.

The second measures a hop on local workerd: a Worker that asks Durable Objects, which get a vector and give back a
hundred answers. In production the way to another machine comes on top.

Printed, milliseconds on average for 1, 2, 4 and 8 isolates (100 queries; a million queries cost between brackets):
WordNet 59, 58, 49, 52 ($2.46 to 10.77); SIFT 300,000 rows 53, 56, 49, 52; Linux windows 64,000 rows 62, 64, 56, 56;
256,000 rows 101, 80, 68, 65 ($2.96, 3.26, 6.98, 12.83); 1,024,000 rows 306, 178, 114, 90 ($9.43, 9.73, 10.33, 14.74).
--hops, on a busy machine: 1.1 to 2.4 ms for one sibling, 4.4 to 5.2 for three, 7.3 to 9.0 for seven.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from bench.common import project_with
from bench.research.unwritten import ID_BYTES, K, Setting, arguments, large, planned
from build_index.serve import serve
from build_index.simulate.measure import Reads, block_bytes
from build_index.tune.fit import probabilities_of
from vantage.cost import CLASS_B_USD, REQUEST_USD, wave_ms

GOAL = 0.95
RANGES = (6, 12, 18, 24, 36, 48, 64)  # the planner makes no more
ISOLATES = (1, 2, 3, 4, 8)
HOPS, TIMES, SIBLINGS = 100, 9, (1, 3, 7)


def fanned_ms(sizes: Sequence[int], isolates: int, hop_ms: Sequence[float]) -> float:
    """Modelled milliseconds of a wave of reads that so many isolates share."""
    shares: list[list[int]] = [[] for _ in range(isolates)]
    for size in sorted(sizes, reverse=True):
        min(shares, key=sum).append(size)
    asked = sum(map(bool, shares)) - 1
    hop = hop_ms[0] + hop_ms[1] * (asked - 1) if asked > 0 else 0.0
    return hop + max(map(wave_ms, shares))


def compare(setting: Setting, hop_ms: Sequence[float]) -> None:
    """Prints a line for each number of isolates."""
    layout = setting.layout
    sizes = block_bytes(layout.sizes(), setting.codec.code_bytes, ID_BYTES, setting.rows.dimension)
    p, whole = probabilities_of(setting.rows, layout, setting.queries), setting.scanned(setting.codec)
    plans = [planned(p, sizes, lambda read: float(whole.recall(read, K).mean()), GOAL, gets) for gets in RANGES]
    reads: list[Reads] = [plan for plan in plans if plan is not None]
    print("isolates   GETs      MB  mean ms     p50     p99   $ a million", flush=True)
    for isolates in ISOLATES:
        times = [np.array([fanned_ms(r, isolates, hop_ms) for r in plan.ranges]) for plan in reads]
        best = int(np.argmin([ms.mean() for ms in times]))
        ms, plan = times[best], reads[best]
        usd = 1e6 * (plan.gets * CLASS_B_USD + isolates * REQUEST_USD)
        print(
            f"{isolates:8}{plan.gets:7.1f}{plan.nbytes / 1e6:8.2f}{ms.mean():9.1f}{np.median(ms):8.1f}"
            f"{np.quantile(ms, 0.99):8.1f}{usd:14.2f}",
            flush=True,
        )


def measure_hops() -> None:
    """Prints milliseconds of a hop to one sibling and to several at once: least and median of some runs."""
    with tempfile.TemporaryDirectory() as scratch:
        project = project_with(Path(scratch, "project"), "sibling_entry.py")
        with (
            serve(Path(scratch, "state"), variables={"PUBLIC_READ": "1"}, project=project) as server,
            httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http,
        ):

            def seconds(times: int, siblings: int) -> float:
                began = time.perf_counter()
                http.get(f"/hops?times={times}&siblings={siblings}").raise_for_status()
                return time.perf_counter() - began

            for siblings in SIBLINGS:
                seconds(HOPS, siblings)  # objects start, code warms up
                hops = [1e3 * (seconds(HOPS, siblings) - seconds(0, siblings)) / HOPS for _ in range(TIMES)]
                print(f"{siblings} at once: least {min(hops):.2f}, median {statistics.median(hops):.2f} ms", flush=True)


def main() -> None:
    """Prints the table of one set, or what hops take."""
    if sys.argv[1:] == ["--hops"]:
        measure_hops()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--hop-ms", default="2.5,1.2")
    options = parser.parse_args()
    with large(options) as setting:
        compare(setting, [float(ms) for ms in options.hop_ms.split(",")])


if __name__ == "__main__":
    main()
