"""The builder and the CLI: turns vectors into an index. Imports `vantage`, never the reverse."""
