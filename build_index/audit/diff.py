"""Compares two generations: rows added, removed and changed, by two ids.bin merged in the order of their hashes; and
what their attributes hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.errors import DamagedError
from vantage.filter.schema import describe_attributes
from vantage.format import IdPages, Root

from ..bucket.generations import find_generation, live
from ..bucket.store import ObjectStore, Ranged
from ..progress import SILENT, Progress
from .verify import id_pages

NAMED = 10  # rows of each kind that are named by their ids
KINDS = ("added", "removed", "changed")
FILTER_FACTS = ("kind", "list", "rows", "distinct", "min", "max", "in_blocks", "projection")
# hash u64 (n), row u32 (n), check u32 (n), by rising hash
Entries = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
Side = tuple[ObjectStore, str | None]  # an index, and which generation of it; the live one without


def diff(old: Side, new: Side, progress: Progress = SILENT) -> dict[str, Any]:
    """Rows of `new` that `old` has not, that are gone, and whose stored vector is another; and what else differs.

    {"rows": {"added", "removed", "changed", "same"}, "ids": the first of each by id, "attributes": as
    `attribute_changes` has them, "old" and "new": facts of both}. Reads both roots and both ids.bin, a page of each at
    a time, and a row group for each row that is named. Attributes of single rows are not compared. Raises DamagedError
    where a root or a page is not what was written, StoreError as the bucket does.
    """
    sides = [_open(*side) for side in (old, new)]
    facts = [_facts(store, generation, root) for store, generation, root in sides]
    total = sum(root.live_rows for _, _, root in sides)
    counts = dict.fromkeys((*KINDS, "same"), 0)
    first: dict[str, list[int]] = {kind: [] for kind in KINDS}
    done = 0
    for a, b in merge(*(_entries(*side) for side in sides)):
        done += len(a[0]) + len(b[0])
        _, at_a, at_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
        changed = a[2][at_a] != b[2][at_b]
        differences = {
            "added": np.delete(b[1], at_b), "removed": np.delete(a[1], at_a), "changed": b[1][at_b][changed],
        }  # fmt: skip
        for kind, rows in differences.items():
            counts[kind] += len(rows)
            first[kind] += rows[: NAMED - len(first[kind])].tolist()
        counts["same"] += len(at_a) - len(differences["changed"])
        progress(done / max(1, total))
    ids = {kind: [_id(*sides[kind != "removed"], row) for row in first[kind]] for kind in KINDS}
    changes = attribute_changes(sides[0][2], sides[1][2])
    return {"rows": counts, "ids": ids, "attributes": changes, "old": facts[0], "new": facts[1]}


def attribute_changes(old: Root, new: Root) -> list[dict[str, Any]]:
    """{"attribute", "what", "old", "new"} of each difference: of an attribute's "type", of its being a "filter", and of
    what then is known of its values (FILTER_FACTS). None stands for an attribute, or a filter, that is not there.
    """
    sides = [{one["name"]: one for one in describe_attributes(root)} for root in (old, new)]
    out = []
    for name in dict.fromkeys((*sides[0], *sides[1])):
        was, now = (side.get(name, {"type": None, "filter": None}) for side in sides)
        pairs = [("type", was["type"], now["type"])]
        if was["filter"] and now["filter"]:
            pairs += [(what, was["filter"][what], now["filter"][what]) for what in FILTER_FACTS]
        else:
            pairs.append(("filter", *(side["filter"] and side["filter"]["kind"] for side in (was, now))))
        out += [{"attribute": name, "what": what, "old": a, "new": b} for what, a, b in pairs if a != b]
    return out


def _entries(store: ObjectStore, generation: str, root: Root) -> Iterator[Entries]:
    """Those of live rows, of all segments of ids."""
    keys = root.objects.resolve("", generation)
    gone = np.frombuffer(root.dead.bits, np.uint8) if root.dead else None

    def of(segment: IdPages) -> Iterator[Entries]:
        for hashes, rows, checks, _ in id_pages(store, root, keys, segment):
            kept = np.ones(len(rows), bool) if gone is None else gone[rows >> 3] >> (rows & 7) & 1 == 0
            if kept.any():
                yield hashes[kept], rows[kept], checks[kept]

    for pieces in merge(*map(of, root.id_pages)):
        hashes, rows, checks = (np.concatenate(column) for column in zip(*pieces, strict=True))
        order = np.argsort(hashes)
        yield hashes[order], rows[order], checks[order]


def merge(*sides: Iterator[Entries]) -> Iterator[tuple[Entries, ...]]:
    """Pieces of all, in step: the next piece begins above every hash of this one, on all sides."""
    held: list[Entries | None] = [next(side, None) for side in sides]
    empty: Entries = (np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, np.uint32))
    while any(entries is not None for entries in held):
        end = min(entries[0][-1] for entries in held if entries is not None)
        out = [empty] * len(sides)
        for i, entries in enumerate(held):
            if entries is None:
                continue
            cut = int(np.searchsorted(entries[0], end, "right"))
            out[i] = (entries[0][:cut], entries[1][:cut], entries[2][:cut])
            rest = (entries[0][cut:], entries[1][cut:], entries[2][cut:])
            held[i] = rest if len(rest[0]) else next(sides[i], None)
        yield tuple(out)


def _open(store: ObjectStore, generation: str | None) -> tuple[ObjectStore, str, Root]:
    current = live(store)[0] if generation is None else find_generation(store, generation)[0]
    data = store.read(current.root.key, 0, current.root.size)
    return store, current.generation, Root.unpack(data, current.root.key)


def _facts(store: ObjectStore, generation: str, root: Root) -> dict[str, Any]:
    index, contract, at_home = root.index, root.contract, root.directory.at_home if root.directory else root.index.rows
    _, objects, text = find_generation(store, generation)
    return {
        "generation": generation, "rows": root.live_rows, "bytes": sum(o.size for o in objects) + len(text),
        "dimension": index.dimension, "metric": index.metric, "vectors": index.vector_kind, "ids": index.id_kind,
        "attributes": [a["name"] for a in root.schema["attributes"]], "blocks": index.blocks,
        "copies": index.slots - at_home, "router": index.router, "codec": index.codec,
        "code_bytes": root.codec.code_bytes, "k": contract.k, "target": contract.target,
        "promises": [p.recall for p in root.promises.by_recall] if root.promises else [],
    }  # fmt: skip


def _id(store: ObjectStore, generation: str, root: Root, row: int) -> int | str:
    """The id of a row, from its Parquet part."""
    page = root.rows.page_of(row)
    number = root.rows.vector_object[page]
    key = root.objects.resolve("", generation)[number]
    group = sum(other == number for other in root.rows.vector_object[:page])
    try:
        file = pq.ParquetFile(pa.PythonFile(Ranged(store, key, root.objects.sizes[number]), "r"))
        identifier = file.read_row_group(group, columns=["id"])["id"][row - root.rows.first_row[page]].as_py()
    except (pa.ArrowException, OSError, LookupError) as error:
        what = f"{key}: is no Parquet file of rows ({error})"[:300]
        raise DamagedError(what, hint="`vantage verify` tells more") from None
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")
