"""The command that writes the Worker into a folder: worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vantage.errors import InputError

from ..plain import plain
from ..worker import (
    BUCKET,
    SDK,
    SETTINGS,
    WORKER,
    check_bucket,
    check_index,
    check_worker,
    name_in,
    steps,
    write_worker,
)
from .terminal import Json, count, err, out, print_json


def worker(
    folder: Annotated[Path, typer.Argument(help="The folder to write; it is made where there is none.")],
    bucket: Annotated[str | None, typer.Option(help="Name of the R2 bucket; asked for where it is not given.")] = None,
    index: Annotated[str | None, typer.Option(help="Name of an index in it, for the steps that are shown.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the Worker.", show_default=f"that of the folder, or {WORKER}"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a folder that `wrangler dev`, `wrangler deploy` and `pywrangler deploy` take as it is.

    Example: vantage worker edge --bucket vantage --index wordnet
    """
    for given, check in ((bucket, check_bucket), (index, check_index), (name, check_worker)):
        if given is not None:  # refused before anything is asked
            check(given)
    bucket = _answer(bucket, "--bucket", "Name of the R2 bucket", BUCKET, check_bucket)
    index = _answer(index, "--index", "Name of an index in it", "docs", check_index)
    name = name_in(folder) if name is None else name
    files = write_worker(folder, bucket, index, name)
    kept = [top for top in (SETTINGS, SDK) if not any(file.split("/")[0] == top for file in files)]
    if as_json:
        print_json(
            {"folder": str(folder), "bucket": bucket, "index": index, "name": name, "files": files, "kept": kept}
        )
        return
    for top in kept:
        err.print(f"note: {top} has been changed since it was written, and stays as it is", highlight=False)
    out.print(
        f"{plain(str(folder))}: {count(len(files), 'file')} of the Worker {name} for the R2 bucket {bucket}. "
        "Next, in that folder:\n",
        highlight=False,
    )
    out.print(steps(bucket, index, name), highlight=False)


def _answer(value: str | None, option: str, question: str, default: str, check: Callable[[str], None]) -> str:
    """What was given, or what is typed. Raises InputError where nobody can be asked, or for what `check` refuses."""
    if value is not None:
        return value
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError(f"{option} is not given", hint="nobody can be asked where input is no terminal")
    answer: str = typer.prompt(question, default=default, err=True)
    check(answer.strip())
    return answer.strip()
