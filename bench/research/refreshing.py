"""What growth costs an index that is not built again, and what helps: python -m bench.growing FOLDER [PART ...]

Parts are named BASE-ROUTER and done one after another, each kept in FOLDER, so that a run that broke off goes on.
"""

from __future__ import annotations

import argparse
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index import VectorIndex
from build_index.blocks.layout import Layout, index_section
from build_index.hashing.minimise import adam
from build_index.ingest.arrays import check_arrays
from build_index.ingest.rows import Rows
from build_index.mutable import MutableIndex
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.truth import hold_out, neighbours_of, truth_of, untied
from build_index.routers import learn, lse, mlp
from build_index.routers.packing import unpack
from build_index.routers.training import TrainingSet, spread_of
from build_index.simulate.edge import HeldOutQueries, P, prepare_rows
from build_index.simulate.measure import Candidates, Scanned, block_bytes, full_scans, plans
from build_index.tune.contract import PricedRecall, price_at, promise_recall
from build_index.tune.fit import probabilities_of
from vantage.format import LseSection, MlpSection
from vantage.search.prepare import prepare

F32 = npt.NDArray[np.float32]
BASES = ("half", "nouns", "all")
ROUTERS = {"lse": True, "mlp": False}  # and whether the build is --fast


def read(data: Path) -> tuple[F32, list[str]]:
    """WordNet's vectors and ids, in the order of its dictionary."""
    table = pa.concat_tables([pq.read_table(p, columns=["id", "vector"]) for p in sorted(data.glob("part-*.parquet"))])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1).astype(np.float32), table["id"].to_pylist()


