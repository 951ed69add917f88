"""From a query's vector to its answers: prepare, route, plan, scan, estimate, rank; and exact answers.

Not here: reads themselves (`vantage.read`), the layout of bytes (`vantage.format`), and the life of an open index
(`vantage.index`, `vantage.indexes`). What these modules need to be read, they yield as steps.
"""
