"""Growth of two-level routing with the number of rows, measured without writing an index; two waves against one.

    python -m bench.growth FOLDER --extend LINES.txt [--rows 10000000,100000000] [--most 2000000]
    python -m bench.growth FOLDER [--rows 500000,1000000,2000000,4000000] [--blocks 0] [--share 0.35] [--code-bytes 80]

The rows are those of bench/scale.py, kept in FOLDER. Each size has a process of its own, and takes the steps of
`vantage build` with its functions but none of its comparisons: one number of blocks (the least that a build tries),
one share of SOAR copies, one code, 48 rows a block that train (--trained). The price is the contract's (recall@100
0.95) on 256 rows held out for it (--held), and as many unseen queries of the same draw are planned at that price: GETs,
bytes and waits are those of the edge's planner, nothing cached, recall that of the kernels' scores.

"resident table of 4" is the same router with all its sub-centroids in memory, priced to the same recall on the same
rows: what the routing page costs beside its read; "of 8" one with twice as many sub-centroids a block. "two waves"
reads short codes of the blocks first, then the missing bytes of the blocks that hold the best M rows; a row is found
if the short codes rank it among M and the whole ones among 100. The short code is trained for its length, which
flatters it: a prefix of a longer one ranks no better. Its price and M are the quickest that reach the target on the
queries themselves, which flatters it again.

--extend reads such lines and fits power laws of the rows and of the rows a block (--blocks) to what the table in memory
reads; it says how far off those are at the sizes over --most, which serve no law, and what follows for other sizes.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.generated import DIMENSION, drawn, written
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.codecs import lrsq
from build_index.ingest.open import open_source
from build_index.ingest.rows import Ints, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.truth import truth_of, untied
from build_index.prices import AS_OF, OTHERS, Workload
from build_index.prices import vantage as bill_of
from build_index.progress import SILENT
from build_index.routers import lse, mlp
from build_index.simulate.edge import HeldOutQueries, P, Pages, prepare_rows, probabilities
from build_index.simulate.measure import Candidates, Reads, block_bytes, full_scan, plans
from build_index.tune.codes import second_moments
from build_index.tune.contract import PricedRecall, price_at
from build_index.tune.draft import block_counts
from build_index.tune.fit import Task, fit_router, pages_of, probabilities_of
from build_index.tune.options import Options
from build_index.write.contents import PAGE_ROWS
from vantage.cost import LANE_BYTES_PER_MS, LANES, ROUND_MS, wave_ms
from vantage.format import ID_PAGE_ROWS, Cursor, IndexSection, LseSection, TwoLevelSection
from vantage.search.prepare import prepare

K, TARGET = 100, 0.95
ID_BYTES = 8.0
BLOCK = 224  # rows, of up to two million
LAWS = {  # of a table in memory, as every default build has up to 10^8 rows
    "GETs": r"resident table of 4 a block,.*, ([\d.]+) GETs",
    "MB": r"resident table of 4 a block,.* GETs, ([\d.]+) MB",
    "CPU seconds of a build": r" ([\d.]+) s of CPU$",
}
DIRECTORY_BYTES = 16  # of a block, in one rendition
SHARE, CODE_BYTES = 0.35, 80  # copies a row, and bytes of a code
SLOT_BYTES, ID_BYTES_STORED = 18, 28  # of a row in a block beside its code; in `ids.bin` and `rows.bin` together
QUERIES = 1_000_000
ROW_PAGE_BYTES, ID_PAGE_BYTES = 44, 12  # in the root, of a page of rows and of one of ids
SHORT_SHARES = (0.5, 0.75)  # of the code's bytes, in the first of two waves
CHANCES = (150, 200, 300, 500)  # rows whose blocks the second wave completes


def table_of(section: TwoLevelSection, index: IndexSection) -> LseSection:
    """What all pages say of all blocks, as one table."""
    parts: dict[int, tuple[bytes, ...]] = {}
    for page in section.pages:
        blocks, *columns = section.columns(Cursor(memoryview(page), "a page"), index)
        raw = [bytes(column) for column in columns]
        each = [len(column) // len(blocks) for column in raw]
        for i, b in enumerate(blocks):
            parts[b] = tuple(column[i * n : (i + 1) * n] for column, n in zip(raw, each, strict=True))
    scale, weight, table = (memoryview(b"".join(parts[b][c] for b in range(index.blocks))) for c in range(3))
    return LseSection(
        section.bits, section.subs, section.beta, section.temperature, table, scale.cast("f"), weight.cast("f")
    )


def best_rows(found: Candidates, read: npt.NDArray[np.bool_], count: int) -> list[Ints]:
    """Of each query, where in found its first `count` places are that lie in blocks read."""
    inside = read[np.arange(len(read))[:, None], found.block] & (found.block >= 0)
    return [np.flatnonzero(row)[:count] for row in inside]


def second_wave(short: Candidates, whole: Candidates, first: Reads, count: int, rest: Ints) -> tuple[float, Reads]:
    """(recall, reads of the second wave) where the first one read short codes and the rest of a block is so long."""
    wanted, rank = np.zeros(first.blocks.shape, np.uint32), np.full(whole.row.shape, -1, np.int32)
    for i, places in enumerate(best_rows(short, first.blocks, count)):
        wanted[i, short.block[i, places]] = 1 << 16
        chance = np.isin(whole.row[i], short.row[i, places])
        rank[i, chance] = whole.rank[i, chance]
    reads = plans(wanted, rest, 1)
    return float(replace(whole, rank=rank).recall(first.blocks, K).mean()), reads


def two_waves(
    short: Candidates, whole: Candidates, p: P, short_sizes: Ints, sizes: Ints, price: int, pages: Pages | None
) -> str:
    """The quickest pair of waves that reaches the target, told."""
    best: tuple[float, str] | None = None
    for lower in (price, price // 2, price // 4):
        first = replace(plans(p, short_sizes, lower), pages=pages)
        for count in CHANCES:
            recall, second = second_wave(short, whole, first, count, sizes - short_sizes)
            ms = float((first.ms + second.ms).mean())
            if recall >= TARGET and (best is None or ms < best[0]):
                best = ms, f"M {count}, recall@100 {recall:.4f}, {told([first, second])}"
    return best[1] if best else "target not reached"


def told(reads: list[Reads]) -> str:
    ms = sum(r.ms for r in reads)
    return (
        f"{sum(r.gets for r in reads):.2f} GETs, {sum(r.nbytes for r in reads) / 1e6:.3f} MB, "
        f"mean {np.mean(ms):.1f} p50 {np.median(ms):.1f} p99 {np.quantile(ms, 0.99):.1f} ms"
    )


class Clock:
    """Prints what a step took, and the peak memory up to its end."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.steps = time.monotonic(), time.process_time(), [0.0, 0.0]

    def step(self, name: str, *, counts: bool = True) -> None:
        wall, cpu = time.monotonic() - self.wall, time.process_time() - self.cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"  {name}: {wall:.0f} s, {cpu:.0f} s of CPU, peak {peak} MiB", flush=True)
        if counts:
            self.steps = [self.steps[0] + wall, self.steps[1] + cpu]
        self.wall, self.cpu = time.monotonic(), time.process_time()


