"""Growth with the number of rows: recall, GETs, bytes, resident bytes and the build of generated sets.

    python -m bench.scale FOLDER [--rows 500000,1000000,2000000,4000000] [--router two-level] [--memory-budget 2GiB]

FOLDER takes the rows (128 bytes each) and the indexes. Rows are of 64 topics, in a space of 24 dimensions, of 48 themes
each, with heavy-tailed shares of both; those of a theme are Gaussian along 32 axes of their topic, by lengths that fall
with a power and differ in order between themes, with a little noise in all 128 dimensions, as u8. The rows of a smaller
set are the first ones of a larger set. Every size is built by `vantage build` and asked by `vantage eval`: 500 queries
of the same draw that are in no set, nothing cached, and warm.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.generated import asked, written

BIN = Path(sys.executable).parent


def vantage(*words: object) -> tuple[dict[str, Any], float, int]:
    """What a --json command printed, its seconds, and its peak memory in bytes."""
    start = time.monotonic()
    process = subprocess.Popen([BIN / "vantage", *map(str, words), "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vantage {words[0]} failed")
    return json.loads(text), time.monotonic() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Prints a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="500000,1000000,2000000,4000000")
    parser.add_argument("--router", help="by default the builder chooses")
    parser.add_argument("--memory-budget", default="2GiB")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for rows in (int(n) for n in options.rows.split(",")):
        path = written(options.folder, rows)
        queries = asked(options.folder, path, rows)
        index = options.folder / "bucket" / f"{options.router or 'built'}-{rows}"
        routed = ("--router", options.router) if options.router else ()
        built, seconds, peak = vantage(
            "build",
            path,
            "--metric",
            "l2",
            *routed,
            "--memory-budget",
            options.memory_budget,
            "--out",
            index,
        )
        cold = vantage("eval", index, "--queries", queries)[0]
        warm = vantage("eval", index, "--queries", queries, "--cache", "4GiB", "--warm")[0]
        print(
            f"{rows:>9,} rows, {built['router']}, {built['blocks']:>6,} blocks, {built['copies'] / rows:.2f} copies, "
            f"code {built['code_bytes']}: recall@100 {cold['recall']:.4f}, {cold['gets']:.2f} GETs, "
            f"{cold['bytes'] / 1e6:.2f} MB, {cold['scan_cost']:.2%} of rows, {cold['waves']:.2f} waves, "
            f"{cold['modelled_ms_p50']:.0f}/{cold['modelled_ms_p99']:.0f} ms; warm {warm['gets']:.2f} GETs; "
            f"resident {built['root_bytes'] / 1e6:.2f} MB; built in {seconds:.0f} s, {peak / 2**20:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
