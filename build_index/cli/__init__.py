"""The `vantage` command: each command parses, calls and prints.

Not here: anything that a program could not call as well.
"""
