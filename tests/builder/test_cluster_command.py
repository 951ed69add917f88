"""vantage cluster: the tree's clusters of a source and of an index, in words, as a picture, and its refusals."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import clustered, vantage

from build_index.clusters.treemap import HEIGHT, TOP, WIDTH, boxes
from build_index.hashing import codewords

ROWS = 400


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codewords, "STEPS", 20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    x = clustered(ROWS, 12, 1)
    columns = {
        "id": pa.array([f"row {i}" for i in range(ROWS)]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 12),
        "name": pa.array([f"<name> of {i}" for i in range(ROWS)]),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    np.save(tmp_path / "more.npy", x[:5])
    return tmp_path


def test_every_row_is_in_one_cluster_and_its_picture(source: Path) -> None:
    files = ["--out", source / "c.parquet", "--picture", source / "c.svg"]
    told = vantage("cluster", source / "rows.parquet", "--k", 7, *files, "--json").json()
    table = pq.read_table(source / "c.parquet")
    label = table["cluster"].to_numpy()
    assert table["id"].to_pylist() == [f"row {i}" for i in range(ROWS)]
    assert 2 <= len(told["clusters"]) <= 7 and told["rows"] == ROWS
    assert [c["size"] for c in told["clusters"]] == np.bincount(label).tolist()
    for c in told["clusters"]:
        row = int(c["medoid"].split()[1])
        assert label[row] == c["cluster"] and c["typical"][0] == f"<name> of {row}"
    areas = [one for one in xml.parse(source / "c.svg").iter() if one.tag.endswith("rect")]
    assert len(areas) == len(told["clusters"])


def test_an_index_and_new_vectors(source: Path) -> None:
    assert (
        vantage("build", source / "rows.parquet", "--out", source / "index", "--recall", 0.8, "--k", 5, "--fast").code
        == 0
    )
    told = vantage("cluster", source / "index", "--level", 2, "--assign", source / "more.npy", "--json").json()
    assert len(told["clusters"]) <= 4 and sum(c["size"] for c in told["clusters"]) == ROWS
    vantage("cluster", source / "index", "--level", 2, "--out", source / "of.parquet", "--json")
    assert told["assigned"] == pq.read_table(source / "of.parquet")["cluster"].to_pylist()[:5]
    shown = vantage("cluster", source / "index").out
    assert "most typical" in shown and "<name> of" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--k", 3, "--level", 2), "--k and --level"), (("--k", 0), "--k is 0"), (("--level", -1), "--level is -1"),
        (("--metric", "taxi"), "no metric"), (("--picture", "no/such/folder/x.svg"), "there is no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_the_work(source: Path, options: tuple[object, ...], said: str) -> None:
    assert said in vantage("cluster", source / "rows.parquet", *options).refusal()


def test_vectors_of_another_dimension(source: Path) -> None:
    np.save(source / "wide.npy", np.ones((2, 13), np.float32))
    assert "13 dimensions" in vantage("cluster", source / "rows.parquet", "--assign", source / "wide.npy").refusal()
    assert "no" in vantage("cluster", source / "nothing.npy").refusal()


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40))
def test_areas_are_in_proportion_and_fill_the_picture(sizes: list[int]) -> None:
    found = boxes(sizes, (0, TOP, WIDTH, HEIGHT - TOP))
    area = np.array([across * down for _, _, across, down in found])
    assert np.allclose(area, np.array(sizes) / sum(sizes) * WIDTH * (HEIGHT - TOP))
    for left, top, across, down in found:
        assert left >= -1e-6 and top >= TOP - 1e-6 and left + across <= WIDTH + 1e-6 and top + down <= HEIGHT + 1e-6
