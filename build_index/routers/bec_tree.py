"""bec-tree: directions and the tree that made the blocks; a block is as probable as the prefix of its leaf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vantage.errors import InputError
from vantage.format import BecTreeSection

from ..hashing.prefixes import LEAF, Prefixes
from ..hashing.products import times
from ..ingest.rows import Ints
from ..progress import Progress
from .ecvh import BITS, TEMPERATURES, planes, train_directions
from .packing import quantize, round_through
from .training import Cost, TrainingSet, cheapest


def fit(training: TrainingSet, cost: Cost, progress: Progress) -> BecTreeSection:
    """The tree's directions, or trained on where neighbours and copies lie; which, and the temperature, by cost.

    Raises InputError for blocks that are not leaves of a tree.
    """
    import jax
    import jax.numpy as jnp

    tree = training.partition.tree
    if tree is None:
        raise InputError("the router bec-tree on blocks that are not leaves", hint="it takes --partition bec-tree")
    signs = tree.signs()
    low, high = jnp.asarray(signs > 0, jnp.float32), jnp.asarray(signs < 0, jnp.float32)

    def scores(now: dict[str, Any], q: Any) -> Any:
        margins = jnp.exp(now["log_beta"]) * (times(q, round_through(now["directions"], BITS)) - now["threshold"])
        return times(jax.nn.log_sigmoid(margins), low) + times(jax.nn.log_sigmoid(-margins), high)

    further = train_directions(tree, scores, training, progress.part(0, 0.8))
    return cheapest([section(further), section(tree)], TEMPERATURES, cost)


def section(tree: Prefixes, bits: int = BITS) -> BecTreeSection:
    """The tree as stored: beta is part of scale and bias."""
    table, scale = quantize(np.float32(tree.beta) * tree.directions, bits)
    bias = (-tree.beta * tree.threshold).astype(np.float32)
    asked = np.where(tree.asked == LEAF, 255, tree.asked).astype(np.uint8)
    return BecTreeSection(
        bits, TEMPERATURES[0], memoryview(scale), memoryview(bias), memoryview(asked.tobytes()),
        memoryview(_numbers(tree.number)), memoryview(table),
    )  # fmt: skip


def reorder(section: BecTreeSection, order: Ints) -> BecTreeSection:
    """Block order[i] as number i."""
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return replace(section, numbers=memoryview(_numbers(number[section.blocks_of_leaves()])))


def _numbers(number: Any) -> bytes:
    return planes(number, BecTreeSection.planes(len(number)))
