"""The `vantage` command: help, tables for people, one JSON object for machines, one sentence on errors."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from doubles import Built
from small import Ran, clustered, vantage
from typer.testing import CliRunner

from build_index import VectorIndex
from build_index.cli.main import app
from build_index.cli.terminal import count, nbytes, size
from build_index.tune.options import Options
from vantage import VERSION
from vantage.errors import InputError
from vantage.http.request import parse_queries
from vantage.search.query import Query

COMMANDS = ("build", "info", "query", "eval", "explain", "serve", "publish")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """(bucket, what `vantage build --json` did): 400 rows from .npy."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "rows.npy", clustered(400, 12, 1))
    ran = vantage(
        "build", folder / "rows.npy", "--out", folder / "bucket" / "small", "--recall", 0.9, "--k", 10,
        "--metric", "l2", "--vectors", "f32", "--memory-budget", "1GiB", "--seed", 3, "--json",
    )  # fmt: skip
    return folder / "bucket", ran


def flat(text: str) -> str:
    """Without the frames of tables and the ends of lines, so that sizes of terminals do not matter."""
    return " ".join(re.sub(r"[─-╿]", " ", text).split())


# Help


def commands() -> dict[str, Any]:
    found: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return found


def test_commands_are_all_there() -> None:
    assert set(COMMANDS) <= set(commands())
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in COMMANDS)
    assert CliRunner().invoke(app, []).exit_code in (0, 2)  # shows the help too


def test_every_command_has_an_example_that_parses() -> None:
    for name, one in commands().items():
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        example = re.search(rf"Example: vantage ({name} .*?) (?:│|╭|Usage|Arguments)", flat(shown.output) + " Usage")
        assert example, f"{name} --help has no example"
        words = re.match(rf"{name}(?: (?:--[a-z-]+|[\w./:]+))+", example[1])
        assert words is not None
        context = one.make_context(name, words[0].split()[1:], resilient_parsing=False)
        assert context.params


def test_build_shows_what_people_need_first() -> None:
    panels: dict[str | None, list[str]] = {}
    for one in commands()["build"].params:
        if one.param_type_name == "option":
            panels.setdefault(getattr(one, "rich_help_panel", None), []).append(one.name)
    assert [len(names) for names in panels.values()][0] == 11 and None in panels
    research = panels["Research (a build chooses well without them)"]
    assert {"partition", "router", "codec", "rotation"} <= set(research)
    shown = CliRunner().invoke(app, ["build", "--help"]).output
    assert shown.index("--out") < shown.index("More options") < shown.index("Research")


def test_defaults_are_the_same_everywhere() -> None:
    other = {"memory_bytes": "memory_budget", "cache_bytes": "cache", "filters": "filter"}
    flags = {one.name: one.default for one in commands()["build"].params}
    library = {name: p.default for name, p in inspect.signature(VectorIndex).parameters.items()}
    for field in fields(Options):
        flag = flags[other.get(field.name, field.name)]
        assert (nbytes(flag) if field.name.endswith("_bytes") else flag) == field.default, field.name
        assert library.get(field.name, field.default) == field.default, field.name
    assert set(library) - {field.name for field in fields(Options)} == {"metric", "growth", "drift"}
    sent = parse_queries({"vector": [1.0]})[0][0]
    search = inspect.signature(VectorIndex.search).parameters
    for name in ("query", "explain"):
        asked = {one.name: one.default for one in commands()[name].params}
        for field, known in (("top_k", search["k"]), ("recall", search["recall"]), ("rerank", search["rerank"])):
            assert asked[field] == known.default == getattr(Query, field) == getattr(sent, field)


# build, info


def test_build_json(made: tuple[Path, Ran]) -> None:
    bucket, ran = made
    told = ran.json()
    assert (told["rows"], told["dimension"], told["metric"]) == (400, 12, "l2")
    assert (told["k"], told["target"], told["index"]) == (10, 0.9, str(bucket / "small"))
    assert told["recall"] >= 0.9 and told["tried"] and told["duplicate_vectors"] == 0
    assert told["notes"] == ["Ids are row numbers: .npy files have none."]
    files = [p for p in (bucket / "small" / told["generation"]).rglob("*") if p.is_file()]
    assert told["bytes"] == sum(p.stat().st_size for p in files)
    assert told["root_bytes"] == (bucket / "small" / told["generation"] / "root.bin").stat().st_size
    assert not (bucket / "small" / ".scratch").exists()


