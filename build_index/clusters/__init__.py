"""Clusters for people: levels of a tree over rows, their typical rows, and a picture.

Not here: the blocks of an index (`blocks`).
"""
