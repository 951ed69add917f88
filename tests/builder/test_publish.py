"""Publish, roll back, gc and verify against a real S3 server, ended at every operation, and with answers lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from builder.small import vantage
from kills import Ending, ask, kills
from moto.server import ThreadedMotoServer

from build_index.audit.verify import verify_deep
from build_index.bucket import generations as g
from build_index.bucket.store import BucketStore, ConflictError, FolderStore, ObjectStore, RemoteBucket, store_at
from vantage.errors import ChangedError, DamagedError, InputError, StoreError


@pytest.fixture(scope="session")
def server() -> Iterator[dict[str, str]]:
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    url = "http://{}:{}".format(*moto.get_host_and_port()).replace("0.0.0.0", "127.0.0.1")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_ENDPOINT_URL": url}
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="a-secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    yield keys
    moto.stop()


def test_a_publish_is_whole_kept_and_rolled_back_on_s3(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    first, second = tiny
    where = store_at("s3://bucket/whole/live", server)
    one = g.publish(first, where)
    assert one["swapped"] and one["previous"] is None and ask(where, 14) == one["generation"]
    assert g.publish(first, where) == one | {"swapped": False, "written_bytes": 0, "previous": one["generation"]}
    two = g.publish(second, where)
    assert two["previous"] == one["generation"]
    assert g.verify(where)["damage"] == []
    assert {(x["generation"], x["live"], x["whole"]) for x in g.generations(where)} == {
        (one["generation"], False, True), (two["generation"], True, True)
    }  # fmt: skip
    assert g.gc(where, 0)["deleted"] == []  # the one before stays
    assert g.rollback(where)["generation"] == one["generation"] == ask(where, 14)
    where.put(f"{one['generation']}/ids.bin", b"other bytes")
    assert g.verify(where)["damage"] == [f"{one['generation']}/ids.bin: 11 bytes, wants " + str(
        (first / one["generation"] / "ids.bin").stat().st_size)]  # fmt: skip
    with pytest.raises(InputError, match="other bytes"):
        g.publish(first, where)
    g.rollback(where, two["generation"])
    with pytest.raises(DamagedError, match="ids.bin"):
        g.rollback(where, one["generation"])


@pytest.mark.parametrize(("where", "after"), [("folder", False), ("folder", True), ("s3", False)])
def test_a_process_ended_at_any_operation_leaves_a_whole_bucket(
    server: dict[str, str], tmp_path: Path, tiny: tuple[Path, Path], where: str, after: bool
) -> None:
    def named(name: str) -> ObjectStore:
        if where == "folder":
            return FolderStore(tmp_path / name / "live")
        return store_at(f"s3://bucket/ended-{after}/{name}/live", server)

    first, second = tiny
    for tried, unreadable, lost in kills(first, second, 14, named, after).values():
        assert tried > 5 and (unreadable, lost) == (0, 0)


class Losing:
    """A place that loses its first answer to `name`, before or after that took effect; uploads come from threads."""

    def __init__(self, inner: ObjectStore, name: str, after: bool) -> None:
        self.inner, self.name, self.after, self.first = inner, name, after, threading.Lock()

    def __getattr__(self, called: str) -> Any:
        work = getattr(self.inner, called)

        def lose(*args: Any) -> Any:
            if not self.first.acquire(blocking=False):
                return work(*args)
            if self.after:
                work(*args)
            raise StoreError("no answer")

        return lose if called == self.name else work


@pytest.mark.parametrize("after", [False, True])
def test_lost_answers_are_read_back(server: dict[str, str], tiny: tuple[Path, Path], after: bool) -> None:
    first, _ = tiny
    for at, name in enumerate(("upload", "put", "swap")):
        where = store_at(f"s3://bucket/lost-{at}-{after}/live", server)

        losing = Losing(where, name, after)
        if after or name != "upload":  # what is small is put again
            assert g.publish(first, losing)["swapped"]
        else:
            with pytest.raises(StoreError):
                g.publish(first, losing)
            assert where.get("CURRENT") is None
            g.publish(first, where)
        ask(where, 14)


def test_of_two_publishers_one_wins_and_the_other_is_told(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    first, second = tiny
    where = store_at("s3://bucket/race/live", server)

    class Overtaken(Ending):
        def __getattr__(self, called: str) -> Any:
            if called == "swap":
                g.publish(second, where)
            return getattr(self.inner, called)

    with pytest.raises(ConflictError) as refused:
        g.publish(first, Overtaken(where))
    live = ask(where, 14)
    assert live in str(refused.value) and str(refused.value).count("live while") == 1
    assert g.publish(first, where)["previous"] == live


@pytest.fixture
def keys(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the server."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)


def test_commands_read_an_index_in_a_bucket(keys: None, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    home, there = tiny[0], "s3://bucket/read/live"
    vantage("publish", home, there)
    np.save(tmp_path / "q.npy", np.load(rows_of(home))[5:8] + np.float32(0.01))
    for args in (
        ("info", "INDEX"),
        ("query", "INDEX", "--id", 14, "--top-k", 3, "--rerank", 20),
        ("explain", "INDEX", "--vector", tmp_path / "q.npy"),
        ("diff", "INDEX", home),
    ):
        one, two = (vantage(*(where if a == "INDEX" else a for a in args), "--json").json() for where in (there, home))
        assert one == two
    one, two = (vantage("eval", where, "--queries", tmp_path / "q.npy", "--json").json() for where in (there, home))
    assert one["recall"] == two["recall"] > 0.5 and one["bytes"] == two["bytes"]
    assert vantage("verify", there, "--deep", "--json").json()["codes"] == 300
    assert "there is no index 'none'" in vantage("info", "s3://bucket/read/none").refusal()


def rows_of(home: Path) -> Path:
    """The vectors of an index as a .npy file."""
    (part,) = home.glob("*/vectors/part-00000.parquet")
    x = pq.read_table(part, columns=["vector"])["vector"].combine_chunks().flatten().to_numpy().reshape(300, -1)
    np.save(home.parent / "rows.npy", x.astype(np.float32))
    return home.parent / "rows.npy"


def test_a_reader_sees_that_an_object_changed(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    where = store_at("s3://bucket/etag/live", server)
    assert isinstance(where, BucketStore)
    where.put("a", b"0123456789")

    async def run() -> None:
        bucket = RemoteBucket(where, "live")
        body = await bucket.get("live/a", 2, 3, None)
        assert body is not None and (body.length, body.size) == (3, 10)
        body.into(memoryview(found := bytearray(3)))
        assert found == b"234" and (await bucket.get("live/a", 0, 99, body.etag)).length == 10  # type: ignore[union-attr]
        assert (await bucket.get("live/a", 4, None, None)).length == 6  # type: ignore[union-attr]
        assert await bucket.get("live/b", 0, 4, None) is None and await bucket.list("", "", 9) == (["live"], None)
        where.put("a", b"9876543210")
        with pytest.raises(ChangedError):
            await bucket.get("live/a", 2, 3, body.etag)

    asyncio.run(run())


def test_a_build_ends_in_a_bucket(keys: None, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    args = ("build", rows_of(tiny[0]), "--metric", "l2", "--fast", "--k", 5, "--recall", 0.8, "--json", "--out")
    made = vantage(*args, "s3://bucket/built/live").json()
    found = vantage("generations", "s3://bucket/built/live", "--json").json()
    assert made["index"] == "s3://bucket/built/live"
    assert [(g["generation"], g["live"], g["whole"]) for g in found] == [(made["generation"], True, True)]


def test_foreign_objects_in_a_bucket_stay_and_do_not_matter(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    where, old = store_at("s3://bucket/foreign/live", server), "0" * 16
    client = boto3.client(
        "s3", endpoint_url=server["AWS_ENDPOINT_URL"], aws_access_key_id="key", aws_secret_access_key="a-secret",
        region_name="us-east-1",
    )  # fmt: skip
    foreign = ["notes", f"{old}/notes", f"{old}/a\\b", f"{old}x/root.bin", "é\u202e", f"{old}/vectors/x"]
    for key in (*foreign, f"{old}/root.bin"):
        client.put_object(Bucket="bucket", Key=f"foreign/live/{key}", Body=b"x")
    made = g.publish(tiny[0], where)["generation"]
    assert g.gc(where, 0)["deleted"] == [old]
    assert {s.key.split("/")[0] for s in where.list()} == {"CURRENT", made}
    found = client.list_objects_v2(Bucket="bucket", Prefix="foreign/live/")["Contents"]
    assert {f"foreign/live/{key}" for key in foreign} < {o["Key"] for o in found}
    client.put_object(Bucket="bucket", Key="foreign/live//x", Body=b"x")
    for work in (g.generations, lambda p: g.gc(p, 0)):
        with pytest.raises(StoreError, match="a key below it"):
            work(where)
    assert g.publish(tiny[1], where)["previous"] == made and g.verify(where)["damage"] == []


PUBLISHER = """
import json, sys
from pathlib import Path
from build_index.bucket.store import store_at
from build_index.bucket.generations import publish
from vantage.errors import VantageError
try:
    print(json.dumps(publish(Path(sys.argv[1]), store_at(sys.argv[2]))))
