"""Filters: which attributes are declared, and their columns."""
