"""Constants of the BEC-tree, chosen on rows held out of the build: kind of word, spare bits, penalties and balance.

    python -m bench.research.bec_tree DATA [--sets wordnet,sift] [--rows 20000] [--blocks 512]
        [--only codewords,leaves,clusters]

DATA holds wordnet/ and sift/; the files of queries are not opened. Asked are tuning rows (truth.hold_out), which train
nothing. Columns as in bench/research/ecvh.py, of the router trained on the leaves. codewords: plain bits or the Golay
code, and bits to spare; leaves: partition.LEAF_PENALTY and bec_tree.BALANCE. clusters: bec_tree.PENALTY for a tree of
32 rows a leaf: the mean squared distance of a tuning row to the medoid of its cluster, of that to the mean of all rows,
and the share of its 10 nearest that lie in its cluster, and the largest over the mean; for 64 clusters and for the
leaves.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest.mock import patch

from bench.research.common import GOALS, Setting, drawn_rows, routed, setting_of
from build_index.blocks import by_codeword
from build_index.hashing import bec_tree, codewords

WORDS = [(kind, spare) for kind in ("plain", "code") for spare in (0, 1, 2)]
LEAVES = [(penalty, balance) for penalty in (0.1, 0.3, 1.0) for balance in (0.03, 0.1, 0.3)]
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
LEAF_ROWS, CLUSTERS, TOGETHER = 32, 64, 10


def codewords_of(setting: Setting, leaves: int, kind: str, spare: int) -> codewords.Codewords:
    """Trained codewords of one kind, with so many bits more than the leaves need."""
    with patch.object(codewords, "SPARE_BITS", spare), patch.object(codewords, "plain", getattr(codewords, kind)):
        return codewords.prefix_codewords(setting.rows, setting.task.sample, leaves, setting.graph, 0)


def line(what: str, setting: Setting, made: codewords.Codewords, penalty: float, balance: float) -> None:
    """Prints what the router of one tree reads."""
    began = time.monotonic()
    with (
        patch.object(by_codeword, "prefix_words", lambda *_: made),
        patch.object(by_codeword, "LEAF_PENALTY", penalty),
        patch.object(bec_tree, "BALANCE", balance),
    ):
        base = by_codeword.leaves(setting.rows, setting.task.sample, setting.blocks, setting.graph, 0)
    routed(what, setting, base, "bec-tree", began)


def clusters(setting: Setting, word: codewords.Codewords, leaves: int, penalty: float) -> None:
    """Prints how near a tuning row is to the medoid of its cluster, and to its neighbours."""
    rows, sample, tune = setting.rows, setting.task.sample, setting.task.tune
    made = bec_tree.tree(rows, word, leaves, sample, penalty)
    x, cells = rows.take(tune.rows), []
    whole = ((x - rows.take(sample).mean(0)) ** 2).sum(1).mean()
    for k in (CLUSTERS, None):
        own, label = made.assign(x, k=k), made.labels(k=k)
        spread = ((x - made.medoids(k=k)[1][own]) ** 2).sum(1).mean() / whole
        together = (label[tune.truth.rows[:, :TOGETHER]] == own[:, None]).mean()
        cells.append(f"{spread:9.3f} {together:9.3f} {made.sizes(k=k).max() * len(made.sizes(k=k)) / rows.count:8.1f}")
    print(f"penalty {penalty:<26}" + "".join(cells), flush=True)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--only", default="codewords,leaves,clusters")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--blocks", type=int, default=512)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with drawn_rows(options.data, name, options.rows) as rows:
            setting = setting_of(rows, options.blocks, [])
            tune = setting.task.tune
            setting.asked.append((tune.queries, tune.truth.rows))
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks, {len(tune.rows)} tuning rows asked")
            print(f"{'':34}{'bytes':>9}{'blocks':>7}{'skew':>7}" + "".join(f"{g:17.2f}" for g in GOALS), flush=True)
            if "codewords" in options.only:
                for kind, spare in WORDS:
                    made = codewords_of(setting, options.blocks, kind, spare)
                    what = f"{kind}, {spare} bits to spare"
                    line(what, setting, made, by_codeword.LEAF_PENALTY, bec_tree.BALANCE)
            if "leaves" in options.only:
                made = codewords_of(setting, options.blocks, "plain", codewords.SPARE_BITS)
                for penalty, balance in LEAVES:
                    line(f"leaf penalty {penalty}, balance {balance}", setting, made, penalty, balance)
            if "clusters" in options.only:
                leaves = max(2, rows.count // LEAF_ROWS)
                made = codewords_of(setting, leaves, "plain", codewords.SPARE_BITS)
                for penalty in PENALTIES:
                    clusters(setting, made, leaves, penalty)


if __name__ == "__main__":
    main()
