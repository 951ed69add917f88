"""A real set of any size up to ten million rows: windows of the Linux source, embedded, with queries and neighbours.

    python -m bench.linux_windows FOLDER [--rows 64000,256000,1024000] [--stride 4] [--queries 1000]

The text is the package `linux-source-6.1` of Debian 12, fetched by `apt-get download` where FOLDER does not hold it yet
(139 MB; Linux is under GPL-2.0, and some of its files under licences that are compatible with it). The model is
`wordllama` 0.4 (`pip install wordllama==0.4.0.post1`; MIT, its weights of 256 dimensions in the wheel): the mean of the
vectors of the tokens. Nothing else is fetched, and what this writes is not for passing on without these licences.

A window is four non-blank lines of a file, cut at 1,000 characters; windows of a file begin `stride` non-blank lines
apart, so that at strides below 4 they overlap (stride 4: 5.7 million windows, 2: 11 million). Files that end in .h are
left out, because half of their lines are generated names of registers. Windows are drawn with a fixed seed: first the
queries, which are in no set, then the rows, so a smaller set is part of a larger one. Rows stand in the order of the
source. Text that occurs many times, such as headers of licences, is in the sets as often.

Of each number of rows FOLDER gets `rows-N/part-*.parquet` (`id`, the number of the window; `vector`, unit length, f16;
`path`; `line`; `text`) and `queries-N.parquet` (`id`, `vector`, `text`, and `neighbors`: row numbers of the 100 nearest
by cosine). The archive is read twice as a stream, and memory holds 8 bytes a window beside some batches.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index.neighbours.exact import exact_neighbours

PACKAGE = "linux-source-6.1"
LINES, TEXT_MAX = 4, 1000
DIMENSION, K = 256, 100
SEED = 0
PROCESSES = 2
BATCH = 4096  # windows embedded at a time
GROUP_ROWS, PART_ROWS = 1 << 14, 1 << 20  # of a row group and of a file

Halves = npt.NDArray[np.float16]


class Window(NamedTuple):
    """Some lines of a file. number: among all windows; line: its first line, from 1."""

    number: int
    path: str
    line: int
    text: str


def fetched(folder: Path) -> Path:
    """The package, which is downloaded once."""
    there = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not there:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        there = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    return there[-1]


def files(package: Path) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Path and non-blank lines, each with its number, of every text file in the package but headers."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as outer,
    ):
        for source in outer:
            if source.name.endswith(".tar.xz"):
                with tarfile.open(fileobj=outer.extractfile(source), mode="r|xz") as inner:
                    yield from _texts(inner)


def _texts(archive: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    for member in archive:
        file = archive.extractfile(member) if member.isreg() and not member.name.endswith(".h") else None
        data = file.read() if file is not None else b""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
            yield member.name.partition("/")[2], lines


def starts(lines: int, stride: int) -> range:
    """Where the windows of so many non-blank lines begin."""
    return range(0, lines - LINES + 1, stride)


def windows(package: Path, stride: int, wanted: npt.NDArray[np.bool_]) -> Iterator[Window]:
    """The windows that are wanted, in order."""
    number = 0
    for path, lines in files(package):
        begins = starts(len(lines), stride)
        for i in np.flatnonzero(wanted[number : number + len(begins)]):
            some = lines[begins[i] : begins[i] + LINES]
            text = "\n".join(line for _, line in some)[:TEXT_MAX]
            yield Window(number + int(i), path, some[0][0], text)
        number += len(begins)


_model: Any = None  # of a process of the pool


def _load() -> None:
    global _model
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import wordllama

    own = Path(wordllama.__file__).parent  # the tokenizer is in the wheel, but not where it is looked for first
    _model = wordllama.WordLlama.load(dim=DIMENSION, cache_dir=own, disable_download=True)


def _embed(texts: list[str]) -> Halves:
    vectors: Halves = _model.embed(texts, norm=True).astype(np.float16)
    return vectors


def embedded(found: Iterable[Window]) -> Iterator[tuple[list[Window], Halves]]:
    """Batches of windows with their vectors f16 (n, 256), in order; a few are under way at a time."""
    with ProcessPoolExecutor(PROCESSES, initializer=_load) as pool:
        waiting: deque[tuple[list[Window], Future[Halves]]] = deque()
        batch: list[Window] = []
        for window in found:
            batch.append(window)
            if len(batch) == BATCH:
                waiting.append((batch, pool.submit(_embed, [w.text for w in batch])))
                batch = []
            if len(waiting) > 2 * PROCESSES:
                done, vectors = waiting.popleft()
                yield done, vectors.result()
        if batch:
            waiting.append((batch, pool.submit(_embed, [w.text for w in batch])))
        for done, vectors in waiting:
            yield done, vectors.result()


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """A matrix as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class Writer:
    """Files of one set in a folder, as batches come."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.rows, self.part = folder, 0, 0
        self._held: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None

    def add(self, some: list[Window], vectors: Halves) -> None:
        columns = {
            "id": pa.array([w.number for w in some], pa.int64()),
            "vector": lists(vectors),
            "path": pa.array([w.path for w in some], pa.string()),
            "line": pa.array([w.line for w in some], pa.int32()),
            "text": pa.array([w.text for w in some], pa.string()),
        }
        self._held.append(pa.table(columns))
        if sum(table.num_rows for table in self._held) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes a row group; begins another file where this one is long."""
        table = pa.concat_tables(self._held)
        self._held.clear()
        if self._file is None:
            self._file = pq.ParquetWriter(
                self.folder / f"part-{self.part:05}.parquet", table.schema, compression="zstd"
            )
        self._file.write_table(table)
        self.rows += table.num_rows
        if self.rows >= PART_ROWS * (self.part + 1):
            self.close()
            self.part += 1

    def close(self) -> None:
        if self._held:
            self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def chunks(folder: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(number of the first row, vectors f32) of a written set."""
    low = 0
    for part in sorted(folder.glob("part-*.parquet")):
        for batch in pq.ParquetFile(part).iter_batches(1 << 16, columns=["vector"]):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            yield low, values.reshape(-1, DIMENSION).astype(np.float32)
            low += batch.num_rows


def main() -> None:
    """Makes the sets, and prints what each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="64000,256000,1024000")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes, asked = [int(n) for n in options.rows.split(",")], options.queries
    package, began = fetched(options.folder), time.monotonic()
    total = sum(len(starts(len(lines), options.stride)) for _, lines in files(package))
    print(f"{package.name}: {total:,} windows, counted in {time.monotonic() - began:.0f} s", flush=True)
    if max(sizes) + asked > total:
        raise SystemExit(f"{total:,} windows are too few for {max(sizes):,} rows and {asked:,} queries: lower --stride")
    place = np.random.default_rng(SEED).permutation(total).astype(np.int32)  # the queries' come first, then the rows'
    writers = {size: Writer(options.folder / f"rows-{size}") for size in sizes}
    queries: list[Window] = []
    query_vectors = np.empty((0, DIMENSION), np.float16)
    for batch, vectors in embedded(windows(package, options.stride, place < max(sizes) + asked)):
        own = place[[w.number for w in batch]]
        queries += [w for w, p in zip(batch, own, strict=True) if p < asked]
        query_vectors = np.concatenate([query_vectors, vectors[own < asked]])
        for size, writer in writers.items():
            mine = np.flatnonzero((own >= asked) & (own < asked + size))
            writer.add([batch[i] for i in mine], vectors[mine])
    for writer in writers.values():
        writer.close()
    print(f"embedded and written after {time.monotonic() - began:.0f} s", flush=True)
    for size, writer in writers.items():
        near = exact_neighbours(query_vectors.astype(np.float32), chunks(writer.folder), K, "cosine")
        columns = {
            "id": pa.array([w.number for w in queries], pa.int64()),
            "vector": lists(query_vectors),
            "text": pa.array([w.text for w in queries], pa.string()),
            "neighbors": lists(near),
        }
        pq.write_table(pa.table(columns), options.folder / f"queries-{size}.parquet")
        print(f"{size:,} rows and {len(queries):,} queries after {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
