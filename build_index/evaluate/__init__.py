"""Measures an index by asking it: recall, reads and time, one promise or all of them, and pictures of that.

Not here: estimates before an index is written (`simulate`).
"""
