"""Nothing from data reaches a terminal raw: ids, attributes, names of files, errors; in pictures neither."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.table import Table
from rich.text import Text
from small import Ran, clustered, vantage

from build_index.cli.main import main
from build_index.cli.terminal import Screen
from build_index.clusters.treemap import treemap
from build_index.evaluate.picture import Axis, curves
from build_index.plain import plain, plain_lines

ACTING = [
    *map(chr, range(32)), *map(chr, range(127, 160)), "\u061c", "\u200e", "\u200f", "\u2028", "\u2029",
    *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)),
]  # fmt: skip
RED, TITLE, C1, TURNED, CLEAR = "\x1b[31m", "\x1b]0;mine\x07", "\x9b31m", "\u202egnp.exe\u202c", "\x1b[2J\x1b[H"
HOSTILE = f"{RED}a{TITLE}b{C1}c{TURNED}{CLEAR}\rline\nvantage: fine\x08\x7f\x00\u2066"


def raw(ran: Ran) -> set[str]:
    """Characters that act, of all that a command printed, but for ends of lines."""
    return {c for c in ran.out + ran.err if c in ACTING and c != "\n"}


def test_every_character_that_acts_is_escaped() -> None:
    for c in ACTING:
        assert plain(f"a{c}b") == f"a{c.encode('unicode_escape').decode()}b"
        assert plain_lines(f"a{c}b") == (f"a{c}b" if c in "\t\n" else plain(f"a{c}b"))
    for text in ("", "plain", "ä日本語 👍🏽 e\u0301", "a\\x1b", "\u200d", "\xa0", "שלום"):
        assert plain(text) == plain_lines(text) == text
    assert plain("\ud800x\udcff\ufffe") == "\\ud800x\\udcff\\ufffe"
    assert plain(plain(HOSTILE)) == plain(HOSTILE) and plain(HOSTILE).isprintable()


@pytest.mark.parametrize("shown", [HOSTILE, Text(HOSTILE), Text(HOSTILE, style="bold")], ids=["str", "text", "styled"])
def test_a_screen_takes_no_commands_from_texts(shown: object) -> None:
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(shown)  # type: ignore[arg-type]
    for printed in (shown, table):
        file = io.StringIO()
        screen = Screen(
            file=file, force_terminal=True, color_system="truecolor", width=60, markup=False, highlight=False
        )
        screen.print(printed)
        found = re.sub(r"\x1b\[(?:[0-3](?:;[0-3])*)m", "", file.getvalue())  # bold, dim and italic are its own
        assert not set(found) & (set(ACTING) - {"\n"})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of ten rows whose ids, attributes, and attributes' names command terminals; its source beside it."""
    folder = tmp_path_factory.mktemp("hostile") / f"{RED}a\nb{TURNED}"
    folder.mkdir()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(clustered(10, 4, 1).ravel()), 4)
    ids = [f"{i}{HOSTILE}" for i in range(10)]
    table = pa.table({"id": ids, "vector": vectors, f"name{HOSTILE}": ids, "deep": [{HOSTILE: [text]} for text in ids]})
    pq.write_table(table, folder / f"rows{C1}.parquet")
    np.save(folder / "q.npy", clustered(3, 4, 2))
    ran = vantage("build", folder / f"rows{C1}.parquet", "--out", folder / "live", "--model", f"m{HOSTILE}"[:200])
    assert ran.code == 0 and not raw(ran), ran
    return folder


@pytest.mark.parametrize(
    "args",
    [
        ("query", "{live}", "--id", f"3{HOSTILE}"), ("query", "{live}", "--vector", "{home}/q.npy"), ("info", "{live}"),
        ("explain", "{live}", "--vector", "{home}/q.npy"), ("eval", "{live}", "--queries", "{home}/q.npy"),
        ("lint", "{rows}"), ("verify", "{live}", "--deep"), ("generations", "{live}"), ("gc", "{live}", "--dry-run"),
        ("publish", "{live}", "{home}/to/live"), ("diff", "{live}", "{live}"),
        ("export-router", "{live}", "{home}/router.onnx"), ("build", "{rows}", "--out", "{home}/again", "--fast"),
    ],
    ids=lambda args: args[0],
)  # fmt: skip
def test_commands_print_nothing_raw(hostile: Path, args: tuple[str, ...]) -> None:
    names = {"{live}": hostile / "live", "{home}": hostile, "{rows}": hostile / f"rows{C1}.parquet"}
    said = [*args]
    for name, path in names.items():
        said = [a.replace(name, str(path)) for a in said]
    shown, told = vantage(*said), vantage(*said, "--json")
    assert (shown.code, raw(shown)) == (0, set()), shown
    assert told.code == 0 and told.out.strip().isprintable() and told.out.isascii()
    assert not raw(told) and isinstance(json.loads(told.out), dict | list)
    assert not any(line.startswith("vantage:") for line in (shown.out + shown.err).splitlines())