def parts_of(base: str, ids: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row numbers that an index is built of, and those that come later, in the order in which they do."""
    order = np.random.default_rng(0).permutation(len(ids))
    noun = np.array([name.startswith("n") for name in ids])
    if base == "nouns":
        return order[noun[order]], order[~noun[order]]
    cut = len(ids) if base == "all" else len(ids) // 2
    return order[:cut], order[cut:]


def fitted(folder: Path, data: Path, base: str, router: str) -> Any:
    """The index of these rows, built or as it was kept."""
    kept = folder / f"{base}-{router}.pkl"
    if not kept.exists():
        x, ids = read(data)
        first, _ = parts_of(base, ids)
        began = time.process_time()
        index = VectorIndex(fast=ROUTERS[router]).fit(x[first].astype(np.float16), first)
        print(f"{base}-{router}: built in {time.process_time() - began:.0f} s of CPU, {index!r}", flush=True)
        kept.with_suffix(".new").write_bytes(pickle.dumps(index))
        kept.with_suffix(".new").rename(kept)
    return pickle.loads(kept.read_bytes())


K, TARGET, ID_BYTES, KEPT_NEAR = 100, 0.95, 8.0, 150
GROWTH = {"half": (0.0, 0.1, 0.3, 1.0), "nouns": (0.0, 0.1, 1.0), "all": (0.0,)}  # of the base; of what comes later
ASKED, HELD = 1000, 600  # queries that measure, rows that prices are found by


@dataclass(frozen=True)
class Measured:
    """Grown rows scanned for queries: what they are, and whether each is of a new topic. held_new: of the rows held,
    those that came later.
    """

    index: MutableIndex
    asked: Any
    topic: npt.NDArray[np.bool_]
    found: Candidates
    held: Any
    held_new: npt.NDArray[np.bool_]
    held_found: Candidates


def grown(folder: Path, data: Path, base: str, router: str, share: float) -> Measured:
    """The index with so many more rows, scanned, or as it was kept."""
    kept = folder / f"{base}-{router}-{share}.pkl"
    if kept.exists():
        out: Measured = pickle.loads(kept.read_bytes())
        return out
    index = fitted(folder, data, base, router).held
    x, ids = read(data)
    first, later = parts_of(base, ids)
    count = round(share * (len(later) if base == "nouns" and share == 1 else len(first)))
    began = time.process_time()
    if count:
        more = later[:count]
        index.add(check_arrays(x[more].astype(np.float16), more, "cosine", index.stored.kind))
    print(f"  added {count:,} in {time.process_time() - began:.1f} s", flush=True)
    rows, layout = index.rows, index.choice.layout
    queries = pq.read_table(data / "queries.parquet", columns=["id", "vector"])
    names = queries["id"].to_pylist()
    topic = np.array([not name.startswith("n") for name in names])
    some = np.arange(ASKED) if base != "nouns" else np.sort(
        np.concatenate([np.flatnonzero(topic)[:500], np.flatnonzero(~topic)[:500]])
    )  # fmt: skip
    vectors = queries["vector"].combine_chunks().flatten().to_numpy().reshape(len(queries), -1)[some].astype(np.float32)
    section = index_section(rows, 1, rows.count)
    truth = untied(exact_neighbours(rows.scaled(vectors), rows.chunks(32 << 20), K, "cosine"))
    asked = HeldOutQueries([prepare(v.tolist(), section) for v in vectors], np.full(len(some), -1), truth)
    old = hold_out(len(first), 0).calibration
    old = old[np.linspace(0, len(old) - 1, HELD).astype(int)]
    drawn = np.random.default_rng(7).choice(count, min(count, round(HELD * count / len(first))), replace=False)
    own = np.concatenate([old, len(first) + np.sort(drawn)])
    held = HeldOutQueries(prepare_rows(rows, own), own, truth_of(rows, own, KEPT_NEAR))
    began = time.process_time()
    found, held_found = full_scans(rows, layout, index.choice.codec, [Scanned(asked), Scanned(held)])
    print(f"  {len(some) + len(own)} queries scanned in {time.process_time() - began:.1f} s", flush=True)
    out = Measured(index, asked, topic[some], found, held, own >= len(first), held_found)
    kept.write_bytes(pickle.dumps(out))
    return out


def with_table(layout: Layout, table: LseSection) -> Layout:
    """With the router's table replaced."""
    section: Any = layout.section
    return replace(layout, section=replace(section, output=table) if isinstance(section, MlpSection) else table)


def table_of(layout: Layout) -> LseSection:
    section: Any = layout.section
    return section.output if isinstance(section, MlpSection) else section


def by_mass(layout: Layout, before: npt.NDArray[np.int64]) -> Layout:
    """Weights moved by what blocks have grown."""
    table = table_of(layout)
    weight = np.array(table.weight, np.float32).reshape(layout.blocks, -1)
    weight += np.log(layout.sizes() / before)[:, None].astype(np.float32)
    weight = np.maximum(weight - weight.max(), lse.WEIGHT_MIN).astype(np.float32)
    return with_table(layout, replace(table, weight=memoryview(weight.reshape(-1))))


def lessons_of(index: MutableIndex, base_rows: int, held: Any, count: int) -> TrainingSet:
    """Rows that were not held out, and their neighbours."""
    rows, layout = index.rows, index.choice.layout
    free = np.setdiff1d(np.arange(rows.count), held)
    queries = np.sort(np.random.default_rng(3).choice(free, count, replace=False))
    near, _ = neighbours_of(rows, queries, rows.take(queries), K)
    return TrainingSet(rows, free, layout.partition, layout.copy, queries, near, 0)


def tuned(training: TrainingSet, layout: Layout, steps: int, rates: dict[str, float], batch: int = 512) -> Layout:
    """The network, trained on with these rates."""
    section: Any = layout.section
    table = section.output
    width = section.units
    live = np.array(table.weight) > lse.WEIGHT_MIN / 2

    def values(t: Any, scale: Any, d: int) -> F32:
        s = np.array(scale, np.float32)
        return unpack(np.frombuffer(t, np.uint8).reshape(len(s), -1), 4)[:, :d] * s[:, None]

    now = {
        "first": values(section.table, section.scale, training.rows.dimension),
        "bias": np.array(section.bias, np.float32),
        "table": values(table.table, table.scale, width),
        "weight": np.where(live, np.array(table.weight, np.float32), 0).astype(np.float32),
        "log_beta": np.array(np.log(table.beta), np.float32),
    }
    some = {name: now[name] for name in rates}
    lesson, step = learn.lessons(training, batch), adam(some, rates, steps)
    for _ in range(steps):
        q, near, weight = lesson()
        of, place = np.nonzero(weight)
        slopes = mlp.slopes(
            now, live, section.linear, layout.blocks, q, of, training.blocks_of(near[of, place]), weight[of, place]
        )[1]
        step({name: slopes[name] for name in rates})
    weight = np.where(live, now["weight"], -np.inf)
    packed = lse.pack_section(now["table"], weight, table.subs, float(np.exp(now["log_beta"])), table.temperature, 4)
    return with_table(layout, packed)


def refreshed(rows: Rows, layout: Layout, held: Any, changed: npt.NDArray[np.bool_]) -> Layout:
    """lse: sub-centroids of these blocks anew."""
    old = table_of(layout)
    free = np.setdiff1d(np.arange(rows.count), held)
    x = rows.take(free)
    subs = lse.sub_centroids(x, layout.partition.home[free], layout.blocks, 1, old.subs)
    new = lse.section(subs, "cosine", old.beta, old.temperature, old.bits)
    return with_table(layout, new)


def told(m: Measured, layout: Layout, price: int, p: P, sizes: npt.NDArray[np.int64]) -> str:
    """Recall of the queries, of each topic and as they are mixed in the index; GETs and MB."""
    reads = plans(p, sizes, price)
    recall = m.found.recall(reads.blocks, K)
    nbytes, gets = np.array([sum(r) for r in reads.ranges]), np.array([len(r) for r in reads.ranges])
    return (
        f"recall {recall.mean():.4f}, new topic {recall[m.topic].mean():.4f}, old {recall[~m.topic].mean():.4f}, "
        + (
            f"{gets.mean():.2f} GETs, {nbytes.mean() / 1e6:.3f} MB (old {nbytes[~m.topic].mean() / 1e6:.3f}, new "
            f"{nbytes[m.topic].mean() / 1e6:.3f})"
        )
    )


def measure(folder: Path, data: Path, base: str, router: str) -> None:
    """Prints a line for each way, at each growth."""
    began = fitted(folder, data, base, router).held
    before, old_count = began.choice.layout.sizes(), began.rows.count
    promise = next(p for p in began.choice.promises.by_recall if p.recall >= TARGET)
    print(f"{base}-{router}: {began.choice.layout.router}, {began.choice.layout.blocks} blocks, price {promise.price}, "
          f"promised {promise.recall:.4f}, rerank {promise.rerank}, rendition {promise.rendition}")  # fmt: skip
    for share in GROWTH[base]:
        m = grown(folder, data, base, router, share)
        index = m.index
        rows, layout, codec = index.rows, index.choice.layout, index.choice.codec
        sizes = block_bytes(layout.sizes(), codec.code_bytes, ID_BYTES, rows.dimension)

        def line(name: str, way: Layout, price: int | None = None, new: bool = True) -> int:
            p = probabilities_of(rows, way, m.asked.queries)
            held_p = probabilities_of(rows, way, m.held.queries)
            if price is None:
                some = np.flatnonzero(new | ~m.held_new)
                parts = (
                    getattr(m.held_found, n)[some] for n in ("block", "row", "twin", "rank", "truth", "score", "base")
                )
                price = price_at(PricedRecall(Candidates(*parts), held_p[some], sizes), K, TARGET)
            if price is None:
                print(f"  +{share:.0%} {name}: target not reached", flush=True)
                return 0
            read = plans(held_p, sizes, price).blocks
            kept = m.held_found.recall(read, K)
            new_kept = kept[m.held_new].mean() if m.held_new.any() else np.nan
            print(f"  +{share:.0%} {name}: {told(m, way, price, p, sizes)}; price {price}, held {kept.mean():.4f}, "
                  f"new ones {new_kept:.4f}", flush=True)  # fmt: skip
            return price

        line("nothing", layout, promise.price)
        if not share:
            line("priced", layout)
            continue
        line("priced by old rows", layout, new=False)
        line("priced", layout)
        massed = by_mass(layout, before)
        line("weights by mass", massed)
        if isinstance(layout.section, MlpSection):
            for count, steps, rates in (
                (2000, 60, {"weight": 0.02}),
                (4000, 60, {"weight": 0.02, "table": 1e-3}),
                (4000, 120, {"weight": 0.02, "table": 1e-3, "log_beta": 0.01}),
            ):
                at = time.process_time()
                training = lessons_of(index, old_count, m.held.rows, count)
                neighbours = time.process_time() - at
                way = tuned(training, massed, steps, rates)
                line(f"{'+'.join(rates)} of {count} rows, {steps} steps ({neighbours:.1f} s and "
                     f"{time.process_time() - at - neighbours:.1f} s)", way)  # fmt: skip
        else:
            line("sub-centroids anew", refreshed(rows, layout, m.held.rows, before > 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("/work/shared/data/wordnet"))
    parser.add_argument("--fit", action="store_true")
    given = parser.parse_args()
    for part in given.parts or [f"{base}-{router}" for router in ROUTERS for base in BASES]:
        (fitted if given.fit else measure)(given.folder, given.data, *part.split("-"))


if __name__ == "__main__":
    main()
