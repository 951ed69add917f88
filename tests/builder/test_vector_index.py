"""VectorIndex: what it answers is what its saved files answer, whatever was added and removed before."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from doubles import Built
from hypothesis import given, settings
from hypothesis import strategies as st
from small import clustered

from build_index import VectorIndex
from build_index.bucket.open import open_index
from build_index.codecs import CODECS
from build_index.codecs.planes import encode_blocks
from build_index.hashing import codewords
from build_index.tune import codes
from build_index.write.reopen import reopen, with_new_names
from vantage.errors import DamagedError, InputError, NotFoundError
from vantage.search.query import Query

K = 10
BUCKETS = Path(__file__).resolve().parents[1] / "fixtures" / "buckets"
DATA = clustered(900, 24, 5).astype(np.float16).astype(np.float32)  # as they are stored
ROWS, MORE, QUERIES = DATA[:600], DATA[600:800], DATA[800:]
CHOICES: dict[str, Any] = {"recall": 0.9, "k": K, "fast": True, "copies_share": 0.35, "error_norms": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of ROWS under l2, ids 0 to 599, as it was saved."""
    path = tmp_path_factory.mktemp("bucket") / "points"
    VectorIndex(metric="l2", **CHOICES).fit(ROWS).save(path)
    return path


@pytest.fixture
def index(saved: Path) -> VectorIndex:
    return VectorIndex.load(saved)


def proven(index: VectorIndex, rows: dict[Any, np.ndarray], queries: np.ndarray) -> None:
    """Exact answers are those of brute force over these rows, by id, and nothing else is ever found."""
    assert set(index.ids_.tolist()) == set(rows)
    k = min(K, len(rows))
    found = index.search(queries, k, exact=True)
    assert set(found.ids.ravel().tolist()) <= set(rows)
    x = np.stack(list(rows.values())).astype(np.float64)
    for ids, scores, q in zip(found.ids.tolist(), found.scores, queries, strict=True):
        assert len(set(ids)) == k
        best = np.sort(((x - q) ** 2).sum(1))[:k]
        assert np.allclose(scores, best, rtol=1e-4, atol=1e-3)
        assert np.allclose([((rows[i].astype(np.float64) - q) ** 2).sum() for i in ids], best, rtol=1e-4, atol=1e-3)


def test_searches_as_the_saved_files_do(saved: Path, index: VectorIndex, tmp_path: Path) -> None:
    index.add(MORE).remove(np.arange(0, 600, 5))
    found = index.search(QUERIES, K)
    index.save(tmp_path / "again")
    opened = open_index(tmp_path / "again")
    for q, ids, scores in zip(QUERIES, found.ids, found.scores, strict=True):
        answer = asyncio.run(opened.query(Query(q.tolist(), K)))
        assert [m.id for m in answer.matches] == ids.tolist() and [m.score for m in answer.matches] == scores.tolist()
    again = VectorIndex.load(tmp_path / "again").search(QUERIES, K)
    assert (again.ids == found.ids).all() and (again.scores == found.scores).all()
    assert opened.root.index.rows == len(index) == 680


def test_load_knows_what_options_were_called_before() -> None:
    index = VectorIndex.load(BUCKETS)  # its manifest has `asked`, `spill_share` and `stop`
    params = index.get_params()
    assert {n: params[n] for n in ("partition", "router", "copies", "copies_share", "second_wave")} == {
        "partition": "ecvh", "router": "ecvh", "copies": None, "copies_share": 0.35, "second_wave": False,
    }  # fmt: skip
    earlier = {"asked": {"spill": "soar", "fast": True}, "contract": {"k": 10, "stop": "calibrated"}}
    assert with_new_names(earlier) == {
        "options": {"copies": "soar", "fast": True}, "contract": {"k": 10, "second_wave": True},
    }  # fmt: skip


