"""Routers by name: how each is fitted, and how its blocks are renumbered. One file for each router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vantage.format import RouterSection

from ..ingest.rows import Ints
from ..progress import Progress
from . import bec_tree, ecvh, lse, mlp, trained, tree, two_level
from .training import Cost, TrainingSet


@dataclass(frozen=True)
class Router:
    """fit(training, cost, progress) -> section; ordered(section, order): block order[i] as number i.

    trains: whether fit needs training.queries and training.neighbours. tuned(section, training, cost) -> section: what
    is left to make once the blocks are in order.
    """

    fit: Callable[[TrainingSet, Cost, Progress], RouterSection]
    ordered: Callable[[Any, Ints], RouterSection]
    trains: bool = False
    tuned: Callable[[Any, TrainingSet, Cost], RouterSection] | None = None


ROUTERS: dict[str, Router] = {
    "centroids": Router(lse.fit_centroids, lse.ordered),
    "lse": Router(lse.fit, lse.ordered),
    "trained": Router(trained.fit, lse.ordered, trains=True),
    "two-level": Router(two_level.fit, two_level.ordered, tuned=two_level.tuned),
    "mlp": Router(mlp.fit, mlp.ordered, trains=True, tuned=mlp.tuned),
    "tree": Router(tree.fit, tree.ordered, trains=True),
    "ecvh": Router(ecvh.fit, ecvh.ordered, trains=True),
    "two-level-ecvh": Router(
        two_level.fit, two_level.ordered, tuned=partial(two_level.tuned, first=two_level.by_codewords)
    ),
    "bec-tree": Router(bec_tree.fit, bec_tree.ordered, trains=True),
}
