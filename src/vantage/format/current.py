"""CURRENT, and how objects are named."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..bounded_json import loads
from .layout import VERSION, damaged, other_version


@dataclass(frozen=True)
class ObjectName:
    """An object with its size and SHA-256 (hex)."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Current:
    """CURRENT: names the live generation; the only object that is ever replaced."""

    generation: str
    root: ObjectName
    manifest: ObjectName

    def pack(self) -> bytes:
        return (
            json.dumps(
                {
                    "format": VERSION,
                    "generation": self.generation,
                    "root": vars(self.root),
                    "manifest": vars(self.manifest),
                },
                indent=1,
            ).encode()
            + b"\n"
        )

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Current:
        try:
            value = loads(data, JSON_DEPTH_MAX, JSON_PARTS_MAX)
            if value["format"] != VERSION:
                raise other_version(name, value["format"])
            generation = value["generation"]
            root = _object(value["root"], generation, "root.bin", ROOT_BYTES_MAX, name)
            manifest = _object(value["manifest"], generation, "manifest.json", MANIFEST_BYTES_MAX, name)
            return cls(generation, root, manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(name, f"is not a valid CURRENT ({type(error).__name__}: {error})"[:300]) from None


JSON_DEPTH_MAX, JSON_PARTS_MAX = 16, 1024
ROOT_BYTES_MAX = MANIFEST_BYTES_MAX = 64 << 20
GENERATION = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
