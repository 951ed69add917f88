"""bec-tree: directions and the tree that made the blocks; a block is as probable as the prefix of its leaf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import BecTreeSection

from ..blocks.divide import Halves
from ..hashing.bec_tree import parting
from ..hashing.prefixes import LEAF, Prefixes, entropy, gains, probability
from ..hashing.products import times
from ..ingest.rows import F32, Ints
from ..kernels import matmul
from ..progress import Progress
from .ecvh import BITS, TEMPERATURES, planes, train_directions
from .packing import quantize, round_through, unpack
from .training import Cost, TrainingSet, cheapest

LEAF_NODE = 255  # in place of a bit, as it is stored


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
    asked = np.where(tree.asked == LEAF, LEAF_NODE, tree.asked).astype(np.uint8)
    return BecTreeSection(
        bits, TEMPERATURES[0], memoryview(scale), memoryview(bias), memoryview(asked.tobytes()),
        memoryview(_numbers(tree.number)), memoryview(table),
    )  # fmt: skip


def reorder(section: BecTreeSection, order: Ints) -> BecTreeSection:
    """Block order[i] as number i."""
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return replace(section, numbers=memoryview(_numbers(number[section.blocks_of_leaves()])))


def halves(own: BecTreeSection) -> Halves:
    """The rows of a block on both sides of the bit, of those that its prefix does not ask, that tells most of them."""
    used = _asked(own)

    def of(block: int, x: F32) -> npt.NDArray[np.bool_] | None:
        over = _parted(own, used[block], x)
        return None if over is None else over[1]

    return of


def divide(own: BecTreeSection, training: TrainingSet, parent: Ints) -> BecTreeSection:
    """The leaf of a block in parts asks the bits that `halves` told them apart by."""
    home, rows, used = training.partition.home, training.rows, _asked(own)
    order, ends = np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=training.blocks))
    nodes, number, leaves = list[int](), list[int](), iter(own.blocks_of_leaves())

    def grow(parts: list[int], bits: list[int]) -> None:
        if len(parts) == 1:
            nodes.append(LEAF_NODE)
            number.append(parts[0])
            return
        members = [order[ends[part] - size[part] : ends[part]] for part in parts]
        every = np.sort(np.concatenate(members))
        found = _parted(own, bits, rows.take(every))
        assert found is not None  # as when they were divided
        bit, over = found
        nodes.append(bit)
        second = [bool(over[np.searchsorted(every, some[0])]) for some in members]
        for side in (False, True):
            grow([part for part, of in zip(parts, second, strict=True) if of is side], [*bits, bit])

    size = np.bincount(home, minlength=training.blocks)
    for bit in own.nodes:
        if bit != LEAF_NODE:
            nodes.append(bit)
            continue
        block = next(leaves)
        grow(np.flatnonzero(parent == block).tolist(), used[block])
    return replace(own, nodes=memoryview(bytes(nodes)), numbers=memoryview(_numbers(np.array(number))))


def _asked(own: BecTreeSection) -> list[list[int]]:
    """The bits that the prefix of each block asks."""
    return [[bit for bit, side in enumerate(prefix) if side] for prefix in own.prefixes()]


def _parted(own: BecTreeSection, used: list[int], x: F32) -> tuple[int, npt.NDArray[np.bool_]] | None:
    """The bit not used that gains most for rows x (n, d), and which of them have 1 there; None where none has both."""
    scale = np.array(own.scale, np.float32)
    table = unpack(np.frombuffer(own.table, np.uint8).reshape(len(scale), -1), own.bits)[:, : x.shape[1]]
    margins = matmul(x, table.astype(np.float32)) * scale + np.array(own.bias, np.float32)
    p = probability(margins)
    bit = parting(margins, gains(p.sum(0), entropy(p).sum(0), len(p)), used)
    return None if bit is None else (bit, margins[:, bit] < 0)


def _numbers(number: Any) -> bytes:
    return planes(number, BecTreeSection.planes(len(number)))
