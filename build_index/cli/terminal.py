"""What the commands share: consoles, sizes for people, options by the same words, and progress."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment

from vantage.errors import InputError, LimitError

from ..bucket.store import local
from ..plain import plain, plain_lines
from ..progress import Progress

NBYTES_MAX = 1 << 63


class Screen(Console):
    """A console that no text can command: whatever is printed, only the console's own codes reach the terminal raw."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain_lines(segment.text), segment.style)


# No markup: what is printed holds names and texts of users.
out, err = Screen(soft_wrap=True, markup=False, emoji=False), Screen(stderr=True, markup=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
State = Annotated[Path | None, typer.Option(help="Folder of local R2; .vantage by default, here or in the checkout.")]
Bucket = Annotated[str, typer.Argument(help="An index: bucket/name.", metavar="INDEX")]
Address = Annotated[
    str, typer.Argument(help="An index: a folder, s3://bucket/name or r2://bucket/name.", metavar="INDEX")
]


def nbytes(text: str) -> int:
    """40MiB, 1GiB, 500000 -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{text!r} is not a size", hint="write 40MiB, 1GiB or a number of bytes")
    base = 1024 if match[3] else 1000
    number = float(match[1]) * base ** " KMGT".index(match[2].upper() or " ")
    if number > NBYTES_MAX:
        raise LimitError("a size", plain(text[:40]), "8,388,608 TiB", hint="write 40MiB, 1GiB or a number of bytes")
    return int(number)


def binary(n: int) -> str:
    """As `nbytes` reads it: 2GiB, 40MiB, 0."""
    if not n:
        return "0"
    shift, unit = (30, "GiB") if n % (1 << 30) == 0 else (20, "MiB")
    return f"{n >> shift}{unit}"


def print_json(value: Any) -> None:
    """One JSON object in a line of ASCII."""
    print(json.dumps(value).replace("\x7f", "\\u007f"))


def complain(sentence: str) -> None:
    """An error on stderr; lines after the first are set in, so that none of them looks like a word of ours."""
    err.print("vantage: " + sentence.replace("\n", "\n    "), style="red", highlight=False, soft_wrap=True)


def printable() -> None:
    """Lets stdout and stderr take texts that their encoding has not, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def size(n: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def count(n: int, noun: str) -> str:
    """1 GET, 1,234 GETs."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def writable(path: Path, *given: str | Path) -> None:
    """Refuses a file that is a folder, or in a folder that is not there or takes none, before the work is done; and one
    that is given to the command, or part of an index that is.
    """
    for one in (Path(address).resolve() for address in given if "://" not in str(address)):
        if path.resolve() == one or (one in path.resolve().parents and (one / "CURRENT").exists()):
            raise InputError(f"{path} would be written over, or into, what is read", hint="name another place")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder", hint="name a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK) and path.parent.is_dir():
        raise InputError(f"cannot write {path}: permission denied", hint="name another place")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", hint=f"make it, or name another place for {path.name}")


def folder(index: str) -> Path:
    """bucket/name as a path."""
    if "://" in index:
        raise InputError(
            f"{index!r} is not on this machine",
            hint="name a folder, bucket/name; `vantage publish` puts one into a bucket",
        )
    return local(index)


@contextmanager
def progress(items: int, unit: str) -> Iterator[Progress]:
    """A line for each phase, with its rate, time so far and time left; on stderr, so that stdout stays the result."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=err, disable=not err.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        started = 0.0

        def report(phase: str, share: float) -> None:
            nonlocal started
            if phase not in tasks:
                for task in tasks.values():
                    bar.update(task, completed=1.0)
                tasks[phase] = bar.add_task(phase, total=1.0, rate="")
                started = time.monotonic()
                if not err.is_terminal:
                    err.print(f"{phase} ...", highlight=False)
            seconds = time.monotonic() - started
            rate = f"{share * items / seconds:>9,.0f} {unit}/s" if seconds > 0.5 else ""
            bar.update(tasks[phase], completed=share, rate=rate)

        yield Progress(report)
