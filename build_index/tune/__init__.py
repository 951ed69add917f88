"""The choices of a build, by measuring: blocks, copies, router, code bytes, prices, and the promises that follow.

Not here: training (`routers`, `codecs`), measuring (`simulate`), writing (`write`).
"""