except VantageError as error:
    sys.exit(str(error))
"""  # without the commands, which take a while to import


def publisher(server: dict[str, str], home: Path, target: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(home), target], env=os.environ | server, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_killed_publisher_is_taken_up_again(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    first, second = tiny
    where = store_at("s3://bucket/killed/live", server)
    one = g.publish(first, where)["generation"]
    running = publisher(server, second, "s3://bucket/killed/live")
    while running.poll() is None and len({s.key.split("/")[0] for s in where.list()}) < 3:
        time.sleep(0.01)  # until the first object of the second generation is there
    running.send_signal(signal.SIGKILL)
    running.communicate()
    live = ask(where, 14)
    assert running.returncode == -signal.SIGKILL or live != one
    assert g.verify(where)["damage"] == []
    two = g.publish(second, where)
    assert ask(where, 14) == two["generation"] != one
    assert verify_deep(where)["damage"] == []


def test_two_publishers_at_once(server: dict[str, str], tiny: tuple[Path, Path]) -> None:
    where = store_at("s3://bucket/both/live", server)
    running = [publisher(server, home, "s3://bucket/both/live") for home in tiny]
    told = [one.communicate() for one in running]
    made = [json.loads(said)["generation"] for said, _ in told if said]
    assert made and ask(where, 14) in made and g.verify(where)["damage"] == []
    for one, (_, refused) in zip(running, told, strict=True):
        assert one.returncode == 0 or "another publisher made" in refused


def test_a_folder_that_cannot_be_written_is_a_sentence(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    ran = vantage("publish", tiny[0], tmp_path / "file" / "live")
    assert ran.code == 1 and "check the folder" in ran.err and "Traceback" not in ran.err


def test_addresses_are_checked_and_secrets_kept(server: dict[str, str]) -> None:
    for address, environment in (
        ("s3://bucket", server), ("gs://bucket/x", server), ("s3://bucket/x", {}),
        ("r2://bucket/x", {k: v for k, v in server.items() if k != "AWS_ENDPOINT_URL"}),
        ("s3://bucket/x", server | {"AWS_ENDPOINT_URL": "http://example.com"}),
        ("s3://bucket/x?versionId=3", server), ("s3://bucket/x#y", server), ("s3://bucket/../x", server),
        ("s3://key@bucket/x", server), ("s3://buck\\et/x", server), ("s3://bucket//x", server),
        ("s3://bucket/x\ny", server), ("S3://bucket/x", server), ("s3:///x", server), ("s3://bucket/a%2f..", server),
    ):  # fmt: skip
        with pytest.raises(InputError):
            store_at(address, environment)
    with pytest.raises(StoreError) as refused:
        store_at("s3://no-such-bucket/x", server).put("CURRENT", os.urandom(4))
    assert "a-secret" not in str(refused.value) and "404" in str(refused.value)
