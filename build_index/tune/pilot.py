"""Says before a row is encoded what codes of a length would find: exact scores, off by as much as such codes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..blocks.layout import Layout
from ..codecs.planes import ROUNDING_SHARE, Codec, approximate, fixed_part
from ..ingest.rows import F32, Rows
from ..kernels import matmul
from ..neighbours.exact import I32
from ..neighbours.truth import Truth, neighbours_of
from ..simulate.edge import HeldOutQueries
from ..simulate.measure import Candidates, judge

NEAR = 1.5  # times k: rows that errors may bring among the answers
NEAR_MAX = 1022  # of them: with the query itself, what is kept of exact neighbours
ERROR_QUERIES, ERROR_NEAR = 100, 20  # rows held out, and neighbours of each, whose scores are compared


@dataclass(frozen=True)
class Pilot:
    """Rows near to Q queries, i32 (Q, R), best first, -1 for none, and their exact scores f32 (Q, R)."""

    truth: Truth
    near: I32
    score: F32

    def candidates(self, layout: Layout, error: float, seed: int) -> Candidates:
        """What a scan would keep with scores that are off by `error`, independent of each other; without scores.

        The same draws for any error, so that what differs between two lengths is not chance.
        """
        queries, near = self.near.shape
        blocks = np.moveaxis(layout.holders(self.near), 0, 2)
        live = self.near[:, :, None] >= 0
        live = np.repeat(live, blocks.shape[2], axis=2)
        live[:, :, 1:] &= blocks[:, :, 1:] != blocks[:, :, :1]
        drawn = np.random.default_rng([seed, 9]).standard_normal(blocks.shape, np.float32)
        score = np.where(live, self.score[:, :, None] + np.float32(error) * drawn, np.float32(-np.inf))
        order = np.argsort(-score.reshape(queries, -1), axis=1, kind="stable")

        def ranked(column: npt.NDArray[np.int32]) -> I32:
            flat = np.where(live, column, np.int32(-1)).reshape(queries, -1)
            return np.ascontiguousarray(np.take_along_axis(flat, order, 1))

        return judge(ranked(blocks), ranked(self.near[:, :, None]), self.truth)


def pilot_of(rows: Rows, held: HeldOutQueries, k: int) -> Pilot:
    """Of rows held out, for recall@k."""
    queries = np.array([query.vector for query in held.queries], np.float32)
    most = min(int(NEAR * k) + ERROR_NEAR, NEAR_MAX, rows.count - 1)
    near, cost = neighbours_of(rows, held.rows, queries, most)
    return Pilot(held.truth, near, cost * np.float32(-0.5 if rows.metric == "l2" else -1.0))


def score_error(rows: Rows, layout: Layout, codec: Codec, held: HeldOutQueries) -> float:
    """By how much scores of neighbours by their codes are off, root mean square.

    Counted with it is the rounding of tables, and of what a row adds, h, whose range in a block is taken to be the one
    that it has here.
    """
    some = np.linspace(0, len(held.rows) - 1, min(ERROR_QUERIES, len(held.rows))).astype(np.int64)
    near = held.truth.rows[some, :ERROR_NEAR].astype(np.int64)
    of, known = np.nonzero(near >= 0)
    near = near[of, known]
    centres = layout.centres[layout.partition.home[near]]
    residuals = rows.take(near) - centres
    away = np.array([held.queries[i].vector for i in some], np.float32)[of] - centres
    _, decoded, f = approximate(codec, residuals)
    off = f * np.einsum("ij,ij->i", matmul(away, codec.axes), decoded) - np.einsum("ij,ij->i", away, residuals)
    h = fixed_part(residuals, centres, rows.metric) - f * np.einsum("ij,ij->i", decoded, matmul(centres, codec.axes))
    rounding = float(np.ptp(h)) / 255
    return float(np.sqrt((1 + ROUNDING_SHARE) * np.mean(off.astype(np.float64) ** 2) + rounding**2 / 12))