def test_build_says_what_it_does_on_stderr(made: tuple[Path, Ran]) -> None:
    said = flat(made[1].err)
    assert "note: Ids are row numbers" in said
    assert "400 rows of 12 f32" in said and "recall@10 0.9" in said
    for phase in ("read", "truth", "partition", "codes of", "prices", "write"):
        assert phase in said


def test_build_for_people(tmp_path: Path) -> None:
    table = pq.read_table(Path(__file__).parents[2] / "sample" / "wordnet.parquet").slice(0, 300)
    pq.write_table(table, tmp_path / "some.parquet")
    ran = vantage(
        "build", tmp_path / "some.parquet", "--out", tmp_path / "b" / "words", "--recall", 0.8, "--k", 5,
        "--attributes", "gloss",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    shown = flat(ran.out)
    for text in ("300 of 384 dimensions, cosine", "target 0.8", "GETs", "a month in R2", "vantage query", "built in"):
        assert text in shown
    found = vantage("info", tmp_path / "b" / "words", "--json").json()
    assert [a["name"] for a in found["attributes"]] == ["gloss"]
    answer = vantage("query", tmp_path / "b" / "words", "--id", table["id"][7].as_py(), "--json").json()
    assert answer["matches"][0]["attributes"].keys() == {"gloss"}


def test_info(made: tuple[Path, Ran], words: Built) -> None:
    told = vantage("info", made[0] / "small", "--json").json()
    built = made[1].json()
    assert {name: told[name] for name in ("generation", "rows", "dimension", "metric", "bytes", "recall")} == {
        name: built[name] if name != "bytes" else told["bytes"]
        for name in ("generation", "rows", "dimension", "metric", "bytes", "recall")
    }
    assert told["bytes"] < built["bytes"] < told["bytes"] + 20_000  # the manifest is not counted
    ran = vantage("info", words.bucket / "words")
    assert ran.code == 0 and ran.err == ""
    shown = flat(ran.out)
    assert "2,9" in shown or "3,0" in shown  # rows
    assert "gloss (string)" in shown and "(target)" in shown and "nothing cached" in shown


# query, explain, eval


def test_query_by_id(words: Built) -> None:
    key = words.ids[40].decode()
    told = vantage("query", words.bucket / "words", "--id", key, "--top-k", 5, "--json").json()
    assert set(told) == {"matches", "scores", "complete", "recall_estimate", "receipt"}
    assert len(told["matches"]) == 5 and told["complete"] and told["scores"] == "estimated"
    ids = [m["id"] for m in told["matches"]]
    assert key not in ids
    wanted = [i.decode() for i in words.nearest(words.vectors[40], 6) if i.decode() != key]
    assert len(set(ids) & set(wanted)) >= 3
    assert told["receipt"]["waves"] == 3  # the page of ids, the row, then blocks with the attributes
    shown = vantage("query", words.bucket / "words", "--id", key, "--top-k", 5)
    assert shown.code == 0
    assert all(i in flat(shown.out) for i in ids)
    assert "GETs" in shown.out and "ms modelled" in flat(shown.out)


def test_query_by_vector(dots: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", dots.queries[:3])
    told = vantage("query", dots.bucket / "dots", "--vector", tmp_path / "q.npy", "--rerank", 60, "--json").json()
    assert told["scores"] == "exact" and len(told["matches"]) == 10
    scores = dots.scores(dots.queries[0])
    for match in told["matches"]:
        assert match["score"] == pytest.approx(scores[dots.ids.index(match["id"])], rel=1e-4)
        assert match["attributes"] == {"label": f"row {match['id']}"}


def test_query_by_a_whole_number(points: Built) -> None:
    told = vantage("query", points.bucket / "points", "--id", points.ids[3], "--json").json()
    assert len(told["matches"]) == 10 and points.ids[3] not in [m["id"] for m in told["matches"]]
    assert points.ids[3] < 0  # and so looks like an option to some parsers


def test_explain(points: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", points.queries[:1].astype(np.uint8))
    told = vantage("explain", points.bucket / "points", "--vector", tmp_path / "q.npy", "--json").json()
    asked = vantage("query", points.bucket / "points", "--vector", tmp_path / "q.npy", "--json").json()
    assert (told["gets"], told["bytes"]) == (asked["receipt"]["gets"], asked["receipt"]["bytes"])
    assert told["bytes"] == sum(r["bytes"] for r in told["ranges"])
    shown = vantage("explain", points.bucket / "points", "--vector", tmp_path / "q.npy")
    assert shown.code == 0
    assert f"{count(told['gets'], 'GET')} in one wave" in shown.out and "a million" in flat(shown.out)


def test_query_and_explain_by_a_file(points: Built, tmp_path: Path) -> None:
    """Answers and plans are those of single queries, beyond a group that shares its reads too."""
    np.save(tmp_path / "q.npy", points.queries[:20].astype(np.uint8))
    index, file = points.bucket / "points", tmp_path / "q.npy"
    told = vantage("query", index, "--queries", file, "--top-k", 3, "--json").json()
    assert set(told) == {"results", "receipt"} and len(told["results"]) == 20
    for i in (0, 18):
        np.save(tmp_path / "one.npy", points.queries[i].astype(np.uint8))
        alone = vantage("query", index, "--vector", tmp_path / "one.npy", "--top-k", 3, "--json").json()
        assert told["results"][i]["matches"] == alone["matches"]
    wanted = [answer["receipt"] for answer in told["results"]]
    assert 0 < told["receipt"]["gets"] < sum(r["gets"] for r in wanted)  # what several want is read once
    assert told["receipt"]["rows"] == sum(r["rows"] for r in wanted)
    two = vantage("query", index, "--queries", file, "--limit", 2, "--top-k", 3)
    assert two.code == 0 and "query 1 of 2" in two.out and "query 2 of 2" in two.out
    plans = vantage("explain", index, "--queries", file, "--limit", 2, "--json").json()["results"]
    assert [p["gets"] for p in plans] == [told["results"][i]["receipt"]["gets"] for i in (0, 19)]
    assert "query 2 of 2: " in vantage("explain", index, "--queries", file, "--limit", 2).out


def test_explain_and_eval_by_id(points: Built, words: Built) -> None:
    """The row is left out of its answer and of the truth, so a perfect answer has recall 1."""
    index, key = words.bucket / "words", words.ids[40].decode()
    plan = vantage("explain", index, "--id", key, "--json").json()
    asked = vantage("query", index, "--id", key, "--json").json()["receipt"]
    assert plan["gets"] > 0 and plan["bytes"] < asked["bytes"]  # without the page of ids and the row
    assert f"{count(plan['gets'], 'GET')} in one wave" in vantage("explain", index, "--id", key).out
    best = [i.decode() for i in words.nearest(words.vectors[40], 11) if i.decode() != key][:10]
    answer = vantage("query", index, "--id", key, "--json").json()["matches"]
    told = vantage("eval", index, "--id", key, "--k", 10, "--json").json()
    assert told["queries"] == 1 and told["recall"] == pytest.approx(len({m["id"] for m in answer} & set(best)) / 10)
    assert told["gets"] == plan["gets"]
    one = vantage("eval", points.bucket / "points", "--id", points.ids[3], "--rerank", 100, "--json").json()
    assert one["recall"] > 0.7 and one["rows_ranked"] > 0
    curve = vantage("eval", index, "--id", key, "--curve", "--json").json()
    assert curve["queries"] == 1 and curve["points"][-1]["recall"] >= curve["points"][0]["recall"]


def test_eval(points: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", points.queries.astype(np.uint8))
    args = ("eval", points.bucket / "points", "--queries", tmp_path / "q.npy", "--limit", 20)
    told = vantage(*args, "--json").json()
    assert (told["queries"], told["k"]) == (20, 10) and told["gets"] > 0
    ten = vantage(*args, "--k", 5, "--cache", "1MiB", "--warm", "--json").json()
    assert (ten["k"], ten["gets"]) == (5, 0)
    shown = vantage(*args)
    assert shown.code == 0
    assert all(name in shown.out for name in told)


def test_eval_limit_spreads_over_the_file(points: Built, tmp_path: Path) -> None:
    """Only the queries at the spread places have their neighbours, the others what is furthest from them."""
    count = len(points.queries)
    some = np.linspace(0, count - 1, 5).astype(int)
    near = np.array([np.argsort(-points.scores(q), kind="stable")[:10] for q in points.queries], np.int32)
    near[some] = [np.argsort(points.scores(points.queries[i]), kind="stable")[:10] for i in some]
    flat = pa.array(points.queries.astype(np.uint8).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(flat, points.queries.shape[1])
    table = pa.table({"vector": vectors, "neighbors": pa.array(near.tolist(), pa.list_(pa.int32(), 10))})
    pq.write_table(table, tmp_path / "q.parquet")
    args = ("eval", points.bucket / "points", "--queries", tmp_path / "q.parquet", "--json", "--limit")
    told = vantage(*args, 5).json()
    assert told["queries"] == 5 and told["recall"] > 0.6
    assert vantage(*args, count + 1).json()["queries"] == count
    curve = vantage(*args, 5, "--curve").json()
    assert curve["queries"] == 5 and curve["points"][-1]["recall"] > 0.6


# Errors


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("info", "nowhere/none"), "there is no index 'none'"),
        (("query", "nowhere/none", "--id", "1"), "there is no index 'none'"),
        (("export-router", "r2://bucket/words", "r.onnx"), "'r2://bucket/words' is not on this machine"),
        (("info", "gs://bucket/words"), "that is not the address of an index"),
        (("query", "{points}"), "name one query, or a file of them; --vector FILE, --id ID or --queries FILE"),
        (("explain", "{points}"), "name one query, or a file of them; --vector FILE, --id ID or --queries FILE"),
        (("eval", "{points}"), "name one query, or a file of them; --vector FILE, --id ID or --queries FILE"),
        (("eval", "{points}", "--id", "1", "--queries", "q.npy", "--curve"), "name one query, or a file of them"),
        (("explain", "{points}", "--id", "-3993", "--limit", "3"), "--limit needs a file of queries"),
        (("explain", "{points}", "--id", "one"), "'one' is not a whole number"),
        (("eval", "{points}", "--id", "999999"), "there is no row with id 999999"),
        (("query", "{points}", "--queries", "{wide}"), "the length of vector is 25, the limit is 24"),
        (("explain", "{points}", "--queries", "{wide}"), "the length of vector is 25, the limit is 24"),
        (("query", "{points}", "--id", "1", "--vector", "q.npy"), "name one query, or a file of them"),
        (("query", "{points}", "--id", "one"), "'one' is not a whole number"),
        (("query", "{points}", "--id", "999999"), "there is no row with id 999999"),
        (("query", "{points}", "--id", str(1 << 70)), f"there is no row with id {1 << 70}"),
        (("explain", "{points}", "--id", "2_0"), "'2_0' is not a whole number"),
        (("query", "{points}", "--id", " 20 "), "' 20 ' is not a whole number"),
        (("query", "{points}", "--id", "２０"), "'２０' is not a whole number"),
        (("query", "{words}", "--id", "\udcff"), "there is no row with id "),
        (("query", "{points}", "--id", "-3993", "--top-k", "0"), "top_k is 0, the limit is 1 to 1000; ask for one at"),
        (("query", "{points}", "--id", "-3993", "--top-k", "1001"), "top_k is 1001, the limit is 1 to 1000; ask for f"),
        (("query", "{points}", "--queries", "{wide}", "--limit", "0"), "there are no queries in --limit 0"),
        (("query", "{points}", "--queries", "{wide}", "--limit", "-1"), "there are no queries in --limit -1"),
        (("explain", "{points}", "--queries", "{wide}", "--limit", "0"), "there are no queries in --limit 0"),
        (("eval", "{points}", "--queries", "{wide}", "--limit", "0", "--curve"), "there are no queries in --limit 0"),
        (("query", "{points}", "--id", "-3993", "--rerank", "5"), "rerank is 5, the limit is top_k (10) to 200"),
        (("query", "{points}", "--id", "-3993", "--recall", "0.9999"), "recall is 0.9999, the limit is 0.9"),
        (("query", "{points}", "--vector", "none.npy"), "no such file or folder: none.npy"),
        (("explain", "{points}", "--vector", "none.npy"), "no such file or folder: none.npy"),
        (("query", "{points}", "--vector", "{wide}"), "the length of vector is 25, the limit is 24"),
        (("explain", "{points}", "--vector", "{wide}"), "the length of vector is 25, the limit is 24"),
        (("eval", "{points}", "--queries", "{wide}"), "the length of the queries is 25, the limit is 24"),
        (("eval", "{points}", "--queries", "{wide}", "--cache", "much"), "'much' is not a size"),
        (("eval", "{points}", "--queries", "{wide}", "--limit", "0"), "there are no queries"),
        (("eval", "{points}", "--queries", "{wide}", "--limit", "-2"), "there are no queries"),
        (("eval", "{points}", "--queries", "{wide}", "--k", "0"), "--k is 0, the limit is 1 to 1000"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_errors_are_one_sentence(
    args: tuple[str, ...], sentence: str, points: Built, words: Built, tmp_path: Path
) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 25), np.float32))
    names = {"points": points.bucket / "points", "words": words.bucket / "words", "wide": tmp_path / "wide.npy"}
    said = vantage(*(a.format(**names) for a in args)).refusal()
    assert said.startswith(sentence)
    assert "\n" not in said


def test_queries_that_are_none_are_to_be_mended(points: Built, tmp_path: Path) -> None:
    """No hint names an option that only a build has."""
    np.save(tmp_path / "nan.npy", np.full((3, 24), np.nan, np.float32))
    pq.write_table(pa.table({"v": [[1.0] * 24]}), tmp_path / "v.parquet")
    for name, hint in (("nan.npy", "mend or leave out these rows"), ("v.parquet", "queries lie in a column `vector`")):
        for command in ("query", "explain", "eval"):
            said = vantage(command, points.bucket / "points", "--queries", tmp_path / name).refusal()
            assert hint in said and "--" not in said


def test_one_of_a_thing_is_no_plural() -> None:
    assert [count(n, "GET") for n in (0, 1, 2, 1234)] == ["0 GETs", "1 GET", "2 GETs", "1,234 GETs"]


def test_the_library_says_what_is_not_installed_as_the_command_does() -> None:
    program = "import sys; sys.modules['pyarrow'] = None; from {} import {}"
    said = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False).stderr.splitlines()
        for text in (
            program.format("build_index", "VectorIndex"),
            program.format("build_index.cli.start", "main; main()"),
        )
    ]
    assert said[1] == ["vantage: " + said[0][-1].removeprefix("ImportError: ")] and "pyarrow" in said[1][0]


