"""Delta tables: the files that the newest version of the log names, and nothing else that lies beside them."""

import json
import re
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import InputError

from .address import Location, Part, below, inside, natural, open_file, read_whole, shown

LOG = "_delta_log"
COMMIT = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
COMMIT_BYTES_MAX = 256 << 20
LAST, LAST_BYTES_MAX = "_last_checkpoint", 1 << 20
READER_MAX = 3
# What a reader must know, and what is no matter here: it is refused where a table makes use of it, or changes no row.
FEATURES = {"columnMapping", "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
EXPORT = "write its rows as Parquet first, with the deltalake package: DeltaTable(path).to_pyarrow_table()"
TYPES = {
    "string": pa.string(), "boolean": pa.bool_(), "byte": pa.int8(), "short": pa.int16(), "integer": pa.int32(),
    "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "date": pa.date32(), "binary": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"), "timestamp_ntz": pa.timestamp("us"),
}  # fmt: skip


def parts(table: Location, notes: list[str]) -> list[Part]:
    """The files of the newest version, sorted by name, with the values of their partitions.

    A column that was added later is null in older files. Raises InputError where the log is not whole, or where it
    asks for more than reading files: deletion vectors, column mapping, files elsewhere.
    """
    version, state = _replay(table)
    where = shown(table)
    meta, protocol = state["metaData"], state["protocol"]
    if not isinstance(meta, dict) or not isinstance(protocol, dict):
        raise InputError(f"the log of {where} names no schema or protocol", hint="copy the whole table")
    features = set(protocol.get("readerFeatures") or ()) - FEATURES
    if protocol.get("minReaderVersion", 1) > READER_MAX or features:
        raise InputError(
            f"{where} asks for what is not read: {', '.join(sorted(features)) or 'a newer reader'}", hint=EXPORT
        )
    if _mapped(meta):
        raise InputError(f"{where} maps its columns to other names, which is not read", hint=EXPORT)
    try:
        schema = {f["name"]: f["type"] for f in json.loads(meta["schemaString"])["fields"]}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"the log of {where} holds no schema", hint="copy the whole table") from None
    files = [Part(_file(table, add), _constants(table, add, schema), _absent(schema)) for add in state["add"].values()]
    files.sort(key=lambda part: natural(part.location))
    notes.append(f"{where} is a Delta table: version {version} is read, {len(files)} files.")
    if not files:
        raise InputError(f"{where} is empty: version {version} has no files")
    return files


def _replay(table: Location) -> tuple[int, dict[str, Any]]:
    """The newest version, and its files (`add`, by path), `metaData` and `protocol`."""
    files, folders = inside(below(table, LOG)) or ([], [])
    where = shown(table)
    commits = {int(m[1]): f for f in files if (m := COMMIT.fullmatch(f.name))}
    checkpoints: dict[int, list[Location]] = {}
    for file in files:
        if match := CHECKPOINT.fullmatch(file.name):
            checkpoints.setdefault(int(match[1]), []).append(file)
    whole = [version for version, files in checkpoints.items() if len(files) == _pieces(files)]
    start, newest = max(whole, default=-1), max([*commits, *whole], default=-1)
    lost = next((v for v in range(start + 1, newest + 1) if v not in commits), None)
    pointed = _last_checkpoint(files)
    if lost is None and pointed > newest:  # the newest part of the log is not here: the rest is an old version
        lost = pointed
    if newest < 0 or lost is not None:
        raise InputError(
            f"the log of {where} lacks version {max(0, lost or 0)}, or has checkpoints of another kind",
            hint=f"copy the whole table, or {EXPORT}",
        )
    state: dict[str, Any] = {"add": {}, "metaData": None, "protocol": None}
    for file in checkpoints.get(start, []):
        for action in _checkpoint(file):
            _apply(state, action)
    for version in range(start + 1, newest + 1):
        try:
            actions = [json.loads(line) for line in read_whole(commits[version], COMMIT_BYTES_MAX).splitlines() if line]
            for action in sorted(actions, key=lambda a: "add" in a):  # a file rewritten in place is removed, then added
                _apply(state, action)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{shown(commits[version])} is not a commit of a Delta table", hint="copy it again"
            ) from None
    return newest, state


def _last_checkpoint(files: list[Location]) -> int:
    """The version that the log says it has a checkpoint of; -1 where it says none."""
    for file in files:
        if file.name == LAST:
            try:
                return int(json.loads(read_whole(file, LAST_BYTES_MAX))["version"])
            except (ValueError, TypeError, KeyError, RecursionError, InputError):
                return -1  # only a hint: readers do without it
    return -1


def _pieces(files: list[Location]) -> int:
    match = CHECKPOINT.fullmatch(files[0].name)
    return int(match[3] or 1) if match else 1


def _checkpoint(file: Location) -> list[dict[str, Any]]:
    try:
        with open_file(file) as raw:
            parquet = pq.ParquetFile(raw)
            names = [n for n in ("add", "remove", "metaData", "protocol") if n in parquet.schema_arrow.names]
            rows: list[dict[str, Any]] = parquet.read(columns=names).to_pylist(maps_as_pydicts="lossy")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{shown(file)} cannot be read as a checkpoint: {error}") from None
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _apply(state: dict[str, Any], action: dict[str, Any]) -> None:
    if "remove" in action:
        state["add"].pop(action["remove"]["path"], None)
    if "add" in action:
        state["add"][action["add"]["path"]] = action["add"]
    for name in ("metaData", "protocol"):
        if name in action:
            state[name] = action[name]


def _mapped(meta: dict[str, Any]) -> bool:
    mode = (meta.get("configuration") or {}).get("delta.columnMapping.mode", "none")
    return bool(mode != "none")


def _file(table: Location, add: dict[str, Any]) -> Location:
    """Where a file lies. InputError for one outside of the table, or of which only some rows count."""
    path = unquote(add["path"])
    if add.get("deletionVector"):
        raise InputError(
            f"{shown(table)} has deleted rows of {path}, which the log only marks",
            hint="run OPTIMIZE on it, or " + EXPORT,
        )
    if re.match(r"/|[A-Za-z][A-Za-z0-9+.-]*:", path) or ".." in path.split("/"):
        raise InputError(
            f"{shown(table)} names a file outside of its folder, {path}, which is not followed", hint=EXPORT
        )
    return below(table, path)


def _constants(table: Location, add: dict[str, Any], schema: dict[str, Any]) -> dict[str, pa.Scalar]:
    out = {}
    for name, text in (add.get("partitionValues") or {}).items():
        kind = TYPES.get(str(schema.get(name)), pa.string())
        try:
            # Null and empty are one in a log; a time without a zone is of UTC.
            utc = "Z" if text and kind == TYPES["timestamp"] and not text.endswith("Z") else ""
            out[name] = pa.scalar(text + utc if text else None, pa.string()).cast(kind)
        except pa.ArrowException:
            raise InputError(f"{shown(table)}: partition {name!r} is {text!r}, which is no {kind}") from None
    return out


def _absent(schema: dict[str, Any]) -> pa.Schema:
    """Columns of the table, which older files may lack."""
    return pa.schema([pa.field(name, TYPES.get(str(kind), pa.null())) for name, kind in schema.items()])
