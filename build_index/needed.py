"""What the builder imports, and the one line that says what of it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

# Of the extra `build`, and the kernels.
NEEDED = (
    "faiss", "h5py", "jax", "kaminpar", "kern", "numpy", "obstore", "onnx", "optax", "pyarrow", "rich", "scipy",
    "typer",
)  # fmt: skip


def missing() -> str:
    """A sentence on what is not installed, and what to do; "" where all is there."""
    names = ", ".join(name for name in NEEDED if find_spec(name) is None)
    remedy = "pip install 'vantage-search[build]'"
    return f"{names} not installed: run `{remedy}`, or `make install` in a checkout" if names else ""
