"""CPU seconds of a build beside those of LanceDB and faiss on the same rows, in one run.

    pip install lancedb
    python -m bench.builds DATA [--rows N ...] [--queries 100] [--only NAME ...] [--json]

DATA holds wordnet/ (Parquet with vectors). Each builder is a process of its own, which reads the same rows from a file;
its CPU seconds, user and system, all threads, starting Python counted, and its peak memory are what the kernel counted
when it ended (wait4). Beside them stand the sgemm rate of a core, measured in between, and what each index finds:
recall@100 of queries that are no rows, with the fewest lists or the promise that reach 0.95, or the most that are
tried. Reads of vantage are those of its receipt; LanceDB's are counted by bench.peers; faiss holds its index in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.peers import matrix

K, GOAL = 100, 0.95
SUB_VECTORS = 48  # bytes a code, as many as RaBitQ's bit a dimension takes
PROBES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
REFINE = 3  # times the answers, for LanceDB: rows whose full vectors it reads
SGEMM = 2000  # rows and columns
RUNS = 3

Ask = Callable[[np.ndarray, int], set[int]]  # a query and a number of lists -> rows


def sgemm_rate() -> float:
    """GFLOP/s of one core, the best of a few."""
    a, best = np.random.default_rng(0).random((SGEMM, SGEMM), np.float32), 0.0
    for _ in range(RUNS):
        began = time.process_time()
        a @ a
        best = max(best, 2e-9 * SGEMM**3 / (time.process_time() - began))
    return best


def lists_of(rows: int) -> int:
    """Of an inverted file."""
    return max(1, round(rows**0.5))


def build_faiss(folder: Path) -> None:
    """IVF-PQ as faiss trains it by itself."""
    import faiss

    x = np.load(folder / "rows.npy")
    index = faiss.index_factory(x.shape[1], f"IVF{lists_of(len(x))},PQ{SUB_VECTORS}", faiss.METRIC_INNER_PRODUCT)
    index.train(x)
    index.add(x)
    faiss.write_index(index, str(folder / "faiss"))


def ask_faiss(folder: Path) -> Ask:
    """Answers of the index in memory."""
    import faiss

    index = faiss.read_index(str(folder / "faiss"))

    def ask(query: np.ndarray, probes: int) -> set[int]:
        index.nprobe = probes
        return set(index.search(query[None], K)[1][0].tolist())

    return ask


def build_lancedb(folder: Path) -> None:
    """A table with IVF_RQ, LanceDB's index of RaBitQ codes."""
    import lancedb
    import lancedb.index

    x = np.load(folder / "rows.npy")
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    table = lancedb.connect(folder / "lancedb").create_table(
        "rows", pa.table({"row": np.arange(len(x)), "vector": column})
    )
    table.create_index("vector", config=lancedb.index.IvfRq(distance_type="cosine", num_partitions=lists_of(len(x))))


def ask_lancedb(folder: Path) -> Ask:
    """Answers of the table on the disk."""
    import lancedb

    table = lancedb.connect(folder / "lancedb").open_table("rows")

    def ask(query: np.ndarray, probes: int) -> set[int]:
        found = table.search(query).distance_type("cosine").nprobes(probes).refine_factor(REFINE).limit(K)
        return set(found.select(["row", "_distance"]).to_arrow()["row"].to_pylist())

    return ask


def build_vantage(folder: Path, *more: str) -> None:
    """The command, in this process."""
    from build_index.cli.start import main as command

    sys.argv = ["vantage", "build", str(folder / "rows.npy"), "--out", str(folder / "bucket" / "rows"), "--json", *more]
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        command()


BUILDERS: dict[str, Callable[[Path], None]] = {
    "lancedb IVF_RQ": build_lancedb,
    "faiss IVF-PQ": build_faiss,
    "vantage --fast": lambda folder: build_vantage(folder, "--fast"),
    "vantage": build_vantage,
}
PEER = "lancedb IVF_RQ"
ASKED: dict[str, Callable[[Path], Ask]] = {"lancedb IVF_RQ": ask_lancedb, "faiss IVF-PQ": ask_faiss}


