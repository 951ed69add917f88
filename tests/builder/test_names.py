"""Keys of manifests, of CURRENT and of listings, and files of folders, are outside data: crafted ones move nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder.small import vantage

from build_index.bucket import generations as g
from build_index.bucket.names import check_objects, kind_of
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.write.publish import make_live
from build_index.write.reopen import reopen
from vantage.errors import DamagedError, StoreError
from vantage.format import Current, ObjectName
from vantage.format.objects import OBJECTS_MAX

G = "0123456789abcdef"
SECRET = b"not of the index"

NAMES = {
    "CURRENT": "current", f"{G}/root.bin": "object", f"{G}/ids.bin": "object", f"{G}/routing.bin": "object",
    f"{G}/shard-00000.bin": "object", f"{G}/rendition-1-00000.bin": "object", f"{G}/rendition-15-00003.bin": "object",
    f"{G}/rows.bin": "object", f"{G}/attributes-00000.bin": "object", f"{G}/vectors/part-65535.parquet": "object",
    f"{G}/manifest.json": "manifest",
    f"{G}/gc-12ab": "mark", f"{G}/.root.bin.77.part": "part", f"{G}/vectors/.part-00000.parquet.7.part": "part",
}  # fmt: skip
FOREIGN = [
    "../../secret", "/etc/passwd", "GENERATION/../../secret", "GENERATION/vectors/../../../secret",
    "GENERATION//root.bin",
    "GENERATION/./root.bin", "GENERATION/root.bin/", "GENERATION/root.bin\n", "GENERATION/root.bin\x00", "\x00", "",
    "GENERATION\\root.bin", "GENERATION/..\\..\\secret", "GENERATION/shard-0.bin", "GENERATION/shard-000000.bin",
    "GENERATION/shard-٠٠٠٠٠.bin", "GENERATION/ｒoot.bin", "GENERATION/root.bin\u202e", "GENERATION/ROOT.BIN",
    "GENERATION",
    "GENERATION/vectors/part-00000.bin", "GENERATION/gc-1/x", "GENERATION/manifest.json.x", "CURRENT ", "current",
    f"{'f' * 15}/root.bin", f"{'F' * 16}/root.bin", "GENERATION/" + "x" * 100_000, "GENERATION/secret.txt", "\udc80/x",
]  # fmt: skip


def test_names_that_the_format_knows() -> None:
    assert {key: kind_of(key) for key in NAMES} == NAMES
    for key in FOREIGN:
        assert kind_of(key.replace("GENERATION", G)) is None, key
    assert [kind_of(key) for key in (None, 7, [], {})] == [None] * 4


@pytest.fixture
def home(tiny: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of an index, and a secret beside the bucket that it lies in."""
    (tmp_path / "secret").write_bytes(SECRET)
    shutil.copytree(tiny[0], tmp_path / "bucket" / "live")
    return tmp_path / "bucket" / "live"


def crafted(home: Path, change: Callable[[list[Any]], Any]) -> None:
    """Changes what the manifest names; it is then as right in all else, and live."""
    (old,) = (p for p in home.iterdir() if p.is_dir())
    manifest = json.loads((old / "manifest.json").read_text())
    objects = manifest.pop("objects")
    del manifest["generation"]
    for o in objects:
        o["key"] = o["key"].replace(old.name, "GENERATION")
    objects = change(objects)

    def named(o: Any) -> Any:
        return (o["key"].removeprefix("GENERATION/"), (o["size"], o["sha256"]))

    try:
        hashed = json.dumps([dict(named(o) for o in objects), manifest])
    except (KeyError, TypeError, AttributeError):
        hashed = ""
    name = hashlib.sha256(hashed.encode()).hexdigest()[:16]
    text = json.dumps(manifest | {"generation": name, "objects": objects}).replace("GENERATION", name).encode()
    (old / "manifest.json").write_bytes(text)
    root = (old / "root.bin").read_bytes()
    old.rename(home / name)
    sha = hashlib.sha256
    current = Current(
        name, ObjectName(f"{name}/root.bin", len(root), sha(root).hexdigest()),
        ObjectName(f"{name}/manifest.json", len(text), sha(text).hexdigest()),
    )  # fmt: skip
    (home / "CURRENT").write_bytes(current.pack())


