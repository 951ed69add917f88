"""What is odd about a source before an index is built from it: one pass over its rows, and a sample compared exactly.

The pass counts rows that are NaN, infinite, zero, not of norm 1, or repeat another, and finds dimensions that never
change. The sample gives hubs (rows that are near very many others) and the relative contrast (He, Kumar, Chang, ICML
2012, here of the 100th neighbour).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from .formats.batch import BAD_ROWS_NAMED, Skipped
from .rows import F32, Ints, check_lengths, origin_of
from .source import NORM_MAX, NORM_MIN, Source
from .staging import vector_hashes

BATCH_ROWS = 4096
SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 32 << 20
QUERIES = 500
NEAR = 100  # the neighbour whose contrast is told
HUB_K = 10
HUB_TIMES = 20  # occurrences over the mean that make a hub: in independent data of few dimensions none has so many
UNIT_ERROR = 0.01  # of a norm; f16 and u8 round
NEARNESS = 100  # times nearer than usual: 50 times are told apart, 1,000 times are not
CLOSE_SHARE = 0.05
HARD, EASY = 1.1, 2.0  # contrasts: embeddings of WordNet have 1.18, Gaussian noise of 256 dimensions less than 1.1


@dataclass(frozen=True)
class Finding:
    """what: a fact; todo: what to do about it. level "error" where a build would refuse, else "note"."""

    name: str
    level: str
    what: str
    todo: str
    count: int = 0
    rows: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return vars(self)


@dataclass
class Counts:
    """Of one kind of row: how many, and the first five."""

    count: int = 0
    rows: list[int] = field(default_factory=list)

    def add(self, bad: npt.NDArray[np.bool_], rows: Ints) -> None:
        """Counts the rows marked in bad (n), whose numbers are rows (n)."""
        numbers = rows[bad]
        self.count += len(numbers)
        self.rows += numbers[: BAD_ROWS_NAMED - len(self.rows)].tolist()


class Pass:
    """What one pass over the rows finds; `add` takes each batch of finite rows."""

    def __init__(self, source: Source, seed: int = 0) -> None:
        self.source = source
        self.zero, self.not_unit, self.long = Counts(), Counts(), Counts()
        self.norm_max, self.longest, self._longest = 0.0, 0, np.zeros((1, source.dimension), np.float32)
        count = max(1, min(source.rows, SAMPLE_ROWS, SAMPLE_BYTES // (4 * source.dimension)))
        self._wanted = np.sort(np.random.default_rng([seed, 7]).choice(source.rows, count, replace=False))
        self._sample: list[F32] = []
        self._low = np.full(source.dimension, np.inf, np.float32)
        self._high = np.full(source.dimension, -np.inf, np.float32)

    def add(self, vectors: npt.NDArray[Any], rows: Ints) -> None:
        """vectors (n, d) of the rows with the numbers rows (n), rising."""
        x = vectors.astype(np.float32, copy=False)
        norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
        zero = norms < NORM_MIN
        self.zero.add(zero, rows)
        self.long.add(norms > NORM_MAX, rows)
        if norms.max() > self.norm_max:
            at = int(norms.argmax())
            self.norm_max, self.longest, self._longest = float(norms[at]), int(rows[at]), x[at : at + 1].copy()
        self.not_unit.add(~zero & (np.abs(norms - 1) > UNIT_ERROR), rows)
        np.minimum(self._low, x.min(0), out=self._low)
        np.maximum(self._high, x.max(0), out=self._high)
        self._sample.append(x[np.isin(rows, self._wanted, assume_unique=True)])

    def constant(self) -> list[int]:
        """Dimensions with one value in all rows."""
        return np.flatnonzero(self._low == self._high).tolist()

    def sample(self) -> F32:
        """f32 (n, d): rows drawn evenly, in order."""
        return np.concatenate(self._sample)

    def check_lengths(self, metric: str) -> None:
        """See rows.check_lengths."""
        x = np.concatenate([self._longest, self.sample()]).astype(np.float64)
        norms = np.linalg.norm(x - origin_of(self.sample()) if metric == "l2" else x, axis=1)
        check_lengths(metric, norms[1:], float(norms[0]), self.source.where(self.longest))


def lint(source: Source, metric: str, seed: int = 0) -> list[Finding]:
    """Reads the source once, 8 bytes a row and a sample held; what it found, worst first.

    Raises InputError where files cannot be read.
    """
    seen, broken, none, hashes = Pass(source, seed), Counts(), Skipped(), []
    for rows, vectors in _finite(source, broken, none):
        seen.add(vectors, rows)
        hashes.append(vector_hashes(np.ascontiguousarray(vectors)))
    repeated = 0
    if hashes:
        one = np.sort(np.concatenate(hashes))
        repeated = int((one[1:] == one[:-1]).sum())
    results = [
        Finding("no_vector", "error",
                f"{count:,} rows are {reason}: {_name_rows(source, Counts(count, none.first[reason]))}",
                "mend them, or leave them out: --skip-bad-rows", count, none.first[reason])
        for reason, count in none.counts.items()
    ]  # fmt: skip
    if broken.count:
        results.append(
            Finding("not_finite", "error", f"{broken.count:,} rows hold NaN or infinity: {_name_rows(source, broken)}",
                    "leave these rows out (--skip-bad-rows), or embed their texts again", broken.count, broken.rows)
        )  # fmt: skip
    return results + (findings(seen, metric, repeated) if hashes else [])


def findings(seen: Pass, metric: str, repeated: int) -> list[Finding]:
    """What a finished pass found, and what its sample shows; repeated: rows whose vector is there already."""
    source, results = seen.source, list[Finding]()
    if seen.zero.count:
        results.append(
            Finding("zero", "error" if metric == "cosine" else "note",
                    f"{seen.zero.count:,} rows are zero: {_name_rows(source, seen.zero)}",
                    "leave them out (--skip-bad-rows): they have no direction under cosine; often a text was empty",
                    seen.zero.count, seen.zero.rows)
        )  # fmt: skip
    if seen.long.count:
        results.append(
            Finding("range", "error", f"{seen.long.count:,} rows are longer than {NORM_MAX:g}, and float32 cannot hold "
                    f"their scores: {_name_rows(source, seen.long)}", "divide all by one number",
                    seen.long.count, seen.long.rows)
        )  # fmt: skip
    elif metric != "cosine" and 0 < seen.norm_max < NORM_MIN:
        results.append(
            Finding("range", "error", f"all rows are shorter than {NORM_MIN:g}: float32 cannot hold their scores",
                    "multiply all rows by one number", source.rows)
        )  # fmt: skip
    else:
        try:
            seen.check_lengths(metric)
        except InputError as error:
            results.append(Finding("range", "error", error.message, error.hint, 1, [seen.longest]))
    if repeated:
        results.append(
            Finding("duplicates", "note", f"{repeated:,} rows repeat the vector of another row",
                    "keep one of each where their texts are the same: copies tie and fill answers", repeated)
        )  # fmt: skip
    if metric == "dot" and seen.not_unit.count:
        results.append(
            Finding("norms", "note",
                    f"{seen.not_unit.count:,} rows are not of norm 1: {_name_rows(source, seen.not_unit)}",
                    "under dot long rows win; build with --metric cosine where only the direction counts",
                    seen.not_unit.count, seen.not_unit.rows)
        )  # fmt: skip
    elif metric == "cosine" and seen.not_unit.count:
        results.append(
            Finding("norms", "note", f"{seen.not_unit.count:,} rows are not of norm 1",
                    "nothing: cosine divides each row by its norm; choose dot or l2 where norms mean something",
                    seen.not_unit.count, seen.not_unit.rows)
        )  # fmt: skip
    constant = seen.constant() if source.rows > 1 else []
    if constant:
        named = ", ".join(map(str, constant[:BAD_ROWS_NAMED])) + (", and more" if constant[BAD_ROWS_NAMED:] else "")
        results.append(
            Finding("constant", "note", f"{len(constant):,} of {source.dimension:,} dimensions never change: {named}",
                    "leave them out: they cost bytes; check that vectors were not padded or cut", len(constant))
        )  # fmt: skip
    return results + _compare(seen.sample(), metric)


def _compare(x: F32, metric: str) -> list[Finding]:
    """Contrast and hubs of a sample (n, d), its rows compared exactly."""
    wide = x.astype(np.float64)  # one scale changes nothing that is told, and keeps squares within float32
    if metric == "l2":
        wide = wide - origin_of(x)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    if metric == "cosine":
        x = (wide[norms[:, 0] >= NORM_MIN] / norms[norms[:, 0] >= NORM_MIN]).astype(np.float32)
    else:
        x = (wide / (norms.max(initial=0) or 1.0)).astype(np.float32)
    x = np.unique(x, axis=0) if len(x) else x  # copies are no neighbours here
    if len(x) <= 2 * NEAR:
        return []
    queries = np.random.default_rng(5).choice(len(x), min(QUERIES, len(x)), replace=False)
    squares, ids = faiss.knn(x[queries], x, NEAR + 1)  # the row itself comes first
    near = np.sqrt(np.maximum(squares[:, NEAR], 0)).astype(np.float64)
    mean = np.sqrt(np.maximum(_mean_squares(x[queries], x), 0))
    contrast = float(np.median(mean / np.maximum(near, 1e-30)))
    word, cost = (
        ("hard", "neighbours are hardly nearer than other rows, so a query reads much")
        if contrast < HARD
        else ("easy", "neighbours stand out, so a query reads little")
        if contrast > EASY
        else ("usual", "a query reads as much as on other embeddings")
    )
    todo = {"hard": "expect more bytes a query; try a lower --recall or another embedding"}.get(word, "nothing")
    results = [
        Finding("contrast", "note", f"{word}: rows are {contrast:.2f} times as far as the {NEAR}th neighbour "
                f"in a sample of {len(x):,}; {cost}", todo)
    ]  # fmt: skip
    nearest = np.linalg.norm(x[queries].astype(np.float64) - x[ids[:, 1]], axis=1)
    close = int((nearest < mean / NEARNESS).sum())
    if close > CLOSE_SHARE * len(queries):
        results.append(
            Finding("near_copies", "note", f"{close:,} of {len(queries):,} rows of the sample have another row at less "
                    f"than a {NEARNESS}th of the usual distance: codes may not tell such rows apart",
                    "leave out near copies, or expect answers to take more exact scores, which a build says", close)
        )  # fmt: skip
    times = np.bincount(ids[:, 1 : HUB_K + 1].ravel(), minlength=len(x))
    usual = max(1.0, len(queries) * HUB_K / len(x))
    hubs = int((times > HUB_TIMES * usual).sum())
    if hubs:
        results.append(
            Finding("hubs", "note", f"{hubs:,} rows of the sample are among the {HUB_K} nearest of more than "
                    f"{int(HUB_TIMES * usual)} of {len(queries)} others, one of {int(times.max())}",
                    "look at them: often they are empty, short or generic texts", hubs)
        )  # fmt: skip
    return results


def _mean_squares(queries: F32, x: F32) -> npt.NDArray[np.float64]:
    """f64 (Q): mean squared distance of each query to the rows x, in closed form."""
    centre = x.mean(0, dtype=np.float64)
    spread = float(np.einsum("ij,ij->", x, x, dtype=np.float64)) / len(x) - float(centre @ centre)
    out: npt.NDArray[np.float64] = ((queries - centre) ** 2).sum(1) + spread
    return out


def _finite(source: Source, broken: Counts, none: Skipped) -> Iterator[tuple[Ints, npt.NDArray[Any]]]:
    """Numbers and vectors of rows that are finite; the others are counted, in `none` those without a vector."""
    for rows, vectors in source.raw_vectors(BATCH_ROWS, none):
        good = np.asarray(np.isfinite(vectors).all(1))
        broken.add(~good, rows)
        if good.any():
            yield rows[good], vectors[good]


def _name_rows(source: Source, counts: Counts) -> str:
    return ", ".join(map(source.where, counts.rows)) + (", and more" if counts.count > len(counts.rows) else "")
