"""Runs every command behind docs/results.md, one after another, and writes that page.

    python -m bench.results DATA [--bucket FOLDER] [--out docs/results.md]

DATA holds wordnet/ and sift/ (Parquet with vectors and exact neighbours). About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.pages import ROOT, Run, block, run

BUDGET = "2GiB"


def eval_row(name: str, r: dict[str, Any]) -> str:
    """A row of the table of searches."""
    return (
        f"| {name} | {r['recall']:.4f} | {r['gets']:.2f} | {r['bytes'] / 1e6:.2f} MB | {r['waves']:.0f} | "
        f"{r['scan_cost']:.1%} | {r['modelled_ms_p50']:.1f} / {r['modelled_ms_p99']:.1f} | {r['cpu_ms_p50']:.1f} |"
    )


def build_row(name: str, r: Run) -> str:
    """A row of the table of builds."""
    j = r.json
    return (
        f"| {name} | {j['blocks']:,} | {j['copies']:,} | {j['code_bytes']} | {j['bytes'] / 1e6:.1f} MB | "
        f"{j['root_bytes'] / 1e6:.2f} MB | {r.seconds:.0f} s | {r.peak / 2**20:.0f} MiB |"
    )


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bucket", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    options = parser.parse_args()
    data = options.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        bucket = (options.bucket or Path(scratch)).resolve()
        places = {str(data): "DATA", str(bucket): "bucket"}
        words, points = data / "wordnet", data / "sift"
        w_queries, p_queries = words / "queries.parquet", points / "queries.parquet"

        def vantage(*rest: object) -> Run:
            return run("vantage", *rest, "--json", places=places)

        w_build = vantage(
            "build",
            words / "part-0.parquet",
            words / "part-1.parquet",
            "--out",
            bucket / "wordnet",
            "--memory-budget",
            BUDGET,
        )
        w_cold = vantage("eval", bucket / "wordnet", "--queries", w_queries)
        w_ten = vantage("eval", bucket / "wordnet", "--queries", w_queries, "--k", 10)
        w_ships, w_warm = (
            vantage("eval", bucket / "wordnet", "--queries", w_queries, "--cache", cache, "--warm")
            for cache in ("20MiB", "40MiB")
        )
        w_ood = vantage("eval", bucket / "wordnet", "--queries", words / "queries-ood.parquet")
        part = points / "base.parquet"
        p_build = vantage("build", part, "--metric", "l2", "--out", bucket / "sift", "--memory-budget", BUDGET)
        p_cold = vantage("eval", bucket / "sift", "--queries", p_queries)
        p_ten = vantage("eval", bucket / "sift", "--queries", p_queries, "--k", 10)
        codes = run("python", "-m", "bench.codes", data, places=places)
        kernels = run("python", "-m", "bench.kernels", places=places)
        edge = run("python", "-m", "bench.edge", bucket, f"wordnet={w_queries}", f"sift={p_queries}", places=places)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        searches = [
            ("WordNet, recall@100, nothing cached", w_cold), ("WordNet, recall@10, nothing cached", w_ten),
            ("WordNet, warm, 20 MiB cache, as it ships", w_ships), ("WordNet, warm, 40 MiB cache", w_warm),
            ("WordNet, out of distribution", w_ood),
            ("SIFT, recall@100, nothing cached", p_cold), ("SIFT, recall@10, nothing cached", p_ten),
        ]  # fmt: skip
        page = f"""# Results

Batches, faults, load and publishing have a page of their own: [results-tool.md](results-tool.md).

Printed by `python -m bench.results DATA`, which runs every command below; at {commit.stdout.strip()} on
{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. DATA holds WordNet (115,659 x 384 f16,
cosine) and SIFT (300,000 x 128 u8, L2) with exact neighbours of 2,000 held-out queries each, which serve nothing but
this page: parameters and prices come from rows of the base. Counted work is the same on every machine; seconds and CPU
are of this one, which shares its cores, and speed is given as a ratio in one run.

## Builds

`vantage build --memory-budget {BUDGET}`; seconds and peak resident memory of the whole process.

| set | blocks | copies | code bytes | all objects | root | time | peak memory |
|---|---:|---:|---:|---:|---:|---:|---:|
{build_row("WordNet", w_build)}
{build_row("SIFT", p_build)}

## Searches

2,000 queries each (1,000 out of distribution), in-process. Modelled ms are those of [costs.md](costs.md). CPU is thread
time of CPython.

| | recall | GETs | bytes | waves | rows scanned | modelled ms p50 / p99 | CPU ms p50 |
|---|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(eval_row(name, r.json) for name, r in searches)}

## Beside a database on object storage

`python -m bench.peers DATA`, which needs `pip install lancedb`, counts what LanceDB reads for the same WordNet queries.

## The code alone

All blocks are scanned, so nothing is lost by routing.

{block(codes)}
## The Worker

On workerd with Pyodide and the committed `kern.so`, local R2.

{block(edge)}
## Kernels

One thread each, in turns. Each row is one path of the native scan that the processor has (`plain` is SSSE3, or NEON on
AArch64), and by default the last one is taken. Wasm has one path, so its columns repeat.

{block(kernels)}
## What the commands printed

{block(w_build, w_cold, w_ten, w_ships, w_warm, w_ood, p_build, p_cold, p_ten)}"""
        options.out.write_text(page)


if __name__ == "__main__":
    main()
