"""What a query would read and find, in the arithmetic of the edge, for many queries and any price at once.

Not here: answers of a written index (`evaluate`), and what to choose (`tune`).
"""
