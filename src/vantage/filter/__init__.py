"""Structured filters: from JSON to a program over the columns of a block."""
