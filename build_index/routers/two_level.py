"""two-level: sub-centroids of blocks in pages, one a run of blocks in file order, and a resident table of the runs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from vantage.format import LseSection, RouterSection, TwoLevelSection
from vantage.kernels import crc32c

from ..lesson import Cost, Lesson
from ..rows import F32, Ints
from . import lse

REGION_SUBS = 64  # 0.6 MB resident of 16,384 blocks; with 16, the same bytes of pages held 4 points less recall
PAGE_WORTH = 2.0**-10  # probability that a page of mean size must bring, until it is tuned
PAGE_WORTHS = tuple(2.0**-n for n in (4, 5, 6, 7, 8, 10))
REGION_TEMPERATURES = (2.0, 1.0, 4.0)  # over that of the blocks; the first one serves to find the worth
P_BITS = 44


def fit(lesson: Lesson, cost: Cost, progress: Callable[[float], None]) -> TwoLevelSection:
    """Sub-centroids, beta and temperature as lse has them, on all blocks; `ordered` makes the regions."""

    def whole(section: RouterSection) -> float:
        assert isinstance(section, LseSection)
        return cost(_paged(section, np.array([0, lesson.blocks]), lesson.seed))

    return _paged(lse.fit(lesson, whole, progress), np.array([0, lesson.blocks]), lesson.seed)


def ordered(section: TwoLevelSection, order: Ints) -> TwoLevelSection:
    """Block order[i] as number i; regions are then about sqrt(B) runs of consecutive blocks."""
    blocks = len(order)
    firsts = np.linspace(0, blocks, max(1, round(blocks**0.5)) + 1).astype(np.int64)
    return _paged(lse.ordered(_flat(section), order), firsts, 0)


def tuned(section: TwoLevelSection, cost: Cost) -> TwoLevelSection:
    """What a page must be worth, then how sharply regions are told apart, by cost.

    Where no candidate reaches the recall, all have the same cost, and the section stays as it was.
    """
    regions = section.regions
    tables = [replace(regions, temperature=regions.temperature * t) for t in REGION_TEMPERATURES]
    priced = (replace(section, price=_price(worth, section.size), regions=tables[0]) for worth in PAGE_WORTHS)
    best, least = section, cost(section)
    for tried in priced:
        if (found := cost(tried)) < least:
            best, least = tried, found
    for table in tables[1:]:
        tried = replace(best, regions=table)
        if (found := cost(tried)) < least:
            best, least = tried, found
    return best


def _price(worth: float, sizes: Sequence[int]) -> int:
    """Of a byte, where a page of mean size must bring this probability."""
    mean = sum(sizes) / len(sizes)
    return min((1 << 32) - 1, int(worth * (1 << P_BITS) / mean))


def _flat(section: TwoLevelSection) -> LseSection:
    """The tables of all pages as one."""
    parts: list[list[bytes]] = [[], [], []]
    for r, (at, size) in enumerate(zip(section.offset, section.size, strict=True)):
        page = bytes(section.pages[at : at + size])
        n = (section.first_block[r + 1] - section.first_block[r]) * section.subs
        for part, piece in zip(parts, (page[: 4 * n], page[4 * n : 8 * n], page[8 * n :]), strict=True):
            part.append(piece)
    scale, weight, table = (b"".join(part) for part in parts)
    floats = [memoryview(np.frombuffer(column, np.float32)) for column in (scale, weight)]
    return LseSection(section.bits, section.subs, section.beta, section.temperature, memoryview(table), *floats)


def _paged(flat: LseSection, firsts: Ints, seed: int) -> TwoLevelSection:
    """Pages of the blocks firsts[r] up to firsts[r + 1], and a table of REGION_SUBS sub-centroids of each.

    A sub-centroid of a region stands for those of its blocks: its weight is the sum of theirs.
    """
    scale, weight = np.array(flat.scale, np.float32), np.array(flat.weight, np.float32)
    table = np.frombuffer(flat.table, np.uint8).reshape(len(scale), -1)
    values = lse.unpacked(table, flat.bits).astype(np.float32) * scale[:, None]
    pages, sizes, crcs = [], array("I"), array("I")
    regions = len(firsts) - 1
    centre = np.zeros((regions, REGION_SUBS, values.shape[1]), np.float32)
    mass = np.full((regions, REGION_SUBS), -np.inf, np.float32)
    for r in range(regions):
        part = slice(int(firsts[r]) * flat.subs, int(firsts[r + 1]) * flat.subs)
        page = scale[part].tobytes() + weight[part].tobytes() + table[part].tobytes()
        pages.append(page)
        sizes.append(len(page))
        crcs.append(crc32c(page))
        centre[r], mass[r] = summary(values[part], weight[part], seed, REGION_SUBS)
    offset = array("Q", [0, *accumulate(sizes[:-1])])
    resident = _region_table(centre, mass, flat)
    return TwoLevelSection(
        resident, flat.bits, flat.subs, flat.beta, flat.temperature, _price(PAGE_WORTH, sizes),
        array("I", firsts.tolist()), offset, sizes, crcs, int(sum(sizes)), memoryview(b"".join(pages)),
    )  # fmt: skip


def _region_table(centre: F32, mass: F32, flat: LseSection) -> LseSection:
    """The resident table. packed() centres rows, which adds the same to every score."""
    bits = flat.bits
    return lse.packed(
        centre.reshape(-1, centre.shape[2]), mass.reshape(-1), REGION_SUBS, flat.beta, flat.temperature, bits
    )


def summary(values: F32, weight: F32, seed: int, subs: int) -> tuple[F32, F32]:
    """(centres (subs, d), log of their mass): k-means of sub-centroids that exist."""
    x, w = values[np.isfinite(weight)], weight[np.isfinite(weight)]
    found = lse.sub_centroids(x, np.zeros(len(x), np.int32), 1, seed, subs)
    c = found.table[0]
    live = found.count[0] > 0
    near = x @ c.T - 0.5 * np.einsum("ij,ij->i", c, c)
    near[:, ~live] = -np.inf
    tag = near.argmax(1)
    mass = np.full(subs, -np.inf, np.float32)
    np.logaddexp.at(mass, tag, w)
    return c, mass
