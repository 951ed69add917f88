"""Hashes rows to codewords of signs: directions, a code over them, trees of prefixes, and angles by Hamming distance.

Not here: the blocks, routers and codecs that are made of them (`blocks`, `routers`, `codecs`).
"""
