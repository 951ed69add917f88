"""What sets made of text share: packages of Debian, vectors of texts, Parquet of rows, queries and neighbours."""

from __future__ import annotations

import os
import resource
import subprocess
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from build_index.neighbours.exact import neighbours_at

DIMENSION, K = 256, 100
TEXT_MAX = 1000  # characters that are embedded
PROCESSES = 2  # that embed, unless a script is told otherwise
BATCH = 4096  # texts embedded at a time
GROUP_ROWS = 16_000  # of a row group

Halves = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Near = tuple[I32, F32]  # (Q, k) rows, and their inner products times -1


class HasText(Protocol):
    """What a row needs to be embedded."""

    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=HasText)


def fetched(folder: Path, packages: Sequence[str]) -> list[Path]:
    """The packages in their order, each downloaded once, by apt-get."""
    missing = [name for name in packages if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
    return [sorted(folder.glob(f"{name}_*.deb"))[-1] for name in packages]


@contextmanager
def unpacked(package: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package, as a stream."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        yield archive


_model: Any = None  # of a process of the pool


def _load() -> None:
    global _model
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import wordllama

    own = Path(wordllama.__file__).parent  # the tokenizer is in the wheel, but not where it is looked for first
    _model = wordllama.WordLlama.load(dim=DIMENSION, cache_dir=own, disable_download=True)
    _model.tokenizer.no_padding()


def _embed(texts: list[str]) -> Halves:
    """What the model's `embed` gives, to the bit, in half of its time: it pads texts to the longest of some."""
    tokens = [found.ids for found in _model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    ends = np.cumsum([0, *map(len, tokens)])
    ids = np.fromiter(chain.from_iterable(tokens), np.int32, ends[-1])
    table: F32 = _model.embedding
    sums = csr_array((np.ones(len(ids), np.float32), ids, ends), shape=(len(texts), len(table))) @ table
    means = sums / np.maximum(np.diff(ends), 1)[:, None].astype(np.float32)
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float16)


def embedded(found: Iterable[T], processes: int) -> Iterator[tuple[list[T], Halves]]:
    """Batches of what has a text, with vectors f16 (n, 256) of norm 1, in order; a few are under way at a time."""
    with ProcessPoolExecutor(processes, initializer=_load) as pool:
        waiting: deque[tuple[list[T], Future[Halves]]] = deque()
        batch: list[T] = []
        for one in found:
            batch.append(one)
            if len(batch) == BATCH:
                waiting.append((batch, pool.submit(_embed, [row.text for row in batch])))
                batch = []
            if len(waiting) > 2 * processes:
                done, vectors = waiting.popleft()
                yield done, vectors.result()
        if batch:
            waiting.append((batch, pool.submit(_embed, [row.text for row in batch])))
        for done, vectors in waiting:
            yield done, vectors.result()


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """A matrix as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class Writer:
    """Files part-*.parquet of one set in a folder, of part_rows rows each but the last, as tables come.

    Goes on after the files that are there, as a file has its name when it is whole; a short last one is written anew.
    """

    def __init__(self, folder: Path, part_rows: int) -> None:
        assert part_rows % GROUP_ROWS == 0
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.part_rows = folder, part_rows
        self.taken = self.rows = 0  # rows written are those of whole groups
        for part in sorted(folder.glob("part-*.parquet")):
            if pq.read_metadata(part).num_rows < part_rows:
                part.unlink()
                break
            self.taken = self.rows = self.rows + part_rows
        self._held: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Takes rows; whole row groups are written."""
        self._held.append(table)
        self.taken += table.num_rows
        while sum(held.num_rows for held in self._held) >= GROUP_ROWS:
            whole = pa.concat_tables(self._held)
            self._held = [whole.slice(GROUP_ROWS)]
            self._write(whole.slice(0, GROUP_ROWS))

    def _write(self, group: pa.Table) -> None:
        if self._file is None:
            self._path = self.folder / f"part-{self.rows // self.part_rows:05}.parquet"
            self._file = pq.ParquetWriter(
                self._path.with_suffix(".tmp"), group.schema, compression="zstd", use_dictionary=False
            )
        self._file.write_table(group)
        self.rows += group.num_rows
        if self.rows % self.part_rows == 0:
            self._finish()

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.with_suffix(".tmp").rename(self._path)

    def close(self) -> None:
        """Writes what is left."""
        if any(held.num_rows for held in self._held):
            self._write(pa.concat_tables(self._held))
        self._held.clear()
        self._finish()


def _chunks(folder: Path, low: int) -> Iterator[tuple[int, F32]]:
    first = 0
    for part in sorted(folder.glob("part-*.parquet")):
        file = pq.ParquetFile(part)
        if first >= low:
            row = first
            for batch in file.iter_batches(1 << 16, columns=["vector"]):
                values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
                yield row, values.reshape(-1, DIMENSION).astype(np.float32)
                row += batch.num_rows
        first += file.metadata.num_rows


def neighbours(vectors: Halves, folder: Path, low: int = 0) -> Near:
    """The 100 nearest by cosine among the rows of a folder from row `low` on, with which a file begins."""
    return neighbours_at(vectors.astype(np.float32), _chunks(folder, low), K, "cosine")


def nearer(some: Near, others: Near) -> Near:
    """The 100 nearest of two parts of a set."""
    rows, cost = (np.concatenate(both, 1) for both in zip(some, others, strict=True))
    order = np.lexsort((rows, cost), axis=1)[:, :K]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(cost, order, 1)


def write_queries(path: Path, columns: dict[str, pa.Array], vectors: Halves, near: I32, cost: F32) -> str:
    """Writes queries with their neighbours, best first; returns what these say of the set."""
    pq.write_table(pa.table({**columns, "vector": lists(vectors), "neighbors": lists(near)}), path)
    shares = ", ".join(f"{(cost[:, 0] < -least).mean():.1%} over {least}" for least in (0.99, 0.95, 0.9))
    return f"intrinsic dimension {intrinsic_dimension(cost):.1f}; cosine of the nearest row: {shares}"


def intrinsic_dimension(cost: F32) -> float:
    """Mean over queries of the local dimension that Levina and Bickel estimate (NIPS 2004) from all neighbours but the
    same vectors. cost (Q, k): inner products of vectors of norm 1, times -1, best first."""
    distance = np.sqrt(np.maximum(2 + 2 * cost.astype(np.float64), 0))
    near = distance > 1e-2  # nearer ones are the same up to the rounding of f16
    farthest = np.maximum(distance[:, -1:], 1e-2)
    logs = np.log(farthest / np.where(near, distance, farthest)).sum(1)
    some = logs > 0.01 * near.sum(1)  # of others all are as far, which says nothing
    return float((near.sum(1)[some] / logs[some]).mean())


def spent(began: float) -> str:
    """Seconds since began, a time.monotonic(), and of CPU; memory at the peak of this process and of its largest child.

    Those of children that still run are not among them.
    """
    now, peaks = os.times(), []
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        peaks.append(f"{resource.getrusage(who).ru_maxrss // 1024}")
    cpu = now.user + now.system + now.children_user + now.children_system
    return f"{time.monotonic() - began:.0f} s, {cpu:.0f} s of CPU, peak {' + '.join(peaks)} MiB"
