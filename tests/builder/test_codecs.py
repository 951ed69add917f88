"""lrsq at build: levels, bits, packing, codes that decode to what was meant, factors, and the kernel's integers."""

from __future__ import annotations

import itertools
import struct
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from small import FIELD, decode

from build_index.codecs import lrsq
from build_index.codecs.kept import KeptCodes
from build_index.codecs.lrsq import _distortion, _scalar_bits, levels, train, water_fill
from build_index.codecs.planes import QUERY_ALPHA, Codec, Encoded, encode, encode_blocks, nibbles_of, pack_fields
from build_index.codecs.rotations.butterfly import axes_of
from vantage import kernels
from vantage.format import RANGES_AT, SEGMENT, Centre, aligned, block_planes, pack_block
from vantage.search.rotate import rotated

UNIT = 2.0**20  # integer scores for a score of 1
METRICS = ("cosine", "l2", "dot")
SHAPES = [(1, 1), (1, 4), (3, 2), (3, 4), (97, 24), (97, 70), (200, 90)]  # dimension, code bytes


@cache
def spread(dimension: int) -> np.ndarray:
    """f64 (d, d): axes of falling strength, turned at random."""
    draw = np.random.default_rng(dimension)
    turn = np.linalg.qr(draw.standard_normal((dimension, dimension)))[0]
    return turn * np.exp(-3 * np.arange(dimension) / dimension)


def drawn(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    """f32 (rows, d) like residuals, of differing lengths."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, dimension)) @ spread(dimension).T
    return (x * draw.uniform(0.3, 2, (rows, 1)) * 0.5 / np.sqrt(dimension)).astype(np.float32)


@cache
def trained(dimension: int, code_bytes: int) -> Codec:
    x = drawn(4000, dimension, 1).astype(np.float64)
    moment = x.T @ x / len(x)
    return train(moment, moment + np.eye(dimension) / dimension, code_bytes)


def bits_of(codec: Codec) -> np.ndarray:
    """Bits of each axis of scalar quantizers."""
    return np.array([sum(q.widths) for q in codec.quantizers])


# Levels


@pytest.mark.parametrize(
    ("bits", "distortion"),
    list(enumerate([0.3634, 0.1175, 0.03454, 0.009497, 0.003, 0.00096, 0.0003, 0.0001], 1)),
)
def test_levels_distort_as_theory_says(bits: int, distortion: float) -> None:
    """Lloyd and Max's figures up to 4 bits; above that the linear low bits cost little."""
    assert levels(bits).distortion == pytest.approx(distortion, rel=0.001 if bits <= 4 else 0.12)


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_sums_of_two_tables(bits: int) -> None:
    q = levels(bits)
    assert (len(q.top), len(q.low)) == (1 << min(bits, 4), 1 << max(0, bits - 4))
    values = (q.top[:, None] + q.low).ravel()
    assert sorted(q.order) == list(range(1 << bits))
    assert (np.diff(values[q.order]) > 0).all()
    assert np.allclose(q.cuts, (values[q.order][1:] + values[q.order][:-1]) / 2)
    half = np.arange(len(q.low)) - (len(q.low) - 1) / 2
    step = q.low[-1] - q.low[-2] if len(q.low) > 1 else 0.0
    assert np.allclose(q.low, step * half, rtol=0, atol=1e-15)  # linear: bits of it add up
    gaussian = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    nearest = values[q.order][np.searchsorted(q.cuts, gaussian)]
    assert np.mean((gaussian - nearest) ** 2) == pytest.approx(q.distortion, rel=0.02)


# Bits


def loss(deviation: np.ndarray, given_bits: tuple[int, ...]) -> float:
    distortion = [1.0, *(levels(b).distortion for b in range(1, 9))]
    weight = deviation ** (2 * (1 + QUERY_ALPHA))
    return float(sum(w * distortion[b] for w, b in zip(weight, given_bits, strict=True)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 10), min_size=3, max_size=3), st.integers(0, 26))