def measured(folder: Path, count: int, blocks: int, share: float, code_bytes: int, held: int, trained: int) -> None:
    """Prints the lines of one size; 0 blocks are as many as a build would make."""
    clock, path = Clock(), written(folder, count)
    clock.step("generated", counts=False)
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        stage(open_source([path]), Path(scratch), metric="l2") as s,
    ):
        rows = scale_rows(s, "l2")
        clock.step("read")
        rng = np.random.default_rng(0)
        drawn_rows = rng.choice(count, 2 * held, replace=False)
        tune_rows, price_rows = np.sort(drawn_rows[:held]), np.sort(drawn_rows[held:])
        near = truth_of(rows, np.concatenate([tune_rows, price_rows]), K)
        tune = HeldOutQueries(prepare_rows(rows, tune_rows), tune_rows, near[:held])
        clock.step("exact neighbours of held-out rows")
        vectors = drawn(1 << 20, held)
        asked = [prepare(v.tolist(), index_section(rows, 1, count)) for v in vectors]
        scaled = rows.scaled(vectors.astype(np.float32))
        truth = untied(exact_neighbours(scaled, rows.chunks(32 << 20), K, "l2"))
        clock.step("exact neighbours of queries", counts=False)

        blocks = blocks or block_counts(count)[-1]
        seen = np.setdiff1d(np.arange(count), drawn_rows)
        sample = np.sort(rng.choice(seen, min(len(seen), trained * blocks), replace=False))
        base = partition(rows, sample, blocks, 0)
        clock.step(f"{blocks} blocks")
        copies = COPY_RULES["soar"](rows, base).best(share)
        clock.step("copies")
        nothing = np.empty(0, np.int64)
        task = Task(
            rows,
            sample,
            tune,
            nothing,
            np.empty((0, K), np.int32),
            ID_BYTES,
            K,
            Options(),
            [],
            SILENT,
        )
        layout, _ = fit_router(task, base, copies, "two-level", SILENT)
        clock.step("router and order")
        moments = second_moments(rows, sample, layout)
        codec = lrsq.train(*moments, code_bytes)
        sizes = block_bytes(layout.sizes(), code_bytes, ID_BYTES, rows.dimension)
        price_queries = prepare_rows(rows, price_rows)
        p_held = probabilities_of(rows, layout, price_queries)
        found = full_scan(rows, layout, codec, HeldOutQueries(price_queries, price_rows, near[held:]), p=p_held)
        price = price_at(PricedRecall(found, p_held, sizes), K, TARGET)
        clock.step("code and price")
        ceiling = found.recall(np.ones_like(p_held, bool), K).mean()
        if price is None:
            print(f"  code of {code_bytes} bytes: target not reached, all routed blocks {ceiling:.4f}")
            return

        p, pages = probabilities_of(rows, layout, asked), pages_of(rows, layout, asked)
        assert pages is not None
        nobody = np.full(held, -1)
        whole = full_scan(rows, layout, codec, HeldOutQueries(asked, nobody, truth), p=p)
        reads = replace(plans(p, sizes, price), pages=pages)
        recall, rows_read = whole.recall(reads.blocks, K).mean(), (reads.blocks * layout.sizes()).sum(1).mean()
        section = layout.section
        assert isinstance(section, TwoLevelSection)
        resident, paged = len(section.pack()), sum(map(len, section.pages))
        seconds, cpu = clock.steps
        print(
            f"{count:,} rows, {blocks:,} blocks, {layout.copies / count:.2f} copies, code {code_bytes}: recall@100 "
            f"{recall:.4f} (all routed blocks {ceiling:.4f}), {told([reads])}; "
            f"pages {np.mean([sum(own) for own in pages]) / 1e6:.3f} MB; "
            f"{rows_read:.0f} rows, {rows_read / count:.3%}, in {reads.blocks.sum(1).mean():.1f} blocks; warm 0 GETs; "
            f"resident {resident / 1e6:.2f} MB, routing.bin without directories {paged / 1e6:.2f} MB in "
            f"{len(section.size)} pages; built in {seconds:.0f} s, {cpu:.0f} s of CPU",
            flush=True,
        )
        index = index_section(rows, blocks, count + layout.copies, "lse")
        flat = table_of(section, index)
        x, home = rows.take(sample), layout.partition.home[sample]
        subs = lse.sub_centroids(x, home, blocks, 0)
        eight = lse.section(subs, "l2", flat.beta, flat.temperature, flat.bits)
        scanned = full_scan(rows, layout, codec, HeldOutQueries(price_queries, price_rows, near[held:]))
        all_scanned = full_scan(rows, layout, codec, HeldOutQueries(asked, nobody, truth))
        for table in (flat, eight):
            p_held = probabilities("lse", table, index, price_queries)
            flat_price = price_at(PricedRecall(scanned, p_held, sizes), K, TARGET)
            if flat_price is None:
                continue
            reads = plans(probabilities("lse", table, index, asked), sizes, flat_price)
            print(
                f"  resident table of {table.subs} a block, {len(table.pack()) / 1e6:.2f} MB: recall@100 "
                f"{all_scanned.recall(reads.blocks, K).mean():.4f}, {told([reads])}",
                flush=True,
            )
        for part in SHORT_SHARES:
            length = int(code_bytes * part) // 4 * 4
            short_sizes = block_bytes(layout.sizes(), length, 0.0, rows.dimension)
            short = full_scan(rows, layout, lrsq.train(*moments, length), HeldOutQueries(asked, nobody, truth), p=p)
            line = two_waves(short, whole, p, short_sizes, sizes, price, pages)
            print(f"  two waves, {length} of {code_bytes} bytes first: {line}", flush=True)
        clock.step("comparisons", counts=False)


