"""The command that writes the Worker into a folder: worker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vantage.errors import InputError

from ..plain import plain
from ..worker import BUCKET, steps, write_worker
from .terminal import Json, out, print_json


def worker(
    folder: Annotated[Path, typer.Argument(help="The folder to write; it is made where there is none.")],
    bucket: Annotated[str | None, typer.Option(help="Name of the R2 bucket; asked for where it is not given.")] = None,
    index: Annotated[str | None, typer.Option(help="Name of an index in it, for the steps that are shown.")] = None,
    as_json: Json = False,
) -> None:
    """Write a folder that `wrangler dev`, `wrangler deploy` and `pywrangler deploy` take as it is.

    Example: vantage worker edge --bucket vantage --index wordnet
    """
    bucket = _answer(bucket, "--bucket", "Name of the R2 bucket", BUCKET)
    index = _answer(index, "--index", "Name of an index in it", "docs")
    files = write_worker(folder, bucket, index)
    if as_json:
        print_json({"folder": str(folder), "bucket": bucket, "index": index, "files": files})
        return
    out.print(f"{plain(str(folder))}: {len(files)} files for the R2 bucket {bucket}. Next, in that folder:\n")
    out.print(steps(bucket, index), highlight=False)


def _answer(value: str | None, option: str, question: str, default: str) -> str:
    """What was given, or what is typed. Raises InputError where nobody can be asked."""
    if value is not None:
        return value
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError(f"{option} is not given", hint="nobody can be asked where input is no terminal")
    answer: str = typer.prompt(question, default=default, err=True)
    return answer.strip()
