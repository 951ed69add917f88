"""Names of the objects of an index: those that the format knows, and no others, wherever a key comes from outside."""

from __future__ import annotations

import re
from pathlib import PurePath

from vantage.errors import DamagedError, InputError
from vantage.format import ROOT_BYTES_MAX, ObjectName
from vantage.format.objects import OBJECTS_MAX
from vantage.indexes import NAME, NAME_RULE

GENERATION = re.compile("[0-9a-f]{16}")  # as the builder names them
MARK = "gc-"  # begins an object below a generation: a gc, one a mark, is deleting it
SIZE_MAX = 1 << 43  # of an object; S3 and R2 take no larger ones
_KEY = re.compile(
    r"(?P<current>CURRENT)|(?P<log>log/[0-9a-f]{16}/(?:[0-9]{20}|ledger-[0-9]{20}-[0-9a-f]{16}))|[0-9a-f]{16}/(?:"
    r"(?P<object>root\.bin|ids\.bin|rows\.bin|routing\.bin|held\.bin|compaction\.bin"
    r"|(?:shard|rendition-[0-9]{1,2}|projection-[0-9]{1,4}(?:-pages)?|counts|attributes)-[0-9]{5}\.bin"
    r"|vectors/part-[0-9]{5}\.parquet)"
    r"|(?P<manifest>manifest\.json)|(?P<mark>gc-[0-9a-z]{1,32})"
    r"|(?P<part>(?:vectors/)?\.[a-z0-9.-]{1,40}\.[0-9]{1,10}\.part))"
)  # fmt: skip


def kind_of(key: object) -> str | None:
    """What a key names: current, log, manifest, object, mark, or part (a folder's, half written); None for all else."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return match.lastgroup if match else None


def check_address(address: str | PurePath) -> None:
    """Raises InputError for an address without a name of its own: empty, or one that ends in `.` or `..`. What writes
    takes none of these: they would name the folder that a person stands in, or one above it.
    """
    if _name(address) in ("", ".", ".."):
        raise InputError(f"{str(address)!r} does not name an index", hint="write its own name: bucket/name")


def check_name(address: str | PurePath) -> None:
    """Raises InputError for an address of an index to make that has no name, or one that a Worker would not take."""
    check_address(address)
    if not NAME.fullmatch(_name(address)):
        raise InputError(f"{_name(address)!r} is not a name for an index", hint=NAME_RULE)


def _name(address: str | PurePath) -> str:
    """The last part, as it is written."""
    return str(address).rstrip("/").rpartition("/")[2]


def check_objects(objects: list[ObjectName], generation: str) -> None:
    """Raises DamagedError where a manifest names what is no object, the root of another generation, or one twice."""
    if len(objects) > 2 * OBJECTS_MAX + 3:
        raise _refused(generation, f"names {len(objects):,} objects")
    keys = set[str]()
    for o in objects:
        if kind_of(o.key) != "object" or o.key.endswith("/root.bin") and o.key != f"{generation}/root.bin":
            raise _refused(generation, f"names {ascii(o.key)[:80]}, which is not an object of this generation")
        most = ROOT_BYTES_MAX if o.key.endswith("/root.bin") else SIZE_MAX
        if type(o.size) is not int or not 1 <= o.size <= most:
            raise _refused(generation, f"says that {o.key} has {ascii(o.size)[:80]} bytes")
        if not isinstance(o.sha256, str) or not re.fullmatch("[0-9a-f]{64}", o.sha256):
            raise _refused(generation, f"has no SHA-256 of {o.key}")
        if o.key in keys:
            raise _refused(generation, f"names {o.key} twice")
        keys.add(o.key)


def _refused(generation: str, what: str) -> DamagedError:
    return DamagedError(
        f"{generation}/manifest.json {what}", hint="it is not what the builder wrote: build the index again"
    )
