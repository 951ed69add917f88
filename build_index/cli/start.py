"""Where the `vantage` command starts: it says in one line what is not installed, before anything imports it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

# What the commands import, and the kernels.
NEEDED = (
    "faiss", "h5py", "jax", "kaminpar", "kern", "numpy", "obstore", "onnx", "optax", "pyarrow", "rich", "scipy",
    "typer",
)  # fmt: skip


def main() -> None:
    """The entry point. Exit status 1 where a package is missing, else what the command says."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        names, remedy = ", ".join(missing), "pip install 'vantage-search[build]'"
        print(f"vantage: {names} not installed: run `{remedy}`, or `make install` in a checkout", file=sys.stderr)
        sys.exit(1)
    from .main import main as run

    run()
