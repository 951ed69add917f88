"""Decodes the live generation whole and holds its parts against each other, without keeping them in memory."""

from __future__ import annotations

import io
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.format import (
    ATTRIBUTES,
    GROUP,
    HEADER,
    ID_PAGE_ROWS,
    SCAN,
    SECTION,
    SHARD_MAGIC,
    VECTOR_BYTES,
    VERSION,
    Root,
    TwoLevelSection,
    aligned,
    attributes_at,
    id_at,
    id_entry,
    id_width,
    norms_of,
    part_key,
    shard_key,
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
from ..write.reopen import codec_of, codes_of_block, vectors_of_column
from ..write.vectors import column_array

BUFFER_BYTES = 8 << 20
NAMED = 20  # damages that get a sentence
SAMPLE_BLOCKS, SAMPLE_ROWS = 64, 256  # whose codes are computed anew, rows a block
# A stored code may be this much further from its vector than a new one: it was made before the vector became f16.
CODE_SLACK = 1.05
ROUNDED = {"f16": 2.0**-11, "f32": 2.0**-22}  # of a row, at most, as it is stored and scaled
ROUND = 1e-6  # relative, of sums in another order
CODE_FLOOR = 0.02  # of the block's radius
ROW = [("hash", "<u8"), ("check", "<u4"), ("seen", "u1"), ("source", "<i8")]
SPOT = ("spot", "<u4", 3)  # of a row, in an index by row


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

    ids.bin, blocks and Parquet parts must agree on the id and on the vector's CRC-32C of every row; codes of a sample
    must be as near to their vectors as codes made anew. Bytes against the manifest are `generations.verify`'s.
    Attributes must be those of the Parquet parts. Needs 21 to 33 bytes of scratch a row, and memory for a block, a
    row group and 8 bytes a row. Raises StoreError when the bucket fails.
    """
    current, _, _ = live(store)
    findings, report = Findings(), dict[str, Any](generation=current.generation)
    try:
        data = store.read(current.root.key, 0, current.root.size)
        root = Root.unpack(data, current.root.key)
    except DamagedError as error:
        return report | {"damage": [error.message], "damages": 1}
    total = sum(root.objects.shards) + sum(root.objects.parts) + root.objects.ids
    done = 0

    def read(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(min(1.0, done / total))

    with tempfile.TemporaryFile() as scratch:
        kind = np.dtype([*ROW, SPOT] if root.index.by_row else ROW)
        scratch.truncate(root.index.rows * kind.itemsize)
        rows: npt.NDArray[Any] = np.memmap(scratch, kind, "r+", shape=(root.index.rows,))
        findings.of(lambda: _ids(store, root, current.generation, rows, findings))
        read(root.objects.ids)
        if isinstance(root.router, TwoLevelSection):
            findings.of(lambda: _routing(store, root, current.generation, findings))
        for shard in range(root.index.shards):
            findings.of(lambda shard=shard: _shard(store, root, current.generation, shard, rows, findings))  # type: ignore[misc]
            read(root.objects.shards[shard])
        for part in range(len(root.objects.parts)):
            findings.of(lambda part=part: _part(store, root, current.generation, part, rows, findings))  # type: ignore[misc]
            read(root.objects.parts[part])
        source = np.sort(rows["source"])
        if not findings.count and (source[1:] == source[:-1]).any():
            findings.add(f"{current.generation}/vectors: a source row stands there twice")
    sampled = 0
    if not findings.count:  # codes can only be told from vectors that are right
        sampled = _codes(store, root, current.generation, findings)
    return report | {
        "rows": root.index.rows, "blocks": root.index.blocks, "codes": sampled,
        "damage": findings.sentences, "damages": findings.count,
    }  # fmt: skip


def _ids(store: ObjectStore, root: Root, generation: str, rows: npt.NDArray[Any], findings: Findings) -> None:
    """Pages of ids.bin; fills rows with what they say."""
    key, last, count = f"{generation}/ids.bin", -1, 0
    for page, (hashes, numbers, checks, spots) in enumerate(id_pages(store, root, generation, findings)):
        count += len(hashes)
        if len(hashes) and (int(hashes[0]) <= last or np.any(hashes[1:] <= hashes[:-1])):
            findings.add(f"{key}, page {page}: is not sorted by hash")
        if int(hashes[0]) != root.id_pages.first_hash[page]:
            findings.add(f"{key}, page {page}: begins with another hash than root.bin says")
        last = int(hashes[-1])
        inside = numbers < root.index.rows
        findings.rows(f"{key}, page {page}", numbers[~inside], f"there are {root.index.rows} rows, but an entry")
        at = numbers[inside]
        again = rows["seen"][at] > 0
        again[np.setdiff1d(np.arange(len(at)), np.unique(at, return_index=True)[1])] = True
        findings.rows(f"{key}, page {page}", at[again], "a second entry")
        rows["hash"][at], rows["check"][at], rows["seen"][at] = hashes[inside], checks[inside], 1
        if root.index.by_row:
            rows["spot"][at] = spots[inside]
    if count != root.index.rows:
        findings.add(f"{key}: {count} entries for {root.index.rows} rows")
    findings.rows(key, _unseen(rows, "seen"), "there is no entry")


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


def id_pages(store: ObjectStore, root: Root, generation: str, findings: Findings | None = None) -> Iterator[IdPage]:
    """(hash (n), row (n), check (n), spot (n, 3) or (n, 0)) of each page of ids.bin in turn.

    A wrong checksum is noted, or raised without `found`.
    """
    key = f"{generation}/ids.bin"
    file = io.BufferedReader(Ranged(store, key, root.objects.ids), BUFFER_BYTES)
    for page in range(len(root.id_pages.crc)):
        n = min(ID_PAGE_ROWS, root.index.rows - page * ID_PAGE_ROWS)
        data = file.read(n * id_entry(root.index))
        if len(data) < n * id_entry(root.index):
            raise DamagedError(f"{key}: ends at page {page}")
        if crc32c(data) != root.id_pages.crc[page]:
            wrong = f"{key}, page {page}: CRC-32C differs from what root.bin says"
            if findings is None:
                raise DamagedError(wrong, hint="`vantage verify --deep` tells more")
            findings.add(wrong)
        numbers = np.frombuffer(data, "<u4", -1, 8 * n).reshape(-1, n)
        yield np.frombuffer(data, "<u8", n), numbers[0], numbers[1], numbers[2:].T


def _routing(store: ObjectStore, root: Root, generation: str, findings: Findings) -> None:
    """Pages of routing.bin; each block is on one at least."""
    router, key = root.router, f"{generation}/routing.bin"
    assert isinstance(router, TwoLevelSection)
    named: set[int] = set()
    for page, (at, size, crc) in enumerate(zip(router.offset, router.size, router.crc, strict=True)):
        data, label = store.read(key, at, size), f"{key}, page {page}"
        if len(data) != size or crc32c(data) != crc:
            findings.add(f"{label}: CRC-32C differs from what root.bin says")
            continue
        blocks, scale, weight, _ = router.columns(memoryview(data), root.index, label)
        named.update(blocks)
        if not np.isfinite(np.frombuffer(scale, "<f4")).all() or not np.isfinite(np.frombuffer(weight, "<f4")).any():
            findings.add(f"{label}: a scale is not finite, or no weight is")
    if len(named) < root.index.blocks and not findings.count:
        findings.add(f"{key}: {root.index.blocks - len(named)} blocks are on no page")


def _shard(
    store: ObjectStore, root: Root, generation: str, shard: int, rows: npt.NDArray[Any], findings: Findings
) -> None:
    """Header, table and sections of a shard, then each block of it."""
    key, size, d = shard_key(generation, shard), root.objects.shards[shard], root.directory
    sections = _sections(store, key, size, findings)
    file = io.BufferedReader(Ranged(store, key, size), BUFFER_BYTES)
    names = [a["name"] for a in root.schema["attributes"]]
    blocks = range(d.shard_blocks[shard], d.shard_blocks[shard + 1])
    for kind in (SCAN, ATTRIBUTES):
        if kind == ATTRIBUTES and not names:
            continue
        offset, length, crc = (
            (d.offset, d.size, d.crc) if kind == SCAN else (d.attribute_offset, d.attribute_size, d.attribute_crc)
        )
        low, high = sections.get(kind, (0, size))
        for b in blocks:
            label = f"{key}, {'block' if kind == SCAN else 'attributes of block'} {b}"
            if not low <= offset[b] <= offset[b] + length[b] <= high:
                findings.add(f"{label}: lies outside of its section")
            file.seek(offset[b])
            data = file.read(length[b])
            if len(data) != length[b] or crc32c(data) != crc[b]:
                findings.add(f"{label}: CRC-32C differs from what root.bin says")
            elif kind == SCAN:
                findings.of(lambda data=data, b=b, label=label: _block(root, data, b, label, rows, findings))  # type: ignore[misc]
            else:
                first, own = d.first_row[b], d.first_row[b + 1] - d.first_row[b]
                findings.of(lambda data=data, own=own, label=label: [  # type: ignore[misc]
                    attributes_at(data, own, i, names, label) for i in range(own)
                ])  # fmt: skip
                if root.index.by_row:
                    spots = rows["spot"][first : first + own].tolist()
                    wrong = [first + i for i, (at, n, crc) in enumerate(spots) if crc32c(data[at : at + n]) != crc]
                    findings.rows(label, np.array(wrong), "ids.bin says that other bytes are the attributes")


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


def _block(root: Root, data: bytes, b: int, label: str, rows: npt.NDArray[Any], findings: Findings) -> None:
    """A scan block whose checksum is right: layout, rows, ids and checks."""
    n, d, count = root.directory.rows[b], root.directory, root.index.rows
    at = root.planes(b)
    width = id_width(data, at, label)
    if root.bounds is not None:
        norms_of(data, n, at.ids, label)
    numbers = np.frombuffer(data, "<u4", n, at.rows)
    checks = np.frombuffer(data, "<u4", n, at.checks)
    first, own = d.first_row[b], d.first_row[b + 1] - d.first_row[b]
    if own > n or not np.array_equal(numbers[:own], np.arange(first, first + own, dtype=np.uint32)):
        findings.add(f"{label}: its home rows are not {first} to {first + own - 1}")
    copies = numbers[own:]
    outside = copies >= count
    findings.rows(label, copies[outside], f"there are {count} rows, but it has a copy")
    if np.any((copies >= first) & (copies < first + own)) or len(np.unique(copies)) < len(copies):
        findings.add(f"{label}: a row lies there twice")
    inside = numbers < count
    known = rows[numbers[inside]]
    findings.rows(label, numbers[inside][known["check"] != checks[inside]], "ids.bin has another check")
    if root.index.by_row:
        spots = np.frombuffer(data, "<u4", 3 * aligned(n, GROUP), at.spots).reshape(3, -1)[:, :n].T
        other = (known["spot"] != spots[inside]).any(1)
        findings.rows(label, numbers[inside][other], "ids.bin has another place for the attributes")
    ids = [id_at(memoryview(data)[at.ids :], width, n, i, root.index.id_kind, label) for i in range(n)]
    hashes = np.array([id_hash(i) for i in ids], np.uint64)[inside]
    findings.rows(label, numbers[inside][known["hash"] != hashes], "ids.bin has another id")


def _part(
    store: ObjectStore, root: Root, generation: str, part: int, rows: npt.NDArray[Any], findings: Findings
) -> None:
    """A Parquet part: vectors by their checks, ids, source rows, and where root.bin says that its pages lie."""
    key, size, pages, kind = part_key(generation, part), root.objects.parts[part], root.vectors, root.index.vector_kind
    own = [p for p in range(len(pages.part)) if pages.part[p] == part]
    names = [a["name"] for a in root.schema["attributes"]]
    width = VECTOR_BYTES[kind] * root.index.dimension
    try:
        file = pq.ParquetFile(pa.PythonFile(Ranged(store, key, size), "r"))
        if file.metadata.num_row_groups != len(own):
            raise DamagedError(f"{key}: {file.metadata.num_row_groups} row groups, root.bin says {len(own)} pages")
        for group, page in enumerate(own):
            meta = file.metadata.row_group(group).column(0)
            first, n = pages.first_row[page], pages.first_row[page + 1] - pages.first_row[page]
            if meta.data_page_offset + meta.total_compressed_size - n * width != pages.offset[page]:
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
            findings.rows(key, first + np.flatnonzero(hashes != known["hash"]), "ids.bin has another id")
            source = table["source_row"].to_numpy()
            if (source < 0).any() or len(np.unique(source)) < n:
                findings.add(f"{key}, row group {group}: a source row stands there twice, or is none")
            rows["source"][first : first + n] = source
            if names:
                records = _attributes_of(store, root, generation, first, n, names)
                for i, name in enumerate(names):
                    column = table.column(3 + i)
                    if not column_array([row[i] for row in records], column.type).equals(column.combine_chunks()):
                        findings.add(f"{key}, row group {group}: attribute {name!r} is not that of the shards")
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise DamagedError(f"{key}: is not the Parquet file that was written ({error})"[:300]) from None


def _attributes_of(
    store: ObjectStore, root: Root, generation: str, first: int, n: int, names: list[str]
) -> list[list[Any]]:
    """Attributes of n rows from `first` on, from their home blocks."""
    d, out = root.directory, list[list[Any]]()
    b = bisect_right(d.first_row, first) - 1
    while len(out) < n:
        key, low = shard_key(generation, bisect_right(d.shard_blocks, b) - 1), d.first_row[b]
        data, home = store.read(key, d.attribute_offset[b], d.attribute_size[b]), d.first_row[b + 1] - low
        for i in range(max(first - low, 0), min(home, first + n - low)):
            out.append(list(attributes_at(data, home, i, names, f"{key}, attributes of block {b}").values()))
        b += 1
    return out


def _codes(store: ObjectStore, root: Root, generation: str, findings: Findings) -> int:
    """Codes of home rows of some blocks against codes made anew from their vectors; how many rows were compared."""
    d, codec, centres = root.directory, codec_of(root), decode_centres(root.centres, root.index.dimension)
    metric, count = root.index.metric, 0
    blocks = np.unique(np.linspace(0, root.index.blocks - 1, SAMPLE_BLOCKS).astype(np.int64)).tolist()
    for b in blocks:
        shard = bisect_right(d.shard_blocks, b) - 1
        key, n = shard_key(generation, shard), min(SAMPLE_ROWS, d.first_row[b + 1] - d.first_row[b])
        if not n:
            continue
        block = np.frombuffer(store.read(key, d.offset[b], d.size[b]), np.uint8)
        whole, _ = codes_of_block(block, d.rows[b], root.codec.code_bytes)
        stored = replace(whole, codes=whole.codes[:n], f=whole.f[:n], h=whole.h[:n])
        x = _vectors(store, root, generation, d.first_row[b], n).astype(np.float64)
        scale = 1 / np.linalg.norm(x, axis=1) if metric == "cosine" else np.full(n, root.index.row_scale)
        lengths = np.linalg.norm(x, axis=1) * scale
        if metric == "l2":
            x -= np.asarray(root.index.origin)
        x = x * scale[:, None]
        one = slice(b, b + 1)
        centre, exact = centres[one], exact_centres(root.centres, root.index.dimension, one)
        (fresh,) = encode_blocks(codec, x.astype(np.float32), [0, n], centre, metric)
        bias = np.asarray(root.centres.bias[one], np.float64)
        off, least = (
            errors(codec.section, codec.axes, [codes], x, exact, bias, metric)[0] for codes in (stored, fresh)
        )
        # Along the axes: where they are not orthogonal, the f16 of a vector may turn a sign that hardly says anything,
        # and yet move what the code leaves of it. Copies count in the ranges of a block's factors: theirs are coarser.
        y, z = (x - exact) @ codec.axes.T.astype(np.float64), decode(codec.section, stored.codes)
        moved = ROUNDED.get(root.index.vector_kind, 0.0) * lengths  # since the code was made
        room = CODE_FLOOR * off.radius.max() + moved + 0.5 * stored.ranges[1] * np.linalg.norm(z, axis=1)
        bad = _apart(y, z, stored) > CODE_SLACK * _apart(y, decode(codec.section, fresh.codes), fresh) + room
        bad |= off.fixed > CODE_SLACK * least.fixed.max() + CODE_FLOOR * off.radius.max() + 0.5 * stored.ranges[3] + (
            moved * (np.linalg.norm(exact) + off.radius.max())
        )
        label = f"{key}, block {b}"
        numbers = d.first_row[b] + np.arange(n)
        findings.rows(label, numbers[bad], "the code is not that of the vector,")
        if root.bounds is not None:
            end = norms_of(block.tobytes(), d.rows[b], root.planes(b).ids, label)
            kept = end.step * np.frombuffer(end.norms, np.uint8)[:n].astype(np.float64)
            passed = (off.left > kept * (1 + ROUND)) | (off.fixed > end.slack * (1 + ROUND))
            passed |= off.radius > root.bounds.radius[b] * (1 + ROUND)
            findings.rows(label, numbers[passed], "error norms or radius are too small, so proofs are wrong,")
        count += n
    return count


def _apart(y: npt.NDArray[np.float64], z: npt.NDArray[np.float64], of: Encoded) -> npt.NDArray[np.float64]:
    """f64 (n): how far residuals y (n, A) along the axes are from what their codes z (n, A) and factors say."""
    out: npt.NDArray[np.float64] = np.linalg.norm(y - of.factors()[0][:, None] * z, axis=1)
    return out


def _vectors(store: ObjectStore, root: Root, generation: str, first: int, n: int) -> npt.NDArray[Any]:
    """(n, d) full vectors of rows from `first` on, by the offsets of root.bin."""
    pages, width = root.vectors, VECTOR_BYTES[root.index.vector_kind] * root.index.dimension
    data = b""
    for page, (low, high) in enumerate(pairwise(pages.first_row)):
        a, z = max(low, first), min(high, first + n)
        if a < z:
            at = pages.offset[page] + (a - low) * width
            data += store.read(part_key(generation, pages.part[page]), at, (z - a) * width)
    return np.frombuffer(data, DTYPES[root.index.vector_kind]).reshape(n, -1)
