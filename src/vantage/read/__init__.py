"""Reads of a bucket: which bytes go into one GET, how they are fetched, and what is kept of them.

Not here: what bytes mean (`vantage.format`) and which of them a query wants (`vantage.search`).
"""
