"""HTTP: who may ask, what a request says, and what is sent back; one call, `routes.handle`.

Not here: what answers a query (`vantage.search`, `vantage.index`), which indexes are open (`vantage.indexes`), and
anything of Cloudflare (`src/entry.py`), so that tests need no Worker.
"""
