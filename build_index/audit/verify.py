"""Decodes the live generation whole and holds its parts against each other, without keeping them in memory."""

from __future__ import annotations

import io
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.format import (
    ATTRIBUTES_PLANE,
    CHECK_BYTES,
    GROUP,
    HEADER,
    NORMS_PLANE,
    ROOT_KEY,
    SCAN,
    SECTION,
    SHARD_MAGIC,
    VECTOR_BYTES,
    VERSION,
    Centres,
    Cursor,
    Directory,
    Extent,
    IdPages,
    Root,
    TwoLevelSection,
    aligned,
    attribute_bytes,
    attributes_of,
    centre_of,
    facts_bytes,
    id_at,
    id_entry,
    is_intact,
    norms_of,
    open_block,
    plane_of,
    unpack_attributes,
)
from vantage.kernels import crc32c
from vantage.search.rows import id_hash

from ..blocks.layout import decode_centres, exact_centres
from ..bucket.generations import live
from ..bucket.store import ObjectStore, Ranged
from ..codecs.error_norms import decode, errors
from ..codecs.planes import Encoded, encode_blocks
from ..ingest.formats.batch import DTYPES
from ..progress import SILENT, Progress
from ..write.reopen import codec_of, codes_of_block, vectors_of_column, whole_directory
from ..write.vectors import column_array
from .filters import COLUMNS, FilterCheck

BUFFER_BYTES = 8 << 20
NAMED = 20  # damages that get a sentence
SAMPLE_BLOCKS, SAMPLE_ROWS = 64, 256  # whose codes are computed anew, rows a block
# A stored code may be this much further from its vector than a new one: it was made before the vector became f16.
CODE_SLACK = 1.05
ROUNDED = {"f16": 2.0**-11, "f32": 2.0**-22}  # of a row, at most, as it is stored and scaled
ROUND = 1e-6  # relative, of sums in another order
CODE_FLOOR = 0.02  # of the block's radius
ROW = [("hash", "<u8"), ("check", "<u4"), ("seen", "u1"), ("homes", "u1"), ("source", "<i8")]
SPOT = ("spot", "<u4", 3)  # of a row that has attributes


@dataclass
class Findings:
    """Damage found: how many, and sentences for the first of them."""

    count: int = 0
    sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        self.count += 1
        if self.count <= NAMED:
            self.sentences.append(sentence)

    def rows(self, where: str, rows: npt.NDArray[Any], what: str) -> None:
        """Rows, by number, of which one thing is wrong."""
        if len(rows):
            more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
            self.add(f"{where}: {what} of row {', '.join(map(str, rows[:5].tolist()))}{more}")

    def of(self, step: Callable[[], object]) -> None:
        """Runs a step; what it raises as damage is noted."""
        try:
            step()
        except DamagedError as error:
            self.add(error.message)


