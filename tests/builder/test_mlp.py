"""mlp: the edge's integers against numpy, its section, honest probabilities within a quarter of trained's bytes."""

from __future__ import annotations

import sys
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import RowsOf, clustered
from test_trained import BLOCKS, log_loss, task_of

from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.hashing.minimise import adam, minimise
from build_index.progress import SILENT
from build_index.routers import lse, mlp
from build_index.routers.packing import round_through
from build_index.simulate.edge import probabilities
from build_index.tune.fit import fit_router
from vantage.errors import DamagedError
from vantage.format import HEADER, SECTION, IndexSection, LseSection, MlpSection
from vantage.format.layout import (
    PROMISES,
    REGIONS_VERSION,
    ROOT_MAGIC,
    ROUTER,
    SECTION_VERSION,
    pack_object,
    unpack_object,
)
from vantage.search.prepare import Prepared, prepare
from vantage.search.route.mlp import MlpRouter

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
import reference

NO_LESSON: Any = None  # the regions to look into are chosen by cost alone


def index_of(dimension: int, blocks: int = 6, metric: str = "dot") -> IndexSection:
    return IndexSection(metric, dimension, 100, blocks, "i64", "f32", "lrsq", "mlp", 1.0, 100)


def network(dimension: int, units: int, blocks: int = 6, subs: int = 2, bits: int = 4) -> MlpSection:
    """Random numbers of a trained network's size."""
    draw = np.random.default_rng(0)
    found = {
        "first": draw.normal(size=(units, dimension)).astype(np.float32),
        "bias": draw.normal(size=units).astype(np.float32) * 0.1,
        "table": draw.normal(size=(blocks * subs, units)).astype(np.float32),
        "log_beta": np.float32(1),
    }
    gone = np.arange(blocks * subs) // subs == 1
    weight = np.where(gone, -np.inf, draw.normal(size=blocks * subs)).astype(np.float32)
    made = mlp.section(found, weight, subs, units - 8)
    return replace(made, output=lse.pack_section(found["table"], weight, subs, 3.0, 0.7, bits)) if bits != 4 else made


def progressive(monkeypatch: pytest.MonkeyPatch, section: MlpSection, blocks: int, beam: int) -> MlpSection:
    """The same with regions."""
    monkeypatch.setattr(mlp, "FLAT_BLOCKS_MAX", 0)
    made = mlp.reorder(section, np.arange(blocks))
    assert made.regions is not None
    return replace(made, regions=replace(made.regions, beam=beam))


def integers(table: memoryview, rows: int, width: int, bits: int) -> np.ndarray:
    """i64 (rows, width): what a table of matvec_i4 or matvec_i8 holds."""
    stored = np.frombuffer(table, np.uint8).reshape(rows, -1)
    if bits == 8:
        return stored.view(np.int8)[:, :width].astype(np.int64)
    groups = stored.reshape(rows, -1, 16)
    return (np.concatenate([groups & 15, groups >> 4], 2).reshape(rows, -1)[:, :width]).astype(np.int64) - 8


def in_numpy(section: MlpSection, index: IndexSection, query: Prepared) -> np.ndarray:
    """u32 (B), 0 of blocks that are not looked at: docs/format.md, section 9.3, in 64-bit integers.

    Sums that leave 32 bits are refused.
    """
    q = np.array(query.i16, np.int64)[: index.dimension]
    dots = integers(section.table, section.units, index.dimension, section.bits) @ q
    unit = 1 / query.i16_scale if query.i16_scale > 1e-25 else 0.0
    value = np.array(section.scale, np.float64) * dots + np.array(section.bias, np.float64) * unit
    low = np.where(np.arange(section.units) < section.linear, -32767, 0)
    hidden = np.clip(np.floor(value + 0.5), low, 32767).astype(np.int64)
    assert np.abs(dots).max() < 2**31

    def layer(output: LseSection, some: np.ndarray) -> np.ndarray:
        sums = integers(output.table, len(output.scale), len(hidden), output.bits) @ hidden
        assert np.abs(sums).max() < 2**31
        columns = (
            np.array(column, np.float32).reshape(-1, output.subs)[some] for column in (output.scale, output.weight)
        )
        alpha = output.beta * query.i16_scale
        return reference.block_probabilities(sums.reshape(-1, output.subs)[some], *columns, alpha, output.temperature)

    every = np.arange(index.blocks)
    if section.regions is None:
        return layer(section.output, every)
    first = np.array(section.regions.first_block)
    coarse = layer(section.regions.head, np.arange(len(first) - 1)).astype(np.int64)
    best = np.argsort(-coarse, kind="stable")[: section.regions.beam]
    some = every[np.isin(np.searchsorted(first, every, "right") - 1, best)]
    out = np.zeros(index.blocks, np.uint32)
    out[some] = layer(section.output, some)
    return out


