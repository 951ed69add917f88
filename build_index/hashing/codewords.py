"""Codewords: directions and a linear code, which give each vector the codeword that agrees best with its margins.

The routing half of error-correcting vantage hashing (ECVH): the margins <x, w_i> - t_i of a vector to n vantage
directions are decoded softly, to the codeword of the largest sum of margins, those where it has a 1 subtracted.
Codewords are few enough that all of them are tried, so decoding is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from ..ingest.rows import F32, Ints, Rows
from ..kernels import matmul
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .minimise import minimise
from .products import times

GOLAY = 0b110001110101  # x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1: generates the perfect code (23, 12, 7)
GOLAY_BITS, GOLAY_MESSAGE = 23, 12
MESSAGE_MAX = 20
SCORES_MAX = 1 << 23  # of a training step: rows times codewords
START_ROWS = 30_000  # for principal directions
ITQ_ROUNDS = 30
SPARE_BITS = 2  # to pick from in a tree
BETA = 20.0  # over the spread of the rows, to start from
SPREAD_MIN = 1e-6  # as of a training
FACTORS = 32  # of a first level: of 16, 24 and 32 they name most from 10,000 blocks on (bench/research/first_level.py)
FACTOR_ROUNDS, SIGN_ROUNDS = 30, 3
RIDGE = 1e-3  # of the rows, so that directions that few codewords tell apart stay short
SHARP = 1.5  # rows are decoded this much more sharply than queries, as they lie in one bucket each
STEPS = 900
BATCH = 1024
RATES = {"directions": 4e-3, "threshold": 4e-3, "log_beta": 0.01}
CHUNK_BYTES = 16 << 20
U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Codewords:
    """directions f32 (n, d), threshold f32 (n). generator u32 (n): bit i of the codeword of message u is the parity of
    u & generator_i. message u32 (B): of each block. beta: the probability that a block holds a neighbour of x is the
    softmax of beta times its sum of signed margins.
    """

    directions: F32
    threshold: F32
    generator: U32
    message: U32
    beta: float

    def reordered(self, order: Ints) -> Codewords:
        """The same with block order[i] as number i."""
        return replace(self, message=self.message[order])

    def decoded(self, rows: Rows) -> npt.NDArray[np.int32]:
        """i32 (N): the block of the codeword that agrees best with each row."""
        out, table = np.empty(rows.count, np.int32), signs(self.generator, self.message)
        for at, x in rows.chunks(CHUNK_BYTES * rows.dimension // len(self.message)):
            out[at : at + len(x)] = matmul(matmul(x, self.directions) - self.threshold, table).argmax(1)
        return out


def golay(message_bits: int = GOLAY_MESSAGE) -> U32:
    """Generator of the Golay code (23, 12, 7), shortened to messages of fewer bits: 11 + message_bits columns.

    Systematic: the first bits of a codeword are its message. Every word of 23 bits is within distance 3 of exactly one
    of the 4,096 codewords. Raises InputError for no bits or over 12.
    """
    if not 1 <= message_bits <= GOLAY_MESSAGE:
        raise InputError(
            f"Golay buckets by {message_bits} bits", hint="ask for 2 to 4,096 blocks, or for another partition"
        )
    parity = GOLAY_BITS - GOLAY_MESSAGE
    columns = [1 << j for j in range(message_bits)] + parity * [0]
    for j in range(message_bits):
        rest = 1 << (parity + j)  # modulo the polynomial: what makes x^(11 + j) a codeword
        for power in range(parity + j, parity - 1, -1):
            if rest >> power & 1:
                rest ^= GOLAY << (power - parity)
        for i in range(parity):
            columns[message_bits + i] |= (rest >> i & 1) << j
    return np.array(columns, np.uint32)


def plain(message_bits: int) -> U32:
    """Generator of no code: each bit of a word is one of the message, and every word of so many bits is a codeword."""
    return (1 << np.arange(message_bits)).astype(np.uint32)


def code(message_bits: int) -> U32:
    """Generator of the buckets of so many bits: one Golay word up to 12 of them, above that two, half of them each.

    Two codewords still differ in 7 bits. Bits that no message sets, of a code much shortened, are left out. Raises
    InputError for no bits or over 20, the most blocks of an index.
    """
    if message_bits <= GOLAY_MESSAGE:
        generator = golay(message_bits)
        return generator[generator > 0]
    if message_bits > MESSAGE_MAX:
        raise InputError(
            f"buckets by {message_bits} bits", hint="ask for 2 to 1,048,576 blocks, or for another partition"
        )
    first = message_bits // 2
    return np.concatenate([code(first), code(message_bits - first) << np.uint32(first)])


def signs(generator: U32, message: U32) -> F32:
    """f32 (len(message), n): 1 where a bit of the codeword is 0, -1 where it is 1."""
    out: F32 = (1 - 2 * (np.bitwise_count(message[:, None] & generator) & 1).astype(np.float32)).astype(np.float32)
    return out


def start_codewords(x: F32, generator: U32, message: U32, seed: int) -> Codewords:
    """Principal directions of rows x (m, d), turned so that signs lose least, and medians; beta by their spread.

    ITQ: Gong and Lazebnik 2011. Beyond the dimension, random directions.
    """
    rng, n = np.random.default_rng([seed, 8]), len(generator)
    centred = x - x.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :n]
    if axes.shape[1] < n:
        axes = np.concatenate([axes, rng.standard_normal((len(axes), n - axes.shape[1])) / len(axes) ** 0.5], 1)
    y = centred @ axes
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    for _ in range(ITQ_ROUNDS):
        left, _, right = np.linalg.svd(y.T @ np.sign(y @ turn))
        turn = left @ right
    directions = (axes @ turn).T.astype(np.float32)
    beta = BETA / max(float(x.var(0, dtype=np.float64).sum()), SPREAD_MIN)
    return Codewords(directions, np.median(x @ directions.T, 0).astype(np.float32), generator, message, beta)


def prefix_codewords(
    rows: Rows, sample: Ints, leaves: int, graph: Graph, seed: int, progress: Progress = SILENT
) -> Codewords:
    """Trained codewords without a code, with two bits more than so many leaves need, 12 at most: a BEC-tree's.

    Raises InputError for fewer than 2 leaves.
    """
    if leaves < 2:
        raise InputError(f"prefixes for {leaves} leaves", hint="ask for 2 or more")
    bits = min((leaves - 1).bit_length() + SPARE_BITS, GOLAY_MESSAGE)
    some, message = rows.take(sample[:: max(1, len(sample) // START_ROWS)]), np.arange(1 << bits, dtype=np.uint32)
    return train_codewords(rows, sample, graph, start_codewords(some, plain(bits), message, seed), seed, progress)


Draw = Callable[[np.random.Generator], tuple[F32, F32]]


def train_codewords(
    rows: Rows,
    sample: Ints,
    graph: Graph,
    start: Codewords,
    seed: int,
    progress: Progress = SILENT,
) -> Codewords:
    """Codewords by which a row of the sample and its neighbours in the graph decode alike: see `train_on_pairs`.

    graph i32 (N, k): see graph.neighbour_graph.
    """
    known = np.zeros(rows.count, bool)
    known[sample] = True
    batch = max(64, min(BATCH, SCORES_MAX // len(start.message)))

    def draw(rng: np.random.Generator) -> tuple[F32, F32]:
        drawn = np.sort(rng.choice(sample, min(batch, len(sample)), replace=False))
        near = graph[drawn, rng.integers(graph.shape[1], size=len(drawn))]
        near = np.where((near >= 0) & known[near], near, drawn)  # a row that may not train, or none
        return rows.take(drawn), rows.take(near.astype(np.int64))

    return train_on_pairs(start, draw, seed, progress)


def train_on_pairs(start: Codewords, draw: Draw, seed: int, progress: Progress = SILENT) -> Codewords:
    """Directions, thresholds and beta moved so that what draw(rng) -> (q, x), each f32 (m, d), pairs decodes alike.

    The loss is the mean of -log sum_c P(c | q) P(c | x) / P(c) over the pairs, P(c) the mean over the batch: the
    likelihood of x beside q in a model where the codeword is all that they share. Its denominator is what keeps buckets
    balanced. Adam, rates falling as a cosine.
    """
    import jax
    import jax.numpy as jnp

    table = jnp.asarray(signs(start.generator, start.message))

    def loss(now: dict[str, Any], q: Any, x: Any) -> Any:
        margins = times(jnp.concatenate([q, x]), now["directions"]) - now["threshold"]
        scores = jnp.exp(now["log_beta"]) * times(margins, table)
        query, row = jax.nn.log_softmax(scores[: len(q)]), jax.nn.log_softmax(SHARP * scores[len(q) :])
        return -jax.nn.logsumexp(query + row - jnp.log(jnp.exp(row).mean(0) + 1e-7), axis=1).mean()

    rng = np.random.default_rng([seed, 9])
    parameters = {
        "directions": start.directions, "threshold": start.threshold, "log_beta": np.float32(np.log(start.beta)),
    }  # fmt: skip
    learnt = minimise(loss, parameters, RATES, STEPS, lambda: draw(rng), progress)
    return replace(
        start, directions=learnt["directions"], threshold=learnt["threshold"], beta=float(np.exp(learnt["log_beta"]))
    )


def factor_centres(x: F32, centres: F32, seed: int, factors: int = FACTORS) -> Codewords:
    """Codewords of so many signs in the place of centres f32 (R, d) of regions of rows x f32 (n, d).

    A region's centre becomes the sum of all directions, each with a sign: its word. Any word may be one (the code of
    rate 1, factors at most 32). In turn: directions by least squares; each sign as it brings the sum nearer to the
    mean of the region's rows; thresholds that stand for half the squared length of the sum as far as a sum over signs
    can; rows to the word that agrees best. Codewords that are equal, or that no row of x agrees with best, are left
    out.
    """
    mean = x.mean(0)
    start = start_codewords(x, (1 << np.arange(factors)).astype(np.uint32), np.empty(0, np.uint32), seed)
    target, mass = centres - mean, np.ones(len(centres), np.float32)
    sign = np.where(target @ start.directions.T >= 0, 1, -1).astype(np.float32)
    for _ in range(FACTOR_ROUNDS):
        weighed = (sign * mass[:, None]).T
        directions = np.linalg.solve(weighed @ sign + RIDGE * mass.sum() * np.eye(factors), weighed @ target)
        inner, aim = directions @ directions.T, target @ directions.T
        for _ in range(SIGN_ROUNDS):
            for i in range(factors):
                sign[:, i] = np.where(aim[:, i] - sign @ inner[:, i] + sign[:, i] * inner[i, i] >= 0, 1, -1)
        sign = np.unique(sign, axis=0)
        half = 0.5 * np.einsum("ij,jk,ik->i", sign, inner, sign, optimize=True)
        threshold = np.linalg.lstsq(np.c_[sign, np.ones(len(sign))], half)[0][:factors] + directions @ mean
        agreement = faiss.IndexFlatIP(factors)
        agreement.add(sign)
        home = agreement.search((x @ directions.T - threshold).astype(np.float32), 1)[1][:, 0]
        mass = np.bincount(home, minlength=len(sign)).astype(np.float32)
        total = np.zeros((len(sign), x.shape[1]), np.float32)
        np.add.at(total, home, x - mean)
        sign, target, mass = sign[mass > 0], total[mass > 0] / mass[mass > 0, None], mass[mass > 0]
    message = ((sign < 0) @ (1 << np.arange(factors, dtype=np.int64))).astype(np.uint32)
    return replace(
        start, directions=directions.astype(np.float32), threshold=threshold.astype(np.float32), message=message
    )
