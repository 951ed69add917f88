"""Builds the rows that an index has by the pipeline of `vantage build`: those of an empty one's log, or all anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import DamagedError, InputError
from vantage.format import VECTOR_BYTES, Root, facts_bytes
from vantage.format.log import Id
from vantage.kernels import crc32c
from vantage.log.create import empty_generation, new_of
from vantage.log.tail import Fresh, members_of
from vantage.read.waves import Item

from .bucket.rows import Entries, Stored, gather, is_dead, open_part, read_attributes
from .build import build
from .context import BuildContext
from .ingest.arrays import Arrays
from .ingest.formats.batch import DTYPES
from .ingest.open import open_source
from .ingest.rows import Ints
from .progress import Progress
from .tune.options import Options
from .write.reopen import options_of, stored_attributes, vectors_of_column

STATED = ("model", "vectors", "filters")  # by the root of an empty index
_LIST = re.compile(r"list<[^:]*: (.*)>")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, tz=(.*))?\]")
_PLAIN = {"date32[day]": pa.date32(), "date64[ms]": pa.date64(), "string": pa.string(), "bool": pa.bool_(),
          "halffloat": pa.float16(), "float": pa.float32(), "double": pa.float64()}  # fmt: skip
_PLAIN |= {f"{sign}int{bits}": pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}


def write_empty(root: Root, manifest: dict[str, Any], nonce: str, out: Path) -> None:
    """Writes an empty generation of what an index holds into a folder, as an index of its own, with what it was built
    with, so far as its root does not say that.
    """
    built = manifest.get("built") if root.is_empty else asdict(options_of(root, manifest))
    told = {name: value for name, value in (built or {}).items() if name not in STATED}
    made = empty_generation(new_of(root), nonce, told)
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
    page = ids, held.reshape(-1, index.dimension), values
    _build([page], index.dimension, attributes, index.metric, out, options, progress, note)


def build_anew(
    stored: Stored, manifest: dict[str, Any], gone: Ints, coming: Arrays, out: Path,
    asked: Callable[[Options], Options], progress: Progress, note: Callable[[str], None],
) -> None:  # fmt: skip
    """Builds the rows of a generation, but for those `gone` (numbers), and others that come, into the folder `out`
    beside which there is room for a file of them, as if they had come just now. A page of rows is in memory.

    asked: what is asked of a build, from what the index was built with. Raises InputError as `build` does, DamagedError
    for rows that are not what was written.
    """
    root = stored.root
    typed, filtered = stored_attributes(stored), {field.attribute for field in root.filters}
    others = {i for i, one in enumerate(root.schema["attributes"]) if isinstance(arrow_type(one["type"]), pa.JsonType)}
    attributes = pa.schema([f.with_type(pa.json_()) if i in others - filtered else f for i, f in enumerate(typed)])
    options = asked(replace(options_of(root, manifest), vectors="f32" if root.index.vector_kind == "f32" else None))
    kind = pa.binary() if root.index.id_kind == "bytes" else pa.int64()

    def every() -> Iterator[_Page]:
        phase, pages = progress.phase("rows"), len(root.rows.fact_crc)
        for page, (numbers, some) in enumerate(_stored_pages(stored)):
            phase(page / pages)
            left = ~is_dead(root.dead, numbers) & ~np.isin(numbers, gone)
            if left.any():
                yield _taken(some, np.flatnonzero(left))
        if coming.rows:
            yield _Page(pa.array(coming.id_of, kind), np.asarray(coming.held), coming.records)

    pages = ((own.ids, own.vectors, _values(own.records, len(attributes))) for own in every())
    _build(pages, root.index.dimension, attributes, root.index.metric, out, options, progress, note)


class _Page(NamedTuple):
    """Rows as they are stored: ids (n), vectors (n, d), the JSON of the attributes of each."""

    ids: pa.Array
    vectors: npt.NDArray[Any]
    records: list[bytes]


def _taken(page: _Page, which: Ints) -> _Page:
    """Some of the rows."""
    return _Page(page.ids.take(pa.array(which)), page.vectors[which], [page.records[i] for i in which.tolist()])


def _stored_pages(stored: Stored) -> Iterator[tuple[Ints, _Page]]:
    """(numbers i64 (n), rows) of each page of rows, dead ones too."""
    store, root, keys = stored
    pages, index, sizes = root.rows, root.index, root.objects.sizes
    width = VECTOR_BYTES[index.vector_kind] * index.dimension
    for part, own in groupby(range(len(pages.fact_crc)), pages.vector_object.__getitem__):
        with open_part(stored, part) as file:
            for group, p in enumerate(own):
                low, high = pages.first_row[p], pages.first_row[p + 1]
                n, place, what = high - low, pages.fact_object[p], f"rows {low} to {high - 1}"
                nbytes = facts_bytes(n, bool(root.names))
                fact = Item(keys[place], pages.fact_offset[p], nbytes, sizes[place], pages.fact_crc[p], what)
                [(_, data)] = gather(store.read, [fact])
                facts = np.frombuffer(data, "<u4").reshape(-1, n)
                rows = file.read_row_group(group, columns=["vector", "id"])
                vectors = vectors_of_column(rows["vector"], index.vector_kind, index.dimension)
                raw = memoryview(vectors.tobytes())
                checks = [crc32c(raw[at : at + width]) for at in range(0, len(raw), width)]
                if checks != facts[0].tolist():
                    raise DamagedError(f"{keys[part]}: {what} are not what was written")
                entries = Entries(np.arange(low, high), facts[0], facts[1:].T)
                yield entries.number, _Page(rows["id"].combine_chunks(), vectors, read_attributes(stored, entries))


def _values(records: list[bytes], attributes: int) -> list[list[Any]]:
    """Of each attribute the values of all rows."""
    return [*map(list, zip(*map(json.loads, records), strict=True))] if attributes else []


def _build(
    pages: Iterable[tuple[pa.Array, npt.NDArray[Any], Sequence[Sequence[Any]]]], dimension: int, attributes: pa.Schema,
    metric: str, out: Path, options: Options, progress: Progress, note: Callable[[str], None],
) -> None:  # fmt: skip
    """Builds rows that come in pages of ids (n), vectors (n, d) and values of each attribute; one page at least."""
    file, taken = out.with_name("rows.arrow"), set(attributes.names)
    id_column, vector_column = (_free(name, taken) for name in ("id", "vector"))
    with file.open("wb") as sink, ExitStack() as stack:
        writer: pa.RecordBatchFileWriter | None = None
        for ids, vectors, values in pages:
            columns = {f.name: _column(own, f.type, f.name) for f, own in zip(attributes, values, strict=True)}
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
            table = pa.table({id_column: ids, vector_column: flat, **columns})
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_file(sink, table.schema))
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
