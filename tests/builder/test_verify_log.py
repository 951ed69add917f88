"""`vantage verify` of a log: whole ones, and each kind of damage, which is named with its object."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doubles import Built
from small import vantage

from build_index.audit.log import verify_log
from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from build_index.writes import sender, write_rows
from vantage.format.current import Current, LogName
from vantage.format.log import (
    NO_KEY,
    Ledger,
    Request,
    RowShape,
    pack_ledger,
    pack_request,
    pack_seal,
    pack_segment,
    segment_key,
)
from vantage.log.move import advance
from vantage.log.state import read_log, whole_state

SHAPE = RowShape(96, "bytes", "f16")
NONCE = bytes(16)
GONE = Request(NO_KEY, 0, deletes=[b"a"])


@pytest.fixture
def home(words: Built, tmp_path: Path) -> Path:
    """bucket/words with five segments of writes, the first two behind the log's start."""
    home = tmp_path / "bucket" / "words"
    shutil.copytree(words.bucket / "words", home)
    rows = [{"id": f"n{i}", "vector": v.tolist(), "attributes": {"pos": "n"}} for i, v in enumerate(words.queries[:5])]
    write_rows(sender(str(home), {}), "upsert", [rows[:2], rows[2:4]], lambda n: None)
    asyncio.run(moved(home))
    changes = [{"id": f"n{i}", "attributes": {"pos": "v"}} for i in range(3)]
    write_rows(sender(str(home), {}), "patch", [changes], lambda n: None)
    write_rows(sender(str(home), {}), "delete", [["n0"]], lambda n: None)
    write_rows(sender(str(home), {}), "upsert", [rows[4:]], lambda n: None)
    return home


async def moved(home: Path) -> None:
    """The log starts behind what it has, as if a compaction had taken that."""
    store = StoreLog(FolderStore(home))
    state = await whole_state(store, await read_log(store, time.monotonic), time.monotonic)
    old = state.current
    assert await advance(store, state, old.generation, old.root, old.manifest, state.tail.next, time.time())


def current(home: Path) -> Current:
    return Current.unpack((home / "CURRENT").read_bytes(), "CURRENT")


def segment(home: Path, seq: int) -> Path:
    return home / segment_key(current(home).log.id, seq)


def put(home: Path, seq: int, request: Request, shape: RowShape = SHAPE) -> None:
    segment(home, seq).write_bytes(pack_segment(NONCE, shape, [pack_request(request, shape)]))


def damaged(home: Path, deep: bool = False) -> list[str]:
    found = verify_log(FolderStore(home), deep)
    assert found["damages"] == len(found["damage"])
    ran = vantage("verify", home, *(["--deep"] if deep else []), "--json")
    assert ran.code == bool(found["damage"]) and json.loads(ran.out)["damage"] == found["damage"]
    return list(found["damage"])


def test_a_whole_log(home: Path) -> None:
    assert damaged(home) == damaged(home, deep=True) == []
    found = verify_log(FolderStore(home))
    assert (found["segments"], found["operations"]) == (3, 5) and found["log_bytes"] > 600
    ran = vantage("verify", home, "--deep")
    assert ran.code == 0 and "5 writes in 3 segments of the log read" in ran.out


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def seal(home: Path, log: str, seq: int) -> None:
    new = replace(current(home), named_log=LogName(log, seq + 1))
    segment(home, seq).write_bytes(pack_seal(NONCE, new.pack()))


def ledger(home: Path) -> Path:
    name = current(home).log.ledger
    assert name is not None
    return home / name


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (lambda home: flip(segment(home, 4)), f"{4:020}"),
    "its end": (lambda home: segment(home, 4).write_bytes(segment(home, 4).read_bytes()[:-8]), f"{4:020}"),
    "a gap": (lambda home: segment(home, 4).unlink(), f"{4:020}: is missing, and log/"),
    "the first one": (lambda home: segment(home, 3).unlink(), f"{3:020}: is missing"),
    "other rows": (lambda home: put(home, 6, Request(NO_KEY, 0, deletes=[7]), RowShape(96, "i64", "f16")), "not like"),
    "another length": (
        lambda home: [put(home, n, GONE, SHAPE._replace(dimension=95)) for n in (3, 4, 5)],
        "those of the generation",
    ),
    "no seal": (lambda home: seal(home, current(home).log.id, 6), "seals the log for no other"),
    "behind a seal": (lambda home: (seal(home, "ab" * 8, 5), put(home, 6, GONE)), "behind"),
    "no ledger": (lambda home: ledger(home).unlink(), "is missing, and CURRENT names it"),
    "a bit of the ledger": (lambda home: flip(ledger(home)), "ledger-"),
    "a ledger of later ones": (lambda home: ledger(home).write_bytes(pack_ledger(Ledger([(1, NONCE), (3, NONCE)], {}))),
                               "do not rise to the log's start"),
    "a key of later ones": (lambda home: ledger(home).write_bytes(pack_ledger(Ledger([], {NONCE: (3, 0)}))),
                            "is of no segment"),
    "a patch that is no object": (lambda home: put(home, 6, Request(NO_KEY, 0, patches=[b"n1"], changes=[b"[]"])),
                                  "no JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named(home: Path, kind: str) -> None:
    damage, said = DAMAGES[kind]
    damage(home)
    assert said in " ".join(damaged(home))


ROWS: dict[str, tuple[bytes, bytes, str]] = {
    "not a number": (struct.pack("<96e", float("nan"), *[1.0] * 95), b"", "upsert[0].vector is not finite"),
    "zero": (bytes(192), b"", "upsert[0].vector is zero"),
    "no JSON": (struct.pack("<96e", *[1.0] * 96), b"{", "upsert[0]: attributes are not JSON"),
    "another type": (struct.pack("<96e", *[1.0] * 96), b'{"pos":7}', "no text"),
    "unknown": (struct.pack("<96e", *[1.0] * 96), b'{"color":7}', "'color' is no attribute"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_are_decoded_if_that_is_wished(home: Path, kind: str) -> None:
    vector, attributes, said = ROWS[kind]
    put(home, 6, Request(NO_KEY, 0, [b"x"], vector, [attributes]))
    assert damaged(home) == []
    [sentence] = damaged(home, deep=True)
    assert said in sentence and segment_key(current(home).log.id, 6) in sentence
