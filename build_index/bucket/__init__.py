"""Published indexes: where they lie, which generation is live, what may be deleted.

Not here: making one (`write`) and looking into one (`audit`).
"""
