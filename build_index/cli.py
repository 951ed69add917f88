"""The `vantage` command: thin, each command parses, calls and prints. Results go to stdout, progress to stderr."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from vantage import index as api
from vantage.errors import InputError, VantageError
from vantage.http.bodies import answer_body, describe
from vantage.indexes import NAME
from vantage.receipt import Receipt
from vantage.search.query import Query

from .bucket import place
from .build import Report, build, storage_usd, target_cost
from .cli_bucket import diff_command, gc_command, generations_command, publish_command, rollback_command, verify_command
from .cli_cluster import cluster_command
from .cli_eval import eval_command, export_router_command
from .cli_lint import lint_command
from .codecs import CODECS
from .evaluate import open_index, read_queries
from .fit import Options
from .generations import publish
from .partition import PARTITIONS
from .plain import plain
from .rotations import ROTATIONS
from .routers import ROUTERS
from .source import Source, open_source, source_metric
from .terminal import Address, Json, State, complain, err, folder, nbytes, out, print_json, printable, progress, size

Usage: Any = typer.BadParameter.__base__  # the error of a wrong command line, which typer has under no name


class Commands(TyperGroup):
    """Words of a wrong command line, which a shell may have taken from names of files, are repeated plainly."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _plainly():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _plainly():
            return super().invoke(ctx)


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except Usage as error:
        error.message = plain(error.message)
        raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Vector search from object storage, at the edge. An index is a folder in a bucket folder: bucket/wordnet.",
)


