"""The command that clusters an index or vectors: sizes, medoids, a level's assignment, and a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.table import Table

from vantage.errors import InputError, LimitError, NotFoundError
from vantage.format import METRICS

from ..clusters.cluster import Cluster, clusters_of, names_of, tree_over
from ..clusters.treemap import treemap
from ..ingest.open import open_source
from ..ingest.queries import read_queries
from ..ingest.rows import Rows, scale_rows
from ..ingest.staging import stage
from ..plain import plain
from ..tune.check import SEED_MAX
from ..tune.options import Options
from ..write.reopen import reopen
from .terminal import Json, binary, err, folder, nbytes, out, print_json, progress, writable

SHOWN = 40  # clusters in the table
MEMORY_MIN = 64 << 20  # buffers of a few chunks
GROUP_BITS = 3  # of a prefix, that share a colour


def cluster_command(
    path: Annotated[str, typer.Argument(help="An index, bucket/name, or a file of vectors.", metavar="INDEX|SOURCE")],
    k: Annotated[int | None, typer.Option(help="At most so many clusters.")] = None,
    level: Annotated[int | None, typer.Option(help="Or: so many bits below the root, 2^level at most.")] = None,
    assign: Annotated[Path | None, typer.Option(help="Vectors to place too: Parquet or .npy.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Parquet with id and cluster of each row; with --assign, of its rows.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--picture", help="A tree map, to this SVG file.")] = None,
    metric: Annotated[str, typer.Option(help="Of a file of vectors: cosine, l2 or dot.")] = "cosine",
    seed: Annotated[int, typer.Option(help="All random choices follow from it.")] = Options.seed,
    memory_budget: Annotated[str, typer.Option(help="Memory beside the rows.")] = binary(Options.memory_bytes),
    as_json: Json = False,
) -> None:
    """Cluster rows into the nodes of a tree of words, each with its most typical rows.

    Example: vantage cluster bucket/wordnet --k 30 --picture clusters.svg
    """
    if k is not None and level is not None:
        raise InputError("--k and --level name two cuts of the tree", hint="leave one out")
    if k is not None and k < 1:
        raise InputError(f"--k is {k}", hint="ask for one cluster or more")
    if level is not None and level < 0:
        raise InputError(f"--level is {level}", hint="0 is the root")
    if metric not in METRICS:
        raise InputError(f"there is no metric {metric!r}", hint=f"known are: {', '.join(METRICS)}")
    memory_bytes = nbytes(memory_budget)
    if not 0 <= seed <= SEED_MAX:
        raise LimitError("--seed", seed, f"0 to {SEED_MAX}")
    if memory_bytes < MEMORY_MIN:
        raise LimitError("--memory-budget", memory_bytes, f"at least {MEMORY_MIN} bytes", hint="64MiB is the least")
    for file, other in ((to, image), (image, to)):
        if file is not None:
            writable(file, path, *(given for given in (assign, other) if given is not None))
    if k is None and level is None:
        k = 30
    with _rows(path, metric) as rows:
        others = _read_vectors(assign, rows) if assign else None
        with progress(rows.count, "rows") as bar:
            tree = tree_over(rows, seed, memory_bytes, bar)
        label, clusters = clusters_of(tree, rows, level, k)
        names = {c.number: names_of(rows, c.typical) for c in clusters if c.typical}
        ids = rows.stored.ids(np.arange(rows.count))
        assigned = tree.assign(others, level, k) if others is not None else None
        if to:
            _write(to, ids if assigned is None else np.arange(len(assigned)), label if assigned is None else assigned)
        medoids = [_id(ids[c.typical[0]]) if c.typical else None for c in clusters]
    if image:
        areas = [(c.size, c.prefix[:GROUP_BITS], names[c.number]) for c in clusters if c.size]
        image.write_text(treemap(areas, f"{len(areas)} clusters of {path}"), encoding="utf-8")
    if as_json:
        listed = [
            {"cluster": c.number, "size": c.size, "prefix": c.prefix, "medoid": m, "typical": names.get(c.number, [])}
            for c, m in zip(clusters, medoids, strict=True)
        ]
        print_json({"rows": len(label), "clusters": listed} | _assigned_field(assigned))
        return
    _show(clusters, names, len(label))
    if assigned is not None and not to:
        out.print(f"{len(assigned):,} vectors of {plain(str(assign))}: " + ", ".join(map(str, assigned[:SHOWN])))
    for file in filter(None, (to, image)):
        err.print(f"wrote {plain(str(file))}", highlight=False)


@contextmanager
def _rows(path: str, metric: str) -> Iterator[Rows]:
    """The rows of an index in a folder, or of files of vectors."""
    place = folder(path)
    if (place / "CURRENT").exists():
        yield reopen(place).rows
        return
    if next(place.glob("[0-9a-f]*/manifest.json"), None):
        raise NotFoundError(f"{place} holds parts of an index and no CURRENT", hint="build or publish it again")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        try:
            stored = stack.enter_context(stage(open_source([place]), Path(scratch), metric=metric))
        except InputError as error:
            if "--skip-bad-rows" in error.hint:  # an option of build, which this is not
                error.hint = "mend or leave out these rows (rows count from 0), or build an index and cluster that"
            raise
        yield scale_rows(stored, metric)


def _read_vectors(file: Path, rows: Rows) -> npt.NDArray[np.float32]:
    """f32 (n, d) in the scale of the rows."""
    x = read_queries(file, None).vectors
    if x.shape[1] != rows.dimension:
        raise InputError(
            f"{file} has vectors of {x.shape[1]} dimensions", hint=f"give some of {rows.dimension}, as the rows have"
        )
    if rows.metric == "cosine" and not (length := np.linalg.norm(x.astype(np.float64), axis=1)).all():
        raise InputError(f"{file}: row {int(length.argmin())} is zero, which has no direction", hint="leave it out")
    return rows.scaled(x)


def _id(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]


def _write(file: Path, ids: object, label: npt.NDArray[np.int32]) -> None:
    plain = [_id(value) for value in ids]  # type: ignore[attr-defined]
    pq.write_table(pa.table({"id": plain, "cluster": label}), file)


def _assigned_field(assigned: npt.NDArray[np.int32] | None) -> dict[str, list[int]]:
    return {} if assigned is None else {"assigned": assigned.tolist()}


def _show(clusters: list[Cluster], names: dict[int, list[str]], rows: int) -> None:
    """The largest clusters."""
    table = Table()
    for heading, side in (("cluster", "right"), ("rows", "right"), ("share", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    table.add_column("most typical")
    for c in sorted(clusters, key=lambda c: -c.size)[:SHOWN]:
        table.add_row(str(c.number), f"{c.size:,}", f"{c.size / rows:.1%}", plain("; ".join(names.get(c.number, []))))
    out.print(table)
    if len(clusters) > SHOWN:
        out.print(f"and {len(clusters) - SHOWN:,} smaller ones")
