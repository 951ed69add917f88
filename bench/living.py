"""What an index costs that grows without being built again: python -m bench.living DATA FOLDER [--parts half-lse ...]

DATA holds WordNet's part-*.parquet and queries.parquet. A part is a set of rows that an index is built of (half: drawn
from all; nouns; all) and how it routes (lse: `--fast`; mlp: the default). Rows that come later are added as a rewrite
adds them, in one go, and blocks divided (but with --whole): of `half` like those that are there, of `nouns` verbs,
adjectives and adverbs. Then prices are measured again by the rows held (build_index/tune/living.py). Printed are, for
the last 1,000 queries (how blocks are divided was chosen by the first): recall@100 at the promise of 0.95, GETs and MB
of the edge's plans, nothing cached, at the price of the build and at the one now; and the CPU seconds of the measuring.
`all` is what a build of all rows reads. FOLDER keeps what was built, so that a run that broke off goes on.
"""

from __future__ import annotations

import argparse
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index import VectorIndex
from build_index.bucket.open import open_index
from build_index.ingest.arrays import check_arrays
from build_index.ingest.rows import F32, Ints
from build_index.mutable import MutableIndex
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.truth import untied
from build_index.simulate.edge import HeldOutQueries
from build_index.simulate.measure import plans
from build_index.simulate.stored import Opened, extent_probabilities, scan_stored, starts
from build_index.tune.living import rebuild_pays
from build_index.write.reopen import held_of
from vantage.format import Promise
from vantage.search.estimate import promise_of
from vantage.search.prepare import prepare

K, TARGET, ASKED = 100, 0.95, 1000
FAST = {"lse": True, "mlp": False}
SHARES = {"half": (0.1, 0.3, 1.0), "nouns": (0.1, 0.43), "all": ()}  # of the rows built of
PARTS = ("half-lse", "all-lse", "nouns-mlp", "half-mlp", "all-mlp")


def read(data: Path) -> tuple[F32, list[str]]:
    """WordNet's vectors and ids, in the order of its dictionary."""
    table = pa.concat_tables([pq.read_table(p, columns=["id", "vector"]) for p in sorted(data.glob("part-*.parquet"))])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), -1).astype(np.float32), table["id"].to_pylist()


def parts_of(base: str, ids: list[str]) -> tuple[Ints, Ints]:
    """Row numbers that an index is built of, and those that come later, in the order in which they do."""
    order = np.random.default_rng(0).permutation(len(ids))
    noun = np.array([name.startswith("n") for name in ids])[order]
    if base == "nouns":
        return order[noun], order[~noun]
    cut = len(ids) if base == "all" else len(ids) // 2
    return order[:cut], order[cut:]


def fitted(folder: Path, part: str, x: F32, first: Ints) -> MutableIndex:
    """The index of these rows, built or as it was kept."""
    kept = folder / f"{part}.pkl"
    if not kept.exists():
        began = time.process_time()
        index = VectorIndex(fast=FAST[part.rpartition("-")[2]]).fit(x[first].astype(np.float16), first)
        print(f"{part}: built in {time.process_time() - began:.0f} s of CPU", flush=True)
        kept.with_suffix(".new").write_bytes(pickle.dumps(index))
        kept.with_suffix(".new").rename(kept)
    one = pickle.loads(kept.read_bytes()).held
    return MutableIndex(one.rows, one.attributes, one.choice, one.codes, one.options, one.vector_kind)


def told(path: Path, queries: F32, topic: npt.NDArray[np.bool_], rows: Any, before: Promise) -> list[str]:
    """Recall, GETs and MB of queries at the price of the build, and at the one that the index has now."""
    index = open_index(path)
    root, out = index.root, list[str]()
    assert root.directory is not None
    numbers = np.argsort(np.concatenate([
        pq.read_table(p, columns=["source_row"])["source_row"].to_numpy()
        for p in sorted((path / index.current.generation / "vectors").iterdir())
    ]))  # fmt: skip
    truth = untied(numbers[exact_neighbours(rows.scaled(queries), rows.chunks(32 << 20), K, "cosine")].astype(np.int32))
    asked = HeldOutQueries([prepare(v.tolist(), root.index) for v in queries], np.full(len(queries), -1), truth)
    p, sizes = extent_probabilities(root, asked.queries), np.array(root.directory.places[0].size, np.int64)
    with Opened(path / index.current.generation) as files:
        found = scan_stored(root, files.read, asked, np.ones(p.shape, bool))
    now = promise_of(root.contract, root.promises, K, TARGET)
    for name, promise in (("price of the build", before), ("price now", now)):
        reads = plans(p, sizes, promise.price, starts=starts(root, 0))
        recall, nbytes = found.recall(reads.blocks, K, promise.rerank), np.array([sum(r) for r in reads.ranges]) / 1e6
        line = f"{name} {promise.price}: recall {recall.mean():.4f}, {reads.gets:.2f} GETs, {nbytes.mean():.3f} MB"
        if topic.any() and not topic.all():
            line += "".join(
                f"; {what} {recall[some].mean():.4f}, {nbytes[some].mean():.3f} MB"
                for what, some in (("new topic", topic), ("old", ~topic))
            )
        out.append(line)
    return out


def measured(data: Path, folder: Path, part: str, divide: bool) -> None:
    """Prints the lines of a part."""
    (x, ids), base = read(data), part.partition("-")[0]
    first, later = parts_of(base, ids)
    table = pq.read_table(data / "queries.parquet", columns=["id", "vector"])
    topic = np.array([not name.startswith("n") for name in table["id"].to_pylist()])
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    some = np.arange(len(table))[-ASKED:]
    if base == "nouns":  # half of them of the new topic
        some = np.sort(np.concatenate([np.flatnonzero(of)[-ASKED // 2 :] for of in (topic, ~topic)]))
    queries = flat.reshape(len(table), -1)[some].astype(np.float32)
    for share in (0.0, *SHARES[base]):
        kept = folder / f"{part}-{share}{'' if divide else '-whole'}.txt"
        if not kept.exists():
            index, path = fitted(folder, part, x, first), folder / "bucket" / f"{part}-{round(100 * share)}"
            before = promise_of(index.choice.contract, index.choice.promises, K, TARGET)
            path.mkdir(parents=True, exist_ok=True)
            began, added = time.process_time(), later[: round(share * len(first))]
            if len(added):
                index.add(check_arrays(x[added].astype(np.float16), added, "cosine", index.stored.kind))
                if divide:
                    index.divide()
            index.write(path)
            lines = told(path, queries, topic[some] & (base == "nouns"), index.rows, before)
            if len(added):
                root = open_index(path).root
                held = held_of(sorted((path / open_index(path).current.generation).iterdir()), root)
                assert held is not None
                seconds = time.process_time() - began
                lines.append(
                    f"{len(held.rows)} rows held, {held.later.sum()} of them later ones; a rebuild pays: "
                    f"{rebuild_pays(root, held)}; {seconds:.0f} s of CPU in all"
                )
            text = "".join(f"{part} +{share:.0%}, {index.rows.count:,} rows: {line}\n" for line in lines)
            kept.write_text(text)
        print(kept.read_text(), end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=PARTS)
    parser.add_argument("--whole", action="store_true", help="blocks are not divided, however they grow")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for part in given.parts:
        measured(given.data, given.folder, part, not given.whole)


if __name__ == "__main__":
    main()
