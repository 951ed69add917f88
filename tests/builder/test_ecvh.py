"""ecvh: the Golay code is perfect, soft decisions are those of brute force, the section, training, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import RowsOf, clustered
from test_mlp import index_of, integers
from test_trained import log_loss, task_of

from build_index.blocks.by_codeword import buckets
from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.hashing import codewords as module
from build_index.hashing.codewords import GOLAY, Codewords, code, golay, signs, start_codewords
from build_index.neighbours.graph import neighbour_graph
from build_index.progress import SILENT
from build_index.routers import ecvh
from build_index.simulate.edge import probabilities
from build_index.tune.fit import fit_router
from vantage.errors import DamagedError, InputError
from vantage.format import EcvhSection, IndexSection
from vantage.search.prepare import prepare
from vantage.search.route.ecvh import EcvhRouter


def every_codeword(message_bits: int = 12) -> np.ndarray:
    """i64 (2^message_bits): multiples of the polynomial, the message in the high bits, without the code under test.

    Bit i of a message is the coefficient of x^(11 + i), the parity lies below.
    """
    out = []
    for u in range(1 << message_bits):
        rest = u << 11
        for power in range(22, 10, -1):
            if rest >> power & 1:
                rest ^= GOLAY << (power - 11)
        out.append(u << 11 | rest)
    return np.array(out)


def codewords_of(dimension: int, blocks: int, message_bits: int = 5) -> Codewords:
    draw, generator = np.random.default_rng(0), golay(message_bits)
    n = len(generator)
    message = draw.permutation(1 << message_bits)[:blocks].astype(np.uint32)
    return Codewords(
        draw.normal(size=(n, dimension)).astype(np.float32), draw.normal(size=n).astype(np.float32), generator,
        message, 3.0,
    )  # fmt: skip


def test_every_word_is_within_three_of_exactly_one_codeword() -> None:
    generator = golay()
    bit = signs(generator, np.arange(4096, dtype=np.uint32)) < 0
    ours = (bit[:, :12] @ (1 << np.arange(11, 23))) + (bit[:, 12:] @ (1 << np.arange(11)))
    assert sorted(ours) == sorted(every_codeword())
    weight = np.bitwise_count(ours)
    assert weight[1:].min() == 7
    word = np.random.default_rng(1).integers(1 << 23, size=400)
    apart = np.bitwise_count(word[:, None] ^ ours)
    assert ((apart <= 3).sum(1) == 1).all()
    # 2,048 errors of weight up to 3 fill the space: 4,096 balls of that size, disjoint at distance 7, are 2^23
    # codewords
    assert 4096 * (1 + 23 + 253 + 1771) == 1 << 23


@pytest.mark.parametrize("message_bits", [1, 4, 10])
def test_a_shortened_code_keeps_its_distance(message_bits: int) -> None:
    table = signs(golay(message_bits), np.arange(1 << message_bits, dtype=np.uint32))
    assert table.shape == (1 << message_bits, 11 + message_bits)
    assert (table < 0).sum(1)[1:].min() >= 7
    with pytest.raises(InputError):
        golay(13)


def test_more_buckets_have_two_words() -> None:
    table = signs(code(15), np.arange(1 << 15, dtype=np.uint32))
    assert table.shape == (1 << 15, 11 + 7 + 11 + 8)
    assert (table < 0).sum(1)[1:].min() == 7  # linear: the least weight is the least distance
    assert (code(12) == golay()).all()
    few = signs(code(2), np.arange(4, dtype=np.uint32))
    assert few.min(0).max() == -1 and (few < 0).sum(1)[1:].min() >= 7  # no bit is the same for all
    with pytest.raises(InputError, match="buckets by 21 bits"):
        code(21)


@pytest.mark.parametrize(("dimension", "blocks", "bits"), [(40, 32, 4), (33, 27, 8), (96, 9, 4)])
def test_soft_decisions_are_those_of_brute_force(dimension: int, blocks: int, bits: int) -> None:
    """All codewords by the polynomial, margins in 64-bit integers; the most probable block is the nearest codeword."""
    index, draw, codewords = index_of(dimension, blocks), np.random.default_rng(2), codewords_of(dimension, blocks)
    section = ecvh.section(codewords, bits)
    n = len(section.scale)
    all_words = every_codeword(5)[codewords.message]
    order = [*range(11, 16), *range(11)]  # where the bits of our codewords lie in the polynomial's
    sign = 1 - 2 * (all_words[:, None] >> np.array(order) & 1)
    for scale in (1.0, 1e-12, 1e12, 0.0):
        query = prepare((scale * draw.normal(size=dimension)).tolist(), index)
        unit = 1 / query.i16_scale if query.i16_scale > 1e-25 else 0.0
        dots = integers(section.table, n, dimension, bits) @ np.array(query.i16, np.int64)[:dimension]
        margin = np.floor(np.array(section.scale, float) * dots + np.array(section.bias, float) * unit + 0.5)
        score = sign @ np.clip(margin, -32767, 32767)
        p = np.array(EcvhRouter(section, index).probabilities(query).p)
        assert abs(int(p.sum()) - 2**20) < blocks
        assert p[score.argmax()] == p.max()
        assert (np.diff(p[np.argsort(-score, kind="stable")].astype(int)) <= 0).all()
        want = np.exp(section.beta * query.i16_scale * (score - score.max()))
        assert np.abs(p - want / want.sum() * 2**20).max() < 4


def test_rows_go_to_the_codeword_that_agrees_best(rows_of: RowsOf) -> None:
    rows, codewords = rows_of(clustered(300, 20, 3), "cosine", scale=None), codewords_of(20, 30)
    x = rows.slice(0, 300)
    margin = x @ codewords.directions.T - codewords.threshold
    best = [max(range(30), key=lambda b: float(m @ signs(codewords.generator, codewords.message)[b])) for m in margin]
    assert codewords.decoded(rows).tolist() == best


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_training_makes_neighbours_decode_alike(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    """More of them share a bucket than without training; the router's probabilities are better than even ones."""
    monkeypatch.setattr(module, "BATCH", 256)
    monkeypatch.setattr(ecvh, "STEPS", 20)
    rows = rows_of(clustered(2000, 40, 3), metric, scale=None)
    task = task_of(rows)
    graph = neighbour_graph(rows, np.arange(rows.count), 10, seed=0, memory_bytes=1 << 28)
    shared = {}
    for steps in (0, 60):
        monkeypatch.setattr(module, "STEPS", steps)
        base = buckets(rows, task.sample, 40, graph, 0)
        shared[steps] = (base.home[graph] == base.home[:, None]).mean() / ((np.bincount(base.home) / 2000) ** 2).sum()
    assert shared[60] > shared[0]
    assert base.codewords is not None
    assert (base.codewords.decoded(rows) == base.home).all()
    assert np.bincount(base.home[task.sample], minlength=base.blocks).min() > 0
    copy = soar(rows, base).best(0.35)
    layout, _ = fit_router(task, base, copy, "ecvh", SILENT)
    assert log_loss(task, layout) < np.log(base.blocks)
    order = np.random.default_rng(3).permutation(base.blocks)
    index = index_section(rows, base.blocks, rows.count, "ecvh")
    p = probabilities("ecvh", layout.section, index, task.tune.queries[:20])
    assert isinstance(layout.section, EcvhSection)
    moved = ecvh.reorder(layout.section, order)
    assert (probabilities("ecvh", moved, index, task.tune.queries[:20]) == p[:, order]).all()
    wrong = replace(base.codewords, directions=base.codewords.directions[::-1].copy())
    sharp = replace(base.codewords, beta=1e3 * base.codewords.beta)  # which leaves most blocks without a probability
    for worse in (wrong, sharp):
        monkeypatch.setattr(ecvh, "train_directions", lambda *_, worse=worse: worse)
        kept, made = fit_router(task, base, copy, "ecvh", SILENT)[0].section, ecvh.section(base.codewords)
        assert isinstance(kept, EcvhSection) and (kept.table, kept.beta) == (made.table, made.beta)


