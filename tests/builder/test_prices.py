"""Prices: examples that services publish, what their minima and marginal rates say, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from build_index.cli.main import app
from build_index.prices import Workload, pinecone, s3_vectors, turbopuffer, vantage, vectorize

FIXTURES = Path(__file__).parent.parent / "fixtures"


def workload(rows: int, dimension: int, queries: int, kind: str = "f32", attribute_bytes: int = 0) -> Workload:
    return Workload(rows, dimension, kind, attribute_bytes, queries, 10)


def test_published_examples() -> None:
    """Cloudflare: 10,000 x 768 and 30,000 queries are $0.31. Amazon: 250,000 rows of 10 kB take $7 beside $2.50."""
    bill = vectorize(workload(10_000, 768, 30_000))
    assert round(bill.storage + bill.queries, 2) == 0.31
    assert bill.total == 5
    rows = workload(250_000, 2498, 10**6)  # of 10,000 bytes
    assert s3_vectors(rows).queries == pytest.approx(2.5 + 1000 * 0.004 + 1500 * 0.002)
    assert s3_vectors(rows).storage == pytest.approx(2.5 * 0.06)


def test_rates_beyond_a_size() -> None:
    def queried(gigabytes: float) -> float:
        """Dollars of a million queries, without what is returned: 80 bytes each."""
        return turbopuffer(workload(round(gigabytes * 1e9 / 4008), 1000, 10**6)).queries - 0.004

    assert queried(0.5) == queried(1.28) == pytest.approx(1.28)
    assert queried(32) == pytest.approx(32, rel=1e-6)
    assert queried(128) == pytest.approx(32 + 0.2 * 96, rel=1e-6)
    assert queried(228) == pytest.approx(32 + 0.2 * 96 + 4, rel=1e-6)
    assert turbopuffer(workload(1000, 1000, 0, "f16")).storage < turbopuffer(workload(1000, 1000, 0)).storage / 1.9
    assert s3_vectors(workload(10_000_001, 1, 10**6)).queries - s3_vectors(workload(10_000_000, 1, 10**6)).queries == (
        pytest.approx(12 * 0.0004e-6, rel=0.1)
    )
    assert pinecone(workload(1, 8, 10**6)).queries == 4 and pinecone(workload(1, 8, 0)).total == 50
    assert pinecone(workload(10**6, 998, 10**6)).queries == pytest.approx(16 * 4)


def test_an_index_costs_its_objects_and_its_reads() -> None:
    bill = vantage(10**9, 6.0, 10**6)
    assert bill.storage == 0.015
    assert bill.total == pytest.approx(0.015 + 5 + 6 * 0.36 + 0.30 + 0.2)


def test_the_command_tells_bills() -> None:
    index = str(FIXTURES / "words")
    printed = CliRunner().invoke(app, ["price", index, "--queries", "5000000", "--json"])
    told = json.loads(printed.stdout)
    assert told["workload"]["queries"] == 5_000_000
    assert [bill["service"].split()[0] for bill in told["bills"]] == [
        "Vantage", "turbopuffer", "Amazon", "Pinecone,", "Cloudflare"
    ]  # fmt: skip
    assert all(bill["total"] >= bill["storage"] + bill["queries"] for bill in told["bills"])
    assert "Vectorize" in CliRunner().invoke(app, ["price", index]).stdout
    assert CliRunner().invoke(app, ["price", index, "--queries", "-1"]).exit_code
