"""The `vantage` command: thin, each command parses, calls and prints. Results go to stdout, progress to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vantage import VERSION
from vantage.errors import InputError, VantageError

from ..plain import plain
from .bucket import (
    compact_command,
    diff_command,
    gc_command,
    generations_command,
    publish_command,
    rollback_command,
    verify_command,
)
from .build import build_command
from .cluster import cluster_command
from .evaluate import eval_command, export_router_command
from .facets import facets_command
from .lint import lint_command
from .price import price
from .query import explain, info, query
from .rows import rows
from .serve import serve
from .terminal import complain, printable
from .worker import worker
from .write import create, delete, log, patch, upsert

Usage: Any = typer.BadParameter.__base__  # the error of a wrong command line, which typer has under no name


RENAMED = {  # options of `build` and what they are now
    "--spill": "--copies is its name now",
    "--spill-share": "--copies-share is its name now",
    "--stop": "--second-wave stands for `--stop calibrated` now, and nothing for `--stop fixed`",
}


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
        renamed = RENAMED.get(getattr(error, "option_name", ""))
        if renamed and error.ctx is not None and error.ctx.info_name == "build":
            error.message, error.possibilities = f"{error.message}; {renamed}", ()
        raise


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vantage {VERSION}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Vector search from object storage, at the edge. An index is a folder in a bucket folder: bucket/wordnet.",
)


@app.callback()
def vantage(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Has the options that stand before a command."""


# Commands stand in the help in the order in which they are added.
app.command("build")(build_command)
app.command()(info)
app.command()(query)
app.command("facets")(facets_command)
app.command()(rows)
app.command("eval")(eval_command)
app.command("lint")(lint_command)
app.command("cluster")(cluster_command)
app.command("export-router")(export_router_command)
app.command()(explain)
app.command()(price)
app.command()(serve)
app.command()(worker)
app.command()(create)
app.command()(upsert)
app.command()(patch)
app.command()(delete)
app.command()(log)
app.command("publish")(publish_command)
app.command("compact")(compact_command)
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
    except OSError as error:  # a file that a command was given, or made: a net, most are refused before the work
        if error.errno is None:
            raise
        what = "cannot read or write" + (f" {os.fsdecode(error.filename)}" if error.filename is not None else "")
        complain(f"{what}: {error.strerror}; name another place, or check its permissions and its space")
        sys.exit(2)
