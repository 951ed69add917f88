"""Inner products over rows of varied norms: what a query reads with blocks in bands of norms, and with blocks over all.

    python -m bench.research.norms [--sigmas 0,0.2,0.4,0.8] [--trained]
    python -m bench.research.norms DATA [--rows 28000] [--sigmas 0.8]

Without DATA, 20,000 generated rows of 128 dimensions in 300 clusters; with DATA, rows of WordNet, after a line of
cosine over them. Norms are lognormal, exp(sigma times a Gaussian). Every index is built with --fast unless --trained
is given, and asked 500 queries that are not among its rows. MB are means, nothing cached; rows: of all, read; in: the
share of the longest rows that holds 95% of the answers, so less is hardly possible.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from build_index.blocks import PARTITIONS
from build_index.blocks.kmeans import by_kmeans
from build_index.build import build
from build_index.context import BuildContext
from build_index.evaluate.evaluate import evaluate
from build_index.ingest.open import open_source
from build_index.ingest.queries import Queries
from build_index.neighbours.exact import exact_neighbours
from build_index.tune.options import Options

F32 = npt.NDArray[np.float32]
ROWS, DIMENSION, CLUSTERS, ASKED = 20_000, 128, 300, 500


def unit(x: npt.NDArray[np.floating]) -> F32:
    """Rows (n, d) of norm 1."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def generated() -> tuple[F32, F32]:
    """(rows, queries): clusters whose coordinates fall with their number."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((CLUSTERS, DIMENSION))
    x = centres[draw.integers(CLUSTERS, size=ROWS + ASKED)] + 0.5 * draw.standard_normal((ROWS + ASKED, DIMENSION))
    x = unit(x * (1 + np.arange(DIMENSION)) ** -0.7)
    return x[:ROWS], x[ROWS:]


def of_wordnet(data: Path, rows: int) -> tuple[F32, F32]:
    """(rows, queries): some of WordNet's, and the queries that lie beside it."""

    def vectors(*names: str) -> F32:
        columns = [pq.read_table(data / "wordnet" / name, columns=["vector"])["vector"] for name in names]
        return np.concatenate([np.stack(column.to_numpy()) for column in columns]).astype(np.float32)

    x, queries = vectors("part-0.parquet", "part-1.parquet"), vectors("queries.parquet")
    return unit(x[np.sort(np.random.default_rng(0).permutation(len(x))[:rows])]), unit(queries[:ASKED])


def lines(name: str, x: F32, queries: F32, metric: str, options: Options) -> None:
    """Prints a line at 10 and at 100 answers."""
    norms = np.linalg.norm(x, axis=1)
    near = exact_neighbours(queries, iter([(0, x)]), 100, "dot")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.save(path / "rows.npy", x)
        report = build(open_source([path / "rows.npy"]), BuildContext(path / "index", metric, options))
        for k in (10, 100):
            one = evaluate(path / "index", Queries(queries, None), k=k)
            within = float((norms >= np.quantile(norms[near[:, :k]], 0.05)).mean())
            print(
                f"{name:30}{k:5}{report.choice.layout.blocks:8}{one['recall']:9.4f}{one['gets']:7.2f}"
                f"{one['bytes'] / 1e6:8.3f}{one['scan_cost']:8.1%}{within:8.1%}", flush=True,
            )  # fmt: skip


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=28_000)
    parser.add_argument("--sigmas", default="0,0.2,0.4,0.8")
    parser.add_argument("--trained", action="store_true")
    asked = parser.parse_args()
    x, queries = generated() if asked.data is None else of_wordnet(asked.data, asked.rows)
    options = Options(fast=not asked.trained)
    print(f"{'norms, blocks':30}{'k':>5}{'blocks':>8}{'recall':>9}{'GETs':>7}{'MB':>8}{'rows':>8}{'in':>8}")
    if asked.data is not None:
        lines("cosine", x, queries, "cosine", options)
    for sigma in map(float, asked.sigmas.split(",")):
        norms = np.exp(sigma * np.random.default_rng(5).standard_normal((len(x), 1))).astype(np.float32)
        for what in ("over all rows", "in bands"):
            with ExitStack() as stack:
                if what == "over all rows":
                    stack.enter_context(patch.dict(PARTITIONS, kmeans=by_kmeans))
                lines(f"sigma {sigma}, {what}", x * norms, queries, "dot", options)


if __name__ == "__main__":
    main()
