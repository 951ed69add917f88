"""Publish, roll back, gc and verify against a real S3 server, ended at every operation, and with answers lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from doubles import Built
from kills import Ending, ask, kills
from moto.server import ThreadedMotoServer

from build_index import generations as g
from build_index.bucket import ConflictError, Place, place
from vantage.errors import DamagedError, InputError, StoreError


@pytest.fixture(scope="module")
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


def test_a_publish_is_whole_kept_and_rolled_back_on_s3(
    server: dict[str, str], generations: tuple[Built, Built]
) -> None:
    first, second = (b.bucket / "live" for b in generations)
    where = place("s3://bucket/whole/live", server)
    one = g.publish(first, where)
    assert one["swapped"] and one["previous"] is None and ask(where, generations[0].ids[14]) == one["generation"]
    assert g.publish(first, where) == one | {"swapped": False, "written_bytes": 0, "previous": one["generation"]}
    two = g.publish(second, where)
    assert two["previous"] == one["generation"]
    assert g.verify(where)["damage"] == []
    assert {(x["generation"], x["live"], x["whole"]) for x in g.generations(where)} == {
        (one["generation"], False, True), (two["generation"], True, True)
    }  # fmt: skip
    assert g.gc(where, 0)["deleted"] == []  # the one before stays
    assert g.rollback(where)["generation"] == one["generation"] == ask(where, generations[0].ids[14])
    where.put(f"{one['generation']}/ids.bin", b"other bytes")
    assert g.verify(where)["damage"] == [f"{one['generation']}/ids.bin: 11 bytes, wants " + str(
        (first / one["generation"] / "ids.bin").stat().st_size)]  # fmt: skip
    with pytest.raises(InputError, match="other bytes"):
        g.publish(first, where)
    g.rollback(where, two["generation"])
    with pytest.raises(DamagedError, match="ids.bin"):
        g.rollback(where, one["generation"])


@pytest.mark.parametrize("after", [False, True])
def test_a_process_ended_at_any_operation_leaves_a_whole_bucket(
    tmp_path: Path, generations: tuple[Built, Built], after: bool
) -> None:
    first, second = (b.bucket / "live" for b in generations)
    for tried, unreadable, lost in kills(first, second, generations[0].ids[14], tmp_path, after).values():
        assert tried > 5 and (unreadable, lost) == (0, 0)


class Losing:
    """A place that loses its first answer to `name`, before or after that took effect; uploads come from threads."""

    def __init__(self, inner: Place, name: str, after: bool) -> None:
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
def test_lost_answers_are_read_back(server: dict[str, str], generations: tuple[Built, Built], after: bool) -> None:
    first = generations[0].bucket / "live"
    for at, name in enumerate(("upload", "put", "swap")):
        where = place(f"s3://bucket/lost-{at}-{after}/live", server)

        losing = Losing(where, name, after)
        if after or name == "swap":
            assert g.publish(first, losing)["swapped"]
        else:
            with pytest.raises(StoreError):
                g.publish(first, losing)
            assert where.get("CURRENT") is None
            g.publish(first, where)
        ask(where, generations[0].ids[14])


def test_of_two_publishers_one_wins_and_the_other_is_told(
    server: dict[str, str], generations: tuple[Built, Built]
) -> None:
    first, second = (b.bucket / "live" for b in generations)
    where = place("s3://bucket/race/live", server)

    class Overtaken(Ending):
        def __getattr__(self, called: str) -> Any:
            if called == "swap":
                g.publish(second, where)
            return getattr(self.inner, called)

    with pytest.raises(ConflictError) as refused:
        g.publish(first, Overtaken(where))
    live = ask(where, generations[1].ids[14])
    assert live in str(refused.value) and str(refused.value).count("live while") == 1
    assert g.publish(first, where)["previous"] == live


def test_addresses_are_checked_and_secrets_kept(server: dict[str, str]) -> None:
    for address, environment in (
        ("s3://bucket", server), ("gs://bucket/x", server), ("s3://bucket/x", {}),
        ("r2://bucket/x", {k: v for k, v in server.items() if k != "AWS_ENDPOINT_URL"}),
        ("s3://bucket/x", server | {"AWS_ENDPOINT_URL": "http://example.com"}),
    ):  # fmt: skip
        with pytest.raises(InputError):
            place(address, environment)
    with pytest.raises(StoreError) as refused:
        place("s3://no-such-bucket/x", server).put("CURRENT", os.urandom(4))
    assert "a-secret" not in str(refused.value) and "404" in str(refused.value)
