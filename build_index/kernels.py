"""The binding to the C kernels that builders alone call; `kern.pyi` is their manual too."""

import numpy as np
import numpy.typing as npt

import kern
from kern import (
    additive_encode,
    count_right,
    find_answered,
    plan_queries,
    plan_queries_size,
    scalar_encode,
    select_largest,
)

__all__ = [
    "additive_encode",
    "count_right",
    "find_answered",
    "matmul",
    "nearest",
    "plan_queries",
    "plan_queries_size",
    "scalar_encode",
    "select_largest",
]

F32 = npt.NDArray[np.float32]


def matmul(a: F32, b: F32) -> F32:
    """f32 (n, m): rows a (n, d) times rows b (m, d), a @ b.T; the same bits on every machine, in whatever batch."""
    n, m, depth = _sizes(a, b)
    out, scratch = np.empty((n, m), np.float32), np.empty(kern.matmul_size(m, depth), np.uint8)
    kern.matmul(np.ascontiguousarray(a), np.ascontiguousarray(b), n, m, depth, out, scratch)
    return out


def nearest(x: F32, centres: F32, bias: F32, count: int) -> tuple[npt.NDArray[np.uint32], F32]:
    """(numbers u32 (n, count) of the centres (m, d) with the largest <x, c> + bias (m) of rows x (n, d), that f32 too).

    Best first, of equal ones the first; count: at most m and 1,024.
    """
    n, m, depth = _sizes(x, centres)
    if bias.shape != (m,) or bias.dtype != np.float32:
        raise ValueError(f"bias is {bias.dtype} {bias.shape}, wants float32 {(m,)}")
    at, closeness = np.empty((n, count), np.uint32), np.empty((n, count), np.float32)
    scratch = np.empty(kern.matmul_size(m, depth), np.uint8)
    x, centres, bias = (np.ascontiguousarray(one) for one in (x, centres, bias))
    kern.nearest(x, centres, bias, n, m, depth, count, at, closeness, scratch)
    return at, closeness


def _sizes(a: F32, b: F32) -> tuple[int, int, int]:
    """(n, m, d) of rows a (n, d) and b (m, d): anything else would be read as numbers that it is not."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.dtype == b.dtype == np.float32:
        raise ValueError(f"rows are {a.dtype} {a.shape} and {b.dtype} {b.shape}, want float32 (n, d) and (m, d)")
    return len(a), len(b), a.shape[1]
