"""Writes the objects of a generation into a folder; nothing looks whole until it is."""

from __future__ import annotations

import shutil
from array import array
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from vantage.errors import InputError, LimitError
from vantage.format import (
    ROOT_BYTES_MAX,
    VECTOR_BYTES,
    Bounds,
    Current,
    Directory,
    IdPages,
    Objects,
    Root,
    TwoLevelSection,
    VectorPages,
)

from ..blocks.layout import exact_centres, index_section
from ..bucket.store import alone
from ..context import BuildContext
from ..ingest.attributes import schema_of
from .blocks import write_blocks
from .contents import Contents, RowTable, row_table
from .ids import write_ids
from .publish import make_live
from .shard import sync
from .vectors import write_vectors


def write_index(contents: Contents, context: BuildContext, *, locked: bool = False) -> tuple[Current, int]:
    """Writes a generation under `context.out` and makes it live; (CURRENT, bytes of all objects).

    All is written into `context.building` and renamed when it is whole; CURRENT is replaced last. A build that dies
    leaves the index as it was. With options.error_norms it can give exact answers. locked: the caller is `alone` in the
    folder. Raises InputError when the disk is full, f16 cannot hold a value, something else is writing there, or a
    reader would refuse the index.
    """
    building = context.building
    try:
        with nullcontext() if locked else alone(context.out):
            try:
                shutil.rmtree(building, ignore_errors=True)
                (building / "vectors").mkdir(parents=True)
                _write(contents, context)
                return make_live(context.out, building, contents.manifest)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {context.out}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


def _write(contents: Contents, context: BuildContext) -> None:
    """Writes all objects but the manifest."""
    building, layout, table = context.building, contents.choice.layout, row_table(contents)
    parts, pages = write_vectors(contents, table, building, context.progress.part(0, 0.4))
    assert pages[0][2] + VECTOR_BYTES[contents.vector_kind] * contents.rows.dimension <= parts[0].stat().st_size
    norms = context.options.error_norms
    directory, shards, radius = write_blocks(contents, table, building, norms, context.progress.part(0.4, 1))
    id_pages, ids_bytes = write_ids(contents.rows, table, building / "ids.bin")
    objects = Objects(shards, [part.stat().st_size for part in parts], ids_bytes)
    root = _root(contents, table, objects, directory, pages, id_pages, radius if norms else None).pack()
    if len(root) > ROOT_BYTES_MAX:
        raise LimitError("the size of root.bin", len(root), ROOT_BYTES_MAX, hint="split the rows over several indexes")
    Root.unpack(root, "root.bin")  # what is written is what a reader takes
    _write_object(building / "root.bin", root)
    if isinstance(layout.section, TwoLevelSection):
        _write_object(building / "routing.bin", layout.section.pages)


def _write_object(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        sync(file)


def _root(
    contents: Contents,
    table: RowTable,
    objects: Objects,
    directory: Directory,
    pages: list[tuple[int, int, int]],
    id_pages: IdPages,
    radius: array[float] | None,
) -> Root:
    """root.bin; pages as write_vectors has them, radius of each block, or None in an index without error norms."""
    rows, choice, layout = contents.rows, contents.choice, contents.choice.layout
    bounds = None
    if radius is not None:
        lengths = np.linalg.norm(exact_centres(layout.centre_section, rows.dimension), axis=1)
        bounds = Bounds(memoryview(radius), memoryview(array("f", lengths.tolist())))
    return Root(
        index_section(
            rows, layout.blocks, int(layout.sizes().sum()), layout.router, len(objects.shards), contents.vector_kind,
            choice.codec.name, table.spots is not None,
        ),
        {"attributes": schema_of(contents.attributes)}
        | {name: contents.manifest[name] for name in ("model",) if name in contents.manifest},
        objects,
        directory,
        layout.centre_section,
        choice.codec.rotation,
        layout.section,
        choice.codec.section,
        choice.contract,
        VectorPages(
            memoryview(array("I", [part for part, _, _ in pages])),
            memoryview(array("Q", [offset for _, _, offset in pages])),
            memoryview(array("I", [*(row for _, row, _ in pages), rows.count])),
        ),
        id_pages,
        choice.promises,
        bounds,
    )  # fmt: skip
