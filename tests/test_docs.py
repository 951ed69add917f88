"""Pages hold what others link to: problems have headings, links and paths lead somewhere, and no text is missing."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import vantage
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
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_lean_on_nothing_outside_of_the_repository(page: Path) -> None:
    found = re.findall(
        r"\b(?:the design|design\.md|the notes|the issue|the brief|the first source)\b", page.read_text(), re.I
    )
    assert not found