@app.command("build")
def build_command(
    source: Annotated[list[str], typer.Argument(help="Files of one kind, folders of them, s3:// or r2:// URLs.")],
    to: Annotated[
        str, typer.Option("--out", help="The index to make: bucket/name, s3://bucket/name or r2://bucket/name.")
    ],
    recall: Annotated[float, typer.Option(help="Mean recall@k to promise.")] = 0.95,
    k: Annotated[int, typer.Option(help="The k of the promise.")] = 100,
    metric: Annotated[str | None, typer.Option(help="cosine, l2 or dot; cosine where the source names none.")] = None,
    vector_column: Annotated[str, typer.Option(help="Column of vectors, or dataset of HDF5.")] = "vector",
    id_column: Annotated[str, typer.Option(help="Column of ids; row numbers when there is none.")] = "id",
    attributes: Annotated[str | None, typer.Option(help="Columns to keep, a,b,c; all by default, '' for none.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out, and count, rows that an index cannot hold.")
    ] = False,
    seed: Annotated[int, typer.Option(help="All random choices follow from it.")] = 0,
    memory_budget: Annotated[str, typer.Option(help="Most memory the build may use.")] = "2GiB",
    cache: Annotated[
        str, typer.Option(help="Cache of the Worker that an index is made to fit, where it can.")
    ] = "40MiB",
    vectors: Annotated[
        str | None,
        typer.Option(help="How f32 vectors are kept for exact scores: f16 or f32.", show_default="by measuring"),
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help=f"{', '.join(PARTITIONS)}; chosen by measuring when not given.")
    ] = None,
    router: Annotated[str | None, typer.Option(help=f"{', '.join(ROUTERS)}; chosen when not given.")] = None,
    spill: Annotated[str | None, typer.Option(help="none, soar, closure or misses: how rows are copied.")] = None,
    spill_share: Annotated[float | None, typer.Option(help="Copies a row, 0 to 2; chosen when not given.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Train no router.")] = False,
    stop: Annotated[
        str, typer.Option(help="fixed, or calibrated: queries that estimate a low recall read a second wave.")
    ] = "fixed",
    codec: Annotated[str, typer.Option(help=f"{', '.join(CODECS)}: how rows are shortened for the scan.")] = "lrsq",
    rotation: Annotated[
        str | None, typer.Option(help=f"Axes of the codes: {', '.join(ROTATIONS)}; without it, what the codec wants.")
    ] = None,
    error_norms: Annotated[
        bool, typer.Option("--error-norms", help="Keep what `query --exact` proves its answers by, a byte a row.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="What made the vectors; queries that name another fail.")] = None,
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
        spill,
        spill_share,
        fast,
        stop,
        codec,
        rotation,
        error_norms,
        model,
        vectors,
    )
    started = time.monotonic()
    target = place(to) if "://" in to else None  # refused before the work
    _show_plan(opened, options, metric, to)
    with ExitStack() as stack:
        home = folder(to) if target is None else Path(stack.enter_context(TemporaryDirectory())) / PurePath(to).name
        say = stack.enter_context(progress(opened.rows, "rows"))
        report = build(
            opened,
            home,
            options,
            metric,
            say=say,
            tell=lambda text: err.print(f"note: {plain(text)}"),
            skip_bad_rows=skip_bad_rows,
        )
        if target is not None:
            publish(home, target, lambda share: say("publish", share))
    seconds = time.monotonic() - started
    if as_json:
        print_json(report.as_dict() | {"index": to, "seconds": round(seconds, 1)})
    else:
        show_report(report, seconds, to)


def _show_plan(source: Source, options: Options, metric: str, to: str) -> None:
    for note in source.notes:
        err.print(f"note: {plain(note)}", highlight=False)
    raw = source.rows * source.dimension * {"f32": 4, "f16": 2}.get(source.kind, 1)
    err.print(
        f"{source.rows:,} rows of {source.dimension} {source.kind} ({size(raw)}), {metric}, ids {source.id_kind}, "
        f"{len(source.attributes)} attributes -> {plain(to)}\n"
        f"recall@{options.k} {options.recall}, about {size(1.9 * raw)} of scratch and index, memory within "
        f"{size(options.memory_bytes)}: read, find exact neighbours, measure candidates, write",
        highlight=False,
    )


def show_report(report: Report, seconds: float | None, index: str | None = None) -> None:
    """The table that ends a build. index: its address where that is not the folder it was built in."""
    table = Table(
        title=f"{plain(index or str(report.index))}  generation {report.current.generation}",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column()
    shape, point = report.choice.shape, report.point
    copies = shape.copies
    table.add_row("rows", f"{report.rows:,} of {report.dimension} dimensions, {report.metric}; {copies:,} copies")
    table.add_row("blocks", f"{shape.blocks:,}, router {shape.router}, codes of {report.choice.codec.code_bytes} bytes")
    table.add_row(
        "size",
        f"{size(report.nbytes)}, root {size(report.root_bytes)}; ${storage_usd(report.nbytes):.4f} a month in R2",
    )
    table.add_row(
        "recall", f"{point['recall']:.4f} at k = {int(point['k'])} on held-out rows (target {point['target']})"
    )
    reads = f"{point['gets']:.1f} GETs, {size(point['bytes_read'])}, {point['modelled_ms_p50']:.0f} ms modelled"
    table.add_row("a query", f"{reads}, nothing cached")
    table.add_row("a million", f"${point['usd_per_million_queries']:.2f} of reads and requests")
    for note in report.notes:
        table.add_row("note", plain(note))
    if seconds is not None:
        table.add_row("built in", f"{seconds:.0f} s")
    out.print(table)
    if seconds is not None:
        out.print(
            f"Try: vantage query {plain(index or str(report.index))} --id ID"
            + ("" if index and "://" in index else f"   or: vantage serve {plain(str(report.index.parent))}"),
            highlight=False,
        )


@app.command()
def info(index: Address, as_json: Json = False) -> None:
    """What an index is and what it promises.

    Example: vantage info bucket/wordnet
    """
    opened = open_index(index)
    described = describe(opened)
    root = opened.root
    total = sum(root.objects.shards) + sum(root.objects.parts) + root.objects.ids + opened.current.root.size
    described |= {"bytes": total, "root_bytes": opened.current.root.size, **target_cost(root.contract)}
    if as_json:
        print_json(described)
        return
    table = Table(title=plain(index), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name in ("generation", "rows", "dimension", "metric", "id", "blocks", "codec", "router"):
        table.add_row(name, f"{described[name]:,}" if isinstance(described[name], int) else str(described[name]))
    if described["model"]:
        table.add_row("model", plain(described["model"]))
    names = ", ".join(f"{a['name']} ({a['type']})" for a in described["attributes"])
    table.add_row("attributes", plain(names) or "none")
    table.add_row(
        "size", f"{size(total)}, root {size(opened.current.root.size)}; ${storage_usd(total):.4f} a month in R2"
    )
    out.print(table)
    points = Table(
        "k", "recall", "GETs", "bytes", title="measured on held-out rows, nothing cached", title_justify="left"
    )
    for p in root.contract.points:
        if p.k == root.contract.k:
            mark = " (target)" if p.recall == described["recall"] else ""
            points.add_row(str(p.k), f"{p.recall:.4f}{mark}", f"{p.gets:.1f}", size(p.nbytes))
    out.print(points)
    if root.stop:
        kept = Table(
            "recall", "GETs", "bytes", "waves", "exact scores", "second wave below", "ms modelled",
            title=f"what keeps a recall@{root.contract.k}", title_justify="left",
        )  # fmt: skip
        for promise in root.stop.promises:
            kept.add_row(
                f"{promise.recall:.4f}", f"{promise.gets:.1f}", size(promise.nbytes), f"{promise.waves:.2f}",
                str(promise.rerank or ""), f"{promise.threshold:.4f}" if promise.threshold else "", f"{promise.ms:.0f}",
            )  # fmt: skip
        out.print(kept)


@app.command()
def query(
    index: Address,
    vector: Annotated[Path | None, typer.Option(help="A .npy or Parquet file; its first vector is the query.")] = None,
    identifier: Annotated[str | None, typer.Option("--id", help="Id of a stored row as the query.")] = None,
    top_k: Annotated[int, typer.Option(help="Answers, 1 to 1000.")] = 10,
    recall: Annotated[float | None, typer.Option(help="Recall for this query; the index's target by default.")] = None,
    rerank: Annotated[int, typer.Option(help="Read the full vectors of the best n for exact scores.")] = 0,
    exact: Annotated[
        bool, typer.Option("--exact", help="The best of the whole index, proven; see --error-norms.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask an index, here or in a bucket.

    Example: vantage query bucket/wordnet --id n00001740 --top-k 5
    """
    opened = open_index(index)
    receipt = Receipt()

    async def ask() -> Any:
        if (vector is None) == (identifier is None):
            raise InputError("name one query", hint="--vector FILE or --id ID")
        if identifier is not None:
            key, values = _id(identifier, opened.root.index.id_kind), None
        else:
            key, values = None, read_queries(vector, 1).vectors[0].tolist()  # type: ignore[arg-type]
        return await opened.query(Query(values, top_k, recall, rerank, attributes=True, exact=exact, id=key), receipt)

    answer = asyncio.run(ask())
    if as_json:
        print_json(answer_body(answer, ["attributes", "receipt"]))
        return
    names = [a["name"] for a in opened.root.schema["attributes"]]
    table = Table("", "id", "score", *map(plain, names))
    for i, m in enumerate(answer.matches, 1):
        shown = [_cell((m.attributes or {}).get(name)) for name in names]
        table.add_row(
            str(i),
            plain(str(m.id if isinstance(m.id, int) else m.id.decode(errors="replace"))),
            f"{m.score:.4f}",
            *shown,
        )
    out.print(table)
    out.print(receipt_line(answer.receipt.as_dict()), highlight=False)
    if answer.receipt.proof is not None:
        out.print(proof_line(answer.receipt.proof), highlight=False)


def _id(text: str, kind: str) -> int | bytes:
    if kind == "bytes":
        return text.encode()
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{text!r} is not a whole number, and the ids of this index are", hint="check --id") from None


def _cell(value: Any) -> str:
    text = plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:59] + "…"


def receipt_line(receipt: dict[str, Any]) -> str:
    """A receipt in one line."""
    return (
        f"{receipt['gets']} GETs, {size(receipt['bytes'])} in {receipt['waves']} waves, {receipt['blocks']} blocks "
        f"({receipt['blocks_cached']} cached), {receipt['rows']:,} rows scanned, "
        f"{receipt['modelled_ms']:.0f} ms modelled"
    )


def proof_line(proof: dict[str, Any]) -> str:
    """A proof in one line."""
    return (
        f"{'proven' if proof['proven'] else 'NOT proven'}: {proof['blocks_excluded']} blocks excluded by their radii, "
        f"{proof['blocks_scanned']} scanned, {proof['vectors_read']:,} vectors read, {proof['rows_excluded']:,} rows "
        "excluded unread"
    )


# Commands stand in the help in the order in which they are added.
app.command("eval")(eval_command)
app.command("lint")(lint_command)
app.command("cluster")(cluster_command)
app.command("export-router")(export_router_command)


@app.command()
def explain(
    index: Address,
    vector: Annotated[Path, typer.Option(help="A .npy or Parquet file; its first vector is the query.")],
    top_k: Annotated[int, typer.Option(help="Answers, 1 to 1000.")] = 10,
    recall: Annotated[float | None, typer.Option(help="Recall for this query.")] = None,
    as_json: Json = False,
) -> None:
    """Show the ranges that a query would read, and their price, reading nothing of them.

    Example: vantage explain bucket/wordnet --vector query.npy
    """
    values = read_queries(vector, 1).vectors[0].tolist()
    plan = api.explain(open_index(index), Query(values, top_k, recall))
    if as_json:
        print_json(plan)
        return
    table = Table(
        "shard", "blocks", "from byte", "bytes", title=f"{plan['gets']} GETs in one wave", title_justify="left"
    )
    for r in plan["ranges"]:
        table.add_row(str(r["shard"]), f"{r['blocks'][0]} to {r['blocks'][1]}", f"{r['offset']:,}", size(r["bytes"]))
    out.print(table)
    out.print(
        f"{size(plan['bytes'])}, {plan['modelled_ms']:.0f} ms modelled, ${plan['usd_per_million']:.2f} a million such "
        f"queries in reads, recall estimate {plan['recall_estimate']}",
        highlight=False,
    )
    if plan["second_below"]:
        out.print(f"a second wave may follow: where the estimate then is below {plan['second_below']:.4f}")
    if plan["rerank"]:
        out.print(f"then the full vectors of {plan['rerank']} rows, for exact scores")


@app.command()
def serve(
    bucket: Annotated[Path, typer.Argument(help="A folder of indexes.")],
    port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 8787,
    token: Annotated[
        str | None,
        typer.Option(envvar="VANTAGE_TOKEN", help="Bearer token; without it everybody on this machine may read."),
    ] = None,
    cache: Annotated[str, typer.Option(help="Cache of planes.")] = "20MiB",
    state: State = None,
) -> None:
    """Load a bucket folder into local R2 and serve it with the real Worker on real workerd, until Ctrl-C.

    Example: vantage serve bucket
    """
    from . import serve as host

    variables = {"VANTAGE_CACHE_BYTES": str(nbytes(cache))}
    variables |= {"VANTAGE_TOKEN": token} if token else {"PUBLIC_READ": "1"}
    err.print(f"loading {plain(str(bucket))} into local R2 ...", highlight=False)
    counts = host.load(bucket, state or host.STATE, prune=True)
    err.print(
        f"{counts['written']} objects written, {counts['kept']} already there; starting the Worker ...", highlight=False
    )
    with host.serve(state or host.STATE, port=port, variables=variables) as server:
        names = sorted(p.parent.name for p in bucket.glob("*/CURRENT"))
        name = next(filter(NAME.fullmatch, names), "NAME")  # goes into a command that people copy
        header = '-H "Authorization: Bearer $VANTAGE_TOKEN" ' if token else ""
        out.print(f"serving {server.url}\n  curl {header}{server.url}/v1/indexes/{name}", highlight=False)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            err.print("stopping", highlight=False)


app.command("publish")(publish_command)
app.command("generations")(generations_command)
app.command("rollback")(rollback_command)
app.command("gc")(gc_command)
app.command("verify")(verify_command)
app.command("diff")(diff_command)


def main() -> None:
    """Entry point: an error is one sentence on stderr and exit status 2 (the user's) or 1 (ours)."""
    printable()
    try:
        app(standalone_mode=True)
    except VantageError as error:
        complain(str(error))
        sys.exit(2 if isinstance(error, InputError) else 1)
