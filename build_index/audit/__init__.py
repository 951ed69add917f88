"""Looks into published generations: whether all parts agree, and what differs between two.

Not here: measuring answers (`evaluate`).
"""
