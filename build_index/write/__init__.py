"""Writes the objects of a generation into a folder, and reads them back, in bounded memory.

Not here: buckets and what is live in them (`bucket`).
"""
