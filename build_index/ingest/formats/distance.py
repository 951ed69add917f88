"""The metric that a file names, in the spellings of other tools."""

import re

SPELLINGS = {
    "cosine": ("cosine", "cos", "angular"),
    "l2": ("l2", "euclidean", "euclid", "l2squared", "squaredl2", "l2sq", "sqeuclidean", "squaredeuclidean"),
    "dot": ("dot", "dotproduct", "ip", "innerproduct", "inner", "mips", "maxinnerproduct"),
}
METRICS = {spelling: metric for metric, spellings in SPELLINGS.items() for spelling in spellings}


def metric_of(word: str) -> str | None:
    """One of ours ("cosine", "l2", "dot"), or the word itself where it is none; None for an empty one."""
    plain = re.sub("[^a-z0-9]", "", word.lower())
    return METRICS.get(re.sub("(distance|similarity)$", "", plain), word) if word.strip() else None
