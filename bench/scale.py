"""Growth with the number of rows: recall, GETs, bytes, resident bytes and the build, of drawn and of real sets.

    python -m bench.scale FOLDER [SET ...] [--memory-budget 2GiB] [--json]

SET is NAME or NAME:ROWS,ROWS; by default generated:500000,1000000,2000000,4000000. Sets are folders of FOLDER or links:

    generated    is drawn there (128 bytes a row)
    linux        made by `python -m bench.linux_windows FOLDER/linux`
    sentences    made by `python -m bench.sentences FOLDER/sentences`
    wordnet      part-*.parquet and queries.parquet
    sift         base.parquet and queries.parquet

Generated rows are of 64 topics, in a space of 24 dimensions, of 48 themes each, with heavy-tailed shares of both; those
of a theme are Gaussian along 32 axes of their topic, by lengths that fall with a power and differ in order between
themes, with a little noise in all 128 dimensions, as u8. The rows of a smaller set are the first ones of a larger set.

Every size is built by `vantage build` with no option but the metric, and asked by `vantage eval`: its queries, that are
none of its rows, for a hundred answers and for ten, nothing cached, and for a hundred once more, warm. Beside the
seconds of CPU stands how fast a core of this machine multiplies matrices, as of one thread that has it for itself.
--json prints an object a size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.generated import asked, written
from bench.pages import run

GENERATED = "generated:500000,1000000,2000000,4000000"
METRICS = {"generated": "l2", "linux": "cosine", "sentences": "cosine", "wordnet": "cosine", "sift": "l2"}
SGEMM = """
import time, numpy as np
a, b = np.ones((2, 2048, 2048), np.float32)
took = []
for _ in range(5):
    start = time.process_time()
    a @ b
    took.append(time.process_time() - start)
print(2 * 2048**3 / min(took) / 1e9)
"""


def sgemm_rate() -> float:
    """10^9 operations a second of CPU, in products of f32 matrices by one thread."""
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return float(subprocess.run([sys.executable, "-c", SGEMM], env=one, capture_output=True, check=True).stdout)


def sets(folder: Path, wanted: str) -> Iterator[tuple[str, list[Path], Path]]:
    """(name of its index, files of rows, file of queries) of each size that a SET names."""
    name, _, sizes = wanted.partition(":")
    own = folder / name
    if name == "generated":
        own.mkdir(exist_ok=True)
        for rows in map(int, sizes.split(",")):
            yield f"{name}-{rows}", [path := written(own, rows)], asked(own, path, rows)
    elif sizes:
        for rows in map(int, sizes.split(",")):
            yield f"{name}-{rows}", [own / f"rows-{rows}"], own / f"queries-{rows}.parquet"
    else:
        yield name, sorted(own.glob("part-*.parquet")) or [own / "base.parquet"], own / "queries.parquet"


def measured(name: str, rows: list[Path], queries: Path, index: Path, *options: str) -> dict[str, Any]:
    """What a build and the queries of a set say."""
    places = {str(index.parents[1]): "FOLDER"}
    built = run("vantage", "build", *rows, "--metric", METRICS[name], *options, "--out", index, "--json", places=places)

    def answers(*more: str) -> dict[str, Any]:
        return run("vantage", "eval", index, "--queries", queries, *more, "--json", places=places).json

    manifest = built.json
    kept = ("rows", "dimension", "router", "blocks", "copies", "code_bytes", "bytes", "root_bytes", "duplicate_vectors")
    return {
        "set": name,
        **{key: manifest[key] for key in kept},
        "seconds": built.seconds,
        "cpu_seconds": built.cpu,
        "peak_bytes": built.peak,
        "at_100": answers(),
        "at_10": answers("--k", "10"),
        "warm": answers("--cache", "4GiB", "--warm"),
    }


def told(found: dict[str, Any]) -> str:
    """A line of what was measured of a set."""

    def read(k: int) -> str:
        one = found[f"at_{k}"]
        return (
            f"recall@{k} {one['recall']:.4f}, {one['gets']:.2f} GETs, {one['bytes'] / 1e6:.2f} MB, "
            f"{one['scan_cost']:.2%} of rows, {one['waves']:.2f} waves, "
            f"{one['modelled_ms_p50']:.0f}/{one['modelled_ms_p99']:.0f} ms"
        )

    return (
        f"{found['set']} {found['rows']:>9,} rows x {found['dimension']}, {found['router']}, "
        f"{found['blocks']:>6,} blocks, {found['copies'] / found['rows']:.2f} copies, code {found['code_bytes']}: "
        f"{read(100)}; {read(10)}; warm {found['warm']['gets']:.2f} GETs; "
        f"resident {found['root_bytes'] / 1e6:.2f} MB; built in {found['seconds']:.0f} s, "
        f"{found['cpu_seconds']:.0f} s of CPU at {found['sgemm_gflops']:.0f} GFLOP/s, "
        f"{found['peak_bytes'] / 2**20:.0f} MiB"
    )


def main() -> None:
    """Prints a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=[GENERATED], metavar="SET")
    parser.add_argument("--memory-budget", help="by default that of `vantage build`")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    budget = ("--memory-budget", options.memory_budget) if options.memory_budget else ()
    for wanted in options.sets:
        if (name := wanted.partition(":")[0]) not in METRICS:
            parser.error(f"{wanted}: the sets are {', '.join(METRICS)}")
        for index, rows, queries in sets(folder, wanted):
            found = measured(name, rows, queries, folder / "bucket" / index, *budget)
            found["sgemm_gflops"] = sgemm_rate()
            print(json.dumps(found) if options.json else told(found), flush=True)


if __name__ == "__main__":
    main()