class Law(NamedTuple):
    """value = a (rows / 10^6)^rows_power (rows a block / 224)^block_power."""

    a: float
    rows_power: float
    block_power: float

    def at(self, rows: float, blocks: int) -> float:
        return self.a * (rows / 1e6) ** self.rows_power * (rows / blocks / BLOCK) ** self.block_power


def law(points: list[tuple[float, int, float]]) -> tuple[Law, float]:
    """(the law of (rows, blocks, value) by least squares of logarithms, its largest error on them)."""
    rows, blocks, value = np.array(points, np.float64).T
    x = np.stack([np.ones(len(rows)), np.log(rows / 1e6), np.log(rows / blocks / BLOCK)], 1)
    a, *powers = np.linalg.lstsq(x, np.log(value), rcond=None)[0].tolist()
    found = Law(float(np.exp(a)), *powers)
    return found, max(abs(found.at(n, int(b)) / v - 1) for n, b, v in points)


def read_lines(lines: list[str]) -> dict[str, list[tuple[float, int, float]]]:
    """(rows, blocks, value) of each measured line, by what LAWS call the value."""
    points: dict[str, list[tuple[float, int, float]]] = {name: [] for name in LAWS}
    rows, blocks = 0.0, 0
    for line in lines:
        if found := re.match(r"([\d,]+) rows, ([\d,]+) blocks, .* copies", line):
            rows, blocks = float(found[1].replace(",", "")), int(found[2].replace(",", ""))
        for name, pattern in LAWS.items():
            if value := re.search(pattern, line):
                points[name].append((rows, blocks, float(value[1])))
    return points


