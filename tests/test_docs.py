"""Pages hold what others link to: problems have headings, links and paths lead somewhere, and no text is missing."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
import typer

import vantage
from build_index.cli.main import app
from vantage.errors import VantageError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").rglob("*.md")])


def codes(error: type[VantageError] = VantageError) -> dict[str, int]:
    """Status of each code that an error may have, the most special one's."""
    found = {error.code: error.status}
    for special in error.__subclasses__():
        if special.__module__.startswith("vantage."):
            found = codes(special) | found
    return found


def test_every_problem_has_its_heading() -> None:
    for module in pkgutil.walk_packages(vantage.__path__, "vantage."):
        importlib.import_module(module.name)
    text = (ROOT / "docs" / "problems.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) == set(codes())
    for code, status in codes().items():
        assert f"\nStatus {status}" in sections[code], code
        assert "\n**Why.** " in sections[code] and "\n**What to do.** " in sections[code], code


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_pages_name_exist(page: Path) -> None:
    text = re.sub(r"^(```|    ).*?$", "", page.read_text(), flags=re.M)
    named = re.findall(r"`((?:src|build_index|bench|tests|kernels|vendor|docs|sample)/[\w./-]*)`", text)
    for path in named:
        assert (ROOT / path).exists() or path.startswith("build_index/files/"), path  # which only a wheel has


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_lean_on_nothing_outside_of_the_repository(page: Path) -> None:
    found = re.findall(
        r"\b(?:the design|design\.md|the notes|the issue|the brief|the first source)\b", page.read_text(), re.I
    )
    assert not found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_that_pages_name_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    options = {
        name: {flag for one in command.params for flag in getattr(one, "opts", [])}
        for name, command in vars(root)["commands"].items()
    } | {flag: set() for one in root.params for flag in one.opts}  # those before a command, as if they were one
    scripts = "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    known = set().union(*options.values()) | set(re.findall(r'"(--[a-z-]+)"', scripts)) | {"--help"}
    text = page.read_text()
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if span.startswith("--"):
            assert span.split()[0].rstrip(",") in known, span
    calls = re.findall(r"^(?:\$ | {4,7})?vantage ([a-z-]+)(.*)$", text, re.M)
    for name, rest in calls + re.findall(r"`(?:\.venv/bin/)?vantage ([a-z-]+)([^`]*)`", text):
        assert name in options, name
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest.partition("#")[0])) <= options[name] | {"--help"}, rest


def test_the_program_that_reads_an_index_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures = ROOT / "tests" / "fixtures"
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "docs").symlink_to(fixtures / "words")
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "install.md").read_text(), re.M | re.S)
    names = {"vector": json.loads((fixtures / "expected.json").read_text())["words"]["vectors"][0]}
    exec(program, names)
    assert len(names["answer"].matches) == 5 and names["answer"].complete
