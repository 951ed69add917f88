"""What indexes promise and what they keep: recall, reads and waves at 0.90, 0.95 and 0.99, and how far estimates hold.

    python -m bench.contract INDEX... --queries FILE [--ood FILE] [--limit N] [--out FOLDER]

INDEX is a folder in a bucket, built with `--second-wave` or without; FILE is Parquet with vectors and exact neighbours,
held out from the index. Nothing is cached. For each promise it prints means a query, the modelled p50 and p99, how many
queries read a second wave, and of the per-query estimate: its mean, the Brier score of "this neighbour is found" next
to the one of the mean alone, the mean squared error against the achieved recall in units of its variance (1 is what the
mean alone has), Pearson's and Spearman's correlation with it, and the 10th percentile of recall. --out writes a
reliability plot a file, `contract-INDEX.svg`: queries in ten groups by estimate, their achieved recall.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr

from build_index.bucket.open import open_index
from build_index.evaluate.picture import Axis, curves
from build_index.evaluate.stored import source_rows
from build_index.ingest.queries import read_queries
from vantage.errors import LimitError
from vantage.index import Index
from vantage.search.query import Answer, Query

PROMISES = (0.90, 0.95, 0.99)
GROUPS = 10
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """Of Q queries at one promise: estimates (Q), achieved recall (Q), and the answers."""

    estimate: F64
    recall: F64
    answers: list[Answer]


def asked(index: Index, source: npt.NDArray[np.int64], file: Path, limit: int | None, recall: float) -> Kept:
    """Every query of the file at this recall. Raises LimitError where the index cannot promise it."""
    queries, k = read_queries(file, limit), index.root.contract.k
    assert queries.neighbors is not None, f"{file} has no neighbors"

    async def all_of() -> list[Answer]:
        return [await index.query(Query(v.tolist(), k, recall)) for v in queries.vectors]

    answers = asyncio.run(all_of())
    hits = [
        len(np.intersect1d(source[[m.row for m in answer.matches]], true[:k])) / k
        for answer, true in zip(answers, queries.neighbors, strict=True)
    ]
    told = [np.nan if a.recall_estimate is None else a.recall_estimate for a in answers]
    return Kept(np.array(told), np.array(hits), answers)


def brier(forecast: F64, recall: F64) -> float:
    """Mean of (forecast - found)^2 over neighbours, where a share `recall` (Q) of each query's is found."""
    return float(np.mean(recall * (1 - forecast) ** 2 + (1 - recall) * forecast**2))


def line(kept: Kept) -> str:
    """The cells of a promise."""
    receipts = [a.receipt for a in kept.answers]
    ms, waves = np.array([r.modelled_ms for r in receipts]), np.array([r.waves for r in receipts])
    second = np.array([r.waves - bool(r.rows_ranked) for r in receipts]) > 1
    gets, nbytes = np.mean([r.gets for r in receipts]), np.mean([r.bytes for r in receipts])
    known = np.isfinite(kept.estimate)
    told, found = kept.estimate[known], kept.recall[known]
    flat = np.full(len(found), found.mean())
    varies = told.std() > 0 and found.std() > 0
    pearson, spearman = (float(f(told, found)[0]) if varies else 0.0 for f in (pearsonr, spearmanr))
    error = np.mean((told - found) ** 2) / max(found.var(), 1e-12)
    return (
        f"{kept.recall.mean():8.4f}{gets:7.2f}{nbytes / 1e6:8.2f}{waves.mean():7.2f}{100 * second.mean():8.1f}"
        f"{np.median(ms):7.1f}{np.quantile(ms, 0.99):7.1f}{told.mean():10.4f}{brier(told, found):9.4f}"
        f"{brier(flat, found):9.4f}{error:8.2f}{pearson:9.2f}{spearman:9.2f}{np.quantile(kept.recall, 0.1):7.2f}"
    )


def reliability(kept: Kept) -> list[tuple[float, float]]:
    """(mean estimate, mean recall) of equal groups by rising estimate."""
    order = np.argsort(kept.estimate, kind="stable")
    return [(float(kept.estimate[g].mean()), float(kept.recall[g].mean())) for g in np.array_split(order, GROUPS)]


def main() -> None:
    """Prints a table an index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, nargs="+")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--ood", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for path in options.index:
        index = open_index(path)
        source, plotted = source_rows(path, index), dict[str, list[tuple[float, float]]]()
        print(f"{path.name}, k = {index.root.contract.k}")
        print(
            f"{'':16}promise  recall   GETs      MB  waves  second%    p50    p99  estimate    Brier  of mean"
            "   error  Pearson Spearman    p10"
        )
        for name, file in (("held out", options.queries), ("out of distr.", options.ood)):
            for promise in PROMISES if file else ():
                try:
                    kept = asked(index, source, file, options.limit, promise)
                except LimitError as error:
                    print(f"{name:16}{promise:7.2f}  {error}")
                    continue
                print(f"{name:16}{promise:7.2f}{line(kept)}", flush=True)
                if np.isfinite(kept.estimate).all():
                    plotted[f"{name}, {promise:.2f}"] = reliability(kept)
        if options.out:
            low = min((min(*point) for points in plotted.values() for point in points), default=0.0)
            floor = max(0.0, np.floor(10 * low) / 10)
            lines = {"as estimated": [(floor, floor), (1.0, 1.0)], **plotted}
            x, y = Axis("estimate", floor, 1.0), Axis(f"recall@{index.root.contract.k}", floor, 1.0)
            title = f"{path.name}: achieved recall by the query's own estimate"
            (options.out / f"contract-{path.name}.svg").write_text(curves(lines, x, y, title))


if __name__ == "__main__":
    main()