def test_water_fill_is_the_best_way_to_hand_out_bits(deviation: list[float], bits: int) -> None:
    wave = np.array(deviation)
    found = water_fill(wave, bits)
    assert found.sum() == min(bits, 24)
    ways = (w for w in itertools.product(range(9), repeat=3) if sum(w) == min(bits, 24))
    assert loss(wave, tuple(found)) == pytest.approx(min(loss(wave, w) for w in ways), rel=1e-9)


@settings(max_examples=60, deadline=None)
@example([1.0] * 12, 4)  # axes of 3 bits gain least by a fourth, which is free
@given(st.lists(st.floats(1e-4, 4), min_size=1, max_size=24), st.integers(1, 20))
def test_every_bit_of_an_axis_is_packed_once(deviation: list[float], code_bytes: int) -> None:
    codec = train(np.diag(np.square(deviation)), np.eye(len(deviation)), code_bytes)
    section = codec.section
    assert section.code_bytes == code_bytes and section.starts[0] == 0
    assert len(section.starts) == 2 * code_bytes + 1
    assert section.starts[2 * code_bytes] * 8 == len(section.fields)
    fields = np.frombuffer(section.fields, FIELD)
    widths: dict[int, list[int]] = {}
    for nibble in range(2 * code_bytes):
        taken = 0
        for field in fields[section.starts[nibble] : section.starts[nibble + 1]]:
            mask = (1 << int(field["width"])) - 1 << int(field["shift"])
            assert mask < 16 and not mask & taken
            taken |= mask
            widths.setdefault(int(field["axis"]), []).append(int(field["width"]))
    for axis, bits in enumerate(bits_of(codec).tolist()):
        assert sorted(widths[axis]) == sorted([bits] if bits <= 4 else [4, bits - 4])
    assert len(widths) == len(bits_of(codec)) == len(codec.axes) == len(codec.deviation)
    assert bits_of(codec).min() >= 1
    # A bit could go nowhere only if no axis wants it: what is not used is what every axis has too much of.
    assert bits_of(codec).sum() == 8 * code_bytes or bits_of(codec).max() > 4 or (bits_of(codec) == 8).all()


@given(st.lists(st.integers(1, 4), max_size=40))
def test_nibbles_are_counted_as_they_are_packed(widths: list[int]) -> None:
    assert nibbles_of(np.bincount(widths, minlength=5).tolist() if widths else [0] * 5) == len(pack_fields(widths))


def tried_one_by_one(deviation: np.ndarray, nibbles: int) -> np.ndarray:
    """As many bits as pack, handed out in turn, then the widest gain that still packs, all of it in the plain way."""

    def packs(given_bits: np.ndarray) -> bool:
        fields = [width for b in given_bits.tolist() if b for width in ([4, b - 4] if b > 4 else [b])]
        return len(pack_fields(fields)) <= nibbles

    found = next(
        filled
        for bits in range(min(4 * nibbles, 8 * len(deviation)), -1, -1)
        if packs(filled := water_fill(deviation, bits))
    )
    weight = (deviation ** (2 * (1 + QUERY_ALPHA))).tolist()
    while True:
        gains = sorted((weight[j] * (_distortion(b) - _distortion(b + 1)), j) for j, b in enumerate(found) if b < 8)
        more = (found + (np.arange(len(found)) == j) for _, j in reversed(gains))
        if (best := next(filter(packs, more), None)) is None:
            return found
        found = best


@settings(max_examples=60, deadline=None)
@example([1.0] * 12, 8)  # equal gains
@example([3.0, 3.0, 1e-6, 1e-6, 1e-6], 7)  # axes of no strength
@given(st.lists(st.floats(1e-6, 4), min_size=1, max_size=16), st.integers(1, 36))
def test_bits_are_those_of_trying_every_axis(deviation: list[float], nibbles: int) -> None:
    wave = np.array(deviation)
    assert _scalar_bits(wave, nibbles).tolist() == tried_one_by_one(wave, nibbles).tolist()


def test_axes_are_the_principal_ones_in_order() -> None:
    codec = trained(97, 70)
    assert np.allclose(codec.axes @ codec.axes.T, np.eye(len(codec.axes)), atol=1e-2)  # 8 bits
    assert (codec.axes == axes_of(codec.rotation).astype(np.float32)).all()
    assert (np.diff(codec.deviation) <= 0).all()
    assert bits_of(codec)[0] == bits_of(codec).max()
    seen = drawn(4000, 97, 1) @ codec.axes.T
    assert np.allclose(np.sqrt(np.mean(seen**2, 0)), codec.deviation, rtol=0.02)


