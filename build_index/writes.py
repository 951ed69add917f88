"""Writes rows behind an index, wherever that is: in a folder, in a bucket, or at a service that writes for us."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vantage.bounded_json import loads
from vantage.errors import (
    ChangedError,
    ConditionError,
    ExistsError,
    InputError,
    LimitError,
    LogFullError,
    StoreError,
    VantageError,
)
from vantage.format.log import OPERATIONS_MAX
from vantage.http.create import FIELDS as NEW_FIELDS
from vantage.http.create import check_like, parse_new
from vantage.http.request import DEPTH_MAX, check_known
from vantage.http.writes import FRAME, FRAME_MAGIC, FRAME_VERSION, PARTS_MAX, parse_rows, submission_of
from vantage.index import Index
from vantage.log.base import READS
from vantage.log.create import create, new_of
from vantage.log.sequencer import Sequencer
from vantage.log.state import read_log
from vantage.log.submission import Done, request_key
from vantage.read.deadline import Deadline

from .bucket.log_store import StoreLog
from .bucket.names import check_name
from .bucket.open import open_index
from .bucket.store import beside, store_at
from .ingest.json_rows import json_rows
from .ingest.source import Source

BATCH_BYTES = 2 << 20  # of the rows of a request, as they are sent
LINE_BYTES_MAX = 4 << 20
TRIES, PAUSE_S = 5, 1.0  # of a request, with the same key
TIMEOUT_S = 60.0
SHOWN = 10  # segments of a log
_SERVICE = re.compile(
    r"(https?)://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(?:/v1/indexes)?/([^/?#]+)/*"
)
_LOCAL = ("localhost", "127.0.0.1", "[::1]")

Fields = dict[str, Any]  # of a write, as HTTP has them; vectors may be arrays
Send = Callable[[Fields, str], Done]  # with an Idempotency-Key


def write_rows(send: Send, kind: str, batches: Iterable[list[Any]], told: Callable[[int], None]) -> dict[str, Any]:
    """Sends rows, a request a batch: `requests`, `rows`, and the `seq` of the last one. kind: upsert, patch or delete.

    told: hears how many rows are written, after each request. A batch whose rows take a request more reads to look up
    than it has goes in halves. Raises what a request is refused for; requests before it stay written, and the error
    says how many rows that are.
    """
    run, requests, rows, seq, left, halves = secrets.token_hex(12), 0, 0, 0, iter(batches), list[list[Any]]()
    while batch := halves.pop() if halves else next(left, None):
        try:
            done = _again(send, {kind: batch}, f"{run}-{requests}")
        except VantageError as error:
            if isinstance(error, LimitError) and error.limit == READS and len(batch) > 1:
                halves += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
                continue
            if rows:
                error.message += f" ({rows:,} rows before it are written, up to seq {seq})"
            raise
        requests, rows, seq = requests + 1, rows + len(batch), done.seq
        told(rows)
    return {"requests": requests, "rows": rows, "seq": seq}


def _again(send: Send, fields: Fields, key: str) -> Done:
    """A request, sent again where whether it was done is not known: with its key it is done once."""
    for _ in range(TRIES - 1):
        try:
            return send(fields, key)
        except StoreError:
            time.sleep(PAUSE_S)
    return send(fields, key)


def sender(address: str, environment: Mapping[str, str]) -> Send:
    """What sends writes to an index: a folder, s3:// or r2://, or https://HOST/NAME of a service.

    Raises InputError for an address that is none, or a service without VANTAGE_WRITE_TOKEN in the environment;
    NotFoundError where there is no index in the folder or bucket.
    """
    if address.startswith(("http://", "https://")):
        return _to_service(address, environment)
    sequencer, runner = Sequencer(StoreLog(store_at(address, environment)), time.monotonic), asyncio.Runner()
    opened = [open_index(address)]

    def send(fields: Fields, key: str) -> Done:
        rows = parse_rows(fields, None)
        for _ in range(TRIES):
            index: Index = opened[0]
            one = runner.run(submission_of(index, rows, request_key(key), Deadline()))
            try:
                return runner.run(sequencer.submit(one))
            except ChangedError:
                opened[0] = open_index(address)
        raise StoreError("the index was made anew again and again", hint="try again")

    return send


def create_index(address: str, fields: Fields, environment: Mapping[str, str] = os.environ) -> bool:
    """Makes an empty index in a folder, at s3:// or r2://, or at https://HOST/NAME of a service; whether it did, as an
    index that is there already, and like it, stays as it is. fields: as PUT /v1/indexes/{index} has them: `dimension`,
    and perhaps `metric`, `vectors`, `ids`, `attributes`, `model`.

    Raises InputError for fields that are none, and as `sender`; ExistsError where another index is there; StoreError.
    """
    for name in fields:
        check_known(name, NEW_FIELDS, name)
    new = parse_new(fields)
    if address.startswith(("http://", "https://")):
        connect, path = _service(address)
        token = _token(environment, "VANTAGE_WRITE_TOKEN")
        body, headers = json.dumps(fields).encode(), {"Authorization": f"Bearer {token}"}
        return bool(_asked(connect, "PUT", path, body, headers | {"Content-Type": "application/json"})["created"])
    check_name(address)
    store = store_at(address, environment)
    with beside(store, make=True):
        made = asyncio.run(create(StoreLog(store), new, time.time()))
    if not made:
        check_like(address, new, new_of(open_index(address).root))
    return made


def _to_service(address: str, environment: Mapping[str, str]) -> Send:
    connect, path = _service(address)
    return partial(_post, connect, f"{path}/write", _token(environment, "VANTAGE_WRITE_TOKEN"))


def _service(address: str) -> tuple[Callable[[], HTTPConnection], str]:
    """(what connects to a service, the path of an index there). Raises InputError."""
    match = _SERVICE.fullmatch(address)
    if match is None:
        raise InputError("that is no index of a service", hint="write https://HOST/NAME")
    scheme, host, port, name = match.groups()
    if scheme == "http" and host not in _LOCAL:
        raise InputError("the service is not https", hint="a token would travel unencrypted")
    make = HTTPSConnection if scheme == "https" else HTTPConnection
    return lambda: make(host + (port or ""), timeout=TIMEOUT_S), f"/v1/indexes/{quote(name)}"


def _token(environment: Mapping[str, str], *names: str) -> str:
    """The first of these variables that is set. Raises InputError."""
    token = next((value for name in names if (value := environment.get(name))), "")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InputError("there is no token for this service", hint=f"set {' or '.join(names)} to that of the service")
    return token


def _post(connect: Callable[[], HTTPConnection], path: str, token: str, fields: Fields, key: str) -> Done:
    body, kind = _body(fields)
    told = _asked(connect, "POST", path, body, {
        "Authorization": f"Bearer {token}", "Content-Type": kind, "Idempotency-Key": key,
    })  # fmt: skip
    return Done(int(told["seq"]), bool(told["retried"]))


def _asked(
    connect: Callable[[], HTTPConnection], method: str, path: str, body: bytes, headers: dict[str, str]
) -> dict[str, Any]:
    """The JSON of an answer. Raises the error that it says, StoreError where it is none of ours."""
    connection = connect()
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read(LINE_BYTES_MAX)
    except (OSError, HTTPException) as error:
        what = f"the service did not answer ({type(error).__name__})"
        raise StoreError(what, hint="check its address and the network, and run it again") from None
    finally:
        connection.close()
    try:
        told: dict[str, Any] = json.loads(text)
        if status in (200, 201) and "seq" in told:
            return told
        words = {"hint": str(told.get("hint") or ""), "param": str(told.get("param") or "")}
        message, row, code = str(told["detail"]), told.get("id"), told.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(f"the service answered {status}, and not as one of ours does", hint="check it") from None
    if code == ExistsError.code:
        raise ExistsError(message, **words)
    if status == ConditionError.status:
        raise ConditionError(message, row.encode() if isinstance(row, str) else row, told.get("seq"), **words)
    kinds: dict[int, type[VantageError]] = {LogFullError.status: LogFullError, 503: StoreError, 500: StoreError}
    raise kinds.get(status, InputError)(message, **words)


def _body(fields: Fields) -> tuple[bytes, str]:
    """A write as HTTP takes it: in bytes, where vectors are arrays, else as JSON."""
    rows = [{**row, "id": _text(row["id"])} if isinstance(row, dict) and "id" in row else row
            for row in next(iter(fields.values()))]  # fmt: skip
    [kind] = fields
    if not rows or not isinstance(rows[0], dict) or not isinstance(rows[0].get("vector"), array):
        return json.dumps({kind: rows}, separators=(",", ":")).encode(), "application/json"
    vectors = [row.pop("vector") for row in rows]
    text = json.dumps({kind: rows}, separators=(",", ":")).encode()
    head = FRAME.pack(FRAME_MAGIC, FRAME_VERSION, len(text), len(vectors), len(vectors[0]))
    return head + text + b"".join(vector.tobytes() for vector in vectors), "application/octet-stream"


def _text(identifier: Any) -> Any:
    if not isinstance(identifier, bytes):
        return identifier
    try:
        return identifier.decode()
    except UnicodeDecodeError:
        hint = "write such rows into the bucket itself"
        raise InputError(f"id {identifier!r} is not UTF-8, as those of JSON are", hint=hint) from None


def source_batches(source: Source) -> Iterator[list[Fields]]:
    """Rows to upsert from a source of a build."""
    names, low = source.attributes.names, 4 * source.dimension
    for batch in source.batches(max(1, min(OPERATIONS_MAX, BATCH_BYTES // low))):
        records = json_rows(batch.attributes, len(batch.ids))
        ids = batch.ids if isinstance(batch.ids, list) else batch.ids.tolist()
        rows = list[Fields]()
        for identifier, vector, record in zip(ids, batch.vectors, records, strict=True):
            row: Fields = {"id": identifier, "vector": array("f", vector.astype("<f4").tobytes())}
            rows.append(row | ({"attributes": dict(zip(names, json.loads(record), strict=True))} if names else {}))
        sizes = (low + len(record) for record in records)
        yield from split_rows(zip(rows, sizes, strict=True))


def line_batches(path: Path, kind: str) -> Iterator[list[Any]]:
    """Rows of a file of JSON Lines, one a line, as HTTP takes them; "-" is standard input.

    Raises InputError, which names the line.
    """
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            yield from split_rows(_lines(file, kind, str(path)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="name another file") from None


def _lines(file: Any, kind: str, name: str) -> Iterator[tuple[Any, int]]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if not line.strip():
            continue
        where = f"{name} line {number}"
        if len(line) > LINE_BYTES_MAX:
            raise InputError(f"{where} is longer than {LINE_BYTES_MAX:,} bytes", hint="a row is one line of JSON")
        try:
            row = loads(line, DEPTH_MAX, PARTS_MAX)
            parse_rows({kind: [row]}, None)
        except ValueError as error:  # InputError too
            what = error.message if isinstance(error, InputError) else f"it is no JSON: {error}"
            example = {"delete": '"a"', "patch": '{"id": "a", "attributes": {"lang": "de"}}'}
            hint = f"a line is {example.get(kind, EXAMPLE)}"
            raise InputError(f"{where}: {what}"[:300], hint=hint) from None
        yield row, len(line)


EXAMPLE = '{"id": "a", "vector": [0.1, 0.2]}'


def split_rows(rows: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Batches of rows with their sizes, as many as a request takes, none with an id twice: what comes later counts."""
    batch, ids, nbytes = list[Any](), set[Any](), 0
    for row, size in rows:
        identifier = row["id"] if isinstance(row, dict) else row
        if batch and (len(batch) == OPERATIONS_MAX or nbytes + size > BATCH_BYTES or identifier in ids):
            yield batch
            batch, ids, nbytes = [], set(), 0
        batch.append(row)
        ids.add(identifier)
        nbytes += size
    if batch:
        yield batch


