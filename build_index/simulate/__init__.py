"""Simulates queries before anything is written: what they would read and find, in the arithmetic of the edge.

Not here: answers of a written index (`evaluate`), and what to choose (`tune`).
"""
