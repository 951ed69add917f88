"""What an index costs a month, and what the same rows and queries would cost elsewhere, by public list prices.

docs/costs.md has the pages that the prices are from. Free amounts are left out everywhere, minima are in the total.
"""

from __future__ import annotations

from dataclasses import dataclass

from vantage.cost import CLASS_B_USD, REQUEST_USD, STORAGE_USD_PER_GB_MONTH
from vantage.format import ROOT_KEY, VECTOR_BYTES
from vantage.index import Index

AS_OF = "2026-11"  # when the pages were read
GB, TB = 1e9, 1e12
WORKER_USD = 5.0  # the paid plan of Workers, a month
CPU_USD_PER_MS = 0.02e-6
CPU_MS = 10.0  # a query, assumed: bench/edge.py prints what it takes on a machine


@dataclass(frozen=True)
class Workload:
    """Rows of vectors (d) whose attributes are JSON of so many bytes, and queries a month for k answers each.

    kind: of the stored vectors. Services that store f32 alone count four bytes a number.
    """

    rows: int
    dimension: int
    kind: str
    attribute_bytes: int
    queries: int
    k: int

    def nbytes(self, number_bytes: int) -> float:
        """Logical bytes of all rows, with so many bytes a number and eight an id."""
        return self.rows * self.row_bytes(number_bytes)

    def row_bytes(self, number_bytes: int) -> float:
        return self.dimension * number_bytes + 8 + self.attribute_bytes


@dataclass(frozen=True)
class Bill:
    """Dollars a month. minimum: the least that the service charges; note: what a reader has to know, or nothing."""

    service: str
    storage: float
    queries: float
    minimum: float
    note: str = ""

    @property
    def total(self) -> float:
        return max(self.storage + self.queries, self.minimum)


def index_bytes(index: Index) -> int:
    """Of all objects of the live generation."""
    objects = index.root.objects
    other = sum(size for key, size in zip(objects.keys, objects.sizes, strict=True) if key != ROOT_KEY)
    return other + index.current.root.size


def workload_of(index: Index, queries: int, k: int) -> Workload:
    section = index.root.index
    return Workload(section.rows, section.dimension, section.vector_kind, section.attribute_bytes, queries, k)


def vantage(nbytes: int, gets: float, queries: int) -> Bill:
    """Of an index of so many bytes on R2, every query read cold in so many GETs, on the paid plan of Workers."""
    each = gets * CLASS_B_USD + REQUEST_USD + CPU_MS * CPU_USD_PER_MS
    storage = nbytes / GB * STORAGE_USD_PER_GB_MONTH
    return Bill("Vantage on R2 and Workers", storage, WORKER_USD + queries * each, WORKER_USD, "$5 of the paid plan")


def turbopuffer(w: Workload) -> Bill:
    """Launch plan: $0.33 a GB; $1 a PB queried, 1.28 GB a query at least, beyond 32 GB a fifth, beyond 128 a 25th;
    $0.05 a GB returned."""
    size = w.nbytes(min(4, VECTOR_BYTES[w.kind])) / GB
    counted = max(1.28, min(size, 32) + 0.2 * min(max(size - 32, 0), 96) + 0.04 * max(size - 128, 0))
    returned = w.k * (8 + w.attribute_bytes) / GB
    return Bill("turbopuffer", 0.33 * size, w.queries * (1e-6 * counted + 0.05 * returned), 16.0)


def s3_vectors(w: Workload) -> Bill:
    """$0.06 a GB; $2.50 a million queries; $0.004 a TB of the first 100,000 vectors, 0.002 of the others, and up to 80%
    less beyond ten million: all of it is taken off here."""
    first, rest, far = min(w.rows, 100_000), min(max(w.rows - 100_000, 0), 9_900_000), max(w.rows - 10_000_000, 0)
    processed = w.row_bytes(4) / TB * (0.004 * first + 0.002 * rest + 0.0004 * far)
    note = "at most 100 answers a query" if w.k > 100 else ""
    return Bill("Amazon S3 Vectors", 0.06 * w.nbytes(4) / GB, w.queries * (2.5e-6 + processed), 0.0, note)


def pinecone(w: Workload) -> Bill:
    """Standard plan: $0.33 a GB; $16 a million read units, one a GB of the namespace and query, a quarter at least."""
    size = w.nbytes(4) / GB
    return Bill("Pinecone, on demand", 0.33 * size, w.queries * max(0.25, size) * 16e-6, 50.0)


def vectorize(w: Workload) -> Bill:
    """$0.01 a million dimensions queried, where all stored ones count once a month; $0.05 a hundred million stored."""
    queried = (w.queries + w.rows) * w.dimension * 0.01e-6
    note = "at most 10 million vectors an index" if w.rows > 10_000_000 else ""
    note = note or ("at most 1,536 dimensions" if w.dimension > 1536 else "")
    return Bill("Cloudflare Vectorize", w.rows * w.dimension * 0.05e-8, queried, WORKER_USD, note)


OTHERS = (turbopuffer, s3_vectors, pinecone, vectorize)
