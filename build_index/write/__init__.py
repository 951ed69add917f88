"""A choice -> the objects of a generation in a folder, and back; bounded memory.

Not here: buckets and what is live in them (`bucket`).
"""
