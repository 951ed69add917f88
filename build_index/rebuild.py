"""Builds the rows that an index has by the pipeline of `vantage build`: those of an empty one's log, or all anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError
from vantage.format import Root
from vantage.format.log import Id
from vantage.log.create import empty_generation, new_of
from vantage.log.tail import Fresh, members_of

from .build import build
from .context import BuildContext
from .ingest.arrays import Arrays
from .ingest.formats.batch import DTYPES
from .ingest.open import open_source
from .mutable import MutableIndex
from .progress import Progress
from .tune.options import Options

_LIST = re.compile(r"list<[^:]*: (.*)>")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=(.*))?\]")
_PLAIN = {"date32[day]": pa.date32(), "date64[ms]": pa.date64(), "string": pa.string(), "bool": pa.bool_(),
          "halffloat": pa.float16(), "float": pa.float32(), "double": pa.float64()}  # fmt: skip
_PLAIN |= {f"{sign}int{bits}": pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}


def write_empty(root: Root, nonce: str, out: Path) -> None:
    """Writes an empty generation of what an index holds into a folder, as an index of its own."""
    made = empty_generation(new_of(root), nonce)
    (out / made.current.generation).mkdir(parents=True)
    (out / made.current.root.key).write_bytes(made.root)
    (out / made.current.manifest.key).write_bytes(made.manifest)
    (out / "CURRENT").write_bytes(made.current.pack())


def build_log(
    root: Root, rows: dict[Id, Fresh], out: Path, options: Options, progress: Progress, note: Callable[[str], None]
) -> None:
    """Builds rows of the log, one at least, into the folder `out` beside which there is room for a file.

    root: of the empty index, whose attributes stay, those that filters look at too. options: the rest of what a build
    takes. Raises InputError as `build` does.
    """
    index = root.index
    filters = tuple(root.names[field.attribute] for field in root.filters)
    vectors = "f32" if index.vector_kind == "f32" else None
    options = replace(options, vectors=vectors, model=root.schema.get("model"), filters=filters)
    attributes = pa.schema([(one["name"], arrow_type(one["type"])) for one in root.schema["attributes"]])
    members = [members_of(row.attributes, f"row {identifier!r} in the log") for identifier, row in rows.items()]
    values = [[own.get(name) for own in members] for name in attributes.names]
    held = np.frombuffer(b"".join(row.vector for row in rows.values()), DTYPES[index.vector_kind])
    ids = pa.array(list(rows), pa.int64() if index.id_kind == "i64" else pa.binary())
    _build(ids, held.reshape(-1, index.dimension), attributes, values, index.metric, out, options, progress, note)


def build_anew(
    index: MutableIndex, stored: Arrays, out: Path, options: Options, progress: Progress, note: Callable[[str], None]
) -> None:
    """Builds rows of the kind of an index into the folder `out` beside which there is room for a file, as if they had
    come just now. Raises InputError as `build` does.
    """
    values = [*map(list, zip(*map(json.loads, stored.records), strict=True))] if index.attributes.names else []
    ids = pa.array(stored.id_of, pa.binary() if isinstance(stored.id_of, list) else pa.int64())
    options = replace(options, vectors="f32" if index.vector_kind == "f32" else None)
    _build(ids, np.asarray(stored.held), index.attributes, values, index.rows.metric, out, options, progress, note)


def _build(
    ids: pa.Array, vectors: npt.NDArray[Any], attributes: pa.Schema, values: Sequence[Sequence[Any]], metric: str,
    out: Path, options: Options, progress: Progress, note: Callable[[str], None],
) -> None:  # fmt: skip
    """Builds rows with these ids, vectors (n, d) and values of each attribute."""
    file, taken = out.with_name("rows.arrow"), set(attributes.names)
    id_column, vector_column = (_free(name, taken) for name in ("id", "vector"))
    columns = {field.name: _column(own, field.type, field.name) for field, own in zip(attributes, values, strict=True)}
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({id_column: ids, vector_column: flat, **columns})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    source = open_source([file], vector_column=vector_column, id_column=id_column, attributes=attributes.names)
    told = str(file), "the rows,"
    try:
        build(source, BuildContext(out, metric, options, progress, lambda text: note(text.replace(*told))))
    except InputError as error:
        error.message = error.message.replace(*told)
        raise


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def arrow_type(name: str) -> pa.DataType:
    """The type that a schema calls so. Of one that writes do not have, no row has a value: JSON takes it."""
    if match := _LIST.fullmatch(name):
        inner = arrow_type(match[1])
        return pa.json_() if isinstance(inner, pa.JsonType) else pa.list_(inner)
    if match := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(match[1], match[2])
    return _PLAIN.get(name, pa.json_())


def _column(values: Sequence[Any], kind: pa.DataType, name: str) -> pa.Array:
    try:
        if isinstance(kind, pa.JsonType):
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            return pa.ExtensionArray.from_storage(kind, pa.array(texts, pa.string()))
        return _made(values, kind)
    except pa.ArrowInvalid as error:
        what = f"attribute {name!r} of a row in the log does not fit {kind}: {error}"
        raise InputError(what[:400], hint="write the row again with another value") from None


def _made(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        flat = _made([one for value in values if value is not None for one in value], kind.value_type)
        ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)]).tolist()
        missing = [value is None for value in values]
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, kind, mask=pa.array(missing))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):  # texts, as the log has them
        return pa.array(values, pa.string()).cast(kind)
    if pa.types.is_floating(kind):
        return pa.array(values, pa.float64()).cast(kind)
    return pa.array(values, kind)