@pytest.mark.parametrize(("dimension", "units", "bits"), [(40, 32, 4), (96, 64, 8), (33, 96, 4)])
def test_the_edge_does_what_numpy_does(dimension: int, units: int, bits: int) -> None:
    index, draw = index_of(dimension), np.random.default_rng(1)
    section = network(dimension, units, bits=bits)
    router = MlpRouter(section, index)
    for scale in (1.0, 1e-12, 1e12, 0.0):
        query = prepare((scale * draw.normal(size=dimension)).tolist(), index)
        p = router.probabilities(query).p
        assert p.tolist() == in_numpy(section, index, query).tolist()
        assert p[1] == 0
        assert abs(sum(p) - 2**20) < len(p)


def test_the_longest_units_and_queries_do_not_overflow() -> None:
    """Every integer at its end: all units as long as the query, rows of the largest numbers."""
    draw = np.random.default_rng(2)
    index = index_of(3000, metric="l2")
    section = network(3000, 2048)
    output = section.output
    for fill in (b"\x00", b"\xff", b"\x0f"):
        full = replace(
            section, bias=memoryview(array("f", [1e9] * 2048)),
            output=replace(output, table=memoryview(fill * len(output.table))),
        )  # fmt: skip
        for q in (np.full(3000, 1.0), draw.choice([-1.0, 1.0], 3000), np.eye(3000)[5], np.full(3000, 1e-20)):
            query = prepare(q.tolist(), index)
            assert MlpRouter(full, index).probabilities(query).p.tolist() == in_numpy(full, index, query).tolist()


@pytest.mark.parametrize(("blocks", "beam", "bits"), [(50, 1, 4), (50, 3, 8), (50, 7, 4), (1, 1, 4)])
def test_a_progressive_network_does_what_numpy_does(
    monkeypatch: pytest.MonkeyPatch, blocks: int, beam: int, bits: int
) -> None:
    index, draw = index_of(40, blocks), np.random.default_rng(3)
    flat = network(40, 64, blocks, 1 if blocks == 1 else 2, bits)
    if blocks == 1:  # the only block that there is, whose weight network() does not take
        flat = replace(flat, output=replace(flat.output, weight=memoryview(array("f", [0.0]))))
    section = progressive(monkeypatch, flat, blocks, beam)
    router = MlpRouter(section, index)
    for scale in (1.0, 1.0, 1e-12, 0.0):
        query = prepare((scale * draw.normal(size=40)).tolist(), index)
        found, wanted = router.probabilities(query), in_numpy(section, index, query)
        assert found.blocks is not None
        assert found.blocks.tolist() == sorted(set(found.blocks))
        assert np.flatnonzero(wanted).tolist() == [b for b, p in zip(found.blocks, found.p, strict=True) if p]
        assert found.p.tolist() == wanted[found.blocks].tolist()
        assert (len(found.blocks) == blocks) == (beam == round(blocks**0.5))
        if len(found.blocks) == blocks:
            assert found.p == MlpRouter(flat, index).probabilities(query).p