def test_training_is_deterministic() -> None:
    assert trained.__wrapped__(97, 24).section.pack() == trained.__wrapped__(97, 24).section.pack()


# Codes


@pytest.mark.parametrize(("dimension", "code_bytes"), SHAPES)
def test_codes_decode_to_what_encode_said(dimension: int, code_bytes: int) -> None:
    codec = trained(dimension, code_bytes)
    x = np.concatenate([drawn(200, dimension), np.zeros((1, dimension), np.float32)])
    codes, decoded = encode(codec, x @ codec.axes.T)
    assert codes.shape == (201, code_bytes) and codes.dtype == np.uint8
    assert np.allclose(decode(codec.section, codes), decoded, rtol=1e-6, atol=1e-7)


def test_codes_use_the_nearest_value_of_each_axis() -> None:
    codec = trained(97, 40)
    rotated = drawn(50, 97) @ codec.axes.T
    _, decoded = encode(codec, rotated)
    rms = np.sqrt(np.mean((rotated / codec.deviation) ** 2, 1, keepdims=True))
    for axis, bits in enumerate(bits_of(codec).tolist()):
        q = levels(bits)
        values = (q.top[:, None] + q.low).ravel() * codec.deviation[axis]
        wanted = rotated[:, axis, None] / rms
        best = np.abs(wanted - values).min(1)
        assert np.allclose(np.abs(wanted[:, 0] - decoded[:, axis]), best, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("moment", [np.zeros((5, 5)), np.diag([1.0, 0, 0, 0, 0])], ids=["nothing", "a line"])
def test_directions_without_spread(moment: np.ndarray) -> None:
    """Rows that are all alike, or lie on a line: every number stays finite, and the line is coded well."""
    codec = train(moment, np.eye(5), 4)
    x = np.zeros((20, 5), np.float32)
    x[:, 0] = np.linspace(-1, 1, 20) * np.sqrt(moment[0, 0])
    (block,) = encode_blocks(codec, x, [0, 20], np.zeros((1, 5), np.float32), "dot")
    assert np.isfinite(block.ranges).all()
    q = np.array([0.6, 0, 0.8, 0, 0], np.float32)
    assert np.allclose(scores(codec, block, q, 0.0), x @ q, atol=0.02)


# Factors and scores


def tables(codec: Codec, query: np.ndarray) -> bytearray:
    section = codec.section
    weighted = np.asarray(rotated(codec.rotation, query), np.float32) * codec.deviation
    out = bytearray(kernels.lrsq_tables_size(section.code_bytes, section.fine))
    kernels.lrsq_tables(weighted, section.fields, section.starts, section.levels, UNIT, section.fine, out)
    return out


def scores(codec: Codec, block: Encoded, query: np.ndarray, base: float) -> np.ndarray:
    """f64 (n): the kernel's integers for a block, as scores."""
    n = len(block.f)
    rows = np.arange(aligned(n, 16), dtype=np.uint32).tobytes()
    centre = Centre(0.0, 0.0, bytes(aligned(len(query), 16)))
    data, size = pack_block(n, 0, block.ranges, centre, [*block.planes(), rows], b"")
    at, out = block_planes(n, codec.code_bytes, len(query)), np.zeros(n, np.int32)
    assert len(data) == size == at.checks
    kernels.lrsq_scores(
        data, RANGES_AT, at.codes, at.f, at.h, at.rows, n, base, 0, tables(codec, query), out
    )  # fmt: skip
    return out / UNIT


def rounding(codec: Codec, query: np.ndarray) -> float:
    """The most that the sum of table entries can be off: half a step a nibble, steps as the tables state them."""
    head = tables(codec, query)
    unit = struct.unpack_from("<f", head, 4)[0]
    per_segment = [
        (1.0 if g < codec.section.fine else 2.0 ** head[32 + g + codec.section.fine])
        for g in range(-(-codec.code_bytes // SEGMENT))
    ]
    sizes = [2 * min(SEGMENT, codec.code_bytes - SEGMENT * g) for g in range(len(per_segment))]
    return float(sum(0.5 * unit * step * n for step, n in zip(per_segment, sizes, strict=True)))


def problem(dimension: int, metric: str) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """Rows of blocks of 1, 16, 40 and 3 rows around centres, one of them the centre itself; and a query."""
    draw = np.random.default_rng([dimension, METRICS.index(metric)])
    starts = [0, 1, 17, 57, 60]
    centres = draw.standard_normal((4, dimension)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    x = drawn(60, dimension, 5) + centres[np.repeat(np.arange(4), np.diff(starts))]
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[20] = centres[2]
    query = draw.standard_normal(dimension).astype(np.float32)
    return x, starts, centres, query / np.linalg.norm(query)


def exact(x: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """What a scan score stands for: <q, x>, or <q, x> - |x|^2 / 2 under l2."""
    x = x.astype(np.float64)
    return x @ query - (0.5 * (x**2).sum(1) if metric == "l2" else 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dimension", "code_bytes"), SHAPES)
def test_kernel_integers_are_the_float_sums(dimension: int, code_bytes: int, metric: str) -> None:
    """Within half a step a nibble times the factor, and half an integer."""
    codec = trained(dimension, code_bytes)
    x, starts, centres, query = problem(dimension, metric)
    assert len(blocks := encode_blocks(codec, x, starts, centres, metric)) == 4
    off = rounding(codec, query)
    rotated = codec.axes.astype(np.float64) @ query
    for b, block in enumerate(blocks):
        base = float(centres[b].astype(np.float64) @ query) - (0.5 * float((centres[b] ** 2).sum()) * (metric == "l2"))
        f_low, f_step, h_low, h_step = block.ranges
        f, h = f_low + f_step * block.f.astype(float), h_low + h_step * block.h.astype(float)
        wanted = base + h + f * (decode(codec.section, block.codes) @ rotated)
        assert (np.abs(scores(codec, block, query, base) - wanted) <= f * off + 0.5 / UNIT + 3e-6).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dimension", "code_bytes"), [(1, 4), (3, 4), (97, 80), (200, 170)])
def test_long_codes_score_nearly_exactly(dimension: int, code_bytes: int, metric: str) -> None:
    codec = trained(dimension, code_bytes)
    x, starts, centres, query = problem(dimension, metric)
    found = np.concatenate([
        scores(codec, block, query, float(exact(centres[b : b + 1], query, metric)[0]))
        for b, block in enumerate(encode_blocks(codec, x, starts, centres, metric))
    ])  # fmt: skip
    off = found - exact(x, query, metric)
    length = float(np.linalg.norm(x - centres[np.repeat(np.arange(4), np.diff(starts))], axis=1).max())
    assert np.abs(off).max() < 0.03 * length
    assert off[20] == pytest.approx(0, abs=0.01 * length)  # the row that is its centre, beside h of its block


@pytest.mark.parametrize("metric", METRICS)
def test_longer_codes_score_better(metric: str) -> None:
    x, starts, centres, query = problem(97, metric)
    off = []
    for code_bytes in (8, 24, 40, 70):
        codec = trained(97, code_bytes)
        blocks = encode_blocks(codec, x, starts, centres, metric)
        found = [
            scores(codec, e, query, float(exact(centres[b : b + 1], query, metric)[0])) for b, e in enumerate(blocks)
        ]
        off.append(float(np.std(np.concatenate(found) - exact(x, query, metric))))
    assert all(b < 0.75 * a for a, b in itertools.pairwise(off))


def test_the_factor_is_unbiased() -> None:
    """Short codes shrink; the factor puts the length back, so that errors even out over many rows and queries."""
    codec = trained(97, 12)
    x = drawn(3000, 97, 6)
    (block,) = encode_blocks(codec, x, [0, 3000], np.zeros((1, 97), np.float32), "dot")
    queries = np.random.default_rng(7).standard_normal((200, len(codec.axes))) @ codec.axes  # in all kept directions
    found = np.array([scores(codec, block, q.astype(np.float32), 0.0) for q in queries])
    truth = queries @ x.T
    assert float((found * truth).sum() / (truth**2).sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_a_block_of_one_row_at_its_centre(metric: str) -> None:
    codec = trained(97, 24)
    centre = drawn(1, 97, 9)
    (block,) = encode_blocks(codec, centre, [0, 1], centre, metric)
    assert block.ranges == (0.0, 0.0, 0.0, 0.0)
    query = drawn(1, 97, 10)[0]
    base = float(centre[0] @ query)
    assert scores(codec, block, query, base)[0] == pytest.approx(base, abs=1 / UNIT)


def test_planes_are_in_groups_of_16_rows() -> None:
    """Byte j of the code of row r of a group is at 16 j + r, the rest of the last group is zeros."""
    codec = trained(3, 2)
    x = drawn(19, 3)
    (block,) = encode_blocks(codec, x, [0, 19], np.zeros((1, 3), np.float32), "dot")
    codes, f, h = block.planes()
    assert (len(codes), len(f), len(h)) == (64, 32, 32)
    for row in range(32):
        for j in range(2):
            assert codes[32 * (row // 16) + 16 * j + row % 16] == (block.codes[row, j] if row < 19 else 0)
    assert f[:19] == block.f.tobytes() and h[:19] == block.h.tobytes() and not any(f[19:] + h[19:])


def test_rows_are_encoded_the_same_alone_and_together() -> None:
    codec, (x, starts, centres, _) = trained(97, 24), problem(97, "l2")
    together = encode_blocks(codec, x, starts, centres, "l2")
    for b, block in enumerate(together):
        low, high = starts[b], starts[b + 1]
        (alone,) = encode_blocks(codec, x[low:high], [0, high - low], centres[b : b + 1], "l2")
        assert (alone.codes == block.codes).all()
        assert np.allclose(alone.ranges, block.ranges, rtol=1e-5, atol=1e-7)


def test_levels_reach_as_far_as_the_values_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a block holds rows of two clusters: the axis between them is nothing to all other blocks."""
    x = np.random.default_rng(1).normal(size=(3000, 128)).astype(np.float32)
    x[::60, 0] += 30 * np.where(np.arange(50) % 2, 1, -1)
    far = np.arange(0, 3000, 60)

    def lost() -> float:
        codec = lrsq.train(x.T @ x / len(x), np.eye(128), 128, x)
        codes, decoded = encode(codec, x @ codec.axes.T.astype(np.float32))
        y = x[far] @ codec.axes.T.astype(np.float32)
        scale = (y * decoded[far]).sum(1) / (decoded[far] ** 2).sum(1)
        return float(np.linalg.norm(y - scale[:, None] * decoded[far]) / np.linalg.norm(y))

    covered = lost()
    monkeypatch.setattr(lrsq, "COVERED", np.inf)
    assert covered < 0.03 and lost() > 3 * covered


@pytest.mark.filterwarnings("error")  # of a file that is not closed
@pytest.mark.parametrize("memory_bytes", [1, 1 << 20])
def test_codes_are_kept_as_they_were(tmp_path: Path, memory_bytes: int) -> None:
    """In memory, and in a file where they are more than may be there."""
    rng = np.random.default_rng(0)
    sizes, codec = np.array([3, 1, 200, 17]), SimpleNamespace(code_bytes=5)
    made = [
        Encoded((float(n), 1.0, 2.0, 3.0), *(rng.integers(0, 256, shape, np.uint8) for shape in ((n, 5), n, n)))
        for n in sizes.tolist()
    ]
    kept = KeptCodes(cast(Codec, codec), sizes, memory_bytes, tmp_path)
    for low, high in ((0, 1), (1, 4)):
        assert not kept.complete
        kept.put(made[low:high])
    assert kept.complete
    for low, high in ((0, 4), (2, 3), (1, 3), (0, 1)):
        for mine, theirs in zip(kept.get(low, high), made[low:high], strict=True):
            assert mine.ranges == theirs.ranges
            assert all((a == b).all() for a, b in ((mine.codes, theirs.codes), (mine.f, theirs.f), (mine.h, theirs.h)))
