"""Blocks that have grown are divided in place: what lies where, what routers make of it, and what a rewrite keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small import clustered
from test_flush import DIMENSION, ROWS, build, change, check, copied, listed, oracle_of, write
from test_living import recall_at_the_promise

from build_index import VectorIndex
from build_index.audit.verify import verify_deep
from build_index.blocks.divide import divided, two_means
from build_index.blocks.partition import Partition, means_of
from build_index.bucket.open import open_index
from build_index.bucket.store import store_at
from build_index.compact import compact
from build_index.hashing import codewords
from build_index.ingest.arrays import check_arrays
from build_index.ingest.rows import scale_rows
from build_index.routers import ecvh, mlp
from build_index.simulate.edge import prepare_rows
from build_index.simulate.stored import extent_probabilities
from build_index.tune import renditions


def test_the_largest_blocks_are_divided_in_place() -> None:
    x = clustered(900, 8, 3).astype(np.float32)
    x[840:] = x[840]
    rows = scale_rows(check_arrays(x, np.arange(900), "l2"), "l2")
    home = np.repeat(np.arange(4), [100, 500, 240, 60]).astype(np.int32)
    scaled = rows.slice(0, 900)
    before = Partition(means_of(scaled, home, np.zeros((4, 8), np.float32)), home)
    after, parent = divided(rows, before, 9)
    assert after.blocks == len(after.centres) == 9 and (np.diff(parent) >= 0).all()
    assert np.array_equal(parent[after.home], home)
    size = np.bincount(after.home, minlength=9)
    assert size.min() > 0 and size[parent == 1].max() < 300 and (parent == 3).sum() == 1  # all rows alike
    assert np.allclose(after.centres, means_of(scaled, after.home, after.centres), atol=1e-6)
    assert two_means(np.ones((5, 3), np.float32)) is None
    whole, same = divided(rows, before, 9, lambda block, own: None)
    assert np.array_equal(same, np.arange(4)) and np.array_equal(whole.home, home)
    over = two_means(np.concatenate([scaled[:1] + np.float32(50), scaled[:99]]))
    assert over is not None and over[0] and 24 <= over.sum() <= 26  # one far row does not become a block


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Little training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renditions, "INLINE_BYTES", 0)
        for module, steps in ((mlp, 60), (ecvh, 20), (codewords, 50)):
            patch.setattr(module, "STEPS", steps)
        patch.setattr(mlp, "MORE_STEPS", 40)
        yield


@pytest.mark.parametrize("router", ["lse", "mlp"])
def test_a_grown_index_is_divided_and_keeps_its_promise(router: str, tmp_path: Path) -> None:
    """Twice the rows, half of them of other clusters, in twice the blocks; rows are found where the router sends
    them.
    """
    x, new = clustered(ROWS, DIMENSION, 1), clustered(ROWS + 100, DIMENSION, 7).astype(np.float16)
    index = VectorIndex(fast=router == "lse", metric="l2", k=10, router=router).fit(x.astype(np.float16)).held
    blocks = index.choice.layout.blocks
    index.divide()
    assert index.choice.layout.blocks == blocks  # none has grown
    index.add(check_arrays(new[:ROWS], np.arange(ROWS, 2 * ROWS), "l2", "f16"))
    index.divide()
    layout, path = index.choice.layout, tmp_path / "index"
    assert layout.blocks > 1.5 * blocks and len(index.codes) == layout.blocks
    assert np.bincount(layout.partition.home, minlength=layout.blocks).min() > 0
    index.write(path)
    assert not verify_deep(store_at(str(path)))["damage"]
    opened = open_index(path)
    held = np.arange(0, 2 * ROWS, 60)
    p = extent_probabilities(opened.root, prepare_rows(index.rows, held))
    rank = (p > p[np.arange(len(held)), layout.partition.home[held]][:, None]).sum(1)
    assert np.mean(rank < 4) > 0.8, np.mean(rank < 4)  # blocks that a row of this block is likelier in
    every = np.concatenate([x.astype(np.float16), new[:ROWS]]).astype(np.float32)
    queries = np.concatenate([every[::60] + np.float32(0.01), new[ROWS:].astype(np.float32)])
    assert recall_at_the_promise(path, every, queries) > opened.root.contract.target - 0.03
    again = VectorIndex.load(path).held
    assert again.choice.layout.blocks == layout.blocks and again.held is not None and again.held.changed == 0


@pytest.fixture(scope="module", params=["ecvh", "bec-tree"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of test_flush, in blocks by words, and by prefixes of words."""
    words = [f"w{i % 7}" for i in range(ROWS)]
    return build(tmp_path_factory.mktemp("built"), "--router", request.param, n=list(range(ROWS)), word=words)


def test_a_rewrite_divides_blocks_and_keeps_every_row(built: Path, tmp_path: Path) -> None:
    """Flushes of upserts, patches and deletes before it and after it; codewords are never divided."""
    index, oracle, draw = copied(built, tmp_path), oracle_of(), np.random.default_rng(12)
    store, before = store_at(str(index)), open_index(index).root.index

    def looked_at() -> None:
        assert not verify_deep(store)["damage"] and listed(index) == {name: row[1] for name, row in oracle.items()}
        check(open_index(index), oracle, draw)

    change(store, oracle, draw, 1)
    assert compact(store).how == "flush"
    looked_at()
    x = clustered(ROWS, DIMENSION, 8).astype(np.float16)
    oracle |= {f"new{i}": (row, {"n": i, "word": None}) for i, row in enumerate(x)}
    for low in range(0, ROWS, 1000):
        some = range(low, low + 1000)
        write(
            store, upserts=[f"new{i}".encode() for i in some], vectors=x[low : low + 1000].tobytes(),
            attributes=[json.dumps({"n": i}).encode() for i in some],
        )  # fmt: skip
    change(store, oracle, draw, 3, 60)
    folded = compact(store)
    after = open_index(index).root.index
    how = "fold" if after.router == "ecvh" else "rewrite"
    assert (folded.how, folded.rows, folded.measured) == (how, len(oracle), True), folded
    assert (after.blocks > 1.5 * before.blocks) == (after.router != "ecvh")
    looked_at()
    change(store, oracle, draw, 4)
    assert compact(store).how == "flush"  # on top of blocks that were divided
    check(open_index(index), oracle, draw)
