"""The binding to the C kernels that builders alone call; `kern.pyi` is their manual too."""

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
    "plan_queries",
    "plan_queries_size",
    "scalar_encode",
    "select_largest",
]
