"""Routers, trained here, applied by vantage.route: one module a router."""
