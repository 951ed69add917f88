"""A real set of any size up to ten million rows: windows of the Linux source, embedded, with queries and neighbours.

    python -m bench.linux_windows FOLDER [--rows 64000,256000,1024000] [--stride 4] [--queries 1000] [--processes 2]

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
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.texts import (
    DIMENSION,
    GROUP_ROWS,
    PROCESSES,
    TEXT_MAX,
    Writer,
    embedded,
    fetched,
    lists,
    neighbours,
    spent,
    unpacked,
    write_queries,
)

PACKAGE = "linux-source-6.1"
LINES = 4
SEED = 0
PART_ROWS = 64 * GROUP_ROWS


class Window(NamedTuple):
    """Some lines of a file. number: among all windows; line: its first line, from 1."""

    number: int
    path: str
    line: int
    text: str


def files(package: Path) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Path and non-blank lines, each with its number, of every text file in the package but headers."""
    with unpacked(package) as outer:
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


def columns(some: list[Window]) -> dict[str, pa.Array]:
    """What is stored of windows beside their vectors."""
    return {
        "id": pa.array([w.number for w in some], pa.int64()),
        "path": pa.array([w.path for w in some], pa.string()),
        "line": pa.array([w.line for w in some], pa.int32()),
        "text": pa.array([w.text for w in some], pa.string()),
    }


def main() -> None:
    """Makes the sets, and prints what each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default="64000,256000,1024000")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes, asked = [int(n) for n in options.rows.split(",")], options.queries
    (package,), began = fetched(options.folder, [PACKAGE]), time.monotonic()
    total = sum(len(starts(len(lines), options.stride)) for _, lines in files(package))
    print(f"{package.name}: {total:,} windows counted: {spent(began)}", flush=True)
    if max(sizes) + asked > total:
        raise SystemExit(f"{total:,} windows are too few for {max(sizes):,} rows and {asked:,} queries: lower --stride")
    place = np.random.default_rng(SEED).permutation(total).astype(np.int32)  # the queries' come first, then the rows'
    folders = {size: options.folder / f"rows-{size}" for size in sizes}
    for folder in folders.values():
        folder.mkdir()
    writers = {size: Writer(folder, PART_ROWS) for size, folder in folders.items()}
    queries: list[Window] = []
    query_vectors = np.empty((0, DIMENSION), np.float16)
    wanted = windows(package, options.stride, place < max(sizes) + asked)
    for batch, vectors in embedded(wanted, options.processes):
        own, table = place[[w.number for w in batch]], pa.table({**columns(batch), "vector": lists(vectors)})
        queries += [w for w, p in zip(batch, own, strict=True) if p < asked]
        query_vectors = np.concatenate([query_vectors, vectors[own < asked]])
        for size, writer in writers.items():
            writer.add(table.filter(pa.array((own >= asked) & (own < asked + size))))
    for writer in writers.values():
        writer.close()
    print(f"embedded and written: {spent(began)}", flush=True)
    for size, writer in writers.items():
        path = options.folder / f"queries-{size}.parquet"
        told = write_queries(path, columns(queries), query_vectors, *neighbours(query_vectors, writer.folder))
        print(f"{size:,} rows: {told}: {spent(began)}", flush=True)


if __name__ == "__main__":
    main()
