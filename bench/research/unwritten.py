"""An index without its objects, to compare what other layouts of it would read."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common import rows_of, task_of
from build_index.blocks import PARTITIONS, kmeans
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.layout import Layout, index_section
from build_index.codecs import lrsq
from build_index.codecs.planes import Codec
from build_index.ingest.open import open_source
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import Ints, Rows, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.exact import CHUNK_BYTES, exact_neighbours
from build_index.neighbours.truth import untied
from build_index.progress import SILENT
from build_index.simulate.edge import HeldOutQueries, P
from build_index.simulate.measure import KEPT, Candidates, Reads, full_scan, plans, price_for
from build_index.tune.codes import residuals_of, second_moments
from build_index.tune.fit import Task, fit_router
from vantage.cost import LANES, wave_ms
from vantage.search.prepare import Prepared, prepare

K = 100
FEW_LEARNERS = 1000  # lse learns from no queries
TRAINED = 64  # rows a block
CODE_BYTES = {"wordnet": 192, "sift": 80}  # as the default builds choose
SHARE = 0.5  # of rows copied
ID_BYTES = 8.0


@dataclass(frozen=True)
class Setting:
    """An index without its objects, and the queries it is asked: their exact neighbours truth i32 (Q, K)."""

    task: Task
    layout: Layout
    codec: Codec
    queries: list[Prepared]
    truth: npt.NDArray[np.int32]

    @property
    def rows(self) -> Rows:
        return self.task.rows

    def asked(self, vectors: Sequence[npt.NDArray[np.generic]]) -> tuple[list[Prepared], npt.NDArray[np.int32]]:
        """(vectors as queries, their exact neighbours)."""
        section = index_section(self.rows, 1, self.rows.count)
        queries = [prepare(v.tolist(), section) for v in vectors]
        plain = np.stack([np.asarray(q.vector, np.float32) for q in queries])
        return queries, exact_neighbours(plain, self.rows.chunks(CHUNK_BYTES), K, self.rows.metric)

    def scanned(self, codec: Codec, kept: int = KEPT) -> Candidates:
        """What a codec finds for the queries, all blocks scanned: so many copies of each."""
        asked = HeldOutQueries(self.queries, np.full(len(self.queries), -1), untied(self.truth))
        return full_scan(self.rows, self.layout, codec, asked, kept=kept)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `large` takes of the command line."""
    parser.add_argument("queries_file", type=Path, metavar="QUERIES")
    parser.add_argument("rows", type=Path, nargs="+", metavar="ROWS")
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--code", type=int, default=192)
    parser.add_argument("--queries", type=int, default=200)


@contextmanager
def large(options: argparse.Namespace) -> Iterator[Setting]:
    """Rows of any number in blocks of k-means in one level, routed by lse as it begins; says what they are."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        stage(open_source(options.rows, attributes=[]), Path(scratch), metric=options.metric) as staging,
    ):
        rows = scale_rows(staging, options.metric)
        print(f"{rows.count:,} rows x {rows.dimension}, {options.blocks:,} blocks, {options.share} copies a row")
        task = task_of(rows, FEW_LEARNERS)
        many = min(TRAINED * options.blocks, len(task.sample))
        task = replace(task, sample=np.sort(np.random.default_rng(3).choice(task.sample, many, replace=False)))
        base = kmeans.partition(rows, task.sample, options.blocks, 0)
        copies = COPY_RULES["soar" if options.share else "none"](rows, base).best(options.share)
        layout, _ = fit_router(task, base, copies, "lse", SILENT)
        codec = lrsq.train(*second_moments(rows, task.sample, layout), options.code)
        made = Setting(task, layout, codec, [], np.empty((0, K), np.int32))
        vectors, truth = made.asked(list(read_queries(options.queries_file, options.queries).vectors))
        yield replace(made, queries=vectors, truth=truth)


@contextmanager
def setting(data: Path, name: str, count: int | None, blocks: int, router: str, queries: int) -> Iterator[Setting]:
    """A set of DATA, or so many rows of it, in so many blocks."""
    with rows_of(data, name, count) as rows:
        task = task_of(rows)
        base = PARTITIONS["kmeans"](rows, task.sample, blocks, None, 0, SILENT)
        layout, _ = fit_router(task, base, COPY_RULES["soar"](rows, base).best(SHARE), router, SILENT)
        residuals = residuals_of(rows, task.sample, layout)
        codec = lrsq.train(*second_moments(rows, task.sample, layout), CODE_BYTES[name], residuals)
        made = Setting(task, layout, codec, [], np.empty((0, K), np.int32))
        asked, truth = made.asked(list(read_queries(data / name / "queries.parquet", queries).vectors))
        yield replace(made, queries=asked, truth=truth)


def told(waves: list[list[list[int]]]) -> str:
    """GETs, MB, ms of waves of reads, each (Q) lists of bytes."""
    gets = sum(np.mean([len(r) for r in wave]) for wave in waves)
    nbytes = sum(np.mean([sum(r) for r in wave]) for wave in waves)
    ms = sum(np.array([wave_ms(r) for r in wave]) for wave in waves)
    return f"{gets:7.2f}{nbytes / 1e6:9.3f}{np.mean(ms):8.1f}{np.quantile(ms, 0.99):8.1f}"


def planned(
    p: P, sizes: Ints, recall: Callable[[npt.NDArray[np.bool_]], float], goal: float, gets: int = LANES
) -> Reads | None:
    """Plans at the highest price whose reads reach the goal."""
    price = price_for(lambda at: recall(plans(p, sizes, at, gets).blocks), goal)
    return None if price is None else plans(p, sizes, price, gets)
