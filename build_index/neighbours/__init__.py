"""Exact and near neighbours of rows: what everything is measured against, and what labels and cuts are made of.

Not here: what an index finds (`simulate`, `evaluate`).
"""
