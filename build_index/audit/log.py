"""Reads the log of an index whole and holds it against itself and its generation: gaps, seals, ledger, shapes, rows."""

from __future__ import annotations

from typing import Any

from vantage.errors import DamagedError, VantageError
from vantage.filter.facet import values_of
from vantage.format import Current, Root
from vantage.format.log import (
    LEDGER_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_KEY,
    RowShape,
    Segment,
    segment_key,
    unpack_ledger,
    unpack_segment,
)
from vantage.log.rows import check_vectors
from vantage.log.state import BYTES_MAX, OPERATIONS_MAX, SEGMENTS_MAX
from vantage.log.tail import Tail, members_of

from ..bucket.generations import live
from ..bucket.store import ObjectStore
from .verify import Findings


def verify_log(store: ObjectStore, deep: bool = False) -> dict[str, Any]:
    """Reads the ledger and all segments from the log's start on: {"damage": sentences, "damages": count, "segments",
    "operations", "log_bytes"}.

    deep: each row too, as whoever reads or compacts the log will: its vector, and its attributes against the schema and
    what filters take. What is written meanwhile is not looked at. Raises NotFoundError without an index, StoreError.
    """
    current, _, _ = live(store)
    findings, tail, log = Findings(), Tail(current.log.start), current.log
    findings.of(lambda: _ledger(store, current, findings))
    seqs = sorted(
        int(match[2])
        for entry in store.list("log")
        if (match := SEGMENT_KEY.fullmatch(entry.key)) and match[1] == log.id and int(match[2]) >= log.start
    )
    root: Root | None = None
    if seqs:
        try:
            root = Root.unpack(store.read(current.root.key, 0, current.root.size), current.root.key)
        except DamagedError:  # others say so
            root = None
    sealed = 0
    for seq in seqs:
        key = segment_key(log.id, seq)
        if sealed:
            findings.add(f"{key}: stands behind the seal {segment_key(log.id, sealed)}")
            break
        if seq != tail.next:
            findings.add(f"{segment_key(log.id, tail.next)}: is missing, and {key} stands behind it")
            break
        try:
            segment = _segment(store, key, current, tail)
        except DamagedError as error:
            findings.add(error.message)
            break  # what patches make of rows is not known behind it
        sealed = seq if segment.sealed else 0
        if root is not None and segment.shape is not None:
            _rows(segment, root, key, deep, findings)
    segments, operations, nbytes = tail.held(log.start)
    if segments > SEGMENTS_MAX or operations > OPERATIONS_MAX or nbytes > BYTES_MAX:
        findings.add(f"{segment_key(log.id, log.start)}: the log is longer than one may be")
    return {"damage": findings.sentences, "damages": findings.count, "segments": segments, "operations": operations,
            "log_bytes": nbytes}  # fmt: skip


def _ledger(store: ObjectStore, current: Current, findings: Findings) -> None:
    name, start = current.log.ledger, current.log.start
    if name is None:
        return
    found = store.get(name, LEDGER_BYTES_MAX)
    if found is None:
        raise DamagedError(f"{name}: is missing, and CURRENT names it")
    ledger = unpack_ledger(found[0], name)
    seqs = [seq for seq, _ in ledger.segments]
    if seqs != sorted(set(seqs)) or (seqs and not 1 <= seqs[0] <= seqs[-1] < start):
        findings.add(f"{name}: its segments do not rise to the log's start, {start}")
    if any(not 1 <= seq < start for seq, _ in ledger.keys.values()):
        findings.add(f"{name}: a request key is of no segment before the log's start, {start}")


def _segment(store: ObjectStore, key: str, current: Current, tail: Tail) -> Segment:
    """The next segment, which is added to what is known of rows. Raises DamagedError."""
    found = store.get(key, SEGMENT_BYTES_MAX)
    if found is None:
        raise DamagedError(f"{key}: is missing")
    segment = unpack_segment(found[0], key)
    if not segment.sealed:
        tail.apply(segment, len(found[0]), key)
        return segment
    new = Current.unpack(segment.sealed, key)
    if new.log.id == current.log.id or new.log.start != tail.next + 1:
        raise DamagedError(f"{key}: seals the log for no other")
    return segment


def _rows(segment: Segment, root: Root, key: str, deep: bool, findings: Findings) -> None:
    """Whether rows are like those of the generation; deep: whether each is one that it could have."""
    own = RowShape(root.index.dimension, root.index.id_kind, root.index.vector_kind)
    if segment.shape != own:
        findings.add(f"{key}: its rows are {segment.shape}, those of the generation {own}")
        return
    fields = [(root.names[field.attribute], field) for field in root.filters]
    for n, request in enumerate(segment.requests if deep else ()):
        where = f"{key}, request {n}"
        try:
            check_vectors(bytes(request.vectors), own, root.index.metric, "upsert")
        except VantageError as error:
            findings.add(f"{where}: {error.message}")
        for kind, texts in (("upsert", request.attributes), ("patch", request.changes)):
            for i, text in enumerate(texts):
                label = f"{where}, {kind}[{i}]"
                try:
                    members = members_of(text, label)
                    for name, field in fields:
                        values_of(field, members.get(name), label)
                except DamagedError as error:
                    findings.add(error.message)
                    continue
                if unknown := members.keys() - set(root.names):
                    findings.add(f"{label}: {min(unknown)[:80]!r} is no attribute of the index")
