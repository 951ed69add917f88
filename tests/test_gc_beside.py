"""gc beside a rollback or a publish: whenever the other comes, the bucket serves a whole generation."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kills import ask

from build_index import generations as g
from build_index.bucket import ConflictError, FolderPlace, Place
from vantage.errors import VantageError

DAY = 86400.0


class Between:
    """A place before whose n-th operation somebody else does something; count: operations so far."""

    def __init__(self, inner: Place, at: int, other: Callable[[], Any]) -> None:
        self.inner, self.at, self.other, self.count = inner, at, other, 0

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self.other()
            return getattr(self.inner, name)(*args)

        return run


@pytest.fixture(scope="module")
def aged(tiny: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(a bucket of two old generations, the second live and the first not what it rolls back to; their names)."""
    home = tmp_path_factory.mktemp("aged") / "live"
    one = g.publish(tiny[0], FolderPlace(home))["generation"]
    FolderPlace(home).delete("CURRENT")
    two = g.publish(tiny[1], FolderPlace(home))["generation"]
    _age(home, 30 * DAY)
    return home, one, two


def _age(home: Path, seconds: float) -> None:
    for path in (p for p in home.rglob("*") if p.is_file()):
        os.utime(path, (time.time() - seconds,) * 2)


def _copied(home: Path, to: Path) -> FolderPlace:
    shutil.copytree(home, to)  # times too
    return FolderPlace(to)


@pytest.mark.parametrize("other", ["rollback", "publish"])
@pytest.mark.parametrize("inside", ["gc", "other"])
def test_what_is_live_is_whole_whoever_comes_between(
    aged: tuple[Path, str, str], tiny: tuple[Path, Path], tmp_path: Path, other: str, inside: str
) -> None:
    home, one, two = aged
    at, ends = 0, set[tuple[str, bool]]()
    while True:
        at += 1
        where = _copied(home, tmp_path / str(at) / "live")

        def revive(where: Place) -> None:
            g.rollback(where, one) if other == "rollback" else g.publish(tiny[0], where)

        def collect(where: Place) -> None:
            g.gc(where, 7 * DAY)

        def quietly(work: Callable[[Place], None], where: FolderPlace = where) -> None:
            with suppress(VantageError):
                work(where)

        first, second = (collect, revive) if inside == "gc" else (revive, collect)
        between = Between(where, at, lambda second=second: quietly(second))  # type: ignore[misc]
        with suppress(VantageError):
            first(between)
        if between.count < at:
            break
        live = ask(where, 14)
        assert not g.verify(where)["damage"], at
        ends.add((live, one in {x["generation"] for x in g.generations(where) if x["whole"]}))
    assert at > 5 and {live for live, _ in ends} == {one, two}


def test_a_generation_that_is_being_deleted_is_not_made_live(aged: tuple[Path, str, str], tmp_path: Path) -> None:
    home, one, two = aged
    where = _copied(home, tmp_path / "live")
    where.put(f"{one}/{g.MARK}", b"")
    with pytest.raises(ConflictError, match="is deleting"):
        g.rollback(where, one)
    assert ask(where, 14) == two
    _age(where.path, 2 * g.MARK_S)
    g.gc(where, 30 * DAY, dry_run=True)
    assert where.get(f"{one}/{g.MARK}") is not None
    g.gc(where, 30 * DAY)  # it is young now; the one that left the mark has died
    g.rollback(where, one)
    assert ask(where, 14) == one


def test_a_manifest_that_leaves_out_what_the_root_counts_on(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    where = _copied(tiny[0], tmp_path / "live")
    current = g.live(where)[0]
    objects = g.manifest_objects(where.get(current.manifest.key)[0], current.generation)  # type: ignore[index]
    assert g.unlike(where, current, objects) == []
    for ending in ("ids.bin", "shard-00000.bin", "part-00000.parquet"):
        fewer = [o for o in objects if not o.key.endswith(ending)]
        (said,) = g.unlike(where, current, fewer)
        assert ending in said and "no such object" in said
