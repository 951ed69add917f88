"""Growth with the number of rows: recall, GETs, bytes, resident bytes and the build of generated sets.

    python bench/scale.py FOLDER [--rows 500000,1000000,2000000,4000000] [--router two-level] [--memory-budget 2GiB]

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

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index.neighbours.exact import exact_neighbours

DIMENSION, LATENT, TOPICS, THEMES, RANK = 128, 24, 64, 48, 32
TOPIC_SPREAD, THEME_SPREAD, NOISE = 0.6, 0.7, 0.27  # beside the spread of a theme's rows, 1
CHUNK = 100_000  # rows drawn at a time, each chunk from a seed of its own
QUERIES = 500
BIN = Path(sys.executable).parent


def drawn(seed: int, count: int) -> npt.NDArray[np.uint8]:
    """u8 (count, 128): rows of themes of topics, the same for the same seed."""
    fixed, own = np.random.default_rng(1), np.random.default_rng([2, seed])
    low = fixed.standard_normal((TOPICS, LATENT), np.float32) @ fixed.standard_normal((LATENT, DIMENSION), np.float32)
    topics = low * np.float32(TOPIC_SPREAD / LATENT**0.5)
    axes = fixed.standard_normal((TOPICS, RANK, DIMENSION), np.float32) / np.float32(RANK**0.5)
    themes = np.float32(THEME_SPREAD) * fixed.standard_normal((TOPICS, THEMES, RANK), np.float32)
    length = np.arange(1, RANK + 1, dtype=np.float32) ** -0.5
    length /= np.sqrt((length**2).mean())
    topic, theme = own.choice(TOPICS, count, p=_tailed(TOPICS, 0.7)), own.choice(THEMES, count, p=_tailed(THEMES, 0.8))
    latent = own.standard_normal((count, RANK), np.float32)
    latent *= length[(np.arange(RANK) - theme[:, None]) % RANK]  # each theme is long along axes of its own
    latent += themes[topic, theme]
    x = np.float32(NOISE) * own.standard_normal((count, DIMENSION), np.float32) + topics[topic]
    for t in range(TOPICS):
        mine = np.flatnonzero(topic == t)
        x[mine] += latent[mine] @ axes[t]
    return np.clip(np.rint(128 + 32 * x), 0, 255).astype(np.uint8)


def _tailed(count: int, power: float) -> npt.NDArray[np.float64]:
    """Shares that fall with a power of their rank: a few parts hold much, as in real sets."""
    share = 1 / np.arange(1, count + 1) ** power
    return share / share.sum()


def written(folder: Path, rows: int) -> Path:
    """rows.npy of so many rows, made once."""
    path = folder / f"rows-{rows}.npy"
    if not path.exists():
        out = np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.uint8, (rows, DIMENSION))
        for low in range(0, rows, CHUNK):
            out[low : low + CHUNK] = drawn(low // CHUNK, CHUNK)[: rows - low]
        out.flush()
        path.with_suffix(".tmp").rename(path)
    return path


def asked(folder: Path, path: Path, rows: int) -> Path:
    """Queries with their exact neighbours, as Parquet."""
    out = folder / f"queries-{rows}.parquet"
    if not out.exists():
        x, queries = np.load(path, mmap_mode="r"), drawn(1 << 20, QUERIES)
        chunks = ((low, x[low : low + CHUNK].astype(np.float32)) for low in range(0, rows, CHUNK))
        near = exact_neighbours(queries.astype(np.float32), chunks, 100, "l2")
        columns = {
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(queries.ravel()), DIMENSION),
            "neighbors": pa.FixedSizeListArray.from_arrays(pa.array(near.ravel()), 100),
        }
        pq.write_table(pa.table(columns), out)
    return out


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
