"""Folds: what queries scan is written anew from what is stored, and every row stays as it was written last."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import test_flushed_filters as filtered
from test_flush import change, check, copied, listed, oracle_of, plain  # noqa: F401
from test_flushed_filters import made  # noqa: F401

from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.open import open_index
from build_index.bucket.store import store_at
from build_index.compact import compact


def test_folds_keep_every_row_as_it_was_written_last(plain: Path, tmp_path: Path) -> None:  # noqa: F811
    index, oracle, draw = copied(plain, tmp_path), oracle_of(), np.random.default_rng(3)
    store, hows = store_at(str(index)), list[str]()
    for step in range(1, 8):
        change(store, oracle, draw, step, 500)
        folded = compact(store)
        hows.append(folded.how)
        root = open_index(index).root
        if folded.how == "fold":
            assert root.directory is not None and root.directory.single and len(root.id_pages) == 1
            assert root.directory.at_home == len(oracle) == root.id_pages[0].rows
        check(open_index(index), oracle, draw)
        assert listed(index) == {name: row[1] for name, row in oracle.items()}
        assert not g.verify(store)["damage"] and not verify_deep(store)["damage"]
    assert hows.count("fold") > 1 and hows.count("flush") > 1, hows


def test_filters_of_folded_indexes_answer_as_their_rows_do(
    made: tuple[Path, dict[int, filtered.Row]], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    index, oracle, store = filtered.grown(made, tmp_path)
    for step in range(2, 6):
        draw = Random(step)
        filtered.change(store, oracle, draw, step, 160 if step % 2 else 400)
        folded = compact(store)
        opened = open_index(index)
        filtered.check(opened, oracle, draw)
        assert not verify_deep(store)["damage"]
        if folded.how == "fold":
            assert [len(p.first) for p in opened.root.projections] == [1] * len(opened.root.projections)
            assert opened.root.counts is not None and not any(own.about for own in opened.root.counts.fields)
        else:
            assert folded.how == "flush"
