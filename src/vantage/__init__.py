"""Vantage at the edge: the standard library and our kernels; the same code in CPython and in a Worker."""

VERSION = "0.2.0"
