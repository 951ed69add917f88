"""source -> spool -> partition -> copies -> codes -> layout -> write: one index from start to end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vantage.cost import CLASS_B_USD, REQUEST_USD, STORAGE_USD_PER_GB_MONTH
from vantage.errors import InputError
from vantage.format import RERANK_MAX, VECTOR_BYTES, Contract, Current
from vantage.search.estimate import promise_of

from .bucket.names import check_name
from .bucket.store import alone
from .ingest.attributes import check_rows, check_schema, spot_bytes
from .ingest.lint import Pass, findings
from .ingest.rows import Stored, scaled_rows
from .ingest.source import Batch, Source
from .ingest.staging import Spool, spool
from .progress import Say
from .tune.check import check_options
from .tune.choose import Choice, choose
from .tune.contract import target_point
from .tune.options import Options
from .write.index import write_index
from .write.manifest import manifest_of
from .write.vectors import stored_kind, stored_values

WORTH_SAYING = (
    "zero",
    "constant",
    "hubs",
    "near_copies",
)  # of lint; duplicates are told below, errors are raised by the spool


@dataclass(frozen=True)
class Report:
    """What a build made."""

    index: Path
    current: Current
    choice: Choice
    rows: int
    dimension: int
    metric: str
    nbytes: int
    root_bytes: int
    duplicate_vectors: int
    skipped: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    point: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "index": str(self.index), "generation": self.current.generation, "rows": self.rows,
            "dimension": self.dimension, "metric": self.metric, "blocks": self.choice.shape.blocks,
            "router": self.choice.shape.router, "copies": self.choice.shape.copies,
            "code_bytes": self.choice.codec.code_bytes, "bytes": self.nbytes, "root_bytes": self.root_bytes,
            "duplicate_vectors": self.duplicate_vectors, "skipped": self.skipped, **self.point,
            "tried": self.choice.tried, "notes": list(self.notes),
        }  # fmt: skip


def target_cost(contract: Contract) -> dict[str, float]:
    """What the contract's target costs, nothing cached."""
    point = target_point(contract)
    return {
        "k": contract.k, "target": contract.target, "recall": point.recall, "gets": point.gets,
        "bytes_read": point.nbytes,
        "usd_per_million_queries": 1e6 * (point.gets * CLASS_B_USD + REQUEST_USD),
    }  # fmt: skip


def storage_usd(nbytes: int) -> float:
    """Dollars a month for these bytes in R2."""
    return nbytes / 1e9 * STORAGE_USD_PER_GB_MONTH


def build(
    source: Source, out: Path, options: Options, metric: str, *, say: Say, tell: Callable[[str], None],
    skip_bad_rows: bool = False,
) -> Report:  # fmt: skip
    """Builds `out` (a folder in a bucket folder) from a source; see Options.

    skip_bad_rows leaves rows out that an index cannot hold; they are counted in the report and the manifest.
    say(phase, share) is progress; tell(sentence) are findings. Raises InputError for what the user can mend; then, and
    when the process dies, the index that was there stays live.
    """
    check(source, out, options, metric)
    scratch = out / ".scratch"
    try:
        with alone(out):
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                kind = source.kind if source.kind != "f32" else options.vectors or "f16"
                _check_room(source, out, kind)
                spooled, lost = _spooled(source, scratch, options, metric, kind, say, tell, skip_bad_rows)
                with spooled:
                    if lost and options.vectors:
                        raise lost[0]
                    return _build(source, spooled, out, options, metric, bool(lost), say, tell)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        where = error.filename or scratch
        raise InputError(
            f"cannot write {where}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


def _spooled(
    source: Source, scratch: Path, options: Options, metric: str, kind: str, say: Say, tell: Callable[[str], None],
    skip_bad_rows: bool,
) -> tuple[Spool, list[InputError]]:  # fmt: skip
    """The rows in scratch files, after telling what lint found on the way; and the first row that vectors of this kind
    lose, if any.
    """
    seen, lost = Pass(source, options.seed), list[InputError]()

    def look(batch: Batch) -> None:
        seen.add(batch.vectors, batch.rows)
        if kind != source.kind and not lost:
            try:
                stored_values(batch.vectors, kind, batch.rows, source.where)
            except InputError as error:  # raised where no wider kind is refused too
                lost.append(error)

    spooled = spool(
        source, scratch, metric=metric, progress=lambda done: say("read", done / source.rows), look=look,
        skip_bad_rows=skip_bad_rows,
    )  # fmt: skip
    try:
        seen.check_lengths(metric)
    except InputError:
        spooled.close()
        raise
    for sentence in source.left_out(spooled.skipped) if spooled.skipped else []:
        tell(sentence)
    for finding in findings(seen, metric, 0):
        said = finding.name in WORTH_SAYING or (finding.name, metric) == ("norms", "dot")
        if said or finding.what.startswith("hard"):
            tell(f"{finding.what}: {finding.todo}")
    return spooled, lost


def _check_room(source: Source, out: Path, kind: str) -> None:
    """Raises InputError where the vectors alone do not fit twice: as scratch, and as they are stored."""
    needed = source.rows * source.dimension * (VECTOR_BYTES[source.kind] + VECTOR_BYTES[kind])
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            f"{out} has {free:,} bytes of room, and the vectors alone take {needed:,} while they are indexed",
            hint="free some space or name another --out",
        )


