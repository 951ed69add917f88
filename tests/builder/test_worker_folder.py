"""`vantage worker`: a folder for wrangler, which is written anew over its own files and no others."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from small import vantage

from build_index import worker
from build_index.worker import RECORD, write_worker
from vantage.errors import InputError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    write_worker(tmp_path / "edge", "some-bucket", "docs")
    return tmp_path / "edge"


def test_the_command_writes_settings_for_the_bucket(tmp_path: Path) -> None:
    ran = vantage("worker", tmp_path / "edge", "--bucket", "my-bucket", "--index", "docs", "--json")
    assert sorted(ran.json()["files"]) == sorted(contents(tmp_path / "edge").keys() - {RECORD})
    settings = tomllib.loads((tmp_path / "edge" / "wrangler.toml").read_text())
    assert settings["r2_buckets"] == [{"binding": "BUCKET", "bucket_name": "my-bucket"}]
    shown = vantage("worker", tmp_path / "edge", "--bucket", "my-bucket", "--index", "docs")
    assert shown.code == 0 and "vantage publish ../bucket/docs r2://my-bucket/docs" in shown.out


def test_what_is_not_given_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def prompt(question: str, default: str, err: bool) -> str:
        asked.append(question)
        return {"Name of the R2 bucket": "typed", "Name of an index in it": default}[question]

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    assert vantage("worker", tmp_path / "edge", "--json").json()["bucket"] == "typed"
    assert len(asked) == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "--index is not given" in vantage("worker", tmp_path / "edge", "--bucket", "typed").refusal()


@pytest.mark.parametrize(
    ("bucket", "index"),
    [("A", "docs"), ("ab", "docs"), ("-ab", "docs"), ("a_b", "docs"), ('a"b', "docs"), ("abc\n", "docs"),
     ("abc", ""), ("abc", "a/b"), ("abc", ".a"), ("abc", "docs\n")],
)  # fmt: skip
def test_names_that_a_bucket_or_a_worker_refuses(tmp_path: Path, bucket: str, index: str) -> None:
    assert (
        "cannot be the name of an"
        in vantage("worker", tmp_path / "edge", "--bucket", bucket, "--index", index).refusal()
    )
    assert not (tmp_path / "edge").exists()


def test_a_folder_with_files_of_others_takes_the_worker_beside_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_worker(tmp_path, "some-bucket", "docs")
    write_worker(tmp_path, "some-bucket", "docs")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "wrangler.toml", "src/entry.py", "src/vantage/index.py"])
def test_a_file_of_others_is_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} is there and is not as"):
        write_worker(tmp_path, "some-bucket", "docs")
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("name", ["src", "src/entry.py", "python_modules", "wrangler.toml"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    folder, elsewhere = tmp_path / "edge", tmp_path / "elsewhere"
    (folder / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match="is not as"):
        write_worker(folder, "some-bucket", "docs")
    assert not list(elsewhere.iterdir())


def test_a_newer_version_replaces_and_removes_its_own_files(edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, files = contents(edge), worker._files

    def newer(*names: str) -> list[tuple[str, bytes]]:
        kept = [(name, data) for name, data in files(*names) if name != "src/vantage/cost.py"]
        return [*kept[:-1], (kept[-1][0], b"newer"), ("src/vantage/new.py", b"new")]

    monkeypatch.setattr(worker, "_files", newer)
    write_worker(edge, "some-bucket", "docs")
    now = contents(edge)
    assert written.keys() - now.keys() == {"src/vantage/cost.py"} and now.keys() - written.keys() == {
        "src/vantage/new.py"
    }
    assert b"newer" in now.values()
    (edge / "src/vantage/new.py").write_text("changed")
    monkeypatch.setattr(worker, "_files", files)
    with pytest.raises(InputError, match="new.py is there and is not as"):
        write_worker(edge, "some-bucket", "docs")
    assert contents(edge)["src/vantage/new.py"] == b"changed"


def test_changed_settings_stay(edge: Path) -> None:
    changed = (edge / "wrangler.toml").read_text().replace("[vars]", '[vars]\nPUBLIC_READ = "1"')
    (edge / "wrangler.toml").write_text(changed)
    for _ in range(2):
        assert "wrangler.toml" not in write_worker(edge, "some-bucket", "docs")
        assert (edge / "wrangler.toml").read_text() == changed
    with pytest.raises(InputError, match="does not name the bucket 'other'"):
        write_worker(edge, "other", "docs")


def test_the_sdk_that_pywrangler_has_put_there_stays(edge: Path) -> None:
    (edge / "python_modules" / "pyvenv.cfg").touch()
    (edge / "python_modules" / "workers" / "__init__.py").write_text("another version")
    write_worker(edge, "some-bucket", "docs")
    assert (edge / "python_modules" / "workers" / "__init__.py").read_text() == "another version"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": 1}',
        '{"files": {"a\\u0000": "y"}}',
        '{"files": {"\\ud800": "y"}}',
        '{"files": {"../x": "y"}}',
        '{"files": {"/x": "y"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_refused(edge: Path, text: str) -> None:
    (edge / RECORD).write_text(text)
    with pytest.raises(InputError, match="is not as `vantage worker` wrote it"):
        write_worker(edge, "some-bucket", "docs")


def test_the_record_is_not_written_through_a_link(edge: Path, tmp_path: Path) -> None:
    record = (edge / RECORD).read_bytes()
    (tmp_path / "mine").write_bytes(record)
    (edge / RECORD).unlink()
    (edge / RECORD).symlink_to(tmp_path / "mine")
    for there in (True, False):
        with pytest.raises(InputError, match="is not as `vantage worker` wrote it"):
            write_worker(edge, "other-bucket", "docs")
        assert (tmp_path / "mine").exists() == there and (not there or (tmp_path / "mine").read_bytes() == record)
        (tmp_path / "mine").unlink(missing_ok=True)  # the second time it is a link to nothing


def test_the_worker_has_the_name_that_it_is_given_and_keeps_it(tmp_path: Path) -> None:
    words = ("worker", tmp_path / "edge", "--bucket", "some-bucket", "--index", "docs")
    assert "https://my-search.SUBDOMAIN" in vantage(*words, "--name", "my-search").out
    for name in ((), ("--name", "my-search")):
        assert vantage(*words, *name, "--json").json()["name"] == "my-search"
    settings = tomllib.loads((tmp_path / "edge" / "wrangler.toml").read_text())
    assert settings["name"] == "my-search" and settings["r2_buckets"][0]["bucket_name"] == "some-bucket"
    for name in ("A", "", "-a", "a-", "a_b", "a.b", "a" * 64, "a\n", "ä"):
        assert "is no name of a Worker" in vantage(*words, "--name", name).refusal()


def test_settings_that_stay_are_named(edge: Path) -> None:
    with (edge / "wrangler.toml").open("a") as settings:
        settings.write("# changed\n")
    words = ("worker", edge, "--bucket", "some-bucket", "--index", "docs")
    assert "wrangler.toml has been changed" in vantage(*words).err
    assert vantage(*words, "--json").json()["kept"] == ["wrangler.toml"]
    assert "does not name the Worker 'other'" in vantage(*words, "--name", "other").refusal()


def test_a_bad_name_that_is_typed_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda question, **_: questions.append(question) or "No bucket")
    assert "cannot be the name of an R2 bucket" in vantage("worker", tmp_path / "edge").refusal()
    assert questions == ["Name of the R2 bucket"]


def test_each_variable_of_the_steps_is_set_before_it_is_used() -> None:
    lines = worker.steps("some-bucket", "docs").splitlines()
    exports = {name: i for i, line in enumerate(lines) for name in re.findall(r"(?:export |\s)([A-Z_]+)=", line)}
    uses = [(name, i) for i, line in enumerate(lines) for name in re.findall(r"\$([A-Z_]+)", line)]
    publish = next(i for i, line in enumerate(lines) if "vantage publish" in line)
    keys = ("CLOUDFLARE_ACCOUNT_ID", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert uses and all(exports[name] < i for name, i in [*uses, *((key, publish) for key in keys)])


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        ran = vantage("worker", folder, "--bucket", "some-bucket", "--index", "docs")
        assert "cannot write" in ran.refusal()


def test_the_record_names_each_file(edge: Path) -> None:
    record = json.loads((edge / RECORD).read_text())
    assert record["files"].keys() == contents(edge).keys() - {RECORD}
    assert not any(os.path.isabs(name) for name in record["files"])
