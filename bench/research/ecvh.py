"""Golay buckets as routers: rows and blocks read beside centroids and lse at as many blocks, and what each part brings.

    python -m bench.research.ecvh DATA [--sets wordnet,sift] [--blocks 4096] [--rows 20000] [--steps 900]
        [--lines ecvh,prefix]

DATA holds wordnet/ and sift/. A cell is the share of all rows in %, copies counted, and the blocks, that are read where
the mean recall@100 over the held-out queries reaches 0.90 and 0.95, scores exact, by one threshold on probability over
rows; then the same for queries out of distribution, where the set has some. Nothing trains or is tuned on either.
The lines under ecvh: what the planner reads for 0.95 of tuning rows with blocks in file order, for which the section
maps block to codeword, and numbered by their codewords' messages in Gray order, where a bit a codeword would do.
--rows draws a smaller set from the base, with exact neighbours of its own. --steps: of training directions.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from bench.research.common import GOALS, Asked, Setting, drawn_rows, routed, setting_of, show
from build_index.blocks import PARTITIONS, by_codeword
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.graph_cut import votes
from build_index.blocks.layout import Layout, index_section
from build_index.blocks.partition import Partition
from build_index.hashing import codewords
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import Rows
from build_index.neighbours.exact import exact_neighbours
from build_index.progress import SILENT
from build_index.routers import ecvh
from build_index.simulate.edge import probabilities
from build_index.tune.fit import TUNE_QUERIES, reorder
from build_index.tune.fit import plan_routing as planned
from vantage.format import EcvhSection
from vantage.search.prepare import Prepared, prepare


def second_codeword(rows: Rows, base: Partition) -> npt.NDArray[np.int32]:
    """i32 (N, 1): the block of the codeword that agrees best with each row, but for that of its own."""
    made, out = base.codewords, np.empty((rows.count, 1), np.int32)
    assert made is not None
    table = codewords.signs(made.generator, made.message).T
    for at, x in rows.chunks(1 << 22):
        scores = (x @ made.directions.T - made.threshold) @ table
        scores[np.arange(len(x)), base.home[at : at + len(x)]] = -np.inf
        out[at : at + len(x), 0] = scores.argmax(1)
    return out


def numbered(setting: Setting, layout: Layout) -> None:
    """Prints what an order of blocks that needs no map costs, beside the order of a router's blocks in the file."""
    rows, few = setting.rows, setting.task.tune.take(setting.task.tune.spread(TUNE_QUERIES))
    made = layout.partition.codewords
    assert made is not None and isinstance(layout.section, EcvhSection)
    p = probabilities("ecvh", layout.section, index_section(rows, layout.blocks, rows.count, "ecvh"), few.queries)
    rank, carry = made.message.copy(), made.message >> 1
    while carry.any():  # the inverse of the Gray code: the parity of a bit and all above
        rank, carry = rank ^ carry, carry >> 1
    nbytes = len(layout.section.pack())
    bits = nbytes - len(layout.section.messages) + -(-(1 << layout.section.message_bits) // 8)
    for what, order, size in (
        ("file order", np.arange(layout.blocks), nbytes), ("Gray order, no map", np.argsort(rank), bits)
    ):  # fmt: skip
        reads = planned(setting.task, reorder(layout, order), p[:, order], few)
        print(f"  {what:32}{size:9,}  {reads.gets:.2f} GETs, {reads.nbytes / 1e6:.2f} MB", flush=True)


def by_codewords(what: str, setting: Setting, base: Partition, hard: bool, began: float) -> None:
    """Prints the line of codewords as they came with the blocks; hard: rows and queries by their signs alone."""
    made = base.codewords
    assert made is not None
    signs = codewords.signs(made.generator, made.message)

    def scores(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        margins = x @ made.directions.T - made.threshold
        return (np.sign(margins) if hard else made.beta * margins) @ signs.T

    def route(queries: list[Prepared]) -> npt.NDArray[np.float32]:
        found = scores(np.array([q.vector for q in queries], np.float32))
        p = np.exp(found - found.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    if hard:
        home = np.concatenate([scores(x).argmax(1) for _, x in setting.rows.chunks(1 << 22)]).astype(np.int32)
        base = Partition(base.centres, home)
    copy, nbytes = np.full((setting.rows.count, 0), -1, np.int32), len(ecvh.section(made).pack())
    show(what, setting, base, copy, nbytes, route, began)


def bucketed(setting: Setting, steps: int, code: bool = True) -> Partition:
    """Buckets after so many steps of training; without the code, by the bits of the message alone."""

    def plain(message_bits: int) -> npt.NDArray[np.uint32]:
        return (1 << np.arange(message_bits)).astype(np.uint32)

    with patch.object(codewords, "STEPS", steps), patch.object(by_codeword, "code", codewords.code if code else plain):
        return PARTITIONS["ecvh"](setting.rows, setting.task.sample, setting.blocks, setting.graph, 0, SILENT)


def measured(setting: Setting, steps: int, lines: list[str]) -> None:
    """Prints the lines asked for."""

    def clock() -> float:
        return time.monotonic()

    began = clock()
    if {"centroids", "lse"} & set(lines):
        base = PARTITIONS["kmeans"](setting.rows, setting.task.sample, setting.blocks, None, 0, SILENT)
        for router in ("centroids", "lse"):
            if router in lines:
                routed(f"k-means, {router}", setting, base, router, began)
                began = clock()
    if "ecvh" in lines:
        base = bucketed(setting, steps)
        by_codewords("ecvh, as its buckets were made", setting, base, False, began)
        plain = routed("ecvh, its router", setting, base, "ecvh", clock())
        for rule, share in (("soar", 1.0), ("soar", 2.0), ("closure", 1.0)):
            copy = COPY_RULES[rule](setting.rows, base).best(share)
            routed(f"ecvh, {share:g} copies a row, {rule}", setting, base, "ecvh", clock(), copy)
        copy = second_codeword(setting.rows, base)
        routed("ecvh, 1 copies, second codeword", setting, base, "ecvh", clock(), copy)
        voted = replace(votes(setting.rows, setting.task.sample, base, setting.graph), codewords=base.codewords)
        routed("ecvh, homes by votes", setting, voted, "ecvh", clock())
        numbered(setting, plain)
        by_codewords("ecvh, without soft decisions", setting, base, True, clock())
    if "bec-tree" in lines:
        began = clock()
        base = PARTITIONS["bec-tree"](setting.rows, setting.task.sample, setting.blocks, setting.graph, 0, SILENT)
        routed("bec-tree, its router", setting, base, "bec-tree", began)
        copy = COPY_RULES["soar"](setting.rows, base).best(1.0)
        routed("bec-tree, 1 copies a row, soar", setting, base, "bec-tree", clock(), copy)
    if "prefix" in lines:
        began = clock()
        by_codewords("without the code: a prefix", setting, bucketed(setting, steps, code=False), False, began)
    if "untrained" in lines:
        began = clock()
        base = bucketed(setting, 0)
        by_codewords("without training: PCA + ITQ", setting, base, False, began)
        by_codewords("the same, without soft decisions", setting, base, True, clock())


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--lines", default="centroids,lse,ecvh,bec-tree,prefix,untrained")
    for name, default in (("blocks", 4096), ("rows", 0), ("steps", codewords.STEPS), ("queries", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with drawn_rows(options.data, name, options.rows) as rows:
            files = [options.data / name / f"queries{kind}.parquet" for kind in ("", "-ood")]
            asked = [asked_of(rows, file, options.queries, options.rows) for file in files if file.exists()]
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks, {options.steps} steps")
            print(f"{'% of rows / blocks at recall@100':34}{'bytes':>9}{'blocks':>7}{'skew':>7}", end="")
            print(
                "".join(f"{kind} {goal:.2f}".rjust(17) for kind in ("held out", "ood")[: len(asked)] for goal in GOALS)
            )
            measured(setting_of(rows, options.blocks, asked), options.steps, options.lines.split(","))


def asked_of(rows: Rows, file: Path, most: int, drawn: int) -> Asked:
    """At most so many queries of a file with their neighbours: the file's own, or found again among drawn rows."""
    found = read_queries(file, None)
    assert found.neighbors is not None
    queries = [prepare(v.tolist(), index_section(rows, 1, rows.count)) for v in found.vectors[:most]]
    if not drawn:
        return queries, found.neighbors[:most]
    x = np.array([q.vector for q in queries], np.float32)
    return queries, exact_neighbours(x, rows.chunks(1 << 25), 100, rows.metric)


if __name__ == "__main__":
    main()
