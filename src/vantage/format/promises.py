"""The promises section: recalls that an index keeps, and how; vantage.search.estimate has the arithmetic."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise

from .layout import Cursor, damaged, finite

FEATURES = 4  # of a query after its reads; see vantage.search.estimate
_PROMISES = struct.Struct("<II")
_ESTIMATOR = struct.Struct(f"<IIIIdd{1 + FEATURES}d")
RERANK_MAX = 200  # rows that a query may ask the full vectors of
# Those that a promise may read, where codes tell rows apart too little; of so many bytes together.
PROMISED_RERANK_MAX, PROMISED_VECTORS_MAX = 4096, 4 << 20
SHARPNESS_MIN, SHARPNESS_MAX = 0.125, 8.0  # of a promise
_LADDER = struct.Struct("<II")
_PROMISE = struct.Struct("<dIIdIfdddd")


@dataclass(frozen=True)
class Estimator:
    """What a query's recall@k is, from what it saw; vantage.search.estimate has the arithmetic.

    rendition: of the blocks that it read. rerank: rows that were given exact scores, 0 none. weights: 1 + FEATURES, of
    the log odds that a neighbour was read.
    ceiling: mean recall of the codes where all are; width: how fast what the codes lose fades as fewer are.
    """

    k: int
    rerank: int
    ceiling: float
    width: float
    weights: tuple[float, ...]
    rendition: int = 0


@dataclass(frozen=True)
class Promise:
    """What keeps a recall at the contract's k, and means a query of what that took on held-out rows, nothing cached.

    sharpness: the power that the router's probabilities are raised to: the nearest of few answers lie in fewer blocks.
    rendition: of the blocks that are read. rerank: rows whose full vectors are read, 0 for none.
    A query whose estimate is below `threshold` (0: none) reads a
    second wave, at a price by how far below. nbytes, gets and waves count all of it; ms is the modelled time.
    """

    recall: float
    price: int
    rerank: int
    threshold: float
    nbytes: float
    gets: float
    waves: float
    ms: float
    rendition: int = 0
    sharpness: float = 1.0


@dataclass(frozen=True)
class Ladder:
    """Promises of recall@k, by rising recall."""

    k: int
    by_recall: tuple[Promise, ...]


@dataclass(frozen=True)
class Promises:
    """Estimators by (rendition, k, rerank), rising, and promises by rising recall; the best one is last.

    by_recall: at the contract's k. others: at other k, rising: fewer answers take fewer reads, more take more.
    """

    estimators: tuple[Estimator, ...]
    by_recall: tuple[Promise, ...]
    others: tuple[Ladder, ...] = ()

    def all(self) -> list[Promise]:
        """Of every k."""
        return [p for by_recall in (*(ladder.by_recall for ladder in self.others), self.by_recall) for p in by_recall]

    def ladders(self, k: int) -> list[Ladder]:
        """All of them by rising k; k: the contract's."""
        return sorted([*self.others, Ladder(k, self.by_recall)], key=lambda ladder: ladder.k)

    def pack(self) -> bytes:
        out = _PROMISES.pack(len(self.estimators), len(self.by_recall))
        out += b"".join(
            _ESTIMATOR.pack(e.rendition, e.k, e.rerank, 0, e.ceiling, e.width, *e.weights) for e in self.estimators
        )
        out += _pack(self.by_recall)
        return out + b"".join(_LADDER.pack(x.k, len(x.by_recall)) + _pack(x.by_recall) for x in self.others)

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Promises:
        cursor = Cursor(body, label)
        estimators_count, promises_count = cursor.unpack(_PROMISES)
        estimators, others = [], []
        for _ in range(min(estimators_count, 4096)):
            rendition, k, rerank, _, ceiling, width, *weights = cursor.unpack(_ESTIMATOR)
            estimators.append(Estimator(k, rerank, ceiling, width, tuple(weights), rendition))
        by_recall = _unpack(cursor, promises_count, label)
        while cursor.at < len(body):  # there may be none
            k, count = cursor.unpack(_LADDER)
            others.append(Ladder(k, _unpack(cursor, count, label)))
        finite(label, *(list(e.weights) for e in estimators))
        order = [(e.rendition, e.k, e.rerank) for e in estimators]
        if not estimators or order != sorted(set(order)):
            raise damaged(label, f"{len(estimators)} estimators, or out of order")
        if not all(e.k >= 1 and 0 < e.ceiling <= 1 and 0.001 <= e.width <= 1000 for e in estimators):
            raise damaged(label, "an estimator is out of range")
        if not all(a < b for a, b in pairwise([0, *(ladder.k for ladder in others)])):
            raise damaged(label, "promises of other k are out of order")
        return cls(tuple(estimators), by_recall, tuple(others))


def _pack(by_recall: tuple[Promise, ...]) -> bytes:
    return b"".join(
        _PROMISE.pack(
            p.recall, p.price, p.rerank, p.threshold, p.rendition, p.sharpness, p.nbytes, p.gets, p.waves, p.ms
        )
        for p in by_recall
    )


def _unpack(cursor: Cursor, count: int, label: str) -> tuple[Promise, ...]:
    promises = []
    for _ in range(min(count, 4096)):
        recall, price, rerank, threshold, rendition, sharpness, *means = cursor.unpack(_PROMISE)
        nbytes, gets, waves, ms = means
        promises.append(Promise(recall, price, rerank, threshold, nbytes, gets, waves, ms, rendition, sharpness))
    if not promises:
        raise damaged(label, "there are no promises")
    if not all(
        0 <= p.recall <= 1 and 0 <= p.threshold <= 1 and p.rerank <= PROMISED_RERANK_MAX
        and SHARPNESS_MIN <= p.sharpness <= SHARPNESS_MAX
        and all(0 <= v < math.inf for v in (p.nbytes, p.gets, p.waves, p.ms))
        for p in promises
    ) or any(a.recall > b.recall for a, b in pairwise(promises)):  # fmt: skip
        raise damaged(label, "a promise is out of range or out of order")
    return tuple(promises)