def test_the_version() -> None:
    ran = vantage("--version")
    assert (ran.code, ran.out) == (0, f"vantage {VERSION}\n")


@pytest.mark.parametrize(
    ("option", "now"), [("--spill", "--copies"), ("--spill-share", "--copies-share"), ("--stop", "--second-wave")]
)
def test_an_option_by_its_old_name(option: str, now: str) -> None:
    ran = vantage("build", "rows.npy", "--out", "bucket/x", option, "1")
    assert ran.code == 2 and f"No such option: {option}; {now} " in flat(ran.err)


def test_an_index_by_where_one_stands(points: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own folder, in any spelling, and one below it."""
    folder = tmp_path / "bucket" / "docs"
    shutil.copytree(points.bucket / points.name, folder)
    (folder / "below").mkdir()
    one = points.ids[3]
    wanted = vantage("query", folder, "--id", one, "--json").json()["matches"]
    for where, spelled in (
        (folder, "."), (folder, "./"), (folder, "../docs/"), (folder / "below", ".."), (folder.parent, "docs/"),
        (folder.parent, "docs/../docs/."), (folder, "below/.."),
    ):  # fmt: skip
        monkeypatch.chdir(where)
        assert vantage("query", spelled, "--id", one, "--json").json()["matches"] == wanted
        assert vantage("info", spelled, "--json").json()["name"] == "docs"
        assert vantage("verify", spelled).code == 0
        assert vantage("generations", spelled).code == 0
    monkeypatch.chdir(folder)
    np.save(tmp_path / "few.npy", clustered(9, 4, 1))
    for spelled in (".", "below/..", ""):  # what writes wants the name
        assert "does not name an index" in vantage("build", tmp_path / "few.npy", "--out", spelled).refusal()
    vantage("build", tmp_path / "few.npy", "--out", "../docs", "--json").json()
    assert vantage("info", folder, "--json").json()["rows"] == 9
    assert VectorIndex.load(".").save("../again").n_features_in_ == 4
    monkeypatch.chdir("/")
    assert vantage("query", ".", "--id", 3).refusal().startswith("there is no index")


def test_damage_is_not_the_user_s_fault(made: tuple[Path, Ran], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "CURRENT").write_text("{}")
    ran = vantage("info", tmp_path / "broken")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("vantage: broken/CURRENT") and "Traceback" not in ran.err


@pytest.mark.parametrize(
    "args", [["build"], ["query"], ["nothing"], ["info", "a", "--no-such"], ["build", "x", "--k", "y"]]
)
def test_a_wrong_command_line_exits_with_2(args: list[str]) -> None:
    ran = vantage(*args)
    assert (ran.code, ran.out) == (2, "") and "Usage" in ran.err


def test_it_runs_as_a_program(made: tuple[Path, Ran]) -> None:
    script = "from build_index.cli.main import main; main()"
    ran = subprocess.run([sys.executable, "-c", script, "info", "nowhere/none"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("vantage: there is no index 'none'")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("500000", 500_000), ("40MiB", 40 << 20), ("1GiB", 1 << 30), ("1.5 KiB", 1536), ("2GB", 2 * 10**9),
        ("7k", 7000), (" 3 mib ", 3 << 20), ("8B", 8),
    ],
)  # fmt: skip
def test_sizes(text: str, number: int) -> None:
    assert nbytes(text) == number


@pytest.mark.parametrize("text", ["", "much", "-1", "1XiB", "1e9", "nan", "40 MiB more"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        nbytes(text)


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_sizes_for_people(n: float, text: str) -> None:
    assert size(n) == text