def verify_deep(store: ObjectStore, progress: Progress = SILENT) -> dict[str, Any]:
    """Decodes every object of the live generation: {"damage": sentences, "damages": count, and what was looked at}.

    ids.bin, blocks and Parquet parts must agree on the id and on the vector's CRC-32C of every row that is not dead,
    and each of these must be at home in one extent, and in one segment of ids; codes of a sample must be as near to
    their vectors as codes made anew. Bytes against the manifest are `generations.verify`'s. Attributes must be those of
    the Parquet parts. Needs 22 to 34 bytes of scratch a row, and memory for a block, a
    row group and 8 bytes a row. Raises StoreError when the bucket fails.
    """
    current, _, _ = live(store)
    findings, report = Findings(), dict[str, Any](generation=current.generation)
    try:
        data = store.read(current.root.key, 0, current.root.size)
        root = Root.unpack(data, current.root.key)
    except DamagedError as error:
        return report | {"damage": [error.message], "damages": 1}
    if root.is_empty:  # nothing else is there
        return report | {"rows": 0, "blocks": 0, "codes": 0, "damage": [], "damages": 0}
    keys = root.objects.resolve("", current.generation)
    total, done = sum(root.objects.sizes), 0

    def read(numbers: Iterable[int]) -> None:
        nonlocal done
        done += sum(root.objects.sizes[number] for number in numbers)
        progress(min(1.0, done / total))

    def of(number: int, at: int, size: int) -> bytes:
        return store.read(keys[number], at, size)

    directory: Directory | None = None
    with tempfile.TemporaryFile() as scratch:
        gone = dead_rows(root)
        check = FilterCheck(root, gone) if root.filters else None
        kind = np.dtype([*ROW, *([SPOT] if root.names else []), *(COLUMNS if check else [])])
        scratch.truncate(root.index.rows * kind.itemsize)
        rows: npt.NDArray[Any] = np.memmap(scratch, kind, "r+", shape=(root.index.rows,))
        findings.of(lambda: _ids(store, root, keys, rows, gone, findings))
        read({own.object for own in root.id_pages})
        findings.of(lambda: _facts(store, root, keys, rows, gone, findings))
        read(set(root.rows.fact_object))
        try:
            directory = _directory(store, root, keys, findings)
        except DamagedError as error:
            findings.add(error.message)
        if root.names:
            findings.of(lambda: _texts(store, root, keys, rows, findings))
            read(set(root.rows.attribute_object))
        for part in sorted(set(root.rows.vector_object)):
            findings.of(lambda part=part: _part(store, root, keys, part, rows, gone, findings, check))  # type: ignore[misc]
            read([part])
        if directory is not None:
            for rendition, runs in enumerate(directory.runs):
                for number, low, high in runs:
                    extents = [directory.extent(i, rendition) for i in range(low, high)]
                    inline = root.inline if root.objects.keys[number] == ROOT_KEY else None
                    shard = _Shard(
                        keys[number], root.objects.sizes[number], rendition, directory.homes[low:high], inline
                    )
                    findings.of(partial(_shard, store, root, shard, extents, rows, gone, findings, check))
                    read([number])
        if directory is not None and not findings.count:
            findings.rows("root.bin", np.flatnonzero((rows["homes"] == 0) & ~gone), "no extent is the home")
        for projection in root.projections:
            assert check is not None
            own = set(projection.directory.places[0].object)
            try:
                projection = check.whole(of, projection, keys[min(own)])
            except DamagedError as error:
                findings.add(error.message)
                continue
            places = projection.directory.places[0]
            own |= set(places.object)
            for number in own:
                findings.of(partial(_sections, store, keys[number], root.objects.sizes[number], findings))
            what = keys[places.object[0]]
            findings.of(partial(check.chunks, of, projection, rows, what, findings.rows, findings.add))
            read(own)
        if check is not None and not findings.count:
            check.end(of, findings.add)
        source = np.sort(rows["source"][~gone])
        if not findings.count and (source[1:] == source[:-1]).any():
            findings.add(f"{current.generation}/vectors: a source row stands there twice")
    sampled = 0
    if not findings.count and directory is not None:  # codes can only be told from vectors that are right
        sampled = _codes(store, root, keys, directory, gone, findings)
    return report | {
        "rows": root.live_rows, "blocks": root.index.blocks, "codes": sampled,
        "damage": findings.sentences, "damages": findings.count,
    }  # fmt: skip


Keys = tuple[str, ...]  # of objects, by number
Bools = npt.NDArray[np.bool_]


def dead_rows(root: Root) -> Bools:
    """bool (N): by number."""
    if root.dead is None:
        return np.zeros(root.index.rows, bool)
    bits = np.unpackbits(np.frombuffer(root.dead.bits, np.uint8), count=root.index.rows, bitorder="little")
    return bits.astype(bool)


