"""gc beside a rollback or a publish: whenever the other comes, the bucket serves a whole generation."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import ask

from build_index.bucket import generations as g
from build_index.bucket.store import ConflictError, FolderStore, ObjectStore
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune.options import Options
from vantage.errors import StoreError, VantageError

DAY = 86400.0


class Between:
    """A store before whose n-th operation somebody else does something; count: operations so far."""

    def __init__(self, inner: ObjectStore, at: int, other: Callable[[], Any]) -> None:
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
    one = g.publish(tiny[0], FolderStore(home))["generation"]
    FolderStore(home).delete("CURRENT")
    two = g.publish(tiny[1], FolderStore(home))["generation"]
    _age(home, 30 * DAY)
    return home, one, two


def _age(home: Path, seconds: float) -> None:
    for path in (p for p in home.rglob("*") if p.is_file()):
        os.utime(path, (time.time() - seconds,) * 2)


def _copied(home: Path, to: Path) -> FolderStore:
    shutil.copytree(home, to)  # times too
    return FolderStore(to)


@pytest.mark.parametrize("other", ["rollback", "publish"])
@pytest.mark.parametrize("inside", ["gc", "other"])
def test_what_is_live_is_whole_whoever_comes_between(
    aged: tuple[Path, str, str], tiny: tuple[Path, Path], tmp_path: Path, other: str, inside: str
) -> None:
    home, one, two = aged
    at, lives = 0, set[str]()
    while True:
        at += 1
        where = _copied(home, tmp_path / str(at) / "live")

        def revive(where: ObjectStore) -> None:
            g.rollback(where, one) if other == "rollback" else g.publish(tiny[0], where)

        def collect(where: ObjectStore) -> None:
            g.gc(where, 7 * DAY)

        def quietly(work: Callable[[ObjectStore], None], where: FolderStore = where) -> None:
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
        lives.add(live)
    assert at > 5 and lives == {one, two}


def test_a_generation_that_is_being_deleted_is_not_made_live(
    aged: tuple[Path, str, str], tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    """It stays as old as it was, so that a later gc ends what one has begun; then it can be published again."""
    home, one, two = aged
    where = _copied(home, tmp_path / "live")
    mark = f"{one}/{g.MARK}dead"
    where.put(mark, b"")
    where.delete(f"{one}/ids.bin")
    for revive in (lambda: g.publish(tiny[0], where), lambda: g.rollback(where, one)):
        with pytest.raises(VantageError):
            revive()
        assert where.get(f"{one}/ids.bin") is None and ask(where, 14) == two
    assert g.gc(where, 7 * DAY, dry_run=True)["deleted"] == [one]
    assert g.gc(where, 7 * DAY)["deleted"] == [one]
    assert [s.key for s in where.list() if s.key.startswith(one)] == [mark]
    with pytest.raises(ConflictError, match="is deleting"):
        g.publish(tiny[0], where)
    os.utime(where.path / mark, (time.time() - 2 * g.MARK_S,) * 2)
    g.gc(where, 7 * DAY)  # the one that left the mark has died
    assert g.publish(tiny[0], where)["swapped"] and ask(where, 14) == one


class Stepped:
    """Work on a store in a thread, that stops before each of the named operations in turn, until `on` is called."""

    def __init__(self, store: ObjectStore, work: Callable[[Any], Any], *stops: str) -> None:
        self.store, self.stops, self.arrived, self.go = store, list(stops), threading.Event(), threading.Event()
        self.ended: Future[Any] = Future()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        assert self.arrived.wait(60)

    def _run(self, work: Callable[[Any], Any]) -> None:
        try:
            self.ended.set_result(work(self))
        except BaseException as error:
            self.ended.set_exception(error)
        self.arrived.set()

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any) -> Any:
            if self.stops and name == self.stops[0]:
                self.stops.pop(0)
                self.arrived.set()
                assert self.go.wait(60)
                self.go.clear()
            return getattr(self.store, name)(*args)

        return run

    def on(self) -> None:
        """To the next stop, or to the end."""
        self.arrived.clear()
        self.go.set()
        assert self.arrived.wait(60)


def test_two_gcs_and_a_rollback(aged: tuple[Path, str, str], tmp_path: Path) -> None:
    """A gc that gives up, since a rollback has made the generation young, leaves the mark of one that does not."""
    home, one, two = aged
    where = _copied(home, tmp_path / "live")
    rollback = Stepped(where, lambda store: g.rollback(store, one), "put", "list")
    deleter = Stepped(where, lambda store: g.gc(store, 7 * DAY), "delete")  # has looked twice
    other = Stepped(where, lambda store: g.gc(store, 7 * DAY), "put", "list")
    other.on()  # has looked once, and put its mark
    for one_of in (rollback, other, rollback, deleter):  # the manifest is written; gives up; ends; deletes
        one_of.on()
    assert deleter.ended.result()["deleted"] == [one] and other.ended.result()["deleted"] == []
    assert isinstance(rollback.ended.exception(), ConflictError)
    assert ask(where, 14) == two and not g.verify(where)["damage"]


def test_a_put_that_does_nothing_is_not_taken_for_one_that_did(aged: tuple[Path, str, str], tmp_path: Path) -> None:
    home, one, two = aged
    where = _copied(home, tmp_path / "live")
    put = where.put

    def failing(key: str, data: bytes) -> None:
        if key.endswith("manifest.json"):
            raise StoreError(f"{key}: 503 Service Unavailable", hint="again")
        put(key, data)

    where.put = failing  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="503"):
        g.rollback(where, one)
    assert ask(where, 14) == two


def test_a_read_that_fails_is_no_damage(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    where = _copied(tiny[0], tmp_path / "live")

    def failing(key: str, offset: int, length: int) -> bytes:
        raise StoreError(f"{key}: 503 Service Unavailable", hint="again")

    where.read = failing  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="503"):
        g.verify(where)


def test_what_is_no_longer_live_is_not_called_live(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    where = _copied(tiny[0], tmp_path / "live")
    stated = where.stated

    def overtaken(key: str) -> tuple[int, str] | None:
        where.stated = stated  # type: ignore[method-assign]
        g.publish(tiny[1], where)
        return stated(key)

    where.stated = overtaken  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="another publisher made"):
        g.publish(tiny[0], where)


def test_a_folder_that_goes_while_it_is_listed(
    aged: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, one, two = aged
    where, scandir = _copied(home, tmp_path / "live"), os.scandir

    def vanishing(path: Any) -> Any:
        if str(path).endswith(one):
            monkeypatch.setattr(os, "scandir", scandir)
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = where.list()
    assert not (where.path / one).exists()
    assert {stored.key.partition("/")[0] for stored in found} - {".lock"} == {"CURRENT", two}


def test_a_folder_keeps_the_generation_that_a_build_replaced(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    """A build writes CURRENT as a publish does, so gc keeps what it can roll back to."""
    where = _copied(tiny[0], tmp_path / "live")
    old = g.live(where)[0].generation
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32))
    build(open_source([tmp_path / "rows.npy"]), BuildContext(where.path, "l2", Options(0.8, 5, fast=True)))
    _age(where.path, 30 * DAY)
    assert g.gc(where, 7 * DAY)["deleted"] == []
    assert g.rollback(where)["generation"] == old
    assert not g.verify(where)["damage"]


def test_a_manifest_that_leaves_out_what_the_root_counts_on(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    where = _copied(tiny[0], tmp_path / "live")
    current = g.live(where)[0]
    objects = g.manifest_objects(where.get(current.manifest.key)[0], current.generation)  # type: ignore[index]
    assert g.unlike(where, current, objects) == []
    for ending in ("ids.bin", "shard-00000.bin", "part-00000.parquet"):
        fewer = [o for o in objects if not o.key.endswith(ending)]
        (said,) = g.unlike(where, current, fewer)
        assert ending in said and "no such object" in said
