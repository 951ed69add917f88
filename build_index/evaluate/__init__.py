"""Measures a written index by querying it: recall, reads and time, at one promise or all, and pictures of that.

Not here: estimates before an index is written (`simulate`).
"""
