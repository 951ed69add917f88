"""CURRENT, and how objects are named."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..bounded_json import loads
from .layout import VERSION, damaged, other_version
from .log import LEDGER_KEY, SEQ_MAX

JSON_DEPTH_MAX, JSON_PARTS_MAX = 16, 1024
ROOT_BYTES_MAX = MANIFEST_BYTES_MAX = 64 << 20
GENERATION = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIRST_SEQ = 1  # of a log; 0 is what was built


@dataclass(frozen=True)
class ObjectName:
    """An object with its size and SHA-256 (hex)."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class LogName:
    """The log that goes on from a generation: its id, the first segment that the generation does not have, and the key
    of the ledger of those before it.
    """

    id: str
    start: int = FIRST_SEQ
    ledger: str | None = None


@dataclass(frozen=True)
class Current:
    """CURRENT: names the live generation and its log; the only object that is ever replaced.

    named_log: as it stands there; counter and nonce: of swaps, so that no two CURRENTs have the same bytes; deleted: ms
    since 1970 when the index was, 0 while it lives; previous: the generation that was live before.
    """

    generation: str
    root: ObjectName
    manifest: ObjectName
    named_log: LogName | None = None
    counter: int = 0
    nonce: str = ""
    deleted: int = 0
    previous: str | None = None

    @property
    def log(self) -> LogName:
        """The log, of an index as it was built one that is called as its generation."""
        return self.named_log or LogName(self.generation)

    def pack(self) -> bytes:
        members: dict[str, Any] = {
            "format": VERSION,
            "generation": self.generation,
            "root": vars(self.root),
            "manifest": vars(self.manifest),
        }
        if self.named_log:
            members["log"] = {name: value for name, value in vars(self.named_log).items() if value is not None}
        members |= {"counter": self.counter} if self.counter else {}
        members |= {"nonce": self.nonce} if self.nonce else {}
        members |= {"deleted": self.deleted} if self.deleted else {}
        members |= {"previous": self.previous} if self.previous else {}
        return json.dumps(members, indent=1).encode() + b"\n"

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Current:
        try:
            value = loads(data, JSON_DEPTH_MAX, JSON_PARTS_MAX)
            if value["format"] != VERSION:
                raise other_version(name, value["format"])
            generation = value["generation"]
            root = _object(value["root"], generation, "root.bin", ROOT_BYTES_MAX, name)
            manifest = _object(value["manifest"], generation, "manifest.json", MANIFEST_BYTES_MAX, name)
            log = _log(value["log"], name) if "log" in value else None
            counter, nonce, deleted = value.get("counter", 0), value.get("nonce", ""), value.get("deleted", 0)
            numbers = all(type(n) is int and 0 <= n <= SEQ_MAX for n in (counter, deleted))
            if not numbers or not isinstance(nonce, str):
                raise damaged(name, "counter or deleted is no number, or nonce no text")
            previous = value.get("previous")
            known = isinstance(previous, str) and GENERATION.fullmatch(previous)
            return cls(generation, root, manifest, log, counter, nonce, deleted, previous if known else None)
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(name, f"is not a valid CURRENT ({type(error).__name__}: {error})"[:300]) from None


def _object(value: Any, generation: Any, file: str, limit: int, name: str) -> ObjectName:
    """The name of an object whose key and size are in bounds: a reader allocates the size before it reads."""
    named, key = ObjectName(value["key"], value["size"], value["sha256"]), f"{generation}/{file}"
    if named.key != key or not isinstance(generation, str) or not GENERATION.fullmatch(generation):
        raise damaged(name, f"names {named.key!r}, wants a generation and then {file}"[:300])
    if not isinstance(named.sha256, str):
        raise damaged(name, f"{key} has no SHA-256")
    if not isinstance(named.size, int) or not 1 <= named.size <= limit:
        raise damaged(name, f"{key} of {named.size!r} bytes, the limit is {limit}"[:300])
    return named


def _log(value: Any, name: str) -> LogName:
    log = LogName(value["id"], value["start"], value.get("ledger"))
    if not isinstance(log.id, str) or not GENERATION.fullmatch(log.id):
        raise damaged(name, f"names a log {log.id!r}"[:300])
    if type(log.start) is not int or not FIRST_SEQ <= log.start <= SEQ_MAX:
        raise damaged(name, f"names a log from {log.start!r} on"[:300])
    if log.ledger is not None:
        match = LEDGER_KEY.fullmatch(log.ledger)
        if match is None or match[1] != log.id:
            raise damaged(name, f"names a ledger {log.ledger!r}"[:300])
    return log