def check(source: Source, out: Path, options: Options, metric: str) -> None:
    """Raises InputError or LimitError for what can be known before reading a row."""
    check_name(out)
    check_options(source.rows, source.dimension, options, metric)
    check_schema(source.attributes)


def _build(
    source: Source,
    spooled: Spool,
    out: Path,
    options: Options,
    metric: str,
    lost: bool,
    say: Say,
    tell: Callable[[str], None],
) -> Report:
    if spooled.rows < source.rows:
        check_options(spooled.rows, source.dimension, options, metric)
    rows = scaled_rows(spooled, metric)
    if spooled.duplicate_vectors:
        tell(f"{spooled.duplicate_vectors:,} vectors repeat another one; they are kept, and tie")
    names = source.attributes.names
    check_rows(spooled, names)
    if options.k > rows.count:
        tell(f"there are {rows.count} rows, so recall is promised at k = {rows.count}")
    choice = choose(rows, id_bytes(spooled) + spot_bytes(spooled, names), options, say)
    kind = "f32" if lost else stored_kind(rows, choice.near, options.vectors)
    for sentence in _surprises(choice, options, kind):
        tell(sentence)
    manifest = manifest_of(rows, source.attributes, choice, options, kind)
    skipped = spooled.skipped.as_dict() if spooled.skipped else {}
    manifest |= {"skipped": skipped} if skipped else {}
    current, nbytes = write_index(
        rows, source.attributes, choice, out, kind, manifest, lambda done: say("write", done),
        norms=options.error_norms, locked=True,
    )  # fmt: skip
    return Report(
        out, current, choice, rows.count, rows.dimension, metric, nbytes, current.root.size, spooled.duplicate_vectors,
        skipped, (*source.notes, *(source.left_out(spooled.skipped) if spooled.skipped else ())),
        target_cost(choice.contract)
        | {"modelled_ms_p50": choice.modelled_ms[0], "modelled_ms_p99": choice.modelled_ms[1]},
    )  # fmt: skip


def _surprises(choice: Choice, options: Options, kind: str) -> list[str]:
    """What these rows cost more than others."""
    told, promise = list[str](), promise_of(choice.contract, choice.stop, None)
    if promise.rerank > RERANK_MAX:
        told.append(
            f"codes alone do not tell rows apart that are so near each other: an answer takes the exact scores of "
            f"{promise.rerank:,} rows, {promise.nbytes / 1e6:.2f} MB in all"
        )
    if choice.contract.target < options.recall:
        told.append(
            f"of the {options.recall} that was asked for, a recall of {choice.contract.target:.3f} is promised: codes, "
            "and the exact scores that a query may read, keep no more on rows held out; near copies left out may help"
        )
    if kind == "f32" and options.vectors is None:
        told.append("full vectors are kept as f32: f16 would move rows across their neighbours")
    return told


def id_bytes(stored: Stored) -> float:
    """Bytes that an id takes in a block: of the longest of a thousand, evenly drawn."""
    some = np.linspace(0, stored.rows - 1, min(1000, stored.rows)).astype(np.int64)
    ids = stored.ids(some)
    return float(max(map(len, ids))) if isinstance(ids, list) else 8.0
