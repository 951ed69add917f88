"""vantage diff: rows by id and vector, two ids.bin merged in step, and the facts of two indexes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builder.small import vantage
from doubles import Built
from hypothesis import given, settings
from hypothesis import strategies as st

from build_index.audit.diff import Entries, merge

FIXTURES = Path(__file__).parent.parent / "fixtures"


def pages(hashes: set[int], size: int) -> list[Entries]:
    ordered = np.array(sorted(hashes), np.uint64)
    out = []
    for low in range(0, len(ordered), size):
        part = ordered[low : low + size]
        out.append((part, part.astype(np.uint32), (part % 7).astype(np.uint32)))
    return out


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)), st.integers(1, 9), st.integers(1, 9))
def test_merged_pieces_hold_all_and_meet_in_step(a: set[int], b: set[int], of_a: int, of_b: int) -> None:
    seen: tuple[list[int], list[int]] = ([], [])
    common: set[int] = set()
    last = -1
    for pair in merge(iter(pages(a, of_a)), iter(pages(b, of_b))):
        piece = [side[0].tolist() for side in pair]
        assert min(piece[0] + piece[1]) > last
        last = max(piece[0] + piece[1])
        common |= set(piece[0]) & set(piece[1])
        for kept, part, side in zip(seen, piece, pair, strict=True):
            kept.extend(part)
            assert side[1].tolist() == part and side[2].tolist() == [h % 7 for h in part]
    assert seen == (sorted(a), sorted(b)) and common == a & b


def test_rows_added_removed_and_changed(generations: tuple[Built, Built], tmp_path: Path) -> None:
    first = generations[0]
    x, ids = first.vectors.astype(np.uint8).copy(), list(first.ids)
    x[3] += 1
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x[2:].ravel()), x.shape[1])
    pq.write_table(pa.table({"id": ids[2:-1] + [10**9], "vector": flat}), tmp_path / "rows.parquet")
    other = tmp_path / "bucket" / "live"
    made = vantage(
        "build", tmp_path / "rows.parquet", "--out", other, "--metric", "l2", "--fast", "--k", 10, "--recall", 0.8,
        "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    found = vantage("diff", first.bucket / "live", other, "--json").json()
    assert found["rows"] == {"added": 1, "removed": 3, "changed": 1, "same": len(ids) - 4}
    assert found["ids"]["added"] == [10**9] and found["ids"]["changed"] == [ids[3]]
    assert set(found["ids"]["removed"]) == {ids[0], ids[1], ids[-1]}
    assert (found["old"]["target"], found["new"]["target"]) == (0.9, 0.8)
    assert found["new"]["bytes"] == sum(
        p.stat().st_size for p in (other / found["new"]["generation"]).rglob("*") if p.is_file()
    )
    told = vantage("diff", first.bucket / "live", other)
    assert told.code == 0 and "1 row added, 3 removed, 1 with another vector" in told.out and "target" in told.out


def test_generations_of_one_index(generations: tuple[Built, Built], tmp_path: Path) -> None:
    both = tmp_path / "live"
    names = [vantage("publish", b.bucket / "live", both, "--json").json()["generation"] for b in generations]
    found = vantage("diff", both, *names, "--json").json()
    assert found["rows"] == {"added": 0, "removed": 0, "changed": 0, "same": len(generations[0].ids)}
    assert [found[side]["generation"] for side in ("old", "new")] == names
    assert "nothing else differs" in vantage("diff", both, names[0], names[0]).out
    assert "no whole generation" in vantage("diff", both, names[0], "0" * 16).refusal()


def test_what_filters_know_of_attributes(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(draw.normal(size=300 * 8).astype(np.float32)), 8)
    year, lang = pa.array(range(300)), pa.array(["de", "fr", None] * 100)
    columns = {"vector": flat, "year": year, "lang": lang, "stock": pa.array([True, False] * 150)}
    changed = {
        "vector": flat, "year": pa.array([*range(299), None]), "lang": lang, "stock": pa.array([0.5] * 300),
        "at": pa.array([0] * 300, pa.timestamp("ms")),
    }  # fmt: skip
    for name, table, filters in (("old", columns, "year,lang,stock"), ("new", changed, "year,stock,at")):
        pq.write_table(pa.table(table), tmp_path / "rows.parquet")
        made = vantage("build", tmp_path / "rows.parquet", "--out", tmp_path / "bucket" / name, "--fast", "--k", 5,
                       "--recall", 0.8, "--filter", filters, "--json")  # fmt: skip
        assert made.code == 0, made.err
    found = vantage("diff", tmp_path / "bucket" / "old", tmp_path / "bucket" / "new", "--json").json()
    assert [tuple(one.values()) for one in found["attributes"]] == [
        ("year", "rows", 300, 299), ("year", "distinct", 300, 299), ("year", "max", 299, 298),
        ("lang", "filter", "text", None),
        ("stock", "type", "bool", "double"), ("stock", "kind", "boolean", "number"), ("stock", "distinct", 2, 1),
        ("stock", "min", False, 0.5), ("stock", "max", True, 0.5),
        ("at", "type", None, "timestamp[ms]"), ("at", "filter", None, "time"),
    ]  # fmt: skip
    told = flat_text(vantage("diff", tmp_path / "bucket" / "old", tmp_path / "bucket" / "new").out)
    assert "lang filter text none" in told and "stock max yes 0.5" in told and "at filter none time" in told


def flat_text(text: str) -> str:
    """Without the frames of tables."""
    return " ".join(re.sub(r"[─-╿]", " ", text).split())


def test_indexes_with_other_ids_share_nothing() -> None:
    found = vantage("diff", FIXTURES / "words", FIXTURES / "numbers", "--json").json()
    assert found["rows"] == {"added": 150, "removed": 200, "changed": 0, "same": 0}
    assert len(found["ids"]["added"]) == 10 and all(isinstance(i, int) for i in found["ids"]["added"])
    assert all(isinstance(i, str) for i in found["ids"]["removed"])


@pytest.mark.parametrize("bad", [b"", b"\0"])
def test_a_damaged_page_of_ids_is_an_error(bad: bytes, generations: tuple[Built, Built], tmp_path: Path) -> None:
    vantage("publish", generations[0].bucket / "live", tmp_path / "live")
    (ids,) = (tmp_path / "live").glob("*/ids.bin")
    ids.write_bytes(bad + ids.read_bytes()[: -1 or None])
    ran = vantage("diff", tmp_path / "live", FIXTURES / "numbers")
    assert ran.code == 1 and "ids.bin" in ran.err
