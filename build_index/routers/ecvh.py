"""ecvh: vantage directions and the code that made the blocks, a hundredth of the bytes of their centroids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from vantage.errors import InputError
from vantage.format import EcvhSection

from ..hashing.codewords import Codewords, signs
from ..hashing.prefixes import Prefixes
from ..hashing.products import times
from ..ingest.rows import Ints
from ..progress import Progress
from . import learn
from .packing import quantize, round_through
from .training import Cost, TrainingSet, cheapest

RATES = {"directions": 2e-3, "threshold": 2e-3, "log_beta": 0.02}
STEPS = 150
BATCH = 512
TEMPERATURES = (1.0, 0.7, 0.85, 1.15)
BITS = 4
T = TypeVar("T", Codewords, Prefixes)


def fit(training: TrainingSet, cost: Cost, progress: Progress) -> EcvhSection:
    """The codewords that made the blocks, or trained on where neighbours and copies lie; which, and the temperature,
    by cost.

    Raises InputError for blocks that are not buckets of a code.
    """
    import jax.numpy as jnp

    codewords = training.partition.codewords
    if codewords is None:
        raise InputError("the router ecvh on blocks that are not buckets of a code", hint="it takes --partition ecvh")
    table = jnp.asarray(signs(codewords.generator, codewords.message))

    def scores(now: dict[str, Any], q: Any) -> Any:
        margins = times(q, round_through(now["directions"], BITS)) - now["threshold"]
        return jnp.exp(now["log_beta"]) * times(margins, table)

    further = train_directions(codewords, scores, training, progress.part(0, 0.8))
    return cheapest([section(further), section(codewords)], TEMPERATURES, cost)


def train_directions(
    start: T, scores: Callable[[dict[str, Any], Any], Any], training: TrainingSet, progress: Progress
) -> T:
    """The same with directions, threshold and beta trained; scores(parameters, queries) as learn.train takes them."""
    parameters = {
        "directions": start.directions, "threshold": start.threshold, "log_beta": np.float32(np.log(start.beta)),
    }  # fmt: skip
    learnt = learn.train(parameters, RATES, scores, training, STEPS, BATCH, progress)
    return replace(
        start, directions=learnt["directions"], threshold=learnt["threshold"], beta=float(np.exp(learnt["log_beta"]))
    )


def section(codewords: Codewords, bits: int = BITS) -> EcvhSection:
    """The codewords as stored. Margins are made no longer than the query of norm 1, which is where they are cut."""
    unit = float((np.linalg.norm(codewords.directions, axis=1) + np.abs(codewords.threshold)).max())
    table, scale = quantize(codewords.directions / np.float32(unit), bits)
    bias = (-codewords.threshold / unit).astype(np.float32)
    message_bits = max(int(codewords.generator.max()).bit_length(), 1)
    stored = planes(codewords.message, message_bits)
    return EcvhSection(
        bits, message_bits, codewords.beta * unit, TEMPERATURES[0], memoryview(scale), memoryview(bias),
        memoryview(codewords.generator), memoryview(stored), memoryview(table),
    )  # fmt: skip


def reorder(section: EcvhSection, order: Ints) -> EcvhSection:
    """Block order[i] as number i."""
    stored = np.frombuffer(section.messages, np.uint8).reshape(section.message_bits, -1)
    bit = np.unpackbits(stored, axis=1, count=len(order), bitorder="little").astype(np.uint32)
    message = (bit << np.arange(section.message_bits, dtype=np.uint32)[:, None]).sum(0, dtype=np.uint32)
    return replace(section, messages=memoryview(planes(message[order], section.message_bits)))


def planes(message: Any, message_bits: int) -> bytes:
    """Plane j: bit j of each message, integers (B), eight a byte."""
    bit = (message >> np.arange(message_bits, dtype=message.dtype)[:, None] & 1).astype(np.uint8)
    return np.packbits(bit, axis=1, bitorder="little").tobytes()
