"""Codewords of signs: directions, a code over them, trees of prefixes, and what a Hamming distance says of an angle.

Not here: the blocks, routers and codecs that are made of them (`blocks`, `routers`, `codecs`).
"""