def _ids(
    store: ObjectStore, root: Root, keys: Keys, rows: npt.NDArray[Any], gone: Bools, findings: Findings
) -> None:  # fmt: skip
    """Pages of ids; fills rows with what they say of those that are not dead."""
    for segment in root.id_pages:
        key, last = keys[segment.object], -1
        for page, (hashes, numbers, checks, spots) in enumerate(id_pages(store, root, keys, segment, findings)):
            if len(hashes) and (int(hashes[0]) <= last or np.any(hashes[1:] <= hashes[:-1])):
                findings.add(f"{key}, page {page}: is not sorted by hash")
            if int(hashes[0]) != segment.first_hash[page]:
                findings.add(f"{key}, page {page}: begins with another hash than root.bin says")
            last = int(hashes[-1])
            inside = numbers < root.index.rows
            findings.rows(f"{key}, page {page}", numbers[~inside], f"there are {root.index.rows} rows, but an entry")
            inside[inside] = ~gone[numbers[inside]]
            at = numbers[inside]
            again = rows["seen"][at] > 0
            again[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
            findings.rows(f"{key}, page {page}", at[again], "a second entry")
            rows["hash"][at], rows["check"][at], rows["seen"][at] = hashes[inside], checks[inside], 1
            if root.names:
                rows["spot"][at] = spots[inside]
    rows["seen"][gone] = 1
    where = keys[root.id_pages[-1].object]
    findings.rows(where, _unseen(rows, "seen"), "there is no entry")
    if len(root.id_pages) > 1:
        hashes = np.sort(rows["hash"][~gone])
        if (hashes[1:] == hashes[:-1]).any():
            findings.add(f"{where}: an id is that of two rows, in two segments")


def _unseen(rows: npt.NDArray[Any], column: str) -> npt.NDArray[np.int64]:
    """The first rows of which nothing was seen."""
    out: list[int] = []
    for low in range(0, len(rows), 1 << 20):
        out += (low + np.flatnonzero(rows[column][low : low + (1 << 20)] == 0)[:100]).tolist()
        if len(out) > 100:
            break
    return np.array(out, np.int64)


U32s = npt.NDArray[np.uint32]
IdPage = tuple[npt.NDArray[np.uint64], U32s, U32s, U32s]


def id_pages(
    store: ObjectStore, root: Root, keys: Keys, segment: IdPages, findings: Findings | None = None
) -> Iterator[IdPage]:
    """(hash (n), row (n), check (n), spot (n, 3) or (n, 0)) of each page of a segment of ids in turn.

    A wrong checksum is noted, or raised without `findings`.
    """
    key, entry = keys[segment.object], id_entry(bool(root.names))
    file = io.BufferedReader(Ranged(store, key, root.objects.sizes[segment.object]), BUFFER_BYTES)
    file.seek(segment.offset)
    for page in range(len(segment)):
        n = segment.rows_of(page)
        data = file.read(n * entry)
        if len(data) < n * entry:
            raise DamagedError(f"{key}: ends at page {page}")
        if crc32c(data) != segment.crc[page]:
            wrong = f"{key}, page {page}: CRC-32C differs from what root.bin says"
            if findings is None:
                raise DamagedError(wrong, hint="`vantage verify --deep` tells more")
            findings.add(wrong)
        numbers = np.frombuffer(data, "<u4", -1, 8 * n).reshape(-1, n)
        yield np.frombuffer(data, "<u8", n), numbers[0], numbers[1], numbers[2:].T


def _facts(
    store: ObjectStore, root: Root, keys: Keys, rows: npt.NDArray[Any], gone: Bools, findings: Findings
) -> None:  # fmt: skip
    """Facts of all pages of rows against what the ids say; of dead rows they are what is known."""
    pages = root.rows
    for page, (low, high) in enumerate(pairwise(pages.first_row)):
        key, n = keys[pages.fact_object[page]], high - low
        data = store.read(key, pages.fact_offset[page], facts_bytes(n, bool(root.names)))
        if crc32c(data) != pages.fact_crc[page]:
            findings.add(f"{key}: CRC-32C of the facts of page {page} differs from what root.bin says")
            continue
        known, numbers = rows[low:high], low + np.arange(n)
        checks, dead = np.frombuffer(data, "<u4", n), np.flatnonzero(gone[low:high])
        known["check"][dead] = checks[dead]
        findings.rows(key, numbers[checks != known["check"]], "ids.bin has another check")
        if root.names:
            spots = np.frombuffer(data, "<u4", -1, CHECK_BYTES * n).reshape(3, n).T
            known["spot"][dead] = spots[dead]
            other = (spots != known["spot"]).any(1)
            findings.rows(key, numbers[other], "ids.bin has another place for the attributes")


def _texts(store: ObjectStore, root: Root, keys: Keys, rows: npt.NDArray[Any], findings: Findings) -> None:
    """The attributes of all rows, where ids say that they are."""
    pages = root.rows
    for page, (low, high) in enumerate(pairwise(pages.first_row)):
        key, spots = keys[pages.attribute_object[page]], rows["spot"][low:high].astype(np.int64)
        ends = spots[:, 0] + spots[:, 1]
        data = store.read(key, pages.attribute_offset[page], int(ends.max()))
        for i, (at, size, crc) in enumerate(spots.tolist()):
            label = f"{key}, attributes of row {low + i}"
            if crc32c(memoryview(data)[at : at + size]) != crc or at + size > len(data):
                findings.add(f"{label}: ids.bin says that other bytes are the attributes")
                continue
            findings.of(lambda text=data[at : at + size], label=label: attributes_of(text, root.names, label))  # type: ignore[misc]


def _directory(store: ObjectStore, root: Root, keys: Keys, findings: Findings) -> Directory:
    """The directory of all extents; where routing pages have it, these are checked, and name each block."""
    router = root.router
    if root.directory is not None:
        return root.directory
    assert isinstance(router, TwoLevelSection)
    for page, (number, at, size, crc) in enumerate(
        zip(router.object, router.offset, router.size, router.crc, strict=True)
    ):
        data, label = store.read(keys[number], at, size), f"{keys[number]}, page {page}"
        if len(data) != size or crc32c(data) != crc:
            raise DamagedError(f"{label}: CRC-32C differs from what root.bin says")
        _, scale, weight, _ = router.columns(Cursor(memoryview(data), label), root.index)
        if not np.isfinite(np.frombuffer(scale, "<f4")).all() or not np.isfinite(np.frombuffer(weight, "<f4")).any():
            findings.add(f"{label}: a scale is not finite, or no weight is")
    directory = whole_directory(lambda number, at, size: store.read(keys[number], at, size), root)
    missing = root.index.blocks - len(set(directory.block))
    if missing and not findings.count:
        findings.add(f"{keys[router.object[0]]}: {missing} blocks are on no page")
    return directory


class _Shard(NamedTuple):
    """An object of blocks of a rendition; homes: of each extent, how many rows are at home there.

    inline: its bytes, where the root holds them.
    """

    key: str
    size: int
    rendition: int
    homes: Sequence[int]
    inline: memoryview | None


def _shard(
    store: ObjectStore,
    root: Root,
    shard: _Shard,
    extents: list[Extent],
    rows: npt.NDArray[Any],
    gone: Bools,
    findings: Findings,
    check: FilterCheck | None,
) -> None:
    """Header, table and section of a shard, then each extent of it."""
    key, size = shard.key, shard.size
    if shard.inline is None:
        first, end = _sections(store, key, size, findings).get(SCAN, (0, size))
        file: BinaryIO = io.BufferedReader(Ranged(store, key, size), BUFFER_BYTES)
    else:
        first, end, file = 0, size, io.BytesIO(shard.inline)
    for extent, homes in zip(extents, shard.homes, strict=True):
        label = f"{key}, block {extent.block}"
        if not first <= extent.offset <= extent.offset + extent.whole <= end:
            findings.add(f"{label}: lies outside of its section")
        file.seek(extent.offset)
        data = file.read(extent.whole)
        if len(data) != extent.whole or not is_intact(data, extent.size, extent.crc):
            findings.add(f"{label}: CRC-32C differs from what root.bin says")
        else:
            findings.of(partial(_block, root, shard.rendition, data, extent, homes, label, rows, gone, findings, check))


def _sections(store: ObjectStore, key: str, size: int, findings: Findings) -> dict[int, tuple[int, int]]:
    """kind -> (first byte, after the last) of the sections of a shard, whose checksums are compared in pieces."""
    head = store.read(key, 0, HEADER.size + 2 * SECTION.size)
    if len(head) < HEADER.size + 2 * SECTION.size:
        raise DamagedError(f"{key}: is shorter than its header")
    magic, version, count, total, crc, _ = HEADER.unpack_from(head)
    if (magic, version, total) != (SHARD_MAGIC, VERSION, size):
        raise DamagedError(f"{key}: its header is not that of a shard of {size} bytes")
    end = HEADER.size + count * SECTION.size
    head = store.read(key, 0, end) if end <= size and count <= 1024 else b""
    if len(head) != end or crc32c(head[:24] + bytes(8) + head[HEADER.size :]) != crc:
        raise DamagedError(f"{key}: CRC-32C of its table of sections differs")
    out: dict[int, tuple[int, int]] = {}
    file = io.BufferedReader(Ranged(store, key, size), BUFFER_BYTES)
    for kind, _, at, length, stated, _ in SECTION.iter_unpack(head[HEADER.size :]):
        out[kind] = at, at + length
        file.seek(at)
        value, left = 0, length
        while left and (piece := file.read(min(left, BUFFER_BYTES))):
            value, left = crc32c(piece, value), left - len(piece)
        if left or value != stated:
            findings.add(f"{key}: CRC-32C of section {kind} differs from what its table says")
    return out


def _block(
    root: Root,
    rendition: int,
    data: bytes,
    extent: Extent,
    own: int,
    label: str,
    rows: npt.NDArray[Any],
    gone: Bools,
    findings: Findings,
    check: FilterCheck | None,
) -> None:
    """A scan block whose checksums are right: layout, rows (the first `own` are at home), ids, checks, planes. Of dead
    rows what it says does not matter.
    """
    n, count, index = extent.rows, root.index.rows, root.index
    code_bytes = root.codecs[root.renditions[rendition].codec].code_bytes
    opened = open_block(data, n, extent.size, code_bytes, index.dimension, index.by_row, label, index.metric)
    at = opened.at
    if root.bounds is not None and not rendition:
        norms_of(plane_of(data, opened.planes, NORMS_PLANE, label), n, label)
    numbers = np.frombuffer(data, "<u4", n, at.rows)
    checks = np.frombuffer(data, "<u4", n, at.checks)
    findings.rows(label, numbers[numbers >= count], f"there are {count} rows, but a slot")
    if len(np.unique(numbers)) < n:
        findings.add(f"{label}: a row lies there twice")
    known_numbers = bool((numbers < count).all())
    inside = numbers < count
    inside[inside] = ~gone[numbers[inside]]
    known = rows[numbers[inside]]
    if not rendition:
        homes = numbers[:own][inside[:own]]
        again = rows["homes"][homes] > 0
        findings.rows(label, homes[again], "another block is the home too")
        rows["homes"][homes] = 1
    findings.rows(label, numbers[inside][known["check"] != checks[inside]], "ids.bin has another check")
    if index.by_row:
        spots = np.frombuffer(data, "<u4", 3 * aligned(n, GROUP), at.spots).reshape(3, -1)[:, :n].T
        other = (known["spot"] != spots[inside]).any(1)
        findings.rows(label, numbers[inside][other], "ids.bin has another place for the attributes")
    ids = [id_at(memoryview(data)[at.ids :], opened.id_width, n, j, index.id_kind, label) for j in range(n)]
    hashes = np.array([id_hash(identifier) for identifier in ids], np.uint64)[inside]
    findings.rows(label, numbers[inside][known["hash"] != hashes], "ids.bin has another id")
    if check is not None and known_numbers:
        check.block(data, opened, extent.block, own, not rendition, rows, numbers, label, findings.rows)
    if root.renditions[rendition].attributes:
        raw = unpack_attributes(plane_of(data, opened.planes, ATTRIBUTES_PLANE, label), n, label)
        own_crc = np.array([crc32c(attribute_bytes(raw, n, j, label)) for j in range(n)], np.uint32)
        findings.rows(label, numbers[inside][known["spot"][:, 2] != own_crc[inside]], "there are other attributes")


def _part(
    store: ObjectStore, root: Root, keys: Keys, part: int, rows: npt.NDArray[Any], gone: Bools, findings: Findings,
    check: FilterCheck | None,
) -> None:  # fmt: skip
    """A Parquet part: vectors by their checks, ids, source rows, and where root.bin says that its pages lie."""
    key, size, pages, kind = keys[part], root.objects.sizes[part], root.rows, root.index.vector_kind
    own = [p for p, number in enumerate(pages.vector_object) if number == part]
    names = root.names
    width = VECTOR_BYTES[kind] * root.index.dimension
    try:
        file = pq.ParquetFile(pa.PythonFile(Ranged(store, key, size), "r"))
        if file.metadata.num_row_groups != len(own):
            raise DamagedError(f"{key}: {file.metadata.num_row_groups} row groups, root.bin says {len(own)} pages")
        for group, page in enumerate(own):
            meta = file.metadata.row_group(group).column(0)
            first, n = pages.first_row[page], pages.first_row[page + 1] - pages.first_row[page]
            if meta.data_page_offset + meta.total_compressed_size - n * width != pages.vector_offset[page]:
                findings.add(f"{key}, row group {group}: its vectors are not where root.bin says")
            table = file.read_row_group(group)
            if len(table) != n:
                raise DamagedError(f"{key}, row group {group}: {len(table)} rows, root.bin says {n}")
            x = vectors_of_column(table["vector"], kind, root.index.dimension)
            if kind in ("f16", "f32") and not np.isfinite(x).all():
                findings.rows(key, first + np.flatnonzero(~np.isfinite(x).all(1)), "the vector is not finite")
            raw, known = memoryview(np.ascontiguousarray(x).tobytes()), rows[first : first + n]
            checks = np.array([crc32c(raw[i * width : (i + 1) * width]) for i in range(n)], np.uint32)
            findings.rows(key, first + np.flatnonzero(checks != known["check"]), "ids.bin has another check")
            hashes = np.array([id_hash(i) for i in table["id"].to_pylist()], np.uint64)
            other = (hashes != known["hash"]) & ~gone[first : first + n]
            findings.rows(key, first + np.flatnonzero(other), "ids.bin has another id")
            source = table["source_row"].to_numpy()
            if (source < 0).any() or len(np.unique(source)) < n:
                findings.add(f"{key}, row group {group}: a source row stands there twice, or is none")
            rows["source"][first : first + n] = source
            if names:
                records = _attributes_of(store, root, keys, page, rows["spot"][first : first + n])
                for i, name in enumerate(names):
                    column = table.column(3 + i)
                    if not column_array([row[i] for row in records], column.type).equals(column.combine_chunks()):
                        findings.add(f"{key}, row group {group}: attribute {name!r} is not that of the attributes")
                if check is not None:
                    where = f"{key}, row group {group}"
                    digests = np.array(
                        [check.row(first + i, record, where, findings.add) for i, record in enumerate(records)],
                        np.uint32,
                    )
                    rows["columns"][first : first + n], rows["inside"][first : first + n] = digests.T
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise DamagedError(f"{key}: is not the Parquet file that was written ({error})"[:300]) from None


def _attributes_of(
    store: ObjectStore, root: Root, keys: Keys, page: int, spots: npt.NDArray[np.uint32]
) -> list[list[Any]]:
    """Attributes of the rows of a page."""
    number, places = root.rows.attribute_object[page], spots.astype(np.int64)
    size = int((places[:, 0] + places[:, 1]).max())
    data, label = store.read(keys[number], root.rows.attribute_offset[page], size), f"{keys[number]}, page {page}"
    return [
        list(attributes_of(data[at : at + length], root.names, label).values()) for at, length, _ in places.tolist()
    ]


def _codes(
    store: ObjectStore, root: Root, keys: Keys, directory: Directory, gone: Bools, findings: Findings
) -> int:  # fmt: skip
    """Codes of home rows of some blocks against codes made anew from their vectors; how many rows were compared, dead
    ones apart.
    """
    codec, index, count = codec_of(root), root.index, 0
    metric, d = index.metric, index.dimension
    some = np.unique(np.linspace(0, len(directory) - 1, SAMPLE_BLOCKS).astype(np.int64)).tolist()
    for i in some:
        extent, n = directory.extent(i, 0), min(SAMPLE_ROWS, directory.homes[i])
        if not n:
            continue
        key = keys[extent.object]
        label, b = f"{key}, block {extent.block}", extent.block
        inside = root.objects.keys[extent.object] == ROOT_KEY
        part = slice(extent.offset, extent.offset + extent.whole)
        data = bytes(root.inline[part]) if inside else store.read(key, extent.offset, extent.whole)
        opened = open_block(data, extent.rows, extent.size, root.codec.code_bytes, d, index.by_row, label, index.metric)
        whole, numbers = codes_of_block(np.frombuffer(data, np.uint8), opened.at, root.codec.code_bytes)
        stored = replace(whole, codes=whole.codes[:n], f=whole.f[:n], h=whole.h[:n])
        x = _vectors(store, root, keys, numbers[:n]).astype(np.float64)
        scale = 1 / np.linalg.norm(x, axis=1) if metric == "cosine" else np.full(n, index.row_scale)
        lengths = np.linalg.norm(x, axis=1) * scale
        if metric == "l2":
            x -= np.asarray(index.origin)
        x = x * scale[:, None]
        own = centre_of(data, opened.at, d)
        section = Centres(
            memoryview(bytes(own.row)), memoryview(array("f", [own.scale])), memoryview(array("f", [own.bias]))
        )
        centre, exact = decode_centres(section, d), exact_centres(section, d)
        (fresh,) = encode_blocks(codec, x.astype(np.float32), [0, n], centre, metric)
        bias = np.array([own.bias])
        off, least = (
            errors(codec.section, codec.axes, [codes], x, exact, bias, metric)[0] for codes in (stored, fresh)
        )
        # Along the axes: where they are not orthogonal, the f16 of a vector may turn a sign that hardly says anything,
        # and yet move what the code leaves of it. Copies count in the ranges of a block's factors: theirs are coarser.
        y, z = (x - exact) @ codec.axes.T.astype(np.float64), decode(codec.section, stored.codes)
        moved = ROUNDED.get(root.index.vector_kind, 0.0) * lengths  # since the code was made
        # A fold rounds factors once more.
        room = CODE_FLOOR * off.radius.max() + moved + stored.ranges[1] * np.linalg.norm(z, axis=1)
        bad = _apart(y, z, stored) > CODE_SLACK * _apart(y, decode(codec.section, fresh.codes), fresh) + room
        bad |= off.fixed > CODE_SLACK * least.fixed.max() + CODE_FLOOR * off.radius.max() + stored.ranges[3] + (
            moved * (np.linalg.norm(exact) + off.radius.max())
        )
        numbers = numbers[:n]
        findings.rows(label, numbers[bad], "the code is not that of the vector,")
        if root.bounds is not None:
            end = norms_of(plane_of(data, opened.planes, NORMS_PLANE, label), extent.rows, label)
            kept = end.step * np.frombuffer(end.norms, np.uint8)[:n].astype(np.float64)
            passed = (off.left > kept * (1 + ROUND)) | (off.fixed > end.slack * (1 + ROUND))
            passed |= off.radius > root.bounds.radius[b] * (1 + ROUND)
            findings.rows(label, numbers[passed], "error norms or radius are too small, so proofs are wrong,")
        count += n - int(gone[numbers].sum())
    return count


def _apart(y: npt.NDArray[np.float64], z: npt.NDArray[np.float64], of: Encoded) -> npt.NDArray[np.float64]:
    """f64 (n): how far residuals y (n, A) along the axes are from what their codes z (n, A) and factors say."""
    out: npt.NDArray[np.float64] = np.linalg.norm(y - of.factors()[0][:, None] * z, axis=1)
    return out


def _vectors(store: ObjectStore, root: Root, keys: Keys, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """(n, d) full vectors of rows by number, by the offsets of root.bin; those of numbers in a row in one read."""
    pages, width = root.rows, VECTOR_BYTES[root.index.vector_kind] * root.index.dimension
    data = b""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(numbers, cuts):
        first, last = int(run[0]), int(run[-1]) + 1
        for page, (low, high) in enumerate(pairwise(pages.first_row)):
            a, z = max(low, first), min(high, last)
            if a < z:
                at = pages.vector_offset[page] + (a - low) * width
                data += store.read(keys[pages.vector_object[page]], at, (z - a) * width)
    return np.frombuffer(data, DTYPES[root.index.vector_kind]).reshape(len(numbers), -1)
