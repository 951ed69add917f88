"""Where the `vantage` command starts: what is not installed is said, and arithmetic pinned, before it is imported."""

from __future__ import annotations

import sys

from ..needed import missing


def main() -> None:
    """The entry point. Exit status 1 where a package is missing, else what the command says."""
    if sentence := missing():
        print(f"vantage: {sentence}", file=sys.stderr)
        sys.exit(1)
    from ..heap import unmap_large_buffers
    from ..pinned import pin

    pin()
    unmap_large_buffers()
    from .main import main as run

    run()
