"""The command that makes an index: build."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vantage.errors import InputError

from ..blocks import PARTITIONS
from ..bucket.generations import publish
from ..bucket.names import check_name
from ..bucket.store import store_at
from ..build import build
from ..codecs import CODECS
from ..codecs.rotations import ROTATIONS
from ..context import BuildContext
from ..ingest.open import open_source, source_metric
from ..ingest.source import Source
from ..plain import plain
from ..routers import ROUTERS
from ..tune.draft import SHARES
from ..tune.options import Options
from .report import show_plan, show_report
from .terminal import Json, binary, err, folder, nbytes, print_json, progress, size

MORE = partial(typer.Option, rich_help_panel="More options")
RESEARCH = partial(typer.Option, rich_help_panel="Research (a build chooses well without them)")


def build_command(
    source: Annotated[list[str], typer.Argument(help="Files of one kind, folders of them, s3:// or r2:// URLs.")],
    to: Annotated[
        str, typer.Option("--out", help="The index to make: bucket/name, s3://bucket/name or r2://bucket/name.")
    ],
    recall: Annotated[float, typer.Option(help="Mean recall@k to promise.")] = Options.recall,
    k: Annotated[int, typer.Option(help="The k of the promise, 1 to 100.")] = Options.k,
    metric: Annotated[str | None, typer.Option(help="cosine, l2 or dot; cosine where the source names none.")] = None,
    vector_column: Annotated[str, typer.Option(help="Column of vectors, or dataset of HDF5.")] = "vector",
    id_column: Annotated[str, typer.Option(help="Column of ids; row numbers when there is none.")] = "id",
    attributes: Annotated[str | None, typer.Option(help="Columns to keep, a,b,c; all by default, '' for none.")] = None,
    filter: Annotated[
        str | None,
        typer.Option(help="Attributes to filter by, a,b,c; '' for none.", show_default="all that cost a query little"),
    ] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out, and count, rows that an index cannot hold.")
    ] = False,
    memory_budget: Annotated[str, typer.Option(help="Most memory the build may use.")] = binary(Options.memory_bytes),
    fast: Annotated[bool, MORE("--fast", help="Train no router: sooner built, more bytes per query.")] = Options.fast,
    cache: Annotated[
        str, MORE(help="Cache of a Worker that the index is to fit, where it can, by fewer copies. 0: none.")
    ] = binary(Options.cache_bytes),
    vectors: Annotated[
        str | None,
        MORE(help="How f32 vectors are kept for exact scores: f16 or f32.", show_default="by measuring"),
    ] = Options.vectors,
    error_norms: Annotated[
        bool, MORE("--error-norms", help="Keep what `query --exact` proves its answers by, a byte per row.")
    ] = Options.error_norms,
    model: Annotated[str | None, MORE(help="What made the vectors; queries that name another fail.")] = Options.model,
    seed: Annotated[int, MORE(help="All random choices follow from it.")] = Options.seed,
    workers: Annotated[
        int | None,
        MORE(min=1, max=256, help="Processes that work at a time.", show_default="one a core, for many rows"),
    ] = None,
    stage: Annotated[
        str | None,
        MORE(help="Where work is kept until the index is whole: a folder, s3:// or r2://.", show_default="beside it"),
    ] = None,
    ray: Annotated[
        str | None, MORE(help="Address of a Ray cluster that does the work, or `local`; needs vantage-search[ray].")
    ] = None,
    partition: Annotated[str | None, RESEARCH(help=f"{', '.join(PARTITIONS)}: how rows form blocks.")] = None,
    router: Annotated[str | None, RESEARCH(help=f"{', '.join(ROUTERS)}: what names the blocks to read.")] = None,
    copies: Annotated[
        str | None, RESEARCH(help="none, soar, closure or misses: how rows are copied to other blocks.")
    ] = None,
    copies_share: Annotated[float | None, RESEARCH(help="Copies per row, 0 to 2.")] = None,
    second_wave: Annotated[
        bool, RESEARCH("--second-wave", help="Queries that estimate a low recall read a second wave.")
    ] = Options.second_wave,
    codec: Annotated[str, RESEARCH(help=f"{', '.join(CODECS)}: how rows are shortened for the scan.")] = Options.codec,
    rotation: Annotated[str | None, RESEARCH(help=f"Axes of the codes: {', '.join(ROTATIONS)}.")] = None,
    as_json: Json = False,
) -> None:
    """Build an index from vectors.

    Example: vantage build vectors.parquet --out bucket/docs --recall 0.95
    """
    names = None if attributes is None else [a for a in attributes.split(",") if a]
    opened = open_source(
        source, vector_column=vector_column, id_column=id_column, attributes=names, skip_bad_rows=skip_bad_rows
    )
    metric = source_metric(opened, metric)
    options = Options(
        recall,
        k,
        seed,
        nbytes(cache),
        nbytes(memory_budget),
        partition,
        router,
        copies,
        copies_share,
        fast,
        second_wave,
        codec,
        rotation,
        error_norms,
        model,
        vectors,
        None if filter is None else tuple(a for a in filter.split(",") if a),
    )
    if ray is not None and workers is not None:
        raise InputError("--workers and --ray were both given", hint="leave --workers out: Ray knows its own")
    started = time.monotonic()
    target = store_at(to) if "://" in to else None  # refused before the work
    check_name(to)
    _show_source(opened, options, metric, to)
    with ExitStack() as stack:
        home = folder(to) if target is None else Path(stack.enter_context(TemporaryDirectory())) / PurePath(to).name
        bar = stack.enter_context(progress(opened.rows, "rows"))
        context = BuildContext(
            home, metric, options, bar, lambda text: err.print(f"note: {plain(text)}"), skip_bad_rows,
            workers, ray, stage, lambda plan: show_plan(plan, err),
        )  # fmt: skip
        report = build(opened, context)
        if target is not None:
            publish(home, target, bar.phase("publish"))
    seconds = time.monotonic() - started
    if as_json:
        print_json(report.as_dict() | {"index": to, "seconds": round(seconds, 1)})
    else:
        show_report(report, seconds, to)


def _show_source(source: Source, options: Options, metric: str, to: str) -> None:
    for note in source.notes:
        err.print(f"note: {plain(note)}", highlight=False)
    raw = source.rows * source.dimension * {"f32": 4, "f16": 2}.get(source.kind, 1)
    err.print(
        f"{source.rows:,} rows of {source.dimension} {source.kind} ({size(raw)}), {metric}, ids {source.id_kind}, "
        f"{len(source.attributes)} attributes -> {plain(to)}\n"
        f"recall@{options.k} {options.recall}, up to about {size(_room(source, raw, options))} of scratch and index, "
        f"memory within {size(options.memory_bytes)}: read, find exact neighbours, measure candidates, write",
        highlight=False,
    )


def _room(source: Source, raw: int, options: Options) -> int:
    """Bytes on disk at the end of a build: rows and codes of all their copies, each as scratch and in the index."""
    share = max(SHARES) if options.copies_share is None else options.copies_share
    share = 0 if options.copies == "none" else share
    code_bytes = source.dimension * (5 if options.fast else 13) // 8  # the usual ones, and longer ones
    return round(2 * raw + 2 * source.rows * (1 + share) * code_bytes)
