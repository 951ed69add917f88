"""Chooses by measuring: blocks, copies, router, code bytes and prices of an index, and the promises that follow.

Not here: training (`routers`, `codecs`), measuring (`simulate`), writing (`write`).
"""