@pytest.mark.parametrize(
    "args",
    [
        ("query", "{live}", "--id", f"none{HOSTILE}"), ("info", f"{{home}}/none{TURNED}"),
        ("lint", f"{{home}}/{C1}.parquet"),
        ("build", "{home}/bad.parquet", "--out", "{home}/x"), ("build", "{home}/{red}.npy", "--out", "{home}/x"),
        ("build", "{home}/q.npy", "--out", f"{{home}}/x{RED}"), ("verify", f"s3://{C1}/x"),
        ("gc", "{live}", "--older-than", RED),
        ("query", "{live}", "--vector", f"{{home}}/{RED}.npy"),
        ("build", "{home}/{red}.npy", f"{{home}}/b{RED}\n.npy", "--out", "x"),
        (f"no{RED}",), ("info", "a", f"b{TITLE}", f"c\nvantage: d{TURNED}"), ("info", "a", f"--{RED}{TURNED}"),
        ("query", "{live}", "--top-k", f"{RED}{C1}"), ("publish", "{live}", f"{{home}}/q.npy/{RED}"),
        ("diff", "{live}", f"{RED}", f"{C1}"), ("rollback", "{live}", f"{RED}"), ("info", "x" * 5000 + RED),
    ],
    ids=lambda args: args[0] + str(len(args)),
)  # fmt: skip
def test_errors_print_nothing_raw(hostile: Path, args: tuple[str, ...]) -> None:
    names = {"{live}": str(hostile / "live"), "{home}": str(hostile), "{red}": f"q{RED}"}
    (hostile / f"q{RED}.npy").write_bytes(b"no array")
    bad = pa.table({"id": [1, 1], f"vector{HOSTILE}": [[1.0], [2.0]]})
    pq.write_table(bad, hostile / "bad.parquet")
    said = list(args)
    for name, value in names.items():
        said = [a.replace(name, value) for a in said]
    ran = vantage(*said)
    assert ran.code in (1, 2) and not raw(ran) and "Traceback" not in ran.err, ran
    assert sum(line.startswith("vantage:") for line in ran.err.splitlines()) <= 1
    (hostile / f"q{RED}.npy").unlink()
    (hostile / "bad.parquet").unlink()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_characters_gets_escapes(hostile: Path, encoding: str) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    command = ["vantage", "query", str(hostile / "live"), "--id", f"3{HOSTILE}"]
    with patch.object(sys, "argv", command), patch.object(sys, "stdout", out), patch.object(sys, "stderr", err):
        with pytest.raises(SystemExit) as end:
            main()
        out.flush()
    assert end.value.code == 0 and b"GETs" in out.buffer.getvalue()  # type: ignore[attr-defined]


def test_pictures_are_well_formed_whatever_their_texts_hold(hostile: Path, tmp_path: Path) -> None:
    texts = [
        *map(chr, range(0x20)),
        HOSTILE,
        "<script>alert(1)</script>",
        "]]>",
        "&lt;",
        "\"'>",
        "\ud800",
        "\uffff",
        "\x85",
    ]
    shown = treemap([(9, text, [text, f"{text} and more"]) for text in texts], "".join(texts))
    drawn = curves({text: [(0.0, 0.0), (1.0, 1.0)] for text in texts}, Axis(HOSTILE, 0, 1), Axis("<y>", 0, 1), HOSTILE)
    for svg in (shown, drawn):
        root = ElementTree.fromstring(svg.encode())
        assert {element.tag.split("}")[1] for element in root.iter()} <= {
            "svg", "style", "text", "g", "rect", "title", "path"
        }  # fmt: skip
        assert not set(svg) & (set(ACTING) - {"\n"})
    ran = vantage("cluster", hostile / "live", "--k", 3, "--picture", tmp_path / "c.svg")
    assert ran.code == 0 and not raw(ran)
    ElementTree.fromstring((tmp_path / "c.svg").read_bytes())
