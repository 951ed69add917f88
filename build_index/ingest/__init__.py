"""Sources -> rows: files and arrays read in bounded memory, checked, and put into the scale of the index.

Not here: what is measured on rows (`neighbours`) or made of them, and where an index is published (`bucket`).
"""
