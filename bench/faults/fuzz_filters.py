"""Random filters against plain Python, by seed: which rows the kernel takes, and what whole indexes answer.

    python -m bench.faults.fuzz_filters [--first 0] [--seeds 10000]

Each seed is 100 filters: all operators and types, lists, nulls, filters in filters up to the limit, long lists of
values, and values beside those that rows have. Most seeds make rows of their own, and the kernel evaluates the compiled
filter on their columns, while counts say which blocks surely hold none. Each fiftieth asks one of three small indexes:
for the best proven ones, for all that match, and for a few by routing. The oracle is tests/filters.py, which knows
values and nothing of keys, columns or plans. A range of seeds does what it does whatever ran before, so a run goes on
from where one ended. Each wrong answer is printed with its seed and filter. Exit 1 if there is any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq

from build_index.serve import ROOT

sys.path.append(str(ROOT / "tests"))
from filters import HASHED, KINDS, NAMES, columns_of, fields_of, matching, random_filter, random_row, table_of  # noqa: E402

from build_index.bucket.open import open_index  # noqa: E402
from build_index.build import build  # noqa: E402
from build_index.context import BuildContext  # noqa: E402
from build_index.filters.columns import column_of  # noqa: E402
from build_index.filters.counts import count_rows  # noqa: E402
from build_index.ingest.open import open_source  # noqa: E402
from build_index.tune import renditions  # noqa: E402
from build_index.tune.options import Options  # noqa: E402
from vantage import kernels  # noqa: E402
from vantage.errors import LimitError  # noqa: E402
from vantage.filter.expect import expected_rows, rows_within  # noqa: E402
from vantage.filter.parse import DEPTH_MAX, VALUES_MAX, parse_filter  # noqa: E402
from vantage.filter.program import STEPS_MAX, compile_filter, resolve  # noqa: E402
from vantage.format import Counts, FilterField, pack_columns  # noqa: E402
from vantage.index import Index  # noqa: E402
from vantage.search.query import Answer, Query  # noqa: E402

FILTERS = 100  # of a seed
WHOLE = 50  # each so many-th seed asks an index
SIZES = (1, 2, 15, 16, 17, 31, 33, 64)  # rows of a block
LARGE = 700  # of few
ROWS, DIMENSION = 700, 8  # of an index; top_k may be as many
METRICS = ("dot", "cosine", "l2")

Tell = Callable[[int, Any, str], None]


@dataclass
class Done:
    """filters: compared; refused: of them, as too large; rows: compared; asked: filters of whole indexes."""

    filters: int = 0
    refused: int = 0
    rows: int = 0
    asked: int = 0


def filter_of(draw: Random, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A filter, of which some are deep, wide, or about the values of these rows and their neighbours."""
    roll = draw.random()
    value = random_filter(draw, draw.choice((0, 1, 2, 3, 3, DEPTH_MAX - 1)))
    if roll < 0.01:
        value = {draw.choice(("$and", "$or")): [random_filter(draw, 0) for _ in range(draw.randrange(20, 90))]}
    elif roll < 0.03:
        name = draw.choice(list(KINDS))
        some = [beside(draw, name, rows) for _ in range(draw.choice((30, 200, VALUES_MAX)))]
        value = {name: {draw.choice(("$in", "$nin")): some}}
    elif roll < 0.3:
        name, operators = draw.choice(list(KINDS)), ["$eq", "$ne", "$in", "$nin"]
        operators += ["$gt", "$gte", "$lt", "$lte"] * (KINDS[name] != "boolean" and name not in HASHED)
        conditions = {
            operator: [beside(draw, name, rows) for _ in range(draw.randrange(1, 9))]
            if operator in ("$in", "$nin")
            else beside(draw, name, rows)
            for operator in draw.sample(operators, draw.randrange(1, 4))
        }
        other = random_filter(draw, 2)
        value = draw.choice(({name: conditions}, {"$and": [{name: conditions}, other]}, {"$not": {name: conditions}}))
    return value if fits(value) else filter_of(draw, rows)


def fits(value: Any) -> bool:
    """Whether a filter is no longer than one may be: long lists of long numbers are."""
    return len(json.dumps(value, ensure_ascii=False)) <= 16 << 10


