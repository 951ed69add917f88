"""The local host: folders into local R2, wrangler started and ended. Some JavaScript stands in for the Worker."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from build_index import serve as host
from vantage.errors import InputError, VantageError

CONFIG = """
name = "stand-in"
main = "worker.js"
compatibility_date = "2026-11-17"
[[r2_buckets]]
binding = "BUCKET"
bucket_name = "stand-in"
"""
SCRIPT = """
export default {
  async fetch(request, env) {
    const key = decodeURIComponent(new URL(request.url).pathname.slice(1));
    if (key === "v1/health") return new Response(env.TOKEN, { status: Number(env.HEALTH ?? 200) });
    if (key === "keys") return Response.json((await env.BUCKET.list()).objects.map(({ key }) => key));
    return new Response((await env.BUCKET.get(key))?.body ?? "none");
  },
};
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "wrangler.toml").write_text(CONFIG)
    (root / "worker.js").write_text(SCRIPT)
    monkeypatch.setattr(host, "ROOT", root)
    return root


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    for name, text in {"a/CURRENT": "one", "a/1/root.bin": "", "a/1/shard é&.bin": "x" * 100_000}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def get(server: host.Server, path: str) -> str:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def running(group: int) -> Iterator[str]:
    """The processes of a group, without those that have ended and wait to be collected."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, _, rest = (path / "stat").read_text().rpartition(")")
            state, _, process_group = rest.split()[:3]
            if int(process_group) == group and state != "Z":
                yield name


@pytest.mark.edge
def test_what_is_loaded_is_served_also_while_serving(project: Path, bucket: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert host.load(bucket, state) == {"written": 3, "kept": 0, "deleted": 0, "bytes": 100_003}
    with host.serve(state, variables={"TOKEN": 'a "b" $HOME#=c'}, log=tmp_path / "log") as server:
        group = os.getpgid(server.pid)
        assert list(running(group))
        assert get(server, "/v1/health") == 'a "b" $HOME#=c'
        assert get(server, "/a/CURRENT") == "one"
        assert get(server, "/a/1/shard%20%C3%A9%26.bin") == "x" * 100_000
        assert server.cpu_seconds() > 0

        (bucket / "a/CURRENT").write_text("two")
        (bucket / "a/1/root.bin").unlink()
        assert host.load(bucket, state, prune=True) == {"written": 1, "kept": 1, "deleted": 1, "bytes": 3}
        assert get(server, "/a/CURRENT") == "two"
        assert get(server, "/keys") == '["a/1/shard é&.bin","a/CURRENT"]'
    assert not list(running(group))
    assert "Ready on" in (tmp_path / "log").read_text()


@pytest.mark.edge
def test_one_folder_is_loaded_and_pruned_alone(project: Path, bucket: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (bucket / "a-b").mkdir()
    (bucket / "a-b/CURRENT").write_text("other")
    host.load(bucket, state)
    for name in ("a/1/root.bin", "a-b/CURRENT"):
        (bucket / name).unlink()
    assert host.load(bucket, state, only="a", prune=True) == {"written": 0, "kept": 2, "deleted": 1, "bytes": 0}
    # a-b has no file
    assert host.load(bucket, state, prune=True) == {"written": 0, "kept": 2, "deleted": 1, "bytes": 0}


@pytest.mark.edge
def test_the_folder_alone_is_there(project: Path, bucket: Path, tmp_path: Path) -> None:
    """What another folder had, and names that the Worker refuses, are not."""
    other, state = tmp_path / "other", tmp_path / "state"
    for name in ("b/CURRENT", "ü/CURRENT", "b c/CURRENT", "-d/CURRENT", "e" * 65 + "/CURRENT"):
        (other / name).parent.mkdir(parents=True)
        (other / name).write_text("one")
    host.load(bucket, state)
    assert host.unserved(other) == ["-d", "b c", "e" * 65, "ü"]
    assert host.load(other, state, prune=True) == {"written": 1, "kept": 0, "deleted": 3, "bytes": 3}


@pytest.mark.parametrize("name", ["b", "a/1/root.bin", "a/2", "a/CURRENT"])
def test_links_are_not_loaded(bucket: Path, tmp_path: Path, name: str) -> None:
    (bucket / name).unlink(missing_ok=True)
    (bucket / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        host.load(bucket, tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.edge
def test_a_worker_that_is_not_healthy_is_an_error_that_shows_the_log(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "START_SECONDS", 10)
    with (
        pytest.raises(VantageError, match=r"(?s)/v1/health answered 503.*GET /v1/health 503"),
        host.serve(tmp_path / "state", variables={"HEALTH": "503"}),
    ):
        pytest.fail("it was served")


@pytest.mark.edge
def test_a_worker_that_does_not_build_is_an_error_that_shows_the_log(project: Path, tmp_path: Path) -> None:
    (project / "wrangler.toml").write_text(CONFIG.replace("worker.js", "missing.js"))
    with pytest.raises(VantageError, match=r"(?s)did not start.*missing\.js"), host.serve(tmp_path / "state"):
        pytest.fail("it was served")


@pytest.mark.edge
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_process(project: Path, tmp_path: Path, number: signal.Signals) -> None:
    program = f"""
        import os, pathlib, time
        from build_index import serve as host
        host.ROOT = pathlib.Path({str(project)!r})
        with host.serve(pathlib.Path({str(tmp_path / "state")!r})) as server:
            print(os.getpgid(server.pid), flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        group = int(process.stdout.readline())
        assert list(running(group))
        process.send_signal(number)
        assert process.wait(30) != 0
    deadline = time.monotonic() + 5
    while list(running(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(running(group))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder .*nowhere"):
        host.load(tmp_path / "nowhere", tmp_path / "state")


@pytest.mark.parametrize(("name", "value"), [("A B", "x"), ("A", "it's"), ("A", "one\ntwo"), ("A", "back\\slash")])
def test_a_variable_that_cannot_be_passed_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InputError, match="cannot be passed"), host.serve(tmp_path, variables={name: value}):
        pytest.fail("it was served")


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use"), host.serve(tmp_path, port=port):
            pytest.fail("it was served")


def test_an_unknown_snapshot_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="snapshot is 'keep'"), host.serve(tmp_path, snapshot="keep"):
        pytest.fail("it was served")