def extend(lines: list[str], sizes: list[int], most: int) -> None:
    """Laws of the lines of up to `most` rows, how far they are from those of more, and what follows for other sizes."""
    points, laws = read_lines(lines), dict[str, Law]()
    if len({rows for rows, _, _ in points["GETs"] if rows <= most}) < 2:
        raise SystemExit("--extend needs the lines of two sizes at least")
    for name, own in points.items():
        fitted = [point for point in own if point[0] <= most]
        laws[name], error = law(fitted)
        powers = f"(rows / 10^6)^{laws[name].rows_power:.3f} (rows a block / {BLOCK})^{laws[name].block_power:.3f}"
        print(f"{name} = {laws[name].a:.4g} {powers}, from {len(fitted)} lines, at most {error:.1%} off")
    for name, own in points.items():
        for rows, blocks, value in own:
            if rows > most:
                expected = laws[name].at(rows, blocks)
                told = f"{expected:.4g} expected, {value:.4g} measured, {expected / value - 1:+.1%}"
                print(f"{int(rows):,} rows, {blocks:,} blocks: {name} {told}")
    for rows in sizes:
        blocks = block_counts(rows)[-1]
        values = {name: found.at(rows, blocks) for name, found in laws.items()}
        nbytes, gets = 1e6 * values["MB"], round(values["GETs"])
        resident = {
            "network": min(mlp.BYTES_MAX, int(mlp.SHARE * lse.table_bytes(DIMENSION, blocks, lse.SUBS))),
            "directory": blocks * DIRECTORY_BYTES,
            "pages of rows and ids": rows // PAGE_ROWS * ROW_PAGE_BYTES + rows // ID_PAGE_ROWS * ID_PAGE_BYTES,
        }
        print(
            f"{rows:,} rows: {blocks:,} blocks of {rows / blocks:.0f}, {values['GETs']:.2f} GETs in one wave, "
            f"{values['MB']:.2f} MB, {wave_ms([int(nbytes / gets)] * gets):.0f} ms, "
            f"{values['CPU seconds of a build']:.0f} CPU seconds; resident {sum(resident.values()) / 1e6:.2f} MB: "
            + ", ".join(f"{name} {size / 1e6:.2f}" for name, size in resident.items())
        )
        stored = rows * ((1 + SHARE) * (CODE_BYTES + SLOT_BYTES) + DIMENSION + ID_BYTES_STORED)
        workload = Workload(rows, DIMENSION, "u8", 0, QUERIES, K)
        bills = [bill_of(int(stored), values["GETs"], QUERIES), *(other(workload) for other in OTHERS)]
        costs = ", ".join(f"{bill.service} {bill.total:,.0f}" for bill in bills)
        print(f"  dollars a month with {QUERIES:,} queries, by list prices of {AS_OF}: {costs}")


def main() -> None:
    """A process for each size, so that each has its own peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="500000,1000000,2000000,4000000")
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--most", type=int, default=2_000_000)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--code-bytes", type=int, default=CODE_BYTES)
    parser.add_argument("--held", type=int, default=256)
    parser.add_argument("--trained", type=int, default=48)
    parser.add_argument("--extend", type=Path)
    options = parser.parse_args()
    if options.extend is not None:
        extend(options.extend.read_text().splitlines(), [int(n) for n in options.rows.split(",")], options.most)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = [int(n) for n in options.rows.split(",")]
    if len(sizes) == 1:
        own = options.blocks, options.share, options.code_bytes, options.held, options.trained
        measured(options.folder, sizes[0], *own)
        return
    for rows in sizes:
        words = [
            "--rows",
            rows,
            "--blocks",
            options.blocks,
            "--share",
            options.share,
            "--code-bytes",
            options.code_bytes,
        ]
        words += ["--held", options.held, "--trained", options.trained]
        subprocess.run([sys.executable, "-m", "bench.growth", options.folder, *map(str, words)], check=True)
    even = ROUND_MS * LANES * LANE_BYTES_PER_MS
    print(f"a wave more costs as much as {even / 1e6:.1f} MB over {LANES} lanes")


if __name__ == "__main__":
    main()
