"""Routers by name: how each is fitted, and how its blocks are renumbered. One file for each router."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from vantage.format import RouterSection

from ..blocks.divide import Halves
from ..ingest.rows import Ints
from ..progress import Progress
from . import bec_tree, ecvh, lse, mlp, trained, tree, two_level
from .training import Cost, TrainingSet


@dataclass(frozen=True)
class Router:
    """fit(training, cost, progress) -> section; reorder(section, order): block order[i] as number i.

    trains: whether fit needs training.queries and training.neighbours. tune(section, training, cost) -> section: what
    is left to make once the blocks are in order. grow(section, rows before (B), after (B)) -> section: what is known of
    blocks that have grown, without training; None: it stays as it is. divide(section, training, parent (B')) ->
    section: of the blocks of the training set, each of which is, or is part of, the block parent of the section; None:
    its blocks are never divided. halves(section) -> how it tells the halves of a block apart, as blocks.divide has it;
    None: by 2-means.
    """

    fit: Callable[[TrainingSet, Cost, Progress], RouterSection]
    reorder: Callable[[Any, Ints], RouterSection]
    trains: bool = False
    tune: Callable[[Any, TrainingSet, Cost], RouterSection] | None = None
    grow: Callable[[Any, Ints, Ints], RouterSection] | None = None
    divide: Callable[[Any, TrainingSet, Ints], RouterSection] | None = None
    halves: Callable[[Any], Halves] | None = None


ROUTERS: dict[str, Router] = {
    "centroids": Router(lse.fit_centroids, lse.reorder, grow=lse.grow, divide=lse.divide),
    "lse": Router(lse.fit, lse.reorder, grow=lse.grow, divide=lse.divide),
    "trained": Router(trained.fit, lse.reorder, trains=True, grow=lse.grow),
    "two-level": Router(two_level.fit, two_level.reorder, tune=two_level.tune),
    "mlp": Router(mlp.fit, mlp.reorder, trains=True, tune=mlp.tune, grow=mlp.grow, divide=mlp.divide),
    "tree": Router(tree.fit, tree.reorder, trains=True),
    "ecvh": Router(ecvh.fit, ecvh.reorder, trains=True),
    "two-level-ecvh": Router(
        two_level.fit, two_level.reorder, tune=partial(two_level.tune, first=two_level.by_codewords)
    ),
    "bec-tree": Router(bec_tree.fit, bec_tree.reorder, trains=True, divide=bec_tree.divide, halves=bec_tree.halves),
}
