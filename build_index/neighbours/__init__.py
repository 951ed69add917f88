"""Finds exact and near neighbours of rows: what builds are measured by, and what routers and partitions learn from.

Not here: what an index finds (`simulate`, `evaluate`).
"""
