"""root.bin: all that a Worker needs to plan, one class a section."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..bounded_json import loads
from .block import BlockPlanes, block_planes
from .bounds import Bounds, Centres
from .codecs import CODEC_SECTIONS, LrsqSection
from .contract import PRICED_MAX, Contract, Point
from .counts import Counts
from .dead import Dead
from .directory import RENDITIONS_MAX, Directory, Places, Rendition, pack_renditions, unpack_renditions
from .filter_promises import FilterPromise, pack_filter_promises, unpack_filter_promises
from .filters import FilterField, pack_filters, unpack_filters
from .index import IndexSection
from .layout import (
    ATTRIBUTE_NAME_BYTES_MAX,
    ATTRIBUTES_MAX,
    BOUNDS,
    CENTRES,
    CODEC,
    CONTRACT,
    COUNTS,
    DEAD,
    DIRECTORY,
    FILTER_PROMISES,
    FILTERS,
    ID_PAGES,
    INDEX,
    INLINE,
    OBJECTS,
    PROJECTIONS,
    PROMISES,
    REGIONS_VERSION,
    RENDITIONS,
    ROOT_MAGIC,
    ROTATION,
    ROUTER,
    ROW_PAGES,
    SCHEMA,
    SCHEMA_BYTES_MAX,
    SECTION_NAMES,
    SECTION_VERSION,
    VECTOR_BYTES,
    Cursor,
    damaged,
    pack_object,
    unpack_object,
)
from .objects import IdPages, Objects, RowPages, pack_id_pages, unpack_id_pages
from .projections import Projection, pack_projections, unpack_projections
from .promises import PROMISED_VECTORS_MAX, Promises
from .rotations import ROTATION_SECTIONS, DenseRotation, Rotation
from .routers import ROUTER_SECTIONS
from .routers.common import RouterSection
from .routers.lse import LseSection
from .routers.mlp import MlpSection
from .routers.two_level import TwoLevelSection

EXACT_K = 100  # of an empty index, whose answers are exact at any k
ROOT_KEY = "root.bin"  # what an object is called that is a part of the root: its inline section
_CODECS = struct.Struct("<I")


def _router_version(router: RouterSection) -> int:
    """Regions came with version 2."""
    regions = isinstance(router, TwoLevelSection) or isinstance(router, MlpSection) and router.regions is not None
    return REGIONS_VERSION if regions else SECTION_VERSION


SCHEMA_DEPTH_MAX = 16
SCHEMA_PARTS_MAX = 8 * ATTRIBUTES_MAX  # an attribute has five: itself, two names and two texts


def unpack_schema(body: memoryview, label: str) -> Mapping[str, Any]:
    """{"attributes": [{"name": ..., "type": ...}, ...]} in the order of attribute blocks, and perhaps "model": text."""
    if len(body) > SCHEMA_BYTES_MAX:
        raise damaged(label, f"{len(body)} bytes, the limit is {SCHEMA_BYTES_MAX}")
    try:
        schema = loads(body, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX)
        if not all(isinstance(a["name"], str) and isinstance(a["type"], str) for a in schema["attributes"]):
            raise TypeError("a name or type is not text")
        if not isinstance(schema.get("model", ""), str):
            raise TypeError("the model is not text")
        names = [a["name"] for a in schema["attributes"]]
        if len(names) > ATTRIBUTES_MAX or len(set(names)) < len(names):
            raise TypeError(f"{len(names)} attributes, or two of one name; the limit is {ATTRIBUTES_MAX}")
        if max((len(n.encode()) for n in names), default=0) > ATTRIBUTE_NAME_BYTES_MAX:
            raise TypeError(f"a name is longer than {ATTRIBUTE_NAME_BYTES_MAX} bytes")
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(label, f"is not a schema ({type(error).__name__}: {error})"[:300]) from None
    checked: Mapping[str, Any] = schema
    return checked


def pack_codecs(codecs: tuple[LrsqSection, ...]) -> bytes:
    """The section of codecs."""
    bodies = [codec.pack() for codec in codecs]
    sizes = struct.pack(f"<{len(bodies)}I", *map(len, bodies))
    return _CODECS.pack(len(bodies)) + sizes + b"".join(bodies)


def unpack_codecs(body: memoryview, codec: str, axes: int, label: str) -> tuple[LrsqSection, ...]:
    """All codecs of the root, of the same kind and over the same axes."""
    cursor = Cursor(body, label)
    (count,) = cursor.unpack(_CODECS)
    if not 1 <= count <= RENDITIONS_MAX:
        raise damaged(label, f"{count} codecs, the limit is {RENDITIONS_MAX}")
    sizes = cursor.column("I", count)
    codecs = tuple(CODEC_SECTIONS[codec].unpack(cursor.take(size), axes, label) for size in sizes)
    cursor.end()
    return codecs


@dataclass(frozen=True)
class Root:
    """All that a query needs before its first read.

    directory: of all blocks, or None where pages of the router have it and there are no bounds. codecs: of the
    renditions, by their numbers. centres: only with bounds, or with counts that are not paged. inline: what the object
    `root.bin` of the directory of objects holds: the blocks of a small index, so that its opening reads them. id_pages:
    segments, oldest first. dead: numbers that no row has; blocks, projections and ids may hold what is left of them.
    """

    index: IndexSection
    schema: Mapping[str, Any]
    objects: Objects
    renditions: tuple[Rendition, ...]
    directory: Directory | None
    rotation: Rotation
    router: RouterSection
    codecs: tuple[LrsqSection, ...]
    contract: Contract
    rows: RowPages
    id_pages: tuple[IdPages, ...]
    promises: Promises | None = None  # without them the contract promises
    centres: Centres | None = None
    bounds: Bounds | None = None  # without them no answer can be proven
    inline: memoryview = memoryview(b"")
    filters: tuple[FilterField, ...] = ()  # attributes that can be filtered by
    counts: Counts | None = None  # of their values, in each block
    projections: tuple[Projection, ...] = ()  # by their values; only with counts
    filter_promises: tuple[FilterPromise, ...] = ()  # none where nothing was measured
    dead: Dead | None = None

    @classmethod
    def empty(cls, index: IndexSection, schema: Mapping[str, Any], filters: tuple[FilterField, ...]) -> Root:
        """That of an empty index, whose rows are all in the log. What is not trained yet has parts of no size here, so
        that whoever reads finds nothing, and nothing in root.bin. Filters are of no rows.
        """
        none = memoryview(b"")
        directory = Directory(array("I"), array("I"), array("I"), (Places(*(array("I") for _ in range(5))),))
        return cls(
            index, schema, Objects((), ()), (Rendition(0, False),), directory,
            DenseRotation(index.dimension, none, none), LseSection(8, 1, 1.0, 1.0, none, none, none),
            (LrsqSection(0, 0, (), none, (0,), ()),), Contract(EXACT_K, 1, 1.0, (Point(EXACT_K, 0, 1.0, 0.0, 0.0),)),
            RowPages((0,), (), (), (), (), (), (), ()), (), filters=filters,
        )  # fmt: skip

    @property
    def is_empty(self) -> bool:
        """Whether no row was built in: all are in the log, and each is looked at."""
        return not self.index.blocks

    @property
    def proves(self) -> bool:
        """Whether answers can be proven."""
        return self.bounds is not None or self.is_empty

    @property
    def codec(self) -> LrsqSection:
        """Of the first rendition."""
        return self.codecs[self.renditions[0].codec]

    @property
    def live_rows(self) -> int:
        """Rows that there are: numbers less the dead ones."""
        return self.index.rows - (self.dead.count if self.dead else 0)

    @property
    def paged(self) -> bool:
        """Whether what filters take of all blocks is in pages, and chunks have the centres of their blocks."""
        return self.counts is not None and self.counts.paged

    @property
    def known_projections(self) -> tuple[Projection, ...]:
        """Those whose chunks the root has a directory of; of a large index it has one of their pages."""
        return () if self.paged else self.projections

    @property
    def names(self) -> list[str]:
        """Of the attributes, in the order of their values."""
        return [a["name"] for a in self.schema["attributes"]]

    def planes(self, rows: int, rendition: int = 0, planes: int = 0) -> BlockPlanes:
        """Where things are in a block of so many rows and planes."""
        code_bytes = self.codecs[self.renditions[rendition].codec].code_bytes
        return block_planes(rows, code_bytes, self.index.dimension, self.index.by_row, planes)

    def price_max(self) -> int:
        """The dearest that a plan may be told."""
        promised = (p.price for p in self.promises.all()) if self.promises else ()
        return max(*(p.price for p in self.contract.points), *promised, 0)

    def pack(self) -> bytes:
        """root.bin."""
        head = self._head()
        if self.is_empty:
            return pack_object(ROOT_MAGIC, head)
        own = self.renditions, self.directory, self.promises, self.centres, self.bounds
        renditions, directory, promises, centres, bounds = own
        return pack_object(
            ROOT_MAGIC,
            [
                *head[:2],
                (OBJECTS, self.objects.pack()),
                (RENDITIONS, pack_renditions(renditions)),
                *([(DIRECTORY, directory.pack())] if directory else []),
                (self.rotation.kind, self.rotation.pack()),
                (ROUTER, self.router.pack()),
                (CODEC, pack_codecs(self.codecs)),
                (CONTRACT, self.contract.pack()),
                (ROW_PAGES, self.rows.pack()),
                (ID_PAGES, pack_id_pages(self.id_pages, self.index.rows)),
                *([(PROMISES, promises.pack())] if promises else []),
                *([(CENTRES, centres.pack())] if centres else []),
                *([(BOUNDS, bounds.pack())] if bounds else []),
                *([(INLINE, bytes(self.inline))] if self.inline else []),
                *head[2:],
                *([(COUNTS, self.counts.pack())] if self.counts else []),
                *([(PROJECTIONS, pack_projections(self.projections, paged=self.paged))] if self.projections else []),
                *([(FILTER_PROMISES, pack_filter_promises(self.filter_promises))] if self.filter_promises else []),
                *([(DEAD, self.dead.pack())] if self.dead else []),
            ],
            _router_version(self.router),
        )

    def _head(self) -> list[tuple[int, bytes]]:
        """The sections of what rows are like, which an empty index has too; filters are the last one."""
        schema = json.dumps(self.schema, sort_keys=True, separators=(",", ":")).encode()
        filters = [(FILTERS, pack_filters(self.filters))] if self.filters else []
        return [(INDEX, self.index.pack()), (SCHEMA, schema), *filters]

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: str) -> Root:
        """Checks everything, then gives views into `data`, which must stay as it is."""
        sections = unpack_object(data, ROOT_MAGIC, name)

        def body(kind: int) -> tuple[memoryview, str]:
            label = f"{name}, section {SECTION_NAMES[kind]}"
            if kind not in sections:
                raise damaged(label, "is missing")
            return sections[kind], label

        def of(kind: int, unpack: Any, *more: Any) -> Any:
            data, label = body(kind)
            return unpack(data, *more, label)

        index = IndexSection.unpack(*body(INDEX))
        dead: Dead | None = of(DEAD, Dead.unpack, index.rows) if DEAD in sections else None
        gone = dead.count if dead else 0
        if index.slots < index.rows - gone:
            raise damaged(f"{name}, section {SECTION_NAMES[INDEX]}", f"{index.rows} rows in {index.slots} slots")
        schema = unpack_schema(*body(SCHEMA))
        filters: tuple[FilterField, ...] = ()
        if FILTERS in sections:
            filters = of(FILTERS, unpack_filters, len(schema["attributes"]), index.rows - gone)
        if not index.blocks:
            if sections.keys() - {INDEX, SCHEMA, FILTERS} or any(f.distinct or f.low or f.high for f in filters):
                raise damaged(name, "it has more than an empty index has")
            return cls.empty(index, schema, filters)
        objects = Objects.unpack(*body(OBJECTS))
        inline, sizes, attributes = sections.get(INLINE, memoryview(b"")), objects.sizes, bool(schema["attributes"])
        if ROOT_KEY in objects.keys and sizes[objects.keys.index(ROOT_KEY)] != len(inline):
            raise damaged(name, f"its inline section has {len(inline)} bytes, its directory of objects says otherwise")
        kinds = [kind for kind in ROTATION_SECTIONS if kind in sections]
        if len(kinds) > 1:
            raise damaged(name, "there are two rotations")
        kind = kinds[0] if kinds else ROTATION
        rotation: Rotation = of(kind, ROTATION_SECTIONS[kind].unpack, index)
        codecs = unpack_codecs(body(CODEC)[0], index.codec, rotation.axes, body(CODEC)[1])
        renditions = of(RENDITIONS, unpack_renditions, len(codecs))
        router = of(ROUTER, ROUTER_SECTIONS[index.router].unpack, index)
        directory = None
        if isinstance(router, TwoLevelSection):
            router.check(sizes, body(ROUTER)[1])
        if not isinstance(router, TwoLevelSection) or BOUNDS in sections:  # of blocks that no page may name
            directory = of(DIRECTORY, _whole_directory, index, gone, len(renditions), sizes)
        promises: Promises | None = of(PROMISES, Promises.unpack) if PROMISES in sections else None
        ranked = max((p.rerank for p in promises.all()), default=0) if promises else 0
        if ranked * index.dimension * VECTOR_BYTES[index.vector_kind] > PROMISED_VECTORS_MAX:
            raise damaged(f"{name}, section {SECTION_NAMES[PROMISES]}", f"a promise reads {ranked} full vectors")
        if promises and any(p.rendition >= len(renditions) for p in promises.all()):
            raise damaged(f"{name}, section {SECTION_NAMES[PROMISES]}", "a promise of a rendition that is not there")
        bounds = of(BOUNDS, Bounds.unpack, index) if BOUNDS in sections else None
        counts, projections = None, tuple[Projection, ...]()
        if COUNTS in sections:
            counts = of(COUNTS, Counts.unpack, len(filters), index.blocks, index.rows - gone, sizes)
        if PROJECTIONS in sections and counts is not None:
            projections = of(PROJECTIONS, unpack_projections, len(filters), index.blocks, sizes, counts.paged)
        promised = of(FILTER_PROMISES, unpack_filter_promises) if FILTER_PROMISES in sections else ()
        ranked = max([ranked, *(p.rerank for p in promised)])
        if ranked * index.dimension * VECTOR_BYTES[index.vector_kind] > PROMISED_VECTORS_MAX:
            raise damaged(f"{name}, section {SECTION_NAMES[FILTER_PROMISES]}", f"a promise reads {ranked} full vectors")
        root = cls(
            index,
            schema,
            objects,
            renditions,
            directory,
            rotation,
            router,
            codecs,
            of(CONTRACT, Contract.unpack),
            of(ROW_PAGES, RowPages.unpack, index, attributes, sizes),
            of(ID_PAGES, unpack_id_pages, index, gone, attributes, sizes),
            promises,
            of(CENTRES, Centres.unpack, index) if bounds or (counts and not counts.paged) else None,
            bounds,
            inline,
            filters,
            counts,
            projections,
            promised,
            dead,
        )
        if directory is not None:
            check_prices(root, directory, name)
        for projection in projections:
            check_prices(root, projection.directory, name)
        if any(not f.in_blocks for f in filters):
            reached = {projection.field for projection in projections}
            if any(not f.in_blocks and i not in reached for i, f in enumerate(filters)):
                raise damaged(name, "a field is neither in the blocks nor in a projection")
        if ROOT_KEY in objects.keys:
            own, pages = objects.keys.index(ROOT_KEY), root.rows
            others = {
                *(own.object for own in root.id_pages),
                *pages.vector_object,
                *pages.fact_object,
                *pages.attribute_object,
            }
            if own in others or isinstance(router, TwoLevelSection):
                raise damaged(name, "more than blocks is in its inline section")
        return root


def objects_of(data: bytes | memoryview, name: str) -> Objects:
    """What a root says of its objects, and nothing else that it says; an empty index has none."""
    sections = unpack_object(data, ROOT_MAGIC, name)
    if OBJECTS not in sections:
        label = f"{name}, section {SECTION_NAMES[INDEX]}"
        if INDEX in sections and not IndexSection.unpack(sections[INDEX], label).blocks:
            return Objects((), ())
        raise damaged(f"{name}, section {SECTION_NAMES[OBJECTS]}", "is missing")
    return Objects.unpack(sections[OBJECTS], f"{name}, section {SECTION_NAMES[OBJECTS]}")


def check_prices(root: Root, directory: Directory, label: str) -> None:
    """Raises DamagedError where a price for the bytes of a directory leaves what the planner adds up in."""
    nbytes = max(directory.span(r) for r in range(len(directory.places)))
    if root.price_max() * nbytes >= PRICED_MAX:
        raise damaged(label, f"a price for {nbytes} bytes of blocks is out of range")


def _whole_directory(
    body: memoryview, index: IndexSection, dead: int, renditions: int, sizes: tuple[int, ...], label: str
) -> Directory:
    """The directory of all blocks. dead: rows, some of which may be at home nowhere any more."""
    cursor = Cursor(body, label)
    directory = Directory.taken(cursor, index.blocks, renditions, sizes)
    cursor.end()
    at_home = sum(directory.homes)
    if not index.rows - dead <= at_home <= index.rows or sum(directory.rows) != index.slots:
        counts = f"{at_home} rows in {sum(directory.rows)} slots"
        raise damaged(label, f"{counts}, the index section says {index.rows} in {index.slots}, {dead} dead")
    if len(set(directory.block)) != index.blocks:
        raise damaged(label, f"{len(set(directory.block))} blocks, the index section says {index.blocks}")
    return directory
