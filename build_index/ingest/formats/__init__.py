"""Reads the formats that sources come in, one file for each, by rules for rows and columns that they share.

Not here: which rows an index takes, and ids and attributes as a whole (`ingest/source.py`).
"""