def beside(draw: Random, name: str, rows: Sequence[dict[str, Any]]) -> Any:
    """A value that a row has, or one next to it."""
    kind, value = KINDS[name], draw.choice(rows)[name]
    if isinstance(value, list):
        value = draw.choice(value) if value else None
    step = draw.choice((-1, 0, 0, 1))
    if kind == "boolean":
        return bool(value)
    if kind == "time":
        return value or "1970-01-01"
    if kind == "text":
        return (value or "")[: step % 3 or None] + "\x00" * (step > 0)
    value = value or 0
    if kind == "integer":
        return value + draw.choice((step, step / 2 if abs(value) < 1 << 50 else step))
    return math.nextafter(value, step * math.inf) if step and abs(value) < 1e308 else value


def by_kernel(seed: int, done: Done, tell: Tell) -> None:
    """Filters of one seed over rows of their own, in one to three blocks."""
    draw = Random(seed)
    sizes = [draw.choice(SIZES) for _ in range(draw.randrange(1, 4))] if draw.random() < 0.98 else [LARGE]
    rows = [random_row(draw) for _ in range(sum(sizes))]
    if draw.random() < 0.2:  # an attribute without a value
        gone = draw.choice(list(KINDS))
        rows = [row | {gone: None} for row in rows]
    fields, starts = fields_of(rows), [sum(sizes[:i]) for i in range(len(sizes))]
    blocks = [rows[low : low + n] for low, n in zip(starts, sizes, strict=True)]
    planes = [pack_columns(columns_of(block, fields)) for block in blocks]
    counts = counts_of(rows, fields, sizes)
    for _ in range(FILTERS):
        value = filter_of(draw, rows)
        done.filters += 1
        node = parse_filter(value, fields, NAMES)
        assert node is not None
        node = resolve(node, fields)
        try:
            program = compile_filter(node, fields).data
        except LimitError as error:
            assert isinstance(error.value, int) and error.value > STEPS_MAX
            done.refused += 1
            continue
        expected, wrong = expected_rows(node, fields, partial(rows_of, fields, counts, len(sizes)), sizes), 0
        for block, plane, likely in zip(blocks, planes, expected, strict=True):
            want = sum(it << i for i, it in enumerate(matching(value, block)))
            got = mask_of(plane, len(block), len(fields), program)
            wrong += (got ^ want).bit_count() + (want.bit_count() if likely <= 0 else 0)
            done.rows += len(block)
        if wrong:
            tell(seed, value, f"{wrong} wrong rows of {len(rows)}")


def rows_of(
    fields: Sequence[FilterField], counts: Counts, blocks: int, field: int, spans: Sequence[tuple[int, int]]
) -> Sequence[float]:
    """Rows of each block with a key of a field in the spans, by counts."""
    found: Sequence[float] = rows_within(spans, counts.fields[field], fields[field].distinct, blocks)
    return found


