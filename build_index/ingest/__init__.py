"""Turns sources into rows: reads files and arrays in bounded memory, checks them, and brings them to the index scale.

Not here: what is measured on rows (`neighbours`) or made of them, and where an index is published (`bucket`).
"""