def test_load_and_save_change_no_byte(saved: Path, tmp_path: Path) -> None:
    index = VectorIndex.load(saved)
    before = index.search(QUERIES, K)
    index.save(tmp_path / "copy")
    names = [(p / "CURRENT").read_bytes() for p in (saved, tmp_path / "copy")]
    assert names[0] == names[1]
    fresh = VectorIndex(metric="l2", **CHOICES).fit(ROWS)
    found = fresh.search(QUERIES, K)
    assert (found.ids == before.ids).all() and (found.scores == before.scores).all()
    assert repr(index) == "VectorIndex(metric='l2', recall=0.9, k=10, copies_share=0.35, fast=True, error_norms=True)"


def test_what_was_loaded_is_fitted_again_as_it_was_asked_for(tmp_path: Path) -> None:
    asked = VectorIndex(metric="l2", recall=0.7, k=K, router="ecvh", copies="none", copies_share=0.0, growth=1.1)
    with patch.object(codewords, "STEPS", 20):
        asked.fit(ROWS)
        asked._index.options = replace(asked._index.options, model="minilm")  # as `vantage build --model` stamps it
        asked.save(tmp_path / "words")
        loaded = VectorIndex.load(tmp_path / "words")
        loaded.growth = 1.1
        assert repr(loaded) == repr(asked)
        loaded.train_incremental([MORE])
    assert loaded.n_fitted_ == 800
    loaded.save(tmp_path / "more")
    (manifest,) = (tmp_path / "more").glob("*/manifest.json")
    told = json.loads(manifest.read_text())
    assert (told["router"]["name"], told["model"]) == ("ecvh", "minilm")


def test_recall(index: VectorIndex) -> None:
    found = index.search(QUERIES, K)
    hits = [
        len(set(ids) & set(np.argsort(((ROWS - q) ** 2).sum(1))[:K].tolist()))
        for ids, q in zip(found.ids.tolist(), QUERIES, strict=True)
    ]
    assert np.mean(hits) / K >= 0.87 and index.recall_ >= 0.9


def test_new_rows_are_found_and_removed_ones_are_not(index: VectorIndex) -> None:
    index.add(MORE, np.arange(200) - 5000)
    assert (index.search(MORE, 1, recall=0.95).ids[:, 0] == np.arange(200) - 5000).mean() > 0.98
    gone = np.arange(-5000, -4900)
    index.remove(gone)
    assert not np.isin(index.search(MORE, K).ids, gone).any()
    assert not np.isin(index.search(MORE, K, exact=True).ids, gone).any()
    index.add(MORE[:100], gone)  # the ids are free again
    assert (index.search(MORE[:100], 1, exact=True).ids[:, 0] == gone).all()


def test_only_touched_blocks_are_encoded_again(index: VectorIndex) -> None:
    index.search(QUERIES[:1])
    before = list(index._index.codes)
    index.add(QUERIES[:1])
    stale = [b for b, codes in enumerate(index._index.codes) if codes is None]
    assert 1 <= len(stale) <= 2 < len(before)
    index.search(QUERIES[:1])
    assert [b for b, (old, new) in enumerate(zip(before, index._index.codes, strict=True)) if old is not new] == stale


@pytest.mark.parametrize(("codec", "rotation"), [*((name, None) for name in CODECS), ("lrsq", "bor")])
def test_a_codec_read_back_is_the_codec(codec: str, rotation: str | None, tmp_path: Path) -> None:
    """Encoding the rows again with what the file says gives the codes that are there."""
    options = {"recall": 0.5, "k": 1, "fast": True}
    bits = (3,) if codec == "ecvh" else codes.CODE_BITS  # it trains for each
    with patch.object(codes, "CODE_BITS", bits):
        VectorIndex(codec=codec, rotation=rotation, metric="cosine", **options).fit(ROWS[:300]).save(tmp_path / "index")
    found = reopen(tmp_path / "index")
    members = found.choice.layout.members()
    starts = np.cumsum([0, *map(len, members)]).tolist()
    x, layout = found.rows.take(np.concatenate(members)), found.choice.layout
    again = encode_blocks(found.choice.codec, x, starts, layout.centres, "cosine")
    assert np.mean([(a.codes == b.codes).mean() for a, b in zip(again, found.codes, strict=True)]) > 0.99
    assert np.allclose([a.ranges for a in again], [b.ranges for b in found.codes], atol=1e-3)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "block", "load"]), st.integers(0, 2**32)), max_size=6))
