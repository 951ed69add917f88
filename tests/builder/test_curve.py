"""vantage eval --curve: the contract's promises, each measured as `vantage eval --recall` does, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from doubles import Built
from small import vantage

from build_index.bucket.open import open_index
from build_index.evaluate.curve import COSTS, curve, picture, promises
from build_index.evaluate.evaluate import evaluate
from build_index.evaluate.picture import Axis, panels
from build_index.ingest.queries import Queries
from build_index.progress import Progress
from vantage.format import Contract, Point

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def found(words: Built) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    """(the curve of the words, what progress was told)."""
    said: list[tuple[str, float]] = []
    queries = Queries(words.queries, None)
    result = curve(words.bucket / "words", queries, progress=Progress(lambda *report: said.append(report)))
    return result, said


def contract(target: float, *points: tuple[int, int, float]) -> Contract:
    return Contract(10, 6, target, tuple(Point(k, price, recall, 1e6, 3.0) for k, price, recall in points))


def test_promises() -> None:
    """Of the contract's k, rising, each once; everything (price 0) only where nothing less keeps the target."""
    measured = ((10, 900, 0.7), (1, 900, 0.6), (10, 500, 0.91), (10, 500, 0.91), (1, 500, 0.8))
    assert promises(contract(0.9, *measured, (10, 0, 0.99)), None, 10) == [0.7, 0.91]
    assert promises(contract(0.95, *measured, (10, 0, 0.99)), None, 10) == [0.7, 0.91, 0.99]


def test_each_point_is_what_eval_measures(words: Built, found: tuple[dict[str, Any], Any]) -> None:
    result, path = found[0], words.bucket / "words"
    root = open_index(path).root
    measured = root.contract
    assert root.promises and [p["promise"] for p in result["points"]] == [p.recall for p in root.promises.by_recall]
    assert (result["index"], result["queries"], result["k"]) == ("words", 60, 10)
    assert result["target"] == measured.target == 0.9
    one = result["points"][1]
    alone = evaluate(path, Queries(words.queries, None), recall=one["promise"])
    assert one == {"promise": one["promise"]} | {name: alone[name] for name in COSTS}


def test_more_recall_costs_more(found: tuple[dict[str, Any], Any]) -> None:
    points = found[0]["points"]
    assert len(points) >= 4
    assert points[0]["bytes"] < 0.8 * points[-1]["bytes"]
    # 60 queries of 10 answers: three deviations of their mean
    assert points[0]["recall"] < points[-1]["recall"] + 0.05
    assert all(p["recall"] > p["promise"] - 0.08 for p in points)


def test_progress_goes_through_every_promise(found: tuple[dict[str, Any], Any]) -> None:
    result, said = found
    wanted = [(f"promise {p['promise']:.4f}", (i + 1) / 60) for p in result["points"] for i in range(60)]
    assert said == wanted


def test_another_k_measures_its_own_promises(words: Built) -> None:
    one, promised = curve(words.bucket / "words", Queries(words.queries, None), k=1), words.open().root.promises
    assert one["k"] == 1 and promised is not None
    assert [p["promise"] for p in one["points"]] == [p.recall for p in promised.others[0].by_recall]


def test_the_picture_shows_every_point(found: tuple[dict[str, Any], Any]) -> None:
    """Three plots: two of measured and promised recall, one of two quantiles of time."""
    result = found[0]
    drawn = ElementTree.fromstring(picture(result))
    assert len(drawn.findall(f"{SVG}circle")) == 6 * len(result["points"])
    assert len(drawn.findall(f"{SVG}path[@class='line']")) == 6
    texts = [t.text for t in drawn.iter(f"{SVG}text")]
    names = ("GETs a query", "MB a query", "modelled ms", "recall@10", "measured", "promised", "p50", "p99")
    assert all(name in texts for name in names)
    assert "words: recall@10 and its cost, 60 queries" in texts
    nothing_read = result | {"points": [p | {"gets": 0, "bytes": 0} for p in result["points"]]}
    ElementTree.fromstring(picture(nothing_read))


def test_panels_place_points_by_their_axes() -> None:
    """The corners of a plot are the ends of its axes; what is outside is left out, and names are escaped."""
    drawn = ElementTree.fromstring(
        panels([(Axis("x", 0, 2), {"a<b": [(0, 0), (2, 1), (3, 1), (1, -1)]})], Axis("y", 0, 1), "one & two")
    )
    frame = drawn.find(f"{SVG}rect[@class='frame']")
    assert frame is not None
    left, top, across, down = (float(frame.attrib[name]) for name in ("x", "y", "width", "height"))
    at = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in drawn.findall(f"{SVG}circle")]
    assert at == [(left, top + down), (left + across, top)]
    assert {"a<b", "one & two", "x", "y"} <= {t.text for t in drawn.iter(f"{SVG}text")}


def test_command(words: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", words.queries)
    args = ("eval", words.bucket / "words", "--queries", tmp_path / "q.npy", "--curve", "--limit", 20)
    told = vantage(*args, "--svg", tmp_path / "c.svg", "--json").json()
    assert told["queries"] == 20 and len(told["points"]) >= 4
    assert (tmp_path / "c.svg").read_text() == picture(told)
    warm = vantage(*args, "--cache", "8MiB", "--warm", "--json").json()
    assert {p["gets"] for p in warm["points"] if not p["rows_ranked"]} == {0}
    shown = vantage(*args)
    assert shown.code == 0 and shown.out.count("(target)") == 1
    assert all(f"{p['promise']:.4f}" in shown.out for p in told["points"])


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--curve", "--recall", "0.9"), "--curve asks at every promise; leave --recall out"),
        (("--svg", "c.svg"), "--svg draws a curve; add --curve"),
        (("--curve", "--svg", "{none}"), "there is no folder"),
        (("--curve", "--limit", "0"), "there are no queries"),
        (("--curve", "--k", "0"), "--k is 0, the limit is 1 to 1000"),
    ],
)
def test_refusals(args: tuple[str, ...], sentence: str, words: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", words.queries)
    some = (a.format(none=tmp_path / "no" / "c.svg") for a in args)
    said = vantage("eval", words.bucket / "words", "--queries", tmp_path / "q.npy", *some).refusal()
    assert said.startswith(sentence)
