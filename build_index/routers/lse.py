"""lse: a few sub-centroids a block, log-sum-exp of their scores, one beta and one temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.format import LseSection, aligned

from ..rows import F32

ROUNDS = 6
SUBS = 8


@dataclass(frozen=True)
class SubCentroids:
    """table f32 (B, S, d), count f32 (B, S), 0 where a block has fewer."""

    table: F32
    count: F32


def sub_centroids(x: F32, home: npt.NDArray[np.int32], blocks: int, seed: int, subs: int = SUBS) -> SubCentroids:
    """k-means inside each block over the sample rows x (n, d) with first assignments home (n)."""
    rng = np.random.default_rng([seed, 2])
    table, count = np.zeros((blocks, subs, x.shape[1]), np.float32), np.zeros((blocks, subs), np.float32)
    order = np.argsort(home, kind="stable")
    ends = np.cumsum(np.bincount(home, minlength=blocks))
    for b in range(blocks):
        y = x[order[(ends[b - 1] if b else 0) : ends[b]]]
        if not len(y):
            continue
        c = y[rng.choice(len(y), min(subs, len(y)), replace=False)].copy()
        for _ in range(ROUNDS):
            tag = (y @ c.T - 0.5 * np.einsum("ij,ij->i", c, c)).argmax(1)
            n = np.bincount(tag, minlength=len(c)).astype(np.float32)
            pick = (tag == np.arange(len(c))[:, None]).astype(np.float32)
            c = np.where(n[:, None] > 0, pick @ y / np.maximum(n, 1)[:, None], c)
        table[b, : len(c)], count[b, : len(c)] = c, n
    return SubCentroids(table, count)


def pack_i4(values: npt.NDArray[np.int8]) -> bytes:
    """i8 (n, d) in -8..7 -> the layout of matvec_i4: 32 dimensions in 16 bytes, the first 16 in the low nibbles."""
    n, d = values.shape
    padded = np.full((n, aligned(d, 32)), 8, np.uint8)
    padded[:, :d] = (values + 8).astype(np.uint8)
    groups = padded.reshape(n, -1, 2, 16)
    return (groups[:, :, 0] | groups[:, :, 1] << 4).tobytes()


def section(subs: SubCentroids, metric: str, beta: float, temperature: float, bits: int) -> LseSection:
    """The router as stored: symmetric integers with a scale a row, around the mean of all sub-centroids.

    The mean drops out: it adds the same to every score. Under l2 the score is beta (<q, c> - |c|^2 / 2).
    """
    blocks, each, d = subs.table.shape
    flat, count = subs.table.reshape(-1, d), subs.count.reshape(-1)
    live = count > 0
    mean = flat[live].mean(0)
    centred = np.where(live[:, None], flat - mean, 0)
    top = (1 << (bits - 1)) - 1
    scale = (np.abs(centred).max(1) / top).astype(np.float32)
    scale[scale == 0] = 1
    values = np.clip(np.rint(centred / scale[:, None]), -top, top).astype(np.int8)
    with np.errstate(divide="ignore"):
        weight = np.log(count)
    if metric == "l2":
        weight = weight - beta * 0.5 * np.einsum("ij,ij->i", flat, flat)
    if bits == 4:
        table = pack_i4(values)
    else:
        padded = np.zeros((len(flat), aligned(d, 16)), np.int8)
        padded[:, :d] = values
        table = padded.tobytes()
    return LseSection(
        bits, each, beta, temperature, memoryview(table), memoryview(scale), memoryview(weight.astype(np.float32))
    )