def measure(name: str, folder: Path) -> dict[str, float]:
    """CPU and elapsed seconds, and peak MiB, of a process that builds."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "bench.builds", str(folder), "--child", name])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}")
    return {
        "cpu_s": used.ru_utime + used.ru_stime, "elapsed_s": time.monotonic() - began,
        "peak_mib": used.ru_maxrss / 1024,
    }  # fmt: skip


def found_by(name: str, folder: Path, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """What an index finds, and with what."""
    if name not in ASKED:
        return evaluated(folder, queries, truth)
    ask, recall, probes = ASKED[name](folder), 0.0, 0
    for probes in PROBES:
        right = [len(ask(q, probes) & set(near)) for q, near in zip(queries, truth.tolist(), strict=True)]
        recall = float(np.mean(right)) / K
        if recall >= GOAL:
            break
    return {"recall": recall, "lists": probes}


def evaluated(folder: Path, queries: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of `vantage eval`, nothing cached, at the promise of GOAL."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(queries.ravel()), queries.shape[1])
    pq.write_table(pa.table({"vector": column, "neighbors": truth.tolist()}), folder / "queries.parquet")
    told = subprocess.run(
        [sys.executable, "-c", "from build_index.cli.start import main; main()", "eval",
         str(folder / "bucket" / "rows"), "--queries", str(folder / "queries.parquet"), "--json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    result = json.loads(told)
    return {name: float(result[name]) for name in ("recall", "gets", "bytes")}


def main() -> None:
    """Prints a line for each builder, and the ratio of its CPU seconds to LanceDB's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 115_659])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=BUILDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        BUILDERS[options.child](options.data)
        return
    words = options.data / "wordnet"
    whole = np.concatenate([matrix(pq.read_table(words / f"part-{i}.parquet")["vector"]) for i in (0, 1)])
    queries = matrix(pq.read_table(words / "queries.parquet")["vector"])[: options.queries]
    for rows in options.rows:
        x = whole[np.sort(np.random.default_rng(0).permutation(len(whole))[:rows])]
        unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        truth = np.argsort(-(queries @ unit.T), axis=1, kind="stable")[:, :K]
        print(
            f"{len(x):,} rows of {x.shape[1]}, {len(queries)} queries", file=sys.stderr if options.json else sys.stdout
        )
        told = dict[str, dict[str, float]]()
        with tempfile.TemporaryDirectory() as scratch:
            np.save(Path(scratch) / "rows.npy", unit)
            for name in options.only:
                rate = sgemm_rate()
                told[name] = one = measure(name, Path(scratch)) | {"sgemm_gflops": rate}
                one |= found_by(name, Path(scratch), queries, truth)
                if PEER in told:
                    one["times_lancedb"] = one["cpu_s"] / told[PEER]["cpu_s"]
                if not options.json:
                    print(line(name, one), flush=True)
        if options.json:
            print(json.dumps({"rows": len(x), "dimension": x.shape[1], "builders": told}), flush=True)


def line(name: str, one: dict[str, float]) -> str:
    """Of what one builder took, and what its index finds."""
    read = f"{one['gets']:.2f} GETs, {one['bytes'] / 1e6:.2f} MB" if "gets" in one else f"{one['lists']:.0f} lists"
    times = f"{one['times_lancedb']:>7.2f} of LanceDB" if "times_lancedb" in one else ""
    return (
        f"{name:<16}{one['cpu_s']:>8.1f} CPU s{one['elapsed_s']:>8.1f} s{one['peak_mib']:>7.0f} MiB"
        f"{one['sgemm_gflops']:>6.0f} GFLOP/s{times}   recall@{K} {one['recall']:.4f}, {read}"
    )


if __name__ == "__main__":
    main()