def refused(home: Path, to: Path) -> None:
    """Every command ends in a word of damage, and nothing was written beside the target or into it."""
    target, where = FolderStore(to / "live"), FolderStore(home)
    generation = g.live(where)[0].generation
    before = sorted(to.parent.rglob("*"))
    for work in (lambda: g.publish(home, target), lambda: reopen(home), lambda: g.find_generation(where, generation)):
        with pytest.raises(DamagedError):
            work()
    assert g.verify(where)["damage"]
    assert not any(one["whole"] for one in g.generations(where))
    assert g.gc(where, 0)["deleted"] == []
    assert sorted(to.parent.rglob("*")) == before and (to.parent / "secret").read_bytes() == SECRET


@pytest.mark.parametrize(
    "key", [*FOREIGN, f"{G}/root.bin", "GENERATION/manifest.json", "GENERATION/gc-1", None, 7, ["x"]]
)
def test_a_manifest_names_what_is_no_object(home: Path, tmp_path: Path, key: object) -> None:
    secret = {"key": key, "size": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    crafted(home, lambda objects: [*objects, secret])
    refused(home, tmp_path / "to")


def test_what_is_crafted_is_right_but_for_its_names(home: Path, tmp_path: Path) -> None:
    crafted(home, lambda objects: [*objects])
    assert g.publish(home, FolderStore(tmp_path / "to" / "live"))["swapped"]
    assert g.verify(FolderStore(home))["damage"] == []


def _wrong(objects: list[Any], **members: Any) -> list[Any]:
    return [o | members if o["key"].endswith("ids.bin") else o for o in objects]


@pytest.mark.parametrize(
    "change",
    [
        lambda o: [*o, o[0]],
        lambda o: [*o, {**o[0], "size": 1}],
        lambda o: _wrong(o, size=0),
        lambda o: _wrong(o, size=-1),
        lambda o: _wrong(o, size=True),
        lambda o: _wrong(o, size=1.5),
        lambda o: _wrong(o, size=10**30),
        lambda o: _wrong(o, sha256="0"),
        lambda o: _wrong(o, sha256=None),
        lambda o: [*o, "GENERATION/root.bin"],
        lambda o: {"key": 1},
        lambda o: "GENERATION",
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong_in_other_ways(home: Path, tmp_path: Path, change: Any) -> None:
    crafted(home, change)
    refused(home, tmp_path / "to")


@pytest.mark.parametrize(
    "change",
    [
        lambda o: [x for x in o if not x["key"].endswith("ids.bin")],
        lambda o: [x for x in o if "/vectors/" not in x["key"]],
        lambda o: [*o, {**o[0], "key": "GENERATION/shard-09999.bin"}],
    ],
)
def test_a_manifest_of_other_objects_than_the_root_counts_on(home: Path, tmp_path: Path, change: Any) -> None:
    crafted(home, change)
    generation = g.live(FolderStore(home))[0].generation
    shutil.copy(next(home.glob("*/ids.bin")), home / generation / "shard-09999.bin")
    with pytest.raises(DamagedError):
        g.publish(home, FolderStore(tmp_path / "to" / "live"))
    with pytest.raises(DamagedError):
        reopen(home)
    assert g.verify(FolderStore(home))["damage"] and not (tmp_path / "to").exists()


def test_a_manifest_nested_too_deep_or_too_long() -> None:
    with pytest.raises(DamagedError):
        g.manifest_objects(b"[" * 100_000, G)
    with pytest.raises(DamagedError):
        g.manifest_objects(b'{"objects": [' + b"[]," * (1 << 20) + b"[]]}", G)
    with pytest.raises(DamagedError, match="objects"):
        check_objects([ObjectName(f"{G}/root.bin", 1, "0" * 64)] * (2 * OBJECTS_MAX + 4), G)


@pytest.mark.parametrize(
    "key", ["../secret", "..", ".", "", "live/..", "a/b", "a\\b", "a\x00", "\u202eabc", "x" * 65, 7, None]
)
def test_current_names_no_generation(home: Path, key: Any) -> None:
    current = json.loads((home / "CURRENT").read_text())
    current["generation"] = key
    for name in ("root", "manifest"):
        current[name]["key"] = f"{key}/{current[name]['key'].split('/')[1]}"
    (home / "CURRENT").write_text(json.dumps(current))
    for work in (g.live, g.verify, g.rollback, g.generations, lambda p: g.gc(p, 0)):
        with pytest.raises(DamagedError):
            work(FolderStore(home))
    with pytest.raises(DamagedError):
        open_index(home)


def _linked(path: Path) -> None:
    path.rename(path.parent / f".{path.name}.elsewhere")
    path.symlink_to(path.parent / f".{path.name}.elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILES = ("CURRENT", "G/root.bin", "G/manifest.json", "G/shard-00000.bin", "G/ids.bin", "G/vectors/part-00000.parquet")


@pytest.mark.parametrize(
    ("key", "make"),
    [*((key, _linked) for key in (*FILES, "G", "G/vectors")), *((key, _pipe) for key in FILES)],
)
def test_links_and_pipes_in_an_index_are_refused(home: Path, tmp_path: Path, key: str, make: Any) -> None:
    (name,) = (p.name for p in home.iterdir() if p.is_dir())
    path = home / key.replace("G", name)
    make(path)
    target = FolderStore(tmp_path / "to" / "live")
    for work in (lambda: g.publish(home, target), lambda: reopen(home)):
        with pytest.raises(DamagedError, match="link|plain"):
            work()
    assert not (tmp_path / "to").exists()
    if key == "CURRENT":
        return
    assert g.verify(FolderStore(home))["damage"]
    assert not any(one["whole"] for one in g.generations(FolderStore(home)))
    if key == "G/root.bin":
        ran = vantage("info", home)
        assert ran.code == 1 and ("is a link" in ran.err or "is no plain file" in ran.err)


def test_an_index_may_be_named_by_a_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(home)
    assert g.publish(tmp_path / "named", FolderStore(tmp_path / "to" / "live"))["swapped"]
    assert open_index(tmp_path / "named").root.index.rows == 300


def test_a_target_with_links_is_not_written_through(home: Path, tmp_path: Path) -> None:
    outside, to = tmp_path / "outside", tmp_path / "to" / "live"
    (outside / "vectors").mkdir(parents=True)
    (name,) = (p.name for p in home.iterdir() if p.is_dir())
    to.mkdir(parents=True)
    (to / name).symlink_to(outside)
    with pytest.raises(DamagedError, match="is a link"):
        g.publish(home, FolderStore(to))
    (to / name).unlink()
    (to / name).mkdir()
    (to / name / "vectors").symlink_to(outside / "vectors")
    with pytest.raises(DamagedError, match="is a link"):
        g.publish(home, FolderStore(to))
    assert list(outside.rglob("*")) == [outside / "vectors"] and not (to / "CURRENT").exists()
    (to / name / "vectors").unlink()
    (to / ".lock").symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError):
        g.publish(home, FolderStore(to))
    (to / ".lock").unlink()
    (to / f".CURRENT.{os.getpid()}.part").symlink_to(tmp_path / "secret")
    assert g.publish(home, FolderStore(to))["swapped"] and (tmp_path / "secret").read_bytes() == SECRET


def test_a_build_does_not_write_through_links(home: Path, tmp_path: Path) -> None:
    """The last step of a build, beside a generation that is a link and a pointer that is one."""
    (name,) = (p for p in home.iterdir() if p.is_dir())
    manifest = json.loads((name / "manifest.json").read_text())
    del manifest["objects"], manifest["generation"]
    shutil.move(name, home / ".building")
    (home / ".building" / "manifest.json").unlink()
    shutil.copytree(home / ".building", tmp_path / "copy")
    (home / "CURRENT").unlink()
    (home / ".CURRENT.new").symlink_to(tmp_path / "secret")
    name.symlink_to(tmp_path / "copy")
    with pytest.raises(DamagedError, match="is a link"):
        make_live(home, home / ".building", manifest)
    name.unlink()
    (home / ".building" / "manifest.json").unlink()
    assert make_live(home, home / ".building", manifest)[0].generation == name.name
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert g.verify(FolderStore(home))["damage"] == []


def test_gc_leaves_alone_what_is_not_of_an_index(home: Path, tmp_path: Path) -> None:
    (old,) = (p.name for p in home.iterdir() if p.is_dir())
    foreign = [home / G / "notes.txt", home / G / "vectors" / "x", home / "other" / "root.bin", home / f"{old}x" / "y"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (home / G / "root.bin").write_text("of a publish that broke off")
    (home / G / "ids.bin").symlink_to(tmp_path / "secret")
    assert g.gc(FolderStore(home), 0)["deleted"] == [G]
    assert all(path.exists() for path in foreign) and not (home / G / "root.bin").exists()
    assert (home / G / "ids.bin").is_symlink() and (tmp_path / "secret").read_bytes() == SECRET
    assert g.gc(FolderStore(home), 0)["deleted"] == []


def test_small_objects_are_bounded(home: Path) -> None:
    with (home / "CURRENT").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedError, match="the limit is"):
        g.live(FolderStore(home))