def mask_of(plane: bytes, n: int, fields: int, program: bytes) -> int:
    """The rows that the kernel takes, as bits."""
    mask, scratch = bytearray(2 * -(-n // 16)), bytearray(kernels.filter_rows_size(n))
    found = kernels.filter_rows(plane, n, fields, program, mask, scratch)
    bits = int.from_bytes(mask, "little")
    assert found == bits.bit_count() and bits < 1 << n
    return bits


def counts_of(rows: Sequence[dict[str, Any]], fields: Sequence[FilterField], sizes: Sequence[int]) -> Counts:
    """As a build counts them, after the root has kept them."""
    columns = []
    for name, field, (_, keys) in zip(KINDS, fields, columns_of(rows, fields), strict=True):
        columns.append(column_of(name, field, [key for own in keys for key in own], list(map(len, keys))))
    home = np.repeat(np.arange(len(sizes)), sizes)
    data = Counts(count_rows(columns, home, len(sizes), False), 0.0, 1.0).pack()
    return Counts.unpack(memoryview(data), len(fields), len(sizes), sum(sizes), (), "counts")


@dataclass(frozen=True)
class Small:
    """An index of few rows, and what it was built of: x f16 (N, d) as stored."""

    index: Index
    x: np.ndarray
    rows: list[dict[str, Any]]


@cache
def small(metric: str, folder: Path) -> Small:
    """Of this metric: that of dot has its blocks in the root, the others lie apart and have projections."""
    draw, rng = Random(METRICS.index(metric)), np.random.default_rng(METRICS.index(metric))
    of = rng.integers(12, size=ROWS)
    x = (rng.normal(size=(12, DIMENSION))[of] + 0.4 * rng.normal(size=(ROWS, DIMENSION))).astype(np.float16)
    rows = [random_row(draw) for _ in range(ROWS)]
    for row, cluster in zip(rows, of.tolist(), strict=True):
        if row["year"] is not None and draw.random() < 0.7:
            row["year"] = 2000 + 2 * cluster + draw.randrange(3)
    source, out = folder / f"{metric}.parquet", folder / metric
    pq.write_table(table_of(x.astype(np.float32), rows), source)
    options = Options(0.9, 10, fast=True, error_norms=True, filters=tuple(KINDS))
    with patch.object(renditions, "INLINE_BYTES", renditions.INLINE_BYTES if metric == "dot" else 0):
        build(open_source([source]), BuildContext(out, metric, options))
    return Small(open_index(out), x, rows)


def by_index(seed: int, done: Done, tell: Tell, folder: Path) -> None:
    """Filters of one seed, asked of one index."""
    draw, rng = Random(seed), np.random.default_rng(seed)
    base = small(METRICS[seed // WHOLE % len(METRICS)], folder)
    metric = base.index.root.index.metric
    for _ in range(FILTERS):
        value = filter_of(draw, base.rows)
        done.filters += 1
        q = (base.x[draw.randrange(ROWS)] + 0.2 * rng.normal(size=DIMENSION)).astype(np.float32)
        query, k = Query(q.tolist(), ROWS, filter=value), draw.choice((1, 10, 50))
        try:
            every, few, best = (
                asyncio.run(base.index.query(one))
                for one in (query, replace(query, top_k=k), replace(query, top_k=k, exact=True))
            )
        except LimitError as error:
            assert isinstance(error.value, int) and error.value > STEPS_MAX
            done.refused += 1
            continue
        done.rows += ROWS
        done.asked += 1
        match = np.array(matching(value, base.rows))
        score = np.where(match, scores(base.x.astype(np.float64), q, metric), -np.inf)
        for what, answer, wanted in (("all", every, ROWS), (f"{k}", few, k), (f"the best {k}", best, k)):
            if wrong := wrong_in(answer, match, min(wanted, int(match.sum()))):
                tell(seed, value, f"{metric}, {what}: {wrong}")
        got = np.sort(score[[int(m.id) for m in best.matches]])
        if not np.allclose(got, np.sort(score)[ROWS - len(got) :], rtol=1e-3, atol=1e-3):
            tell(seed, value, f"{metric}, the best {k}: others are better")


def wrong_in(answer: Answer, match: np.ndarray, count: int) -> str:
    """What is wrong with an answer that is to have `count` of the rows that match bool (N); "" for nothing."""
    ids = [int(m.id) for m in answer.matches]
    others = int((~match[ids]).sum())
    if others or len(set(ids)) != len(ids) or len(ids) != count:
        return f"{others} rows do not match, {len(set(ids))} of {count} rows"
    if not answer.complete or answer.matched is None or (answer.matched.exact and answer.matched.rows != match.sum()):
        return f"complete {answer.complete}, matched {answer.matched} of {match.sum()}"
    return ""


def scores(x: np.ndarray, q: np.ndarray, metric: str) -> np.ndarray:
    """(N) of rows (N, d), larger is better."""
    if metric == "l2":
        return -((x - q) ** 2).sum(1)
    return x @ q / np.linalg.norm(x, axis=1) if metric == "cosine" else x @ q


def run(first: int, seeds: int, tell: Tell) -> Done:
    """Runs so many seeds; tell(seed, filter, what) for each wrong answer."""
    done = Done()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + seeds):
            try:
                if seed % WHOLE:
                    by_kernel(seed, done, tell)
                else:
                    by_index(seed, done, tell, Path(folder))
            except Exception as error:
                tell(seed, None, f"{type(error).__name__}: {str(error)[:300]}")
            if seed % 10 == 9:
                print(f"\r{seed}", end="", file=sys.stderr)
    return done


def main() -> int:
    """Prints what was run, and each wrong answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10_000)
    options = parser.parse_args()
    wrong = []

    def tell(seed: int, value: Any, what: str) -> None:
        wrong.append(seed)
        print(f"seed {seed}: {what}: {json.dumps(value)[:2000]}", flush=True)

    began = time.perf_counter()
    done = run(options.first, options.seeds, tell)
    print(
        f"{done.filters:,} filters in {time.perf_counter() - began:.0f} s, seeds {options.first} to "
        f"{options.first + options.seeds - 1}: {done.refused:,} refused as too large, {done.rows:,} rows compared, "
        f"{done.asked:,} filters asked of indexes; wrong answers: {len(wrong)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
