"""Codecs, trained and encoded here, scanned by vantage.scan: one module a codec."""
