"""The command that runs the Worker on this machine: serve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from vantage.indexes import NAME, NAME_RULE

from ..plain import plain
from .terminal import State, count, err, nbytes, out, progress, size


def serve(
    bucket: Annotated[Path, typer.Argument(help="A folder of indexes.")],
    port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 8787,
    token: Annotated[
        str | None,
        typer.Option(envvar="VANTAGE_TOKEN", help="Bearer token; without it everybody on this machine may read."),
    ] = None,
    write_token: Annotated[
        str | None,
        typer.Option(envvar="VANTAGE_WRITE_TOKEN", help="Bearer token of those who may write; without it nobody may."),
    ] = None,
    cache: Annotated[str, typer.Option(help="Cache of blocks.")] = "20MiB",
    state: State = None,
) -> None:
    """Load a bucket folder into local R2 and serve it with the real Worker on real workerd, until Ctrl-C.

    Example: vantage serve bucket
    """
    from .. import serve as host
    from ..node import FETCHED_BYTES, fetch, host_folder, is_fetched

    host.check_port(port)
    if not is_fetched():
        err.print(
            f"fetching wrangler, workerd and Pyodide into {plain(str(host_folder()))}: {size(FETCHED_BYTES)}, "
            "this once",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        with host.exit_on_signals(), progress(FETCHED_BYTES >> 20, "MiB") as say:
            fetch(say)
    variables = {"VANTAGE_CACHE_BYTES": str(nbytes(cache))}
    variables |= {"VANTAGE_TOKEN": token} if token else {"PUBLIC_READ": "1"}
    variables |= {"VANTAGE_WRITE_TOKEN": write_token} if write_token else {}
    err.print(f"loading {plain(str(bucket))} into local R2 ...", highlight=False)
    for name in host.unserved(bucket):
        err.print(f"note: {plain(repr(name))} is left out: {NAME_RULE}", highlight=False)
    counts = host.load(bucket, state or host.STATE, prune=True)
    err.print(
        f"{count(counts['written'], 'object')} written, {counts['kept']} already there; starting the Worker ...",
        highlight=False,
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
