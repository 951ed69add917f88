"""The binding to the C kernels that builders alone call; `kern.pyi` is their manual too."""

from kern import count_right, find_answered, plan_queries, plan_queries_size

__all__ = ["count_right", "find_answered", "plan_queries", "plan_queries_size"]
