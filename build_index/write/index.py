"""Writes the objects of a generation into a folder; nothing looks whole until it is."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError, LimitError
from vantage.format import (
    PAGE_BYTES_MAX,
    ROOT_BYTES_MAX,
    Bounds,
    Counts,
    Current,
    Cursor,
    Directory,
    FilterField,
    IdPages,
    Projection,
    Root,
    RowPages,
    TwoLevelSection,
    with_directory,
)
from vantage.kernels import crc32c

from ..blocks.layout import exact_centres, index_section
from ..bucket.store import alone
from ..codecs.planes import section_over
from ..context import BuildContext
from ..filters.calibrate import calibrate, promises_dict
from ..filters.codes import RowCodes
from ..filters.columns import Column, fields_of, fit_blocks, read_columns
from ..filters.counts import CENTRE_BYTES_MAX, counts_of, write_tables
from ..filters.declare import declare
from ..filters.grow import with_room
from ..filters.projections import plain_bytes, projection_bytes, to_project, write_projections
from ..ingest.attributes import schema_of
from ..ingest.rows import Ints, Rows
from ..simulate.edge import logits, prepare_rows
from ..simulate.stored import Opened
from ..tune.living import Held, grown, is_due, measure
from .blocks import write_blocks
from .contents import Contents, RowTable, row_table
from .held import living_dict, write_held
from .ids import write_ids
from .manifest import contract_dict
from .objects import ObjectList, sync
from .publish import make_live
from .vectors import write_rows


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
                building.mkdir(parents=True)
                _write(contents, context)
                return make_live(context.out, building, contents.manifest)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write {context.out}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


class Filtering(NamedTuple):
    """What the root says of filters."""

    fields: tuple[FilterField, ...]
    counts: Counts | None
    projections: tuple[Projection, ...]


def _write(contents: Contents, context: BuildContext) -> None:
    """Writes all objects but the manifest."""
    table, objects = row_table(contents), ObjectList(context.building)
    declared = declare(contents.attributes, context.options.filters)
    columns = read_columns(contents.rows, declared, context.note, context.progress.part(0, 0.1))
    if contents.text_room:
        columns = [with_room(column) for column in columns]
    norms, centres = context.options.error_norms, contents.choice.layout.centres
    counted, paged = not isinstance(contents.choice.layout.section, TwoLevelSection), centres.size > CENTRE_BYTES_MAX
    projected = frozenset[str]()  # where the root holds the blocks, none is read
    if counted and not contents.choice.inline:
        projected = to_project(columns, declared, contents, table, paged)
    columns = fit_blocks(columns, declared, table.members, projected, norms or contents.choice.inline, context.note)
    _check_room(columns, projected, contents, table, paged, context)
    counts = None
    if counted and columns:
        logits = partial(_logits, contents) if paged else None
        counts = counts_of(columns, contents.rows, table.members, table.homes, centres, context.options.seed, logits)
        if paged:
            counts = write_tables(counts, len(table.members), objects)
    pages = write_rows(contents, table, objects, context.progress.part(0.1, 0.4))
    kept = None
    if counts is not None:
        blocks, code_bytes = len(table.members), contents.choice.codec.code_bytes
        kept = RowCodes.room(contents.rows.count, code_bytes, blocks, context.building)
    progress = context.progress.part(0.4, 0.8)
    directory, radius, inline = write_blocks(contents, table, columns, objects, norms, kept, progress)
    projections: tuple[Projection, ...] = ()
    if kept is not None:
        progress = context.progress.part(0.8, 1)
        section = contents.choice.layout.centre_section if paged else None
        projections = write_projections(columns, projected, kept, contents.rows, table, section, objects, progress)
    ids = write_ids(contents.rows, table, bool(contents.attributes.names), objects)
    unpriced = _root(
        contents,
        table,
        objects,
        directory,
        pages,
        ids,
        radius if norms else None,
        inline,
        Filtering(fields_of(columns), counts, projections),
    )
    if contents.held is not None:
        unpriced = _living(contents, contents.held, table, unpriced, objects, context)
    root = unpriced.pack()
    if counts is not None and not paged and not contents.choice.inline:
        target, seed = unpriced.contract.target, context.options.seed
        progress = context.progress.phase("filters")
        opened = Root.unpack(root, "root.bin")
        promises, report = calibrate(
            opened, context.building, contents.rows, table, columns, target, seed, progress
        )  # fmt: skip
        root = replace(unpriced, filter_promises=promises).pack()
        contents.manifest["filters"] = {"promises": promises_dict(promises), "report": report}
    if len(root) > ROOT_BYTES_MAX:
        raise LimitError("the size of root.bin", len(root), ROOT_BYTES_MAX, hint="split the rows over several indexes")
    Root.unpack(root, "root.bin")  # what is written is what a reader takes
    with (context.building / "root.bin").open("wb") as file:
        file.write(root)
        sync(file)


def _living(
    contents: Contents, held: Held, table: RowTable, root: Root, objects: ObjectList, context: BuildContext
) -> Root:
    """The root with the object of rows held, and where they are to measure them with the prices that they do."""
    options, count = context.options, table.count
    held = held.renumbered(table.number.astype(np.int64))
    measured = is_due(held, held.changed, count)
    if measured:
        root, held = grown(root, held)
        with Opened(context.building) as files:
            opened = Root.unpack(root.pack(), "root.bin")
            kept = measure(opened, files.read, held, second_wave=options.second_wave)
        root, held = replace(root, contract=kept.contract, promises=kept.promises), replace(held, changed=0)
        contents.manifest["contract"] = contract_dict(kept.contract, kept.promises, options)
    contents.manifest["living"] = living_dict(root, held, measured=measured)
    write_held(held, contents.vector_kind, objects)
    return replace(root, objects=objects.pack())


def _check_room(
    columns: Sequence[Column], projected: Collection[str], contents: Contents, table: RowTable, paged: bool,
    context: BuildContext,
) -> None:  # fmt: skip
    """Raises InputError where the objects do not fit on the disk, before an hour is spent on writing them."""
    codes = contents.rows.count * contents.choice.codec.code_bytes * bool(projected)  # kept while blocks are written
    taken = (projection_bytes(one, contents, table, paged) for one in columns if one.name in projected)
    needed = plain_bytes(contents, table) + codes + round(sum(taken))
    free = shutil.disk_usage(context.building).free
    if free < needed:
        raise InputError(
            f"{context.out} has {free:,} bytes of room, and the objects of the index take about {needed:,}",
            hint="free some space, name another --out, or fewer attributes with --filter",
        )


def _logits(contents: Contents, numbers: Ints) -> npt.NDArray[np.float64] | None:
    """The logits that the router gives all blocks, of rows as queries."""
    layout = contents.choice.layout
    index = index_section(contents.rows, layout.blocks, int(layout.sizes().sum()), layout.router)
    return logits(layout.router, layout.section, index, prepare_rows(contents.rows, numbers))


def _root(
    contents: Contents,
    table: RowTable,
    objects: ObjectList,
    directory: Directory,
    pages: RowPages,
    ids: IdPages,
    radius: array[float] | None,
    inline: bytes,
    filtering: Filtering,
) -> Root:
    """The root; radius of each block, or None in an index without error norms; inline: blocks that it holds."""
    rows, choice, layout = contents.rows, contents.choice, contents.choice.layout
    bounds, router, codec = None, layout.section, choice.longer or choice.codec
    sections = [codec.section]
    if choice.longer is not None:
        first = section_over(choice.codec, choice.longer)
        assert first is not None  # else it had not been chosen
        sections.insert(0, first)
    if radius is not None:
        lengths = np.linalg.norm(exact_centres(layout.centre_section, rows.dimension), axis=1)
        bounds = Bounds(memoryview(radius), memoryview(array("f", lengths.tolist())))
    if isinstance(router, TwoLevelSection):
        router = _write_pages(router, directory, rows, objects)
    return Root(
        index_section(
            rows, layout.blocks, int(layout.sizes().sum()), layout.router, contents.vector_kind, choice.codec.name,
            table.by_row, -(-int(table.attribute_bytes.sum()) // rows.count),
        ),
        {"attributes": schema_of(contents.attributes)}
        | {name: contents.manifest[name] for name in ("model",) if name in contents.manifest},
        objects.pack(),
        table.renditions,
        None if isinstance(router, TwoLevelSection) and not bounds else directory,
        codec.rotation,
        router,
        tuple(sections),
        choice.contract,
        pages,
        (ids,),
        choice.promises,
        layout.centre_section if bounds or (filtering.counts and not filtering.counts.paged) else None,
        bounds,
        memoryview(inline),
        *filtering,
    )  # fmt: skip


def _write_pages(router: TwoLevelSection, directory: Directory, rows: Rows, objects: ObjectList) -> TwoLevelSection:
    """Writes routing.bin, the pages of the router with the directories of their blocks; where they are."""
    index = index_section(rows, len(directory), rows.count)
    number, path = objects.begin("routing.bin")
    offset, size, crc, at = array("Q"), array("I"), array("I"), 0
    with path.open("wb") as file:
        for page in router.pages:
            blocks = router.columns(Cursor(memoryview(page), "a page"), index)[0].tolist()
            data = with_directory(page, directory.some(blocks))
            if len(data) > PAGE_BYTES_MAX:
                raise LimitError("the size of a routing page", len(data), PAGE_BYTES_MAX, hint="name another --router")
            offset.append(at)
            size.append(len(data))
            crc.append(crc32c(data))
            file.write(data)
            at += len(data)
        sync(file)
    objects.end("routing.bin", at)
    return replace(router, object=array("I", [number]) * len(size), offset=offset, size=size, crc=crc)