def test_blocks_that_are_no_buckets_are_refused(rows_of: RowsOf) -> None:
    rows = rows_of(clustered(400, 16, 3), "cosine", scale=None)
    task = task_of(rows)
    base = partition(rows, task.sample, 8, 0)
    with pytest.raises(InputError, match="not buckets of a code"):
        fit_router(task, base, np.full((400, 0), -1, np.int32), "ecvh", SILENT)


def test_more_directions_than_dimensions_have_a_start() -> None:
    codewords = start_codewords(clustered(200, 6, 1), golay(3), np.arange(8, dtype=np.uint32), 0)
    assert codewords.directions.shape == (14, 6)
    assert np.isfinite(codewords.directions).all()


def test_a_hundredth_of_the_bytes_of_centroids() -> None:
    size = len(ecvh.section(codewords_of(384, 4096, 12)).pack())
    assert size < 4096 * 384 / 100


def test_section_comes_back_and_damage_is_named() -> None:
    index = index_of(40, 27)
    section = ecvh.section(codewords_of(40, 27))
    body = section.pack()
    back = EcvhSection.unpack(memoryview(body), index, "router")
    assert back.pack() == body
    nan = replace(section, bias=memoryview(np.full(len(section.bias), np.nan, np.float32)))
    wide = replace(section, generator=memoryview(np.full(len(section.bias), 32, np.uint32)))
    cases: list[tuple[bytes, IndexSection]] = [
        (body[:-1], index), (body + b"\0", index), (body[:20], index), (nan.pack(), index), (wide.pack(), index),
        (body, replace(index, blocks=40)), (body, replace(index, dimension=100)), (bytes(4) + body[4:], index),
        (body[:4] + b"\x05" + body[5:], index), (body[:8] + bytes(4) + body[12:], index),
        (body[:12] + bytes(4) + body[16:], index), (body[:16] + bytes(4) + body[20:], index),
    ]  # fmt: skip
    for broken, of in cases:
        with pytest.raises(DamagedError):
            EcvhSection.unpack(memoryview(broken), of, "router")
