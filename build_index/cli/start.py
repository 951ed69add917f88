"""Where the `vantage` command starts: it says in one line what is not installed, before anything imports it."""

from __future__ import annotations

import sys

from ..needed import missing


def main() -> None:
    """The entry point. Exit status 1 where a package is missing, else what the command says."""
    if sentence := missing():
        print(f"vantage: {sentence}", file=sys.stderr)
        sys.exit(1)
    from .main import main as run

    run()
