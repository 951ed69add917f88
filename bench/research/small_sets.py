"""Whether promises of small sets are kept: draws of the sample's rows built with one of k, asked by rows left out.

python -m bench.research.small_sets [DRAWS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from build_index.build import build
from build_index.context import BuildContext
from build_index.evaluate.evaluate import evaluate
from build_index.ingest.open import open_source
from build_index.ingest.queries import Queries
from build_index.serve import ROOT
from build_index.tune.options import Options

ROWS, KS = (201, 300, 400, 800, 1500), (1, 10)
RECALL = 0.95
ASKED = 1000


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    column = pq.read_table(ROOT / "sample" / "wordnet.parquet", columns=["vector"])["vector"].combine_chunks()
    x = column.flatten().to_numpy().reshape(len(column), -1)
    print(f"recall@k of {ASKED} new queries, over {draws} draws, where {RECALL} was asked for")
    print(f"{'rows':>6}{'k':>4}{'lowest':>8}{'mean':>8}{'below':>7}{'exact':>7}{'GETs':>6}{'kB':>8}{'ms':>7}")
    for rows in ROWS:
        for k in KS:
            lines = [line(x, rows, k, seed) for seed in range(draws)]
            recall, exact, gets, nbytes, ms = np.array(lines).T
            short = int((recall < RECALL).sum())
            print(
                f"{rows:6d}{k:4d}{recall.min():8.3f}{recall.mean():8.3f}{short:7d}{int(exact.sum()):7d}"
                f"{gets.mean():6.1f}{nbytes.mean() / 1e3:8.1f}{ms.mean():7.1f}",
                flush=True,
            )


def line(x: np.ndarray, rows: int, k: int, seed: int) -> tuple[float, bool, float, float, float]:
    """(recall, whether all rows get exact scores, GETs, bytes, modelled ms) of one draw."""
    order = np.random.default_rng(seed).permutation(len(x))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.save(path / "rows.npy", x[order[:rows]])
        report = build(
            open_source([path / "rows.npy"]), BuildContext(path / "docs", "cosine", Options(RECALL, k, seed))
        )  # fmt: skip
        told = evaluate(path / "docs", Queries(x[order[rows : rows + ASKED]], None), k=k)
    return told["recall"], report.choice.layout.blocks == 1, told["gets"], told["bytes"], told["modelled_ms_p50"]


if __name__ == "__main__":
    main()
