"""Recall, GETs and bytes of the sample's index, in kernel arithmetic: what a change must not make worse unseen."""

from pathlib import Path

from build_index.evaluate import evaluate, read_queries
from build_index.serve import ROOT


def test_the_sample_index(sample_bucket: Path) -> None:
    """Machines may differ in the last digits of k-means, so these are bounds."""
    queries = read_queries(ROOT / "sample" / "queries.parquet", None)
    cold = evaluate(sample_bucket / "wordnet", queries)
    assert cold["queries"] == 600
    assert cold["recall"] >= 0.945
    assert cold["gets"] <= 6
    assert cold["bytes"] <= 1_050_000
    assert cold["waves"] == 1
    assert cold["incomplete"] == 0
    assert evaluate(sample_bucket / "wordnet", queries, k=10)["recall"] >= 0.965
    warm = evaluate(sample_bucket / "wordnet", queries, cache_bytes=40 << 20, warm=True)
    assert warm["gets"] == 0
    assert warm["recall"] >= 0.95
