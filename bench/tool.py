"""Runs every command behind docs/results-tool.md, one after another, and writes that page.

    python -m bench.tool DATA [--bucket FOLDER] [--out docs/results-tool.md]

DATA holds wordnet/ and sift/. FOLDER has the indexes that bench/results.py built there; without it they are built.
About two hours on two cores: 10^6 fuzzed cases and a set of 3,000,000 rows are most of it. Each command runs by itself
too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.pages import ROOT, block, run

SAMPLE = ROOT / "sample"


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bucket", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results-tool.md")
    options = parser.parse_args()
    data = options.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        bucket, pair, rows = (options.bucket or Path(scratch, "bucket")).resolve(), Path(scratch, "pair"), Path(scratch)
        places = {str(data): "DATA", str(bucket): "bucket", str(pair): "pair", str(SAMPLE): "sample", str(rows): "rows"}

        def built(source: list[Path], to: Path, *more: object) -> None:
            if not (to / "CURRENT").exists():
                run("vantage", "build", *source, "--out", to, *more, "--json", places=places)

        built(sorted((data / "wordnet").glob("part-*.parquet")), bucket / "wordnet")
        built([data / "sift" / "base.parquet"], bucket / "sift", "--metric", "l2")
        for seed, name in enumerate(("one", "two")):
            built([SAMPLE / "wordnet.parquet"], pair / name, "--fast", "--seed", seed)
        queries = [data / name / "queries.parquet" for name in ("wordnet", "sift")]
        batches = run(
            "python", "-m", "bench.batches", bucket / "wordnet", bucket / "sift", "--queries", *queries, places=places
        )
        soak = run("python", "-m", "bench.faults.soak", pair, places=places)
        fuzz = run("python", "-m", "bench.faults.fuzz", "--cases", 1_000_000, places=places)
        asan = run("python", "-m", "bench.faults.fuzz_kernels", "--cases", 30_000, "--asan", places=places)
        damage = run("python", "-m", "bench.faults.damage", places=places)
        kills = run("python", "-m", "bench.faults.publish_kills", places=places)
        hedging = run("python", "-m", "bench.hedging", places=places)
        load = run("python", "-m", "bench.load", pair / "one", SAMPLE / "queries.parquet", places=places)
        warm = run("python", "-m", "bench.warm", bucket, "wordnet", data / "wordnet" / "queries.parquet", places=places)
        scale = run(
            "python", "-m", "bench.scale", rows, "generated:3000000", "--memory-budget", "1GiB", places=places
        )  # fmt: skip
        options.out.write_text(f"""# Results of the tool around it

Printed by `python -m bench.tool DATA`, which runs every command below. `pair` holds two indexes of the committed
sample, built by `vantage build sample/wordnet.parquet --fast` with the seeds 0 and 1. Seconds are of two cores.

## Batches

Nothing cached; `bucket` as in [results.md](results.md).

{block(batches)}
## Faults

A closed loop of 16 clients against workerd, whose bucket fails by seed and whose index is replaced. Without a cache
each complete answer must be CPython's of the same generation; with one, and for incomplete ones, each id must have its
own score, attributes and vector.

{block(soak)}
Bad bytes at every layout, in bodies and in the arguments of the kernels:

{block(fuzz, asan)}
Each kind of section and object with five damages, and the error of each. A missing `promises` or `bounds` section is no
damage: both are optional.

{block(damage)}
Publish, rollback and gc, ended at every operation:

{block(kills)}
## Slow reads

The clock is virtual and the latencies are assumed; the reader is the product's.

{block(hedging)}
## Load

{block(load)}
## Beside a warm object

Each query is asked of an isolate that has just started, as far as its memory goes.

{block(warm)}
## Three million rows

Generated rows of 128 u8, built in one process.

{block(scale)}""")


if __name__ == "__main__":
    main()