def test_any_sequence_of_changes(saved: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    index, rows, free = VectorIndex.load(saved), dict(enumerate(ROWS)), 600
    for step, seed in steps:
        draw = np.random.default_rng(seed)
        ids = np.array(sorted(rows))
        if step == "add":
            x = DATA[draw.integers(len(DATA), size=draw.integers(1, 60))]  # repeats too
            index.add(x, free + np.arange(len(x)))
            rows |= dict(zip(range(free, free + len(x)), x, strict=True))
            free += len(x)
        elif step == "load":
            path = tmp_path_factory.mktemp("bucket") / "later"
            index = VectorIndex.load(index.save(path) and path)
        else:
            block = index._index.choice.layout.partition.home
            gone = draw.choice(ids, draw.integers(max(1, len(ids) // 2)), replace=False)
            if step == "block":  # one becomes empty
                gone = index.ids_[block == block[draw.integers(len(block))]]
            gone = gone[: len(ids) - 1]
            index.remove(gone)
            for i in gone.tolist():
                del rows[i]
    proven(index, rows, QUERIES[:10])


def test_strings_and_an_empty_block(tmp_path: Path) -> None:
    index = VectorIndex(metric="dot", **CHOICES).fit(ROWS[:300], [f"row {i}" for i in range(300)])
    home = index._index.choice.layout.partition.home
    gone = index.ids_[home == home[0]]
    index.remove(gone)
    found = index.search(QUERIES, 3)
    assert found.ids.dtype == object and not set(found.ids.ravel()) & set(gone)
    again = VectorIndex.load(index.save(tmp_path / "dots") and tmp_path / "dots")
    assert (again.ids_ == index.ids_).all() and (again.search(QUERIES, 3).ids == found.ids).all()
    with pytest.raises(InputError, match="give some"):
        index.add(MORE)
    with pytest.raises(InputError, match="ids of kind i64"):
        index.add(MORE, np.arange(200))


def test_attributes_stay(dots: Built, tmp_path: Path) -> None:
    """An index that a build made, with a column: changed and saved, rows keep theirs, new ones have none."""
    index = VectorIndex.load(dots.bucket / dots.name)
    index.add(10 * dots.queries[:2], [-1, -2]).remove(index.ids_[:5]).save(tmp_path / "dots")
    opened, where = open_index(tmp_path / "dots"), dict(zip(dots.ids, dots.attributes, strict=True))
    where |= {-1: {"label": None}, -2: {"label": None}}
    for i, q in enumerate(dots.queries[:2]):
        matches = asyncio.run(opened.query(Query(q.tolist(), 5, attributes=True))).matches
        assert -1 - i in [m.id for m in matches]
        assert all(m.attributes == where[m.id] for m in matches)


def test_a_stream_fits_again_by_growth_and_by_drift() -> None:
    index = VectorIndex(metric="l2", growth=2.0, drift=1.3, **CHOICES)
    index.train_incremental([(ROWS[:300], np.arange(300)), (ROWS[300:400], np.arange(300, 400))])
    assert (index.n_fitted_, len(index)) == (300, 400) and 0.9 < index.drift_ < 1.3
    index.train_incremental([(ROWS[400:], np.arange(400, 600))])
    assert (index.n_fitted_, len(index), index.drift_) == (600, 600, 1.0)
    far = 3 * MORE[:40, ::-1]
    index.train_incremental([far[:20]])  # fewer than a twentieth: some strangers are no drift
    assert index.n_fitted_ == 600 and index.drift_ > 1.3
    index.train_incremental([far[20:]])
    assert (index.n_fitted_, len(index)) == (640, 640)
    assert (index.search(far, 1, exact=True).ids[:, 0] >= 600).all()


def test_runs_in_a_notebook(saved: Path) -> None:
    """Where an event loop is running already."""

    async def cell() -> Any:
        return VectorIndex.load(saved).search(QUERIES[:2], 3)

    assert asyncio.run(cell()).ids.shape == (2, 3)


def test_parameters() -> None:
    index = VectorIndex(k=5, recall=0.8)
    assert repr(index) == "VectorIndex(recall=0.8, k=5)" and repr(VectorIndex()) == "VectorIndex()"
    assert VectorIndex(**index.get_params()).get_params() == index.get_params()
    assert index.set_params(metric="dot") is index and index.metric == "dot"
    with pytest.raises(InputError, match="no parameter 'ef'"):
        index.set_params(ef=3)
    with pytest.raises(InputError, match="vectors is 'f8'"):
        VectorIndex(vectors="f8").fit(ROWS)
    with pytest.raises(InputError, match="no metric 'l1'"):
        VectorIndex(metric="l1").fit(ROWS)


@pytest.mark.parametrize("call", ["search", "add", "remove", "save", "ids_", "drift_"])
def test_not_fitted(call: str) -> None:
    with pytest.raises(InputError, match="not fitted yet; call fit"):
        found = getattr(VectorIndex(), call)
        found(ROWS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factor", [1e-12, 1e5])
def test_where_f16_would_lose_one_row_all_are_kept_as_f32(metric: str, factor: float, tmp_path: Path) -> None:
    """Unasked; most of the others lose nothing. A reader takes what it adds to a score, however far the one row is."""
    x = clustered(150, 24, 5).astype(np.float32)
    x[7] *= np.float32(factor)
    VectorIndex(metric=metric, fast=True).fit(x).save(tmp_path / "points")
    index = VectorIndex.load(tmp_path / "points")
    assert index._index.vector_kind == "f32"
    assert index.search(x[[7]], 1).ids.tolist() == [[7]]
    with pytest.raises(InputError, match="row 7 .*float16"):
        VectorIndex(metric=metric, fast=True, vectors="f16").fit(x)


BAD = np.where(np.arange(24) == 3, np.nan, MORE[:3])


@pytest.mark.parametrize(
    ("vectors", "ids", "says"),
    [
        (MORE[:2, :5], [1000, 1001], "5 dimensions for an index of 24"),
        (MORE[0], [1000], r"shape \(24,\)"),
        (BAD, [1000, 1001, 1002], "NaN, infinite or too large values: rows 0, 1, 2"),
        (MORE[:2], [1000], "1 ids for 2 vectors"),
        (MORE[:2], [1000, 1000], "duplicate ids: 1000"),
        (MORE[:2], [1000, 7], "there already: 7"),
        (MORE[:2], ["a", "b"], "ids of kind bytes"),
        (MORE[:2], [1.5, 2.5], "ids are of type float"),
        (MORE[:2], [2**63, 1], "outside of 64 bits"),
        (MORE[:2].astype(np.int64), [1000, 1001], "of type int64"),
        (np.ones((2, 24), np.uint8), [1000, 1001], "type u8 for an index of f16"),
        ([[1.0], [1.0, 2.0]], [1000, 1001], "not all of one length"),
        (MORE[:2] * 1e9, [1000, 1001], "too large"),
        (MORE[:2] * 9000, [1000, 1001], "3000 times as long"),
    ],
)
def test_refused_rows_change_nothing(index: VectorIndex, vectors: Any, ids: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        index.add(vectors, ids)
    assert len(index) == 600 and index._index.codes.count(None) == 0


def test_other_refusals(index: VectorIndex, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no rows with the ids 600, -1"):
        index.remove([5, 600, -1])
    assert len(index) == 600
    with pytest.raises(InputError, match="no row would be left"):
        index.remove(index.ids_)
    with pytest.raises(InputError, match="5 dimensions"):
        index.search(QUERIES[:, :5])
    with pytest.raises(InputError, match="not finite"):
        index.search(BAD)
    with pytest.raises(InputError, match="top_k is 1001"):
        index.search(QUERIES, 1001)
    with pytest.raises(InputError, match="not a name"):
        index.save(tmp_path / "a name")
    with pytest.raises(InputError, match="no rows"):
        VectorIndex().fit(ROWS[:0])
    with pytest.raises(InputError, match="zero vectors.*rows 2"):
        VectorIndex().fit(np.where(np.arange(30)[:, None] == 2, 0, ROWS[:30]))
    with pytest.raises(NotFoundError, match="no index"):
        VectorIndex.load(tmp_path / "nothing")
    index.save(tmp_path / "hurt")
    part = next((tmp_path / "hurt").glob("*/vectors/*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DamagedError, match="not what was written"):
        VectorIndex.load(tmp_path / "hurt")


def test_clusters_follow_the_rows(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codewords, "STEPS", 40)
    labels = index.cluster(k=6)
    medoids = index.medoids(k=6)
    assert labels.shape == (600,) and medoids.sizes.tolist() == np.bincount(labels).tolist()
    assert len(medoids.ids) == 6 and (labels[medoids.ids] == np.arange(6)).all()  # ids are row numbers here
    assert (medoids.vectors == ROWS[medoids.ids]).all()
    inside = sum(((ROWS[labels == c] - ROWS[labels == c].mean(0)) ** 2).sum() for c in range(6))
    assert inside < 0.85 * ((ROWS - ROWS.mean(0)) ** 2).sum()  # the clusters are some
    assert (index.assign(ROWS, k=6) == labels).mean() > 0.9
    levels = [index.cluster(level=level) for level in range(4)]
    for above, below in zip(levels, levels[1:], strict=False):  # nested
        assert len(set(zip(above.tolist(), below.tolist(), strict=True))) == below.max() + 1
    index.add(MORE).remove(np.arange(100))
    labels = index.cluster(k=6)
    assert len(labels) == 700 and index.medoids(k=6).sizes.tolist() == np.bincount(labels).tolist()
    medoids = index.medoids()
    assert set(medoids.ids.tolist()) <= set(index.ids_.tolist()) and medoids.sizes.sum() == 700


COPIES = {"pickle": lambda given: pickle.loads(pickle.dumps(given)), "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("after", ["init", "fit", "search", "add", "cluster"])
def test_copies_are_indexes_of_their_own(saved: Path, how: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after a search; what is done to one is not done to the other."""
    if after == "init":
        assert COPIES[how](VectorIndex(k=7)).get_params() == VectorIndex(k=7).get_params()
        return
    monkeypatch.setattr(codewords, "STEPS", 40)
    one = VectorIndex.load(saved)
    if after != "fit":
        one.search(QUERIES[:1])
    if after == "add":
        one.add(MORE[:30])
    if after == "cluster":
        one.cluster(k=4)
    other = COPIES[how](one)
    before = one.search(QUERIES, K)
    assert (other.search(QUERIES, K).ids == before.ids).all()
    other.remove(other.ids_[::2]).add(MORE[100:110], np.arange(5000, 5010))
    if after == "cluster":
        assert (np.bincount(one.cluster(k=4)).sum(), np.bincount(other.cluster(k=4)).sum()) == (600, 310)
    assert (one.search(QUERIES, K).ids == before.ids).all()
    one._opened()
    proven(other, dict(zip(other.ids_.tolist(), other._index.stored.held, strict=True)), QUERIES[:5])


def test_fewer_rows_than_answers(index: VectorIndex) -> None:
    index.remove(np.arange(4, 600))
    for k, more in ((10, {}), (10, {"rerank": 20}), (1000, {}), (7, {"exact": True}), (4, {})):
        found = index.search(QUERIES[:3], k, **more)
        assert found.ids.shape == found.scores.shape == (3, k)
        assert (np.sort(found.ids[:, :4], axis=1) == np.arange(4)).all()
        assert (found.ids[:, 4:] == -1).all() and np.isnan(found.scores[:, 4:]).all()


@pytest.mark.parametrize("k", [3.0, np.float32(3), True, "3", None, 1 << 70, pytest.param(1 << 20_000, id="huge"), [3]])
def test_numbers_of_other_kinds(index: VectorIndex, k: Any) -> None:
    """One clear error, for whole numbers wherever they are taken."""
    for call in (
        lambda: index.search(QUERIES[:1], k), lambda: index.search(QUERIES[:1], 1, rerank=k or 1.5),
        lambda: index.cluster(k=k or 1.5), lambda: VectorIndex(k=k).fit(ROWS[:5]),
        lambda: VectorIndex(seed=k).fit(ROWS[:5]),
    ):  # fmt: skip
        with pytest.raises(InputError, match="give a (whole number|number of 64 bits)"):
            call()


def test_numbers_of_numpy(index: VectorIndex) -> None:
    for k in (np.int64(3), np.uint8(3), np.int16(3)):
        assert index.search(QUERIES[:1], k, recall=np.float32(0.8)).ids.shape == (1, 3)
    made = VectorIndex(recall=np.float64(0.9), k=np.int32(5), seed=np.int64(1), cache_bytes=np.int64(1 << 20)).fit(
        ROWS[:9]
    )
    assert made.recall_ == 1
    for recall in (0, -0.5, 1.5, float("nan"), "0.9", True, 10**400):
        with pytest.raises(InputError, match="recall"):
            index.search(QUERIES[:1], recall=recall)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a\ud800", *"bcdef"], "half of a character"), ("abcdef", "give a list"), (5, "give a list"),
        (np.array(5), "give a list"), ([10**30, 1, 2, 3, 4, 5], "outside of 64 bits"),
        (np.arange(6) + 0.5, "of type float"),
        ([True] * 6, "of type bool"), (np.arange(6)[:, None], "of type list"), ([None] * 6, "of type NoneType"),
    ],
)  # fmt: skip
def test_ids_that_are_none(ids: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        VectorIndex().fit(ROWS[:6], ids)
    with pytest.raises(InputError, match=said):
        VectorIndex().fit(ROWS[:6]).remove(ids)


def test_no_id_follows_the_largest() -> None:
    made = VectorIndex().fit(ROWS[:2], [0, (1 << 63) - 1])
    assert len(made.add(ROWS[:0])) == 2
    with pytest.raises(InputError, match="give some"):
        made.add(ROWS[2:3])
    assert len(VectorIndex().fit(ROWS[:2], [0, (1 << 63) - 2]).add(ROWS[2:3])) == 3


@cache
def fitted_at(scale: float, metric: str) -> VectorIndex:
    rows = ROWS[:300] * np.float32(scale)
    return VectorIndex(metric=metric, recall=0.9, k=K, fast=True, vectors="f32").fit(rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
@pytest.mark.parametrize("scale", [2.0**-95, 2.0**-60, 2.0**50])
def test_values_of_any_scale(metric: str, scale: float) -> None:
    """A power of two changes no answer, and its square, or its own power, the scores."""
    plain, scaled = fitted_at(1.0, metric), fitted_at(scale, metric)
    power = {"l2": 2, "dot": 2, "cosine": 0}[metric]
    for more in ({"rerank": 40}, {}):
        a = plain.search(QUERIES[:20], K, **more)
        b = scaled.search(QUERIES[:20] * np.float32(scale), K, **more)
        assert np.mean(a.ids == b.ids) > 0.98
        same = a.ids == b.ids
        assert np.allclose(b.scores[same] / scale**power, a.scores[same], rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("error")
def test_vectors_out_of_range() -> None:
    for x, said in ((ROWS * np.float32(1e-35), "shorter than 1e-30"), (ROWS * np.float32(1e20), "norm over 1e\\+18")):
        with pytest.raises(InputError, match=said):
            VectorIndex(metric="l2", vectors="f32").fit(x)
    long = ROWS.copy()
    long[3] *= 1e8
    with pytest.raises(InputError, match="row 3 is .* times as long"):
        VectorIndex(metric="dot", vectors="f32").fit(long)
