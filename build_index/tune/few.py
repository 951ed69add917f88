"""Few rows: one block, read whole, and exact scores of every row, so that there is nothing to measure or to choose."""

from __future__ import annotations

import numpy as np

from vantage.cost import LANES, wave_ms
from vantage.format import RERANK_MAX, Contract, Estimator, Point, Promise, Promises

from ..blocks.layout import Layout, quantize_centres
from ..blocks.partition import Partition
from ..codecs import CODECS
from ..codecs.planes import Codec
from ..codecs.rotations import ROTATIONS
from ..ingest.rows import Rows
from ..neighbours.exact import exact_neighbours
from ..neighbours.truth import nearness
from ..routers import lse
from ..routers.packing import bits_of
from ..routers.training import spread_of
from ..simulate.measure import block_bytes
from .contract import depths
from .options import Options
from .promises import gather_of

FEW_ROWS = RERANK_MAX  # a query may read the full vectors of so many
CODE_BITS = 4  # a dimension
ROTATION = "hadamard"  # of the codes: it needs no training
NEAR_BY = 10  # the neighbour whose distance says how finely full vectors are to be kept
SAMPLE_ROWS = 512
SURE = (40.0, 0.0, 0.0, 0.0, 0.0)  # weights of an estimator that says that every neighbour was read


def layout_of(rows: Rows, seed: int) -> Layout:
    """All rows in one block; the router has nothing to decide."""
    x, home = rows.slice(0, rows.count), np.zeros(rows.count, np.int32)
    section, centres = quantize_centres(x.mean(0, keepdims=True), rows.metric)
    subs = lse.sub_centroids(x, home, 1, seed)
    beta = lse.BETAS[0] / spread_of(rows, np.arange(rows.count))
    router = lse.section(subs, rows.metric, beta, lse.TEMPERATURES[0], bits_of(rows.dimension))
    return Layout(Partition(centres, home), np.full((rows.count, 0), -1, np.int32), "lse", router, section, centres)


def codec_of(rows: Rows, options: Options) -> Codec:
    """Codes for rows of any kind: so few say nothing of which directions are strong."""
    d = rows.dimension
    rotation, moment = options.rotation or ROTATION, np.eye(d)
    sample = np.random.default_rng([options.seed, 8]).standard_normal((SAMPLE_ROWS, d), np.float32)
    code_bytes = max(4, d * CODE_BITS // 32 * 4)
    return CODECS[options.codec](moment, moment, code_bytes, sample, ROTATIONS[rotation](moment, options.seed))


def near(rows: Rows) -> float:
    """See truth.nearness."""
    if rows.count == 1:
        return float("inf")
    x, each = rows.slice(0, rows.count), np.arange(rows.count)
    neighbours = exact_neighbours(x, iter([(0, x)]), min(NEAR_BY, rows.count - 1), rows.metric, each)
    return nearness(rows, each, neighbours[:, -1])


def promise_exact(
    rows: Rows, layout: Layout, codec: Codec, id_bytes: float, options: Options, inline: bool
) -> tuple[Contract, Promises]:
    """Recall 1 at any k up to the rows, for the whole block, where the root does not hold it, and all full vectors."""
    k, count = min(options.k, rows.count), rows.count
    blocks = block_bytes(layout.sizes(), codec.code_bytes, id_bytes, rows.dimension).tolist() if not inline else []
    vectors = gather_of(layout.partition.home, rows)(np.arange(count)) or []
    nbytes, gets = float(sum(blocks) + sum(vectors)), float(len(blocks) + len(vectors))
    waves, ms = float(len(blocks) + bool(vectors)), wave_ms(blocks) + wave_ms(vectors)
    promise = Promise(1.0, 0, count, 0.0, nbytes, gets, waves, ms)
    points = tuple(Point(depth, 0, 1.0, nbytes, gets) for depth in depths(k))
    return Contract(k, LANES, options.recall, points), Promises((Estimator(count, count, 1.0, 1.0, SURE),), (promise,))