def test_regions_come_back_and_damage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(40, 50)
    flat = network(40, 32, 50)
    section = progressive(monkeypatch, flat, 50, 3)
    regions = section.regions
    assert regions is not None
    body = section.pack()
    back = MlpSection.unpack(memoryview(body), index, "router")
    assert back.pack() == body
    assert back.regions is not None
    assert (back.regions.beam, list(back.regions.first_block)) == (3, [0, 7, 14, 21, 28, 35, 42, 50])
    assert MlpSection.unpack(memoryview(flat.pack()), index, "router").regions is None
    gone = array("f", section.output.weight)
    gone[14:28] = array("f", [-np.inf] * 14)
    for broken in (
        replace(section, output=replace(section.output, weight=memoryview(gone))),
        *(
            replace(section, regions=replace(regions, **wrong))
            for wrong in (
                {"beam": 0}, {"beam": 8}, {"first_block": array("I", [0, 7, 7, 21, 28, 35, 42, 50])},
                {"first_block": array("I", [0, 7, 14, 21, 28, 35, 42, 51])},
                {"first_block": array("I", [1, 7, 14, 21, 28, 35, 42, 50])}, {"first_block": array("I", [0, 50])},
            )
        ),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            MlpSection.unpack(memoryview(broken.pack()), index, "router")
    for cut in (body[:-1], body + b"\0", body[: len(flat.pack()) + 4]):
        with pytest.raises(DamagedError):
            MlpSection.unpack(memoryview(cut), index, "router")


def test_an_old_reader_refuses_regions_by_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    section = progressive(monkeypatch, network(40, 32, 50), 50, 3)
    for version, known in ((SECTION_VERSION, True), (REGIONS_VERSION, True), (REGIONS_VERSION + 1, False)):
        root = pack_object(ROOT_MAGIC, [(ROUTER, section.pack()), (PROMISES, b"")], version)
        assert [SECTION.unpack_from(root, HEADER.size + at)[1] for at in (0, SECTION.size)] == [
            version,
            SECTION_VERSION,
        ]
        if known:
            assert bytes(unpack_object(root, ROOT_MAGIC, "root")[ROUTER]) == section.pack()
        else:
            with pytest.raises(DamagedError, match="section router: version 3"):
                unpack_object(root, ROOT_MAGIC, "root")


def test_the_fewest_regions_that_cost_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    section = progressive(monkeypatch, network(40, 32, 256, 1), 256, 16)

    def beam(costs: dict[int, float]) -> int:
        """What is chosen; 0: no regions."""
        found = mlp.tune(section, NO_LESSON, lambda one: costs[of(one)])  # type: ignore[arg-type]
        return of(found)

    def of(one: MlpSection) -> int:
        return one.regions.beam if one.regions else 0

    assert beam({1: 3.0, 2: 2.01, 4: 2.0, 0: 2.0}) == 2
    assert beam({1: np.inf, 2: 2.5, 4: 2.1, 8: 2.0, 0: 2.0}) == 8
    assert beam({1: 3.0, 2: 2.5, 4: 2.1, 8: 2.03, 0: 2.0}) == 0
    assert beam({0: np.inf}) == 16
    flat = replace(section, regions=None)
    assert mlp.tune(flat, NO_LESSON, lambda one: 0.0) is flat


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_training_makes_a_small_network_honest(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, metric: str) -> None:
    """On rows that trained nothing its loss is below that of lse. The same seed gives the same bytes."""
    monkeypatch.setattr(mlp, "STEPS", 60)
    monkeypatch.setattr(mlp, "BATCH", 256)
    rows = rows_of(clustered(3000, 40, 3), metric, scale=None)
    task = task_of(rows)
    base = partition(rows, task.sample, BLOCKS, 0)
    copy = soar(rows, base).best(0.35)
    by_name = {name: fit_router(task, base, copy, name, SILENT)[0] for name in ("lse", "mlp")}
    assert log_loss(task, by_name["mlp"]) < log_loss(task, by_name["lse"])
    section = by_name["mlp"].section
    assert isinstance(section, MlpSection)
    assert fit_router(task, base, copy, "mlp", SILENT)[0].section.pack() == section.pack()
    order = np.random.default_rng(3).permutation(BLOCKS)
    index = index_section(rows, BLOCKS, rows.count, "mlp")
    p = probabilities("mlp", section, index, task.tune.queries[:20])
    assert (probabilities("mlp", mlp.reorder(section, order), index, task.tune.queries[:20]) == p[:, order]).all()
    # Half of the regions, of blocks in file order, hold nearly all that the whole network says of their blocks.
    half = probabilities("mlp", progressive(monkeypatch, section, BLOCKS, 3), index, task.tune.queries)
    whole = probabilities("mlp", section, index, task.tune.queries).astype(np.float64)
    assert (whole * (half > 0)).sum() > 0.95 * whole.sum()


@pytest.mark.parametrize("linear", [12, 7])
def test_slopes_are_those_of_automatic_differentiation(linear: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the loss too, with rectified units, blocks without sub-centroids, neighbours without blocks, and in parts."""
    import jax
    import jax.numpy as jnp
    from jax.nn import logsumexp

    monkeypatch.setattr(mlp, "PART_BYTES", 4 * 60 * 7)  # of 7 queries
    draw, blocks, subs, units, d, n = np.random.default_rng(4), 20, 3, 12, 10, 40
    live = np.arange(blocks * subs) % 7 > 0
    now = {
        "first": draw.normal(size=(units, d)), "bias": 0.3 * draw.normal(size=units),
        "table": draw.normal(size=(blocks * subs, units)), "weight": np.where(live, draw.normal(size=blocks * subs), 0),
        "log_beta": np.array(0.3),
    }  # fmt: skip
    now = {name: value.astype(np.float32) for name, value in now.items()}
    q = draw.normal(size=(n, d)).astype(np.float32)
    near, weight = draw.integers(-1, blocks, size=(n, 6, 2)), draw.random((n, 6)) * (draw.random((n, 6)) < 0.7)
    near[:, :, 0] = np.abs(near[:, :, 0])

    def loss(now: dict[str, Any]) -> Any:
        length = jnp.linalg.norm(q, axis=1, keepdims=True)
        hidden = q @ round_through(now["first"], mlp.BITS).T + now["bias"]
        hidden = jnp.clip(hidden, jnp.where(jnp.arange(units) < linear, -length, 0), length)
        table = round_through(now["table"] - now["table"][live].mean(0), mlp.BITS)
        logit = jnp.exp(now["log_beta"]) * (hidden @ table.T) + jnp.where(live, now["weight"], -1e9)
        log_p = jax.nn.log_softmax(logsumexp(logit.reshape(n, blocks, subs), axis=2))
        each = jnp.take_along_axis(log_p, jnp.maximum(near, 0).reshape(n, -1), 1).reshape(near.shape)
        return -(logsumexp(jnp.where(near >= 0, each, -1e4), axis=2) * weight).sum() / weight.sum()

    value, wanted = jax.value_and_grad(loss)({name: jnp.asarray(one) for name, one in now.items()})
    of, place = np.nonzero(weight)
    held, counts = near[of, place].astype(np.int32), weight[of, place].astype(np.float32)
    found, slopes = mlp.slopes(now, live, linear, blocks, q, of, held, counts)
    assert found == pytest.approx(float(value), rel=1e-5)
    for name, slope in slopes.items():
        assert np.abs(slope - wanted[name]).max() < 1e-4 * np.abs(wanted[name]).max(), name


def test_steps_are_those_of_optax() -> None:
    """Of parameters at rates of their own, as codewords are trained by, while rates rise and fall."""
    start = {"a": np.ones((3, 2), np.float32), "b": np.array(0.5, np.float32)}
    draws = [np.random.default_rng(i).normal(size=(3, 2)).astype(np.float32) for i in range(30)]
    rates = {"a": 0.1, "b": 0.02}

    def loss(now: dict[str, Any], x: Any) -> Any:
        return ((now["a"] * x) ** 2).sum() + now["b"] * x.sum()

    wanted = minimise(loss, start, rates, 30, iter([(x,) for x in draws]).__next__, SILENT)
    now = {name: value.copy() for name, value in start.items()}
    step = adam(now, rates, 30)
    for x in draws:
        step({"a": 2 * now["a"] * x * x, "b": x.sum()})
    for name in now:
        assert now[name] == pytest.approx(wanted[name], abs=1e-4)


@pytest.mark.parametrize(("dimension", "blocks"), [(384, 1024), (128, 1024), (128, 16384), (768, 4096)])
def test_a_quarter_of_the_bytes(dimension: int, blocks: int) -> None:
    units, subs = mlp.shape_for(dimension, blocks, 0.25)
    size = len(network(dimension, units, blocks, subs).pack())
    table = blocks * lse.SUBS * (8 + LseSection.stride(4, dimension))
    assert 0.8 * table / 4 < size < 1.001 * table / 4


def test_section_comes_back_and_damage_is_named() -> None:
    index = index_of(40)
    section = network(40, 32)
    body = section.pack()
    back = MlpSection.unpack(memoryview(body), index, "router")
    assert back.pack() == body
    assert (back.units, back.bits) == (32, 4)
    bad_scale = replace(section, scale=memoryview(array("f", [float("nan")] * 32)))
    for broken, of in (
        (body[:-1], index), (body + b"\0", index), (body[:20], index), (bad_scale.pack(), index), (body, index_of(100)),
        (body, replace(index, blocks=7)), (b"\x00" * 4 + body[4:], index), (b"\x21" + body[1:], index),
        (body[:8] + b"\x05" + body[9:], index), (network(40, 544, bits=8).pack(), index),
            (network(40, 4128).pack(), index), (body[:4] + b"\x21" + body[5:], index),
    ):  # fmt: skip
        with pytest.raises(DamagedError):
            MlpSection.unpack(memoryview(broken), of, "router")