def log_of(address: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What was written behind the live generation of an index: `generation`, `seq`, and in a folder or bucket `log`,
    its id; `start`, its first number; `segments`, `operations`, `bytes`; `ids` that it has; whether it is `sealed`; and
    of the `last` segments number, operations and bytes. Of a service `fresh`, its rows, and `superseded`, its ids.

    Raises NotFoundError, DamagedError, StoreError; InputError as `sender`.
    """
    if address.startswith(("http://", "https://")):
        connect, path = _service(address)
        token = _token(environment, "VANTAGE_TOKEN", "VANTAGE_WRITE_TOKEN")
        told = _asked(connect, "GET", f"{path}?consistency=bucket", b"", {"Authorization": f"Bearer {token}"})
        return {name: told[name] for name in ("generation", "seq", "fresh", "superseded")}
    state = asyncio.run(read_log(StoreLog(store_at(address, environment)), time.monotonic))
    name, tail = state.current.log, state.tail
    segments, operations, nbytes = tail.held(name.start)
    return {
        "generation": state.current.generation, "seq": state.seq, "log": name.id, "start": name.start,
        "segments": segments, "operations": operations, "bytes": nbytes, "ids": len(tail.rows),
        "sealed": state.seal is not None, "last": [list(one) for one in list(tail.sizes)[-SHOWN:]],
    }  # fmt: skip
