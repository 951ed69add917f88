"""Builds one index from start to end: rows are staged, checked, measured, laid out in blocks, encoded and written."""

from __future__ import annotations

import shutil
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vantage.cost import CLASS_B_USD, REQUEST_USD, STORAGE_USD_PER_GB_MONTH
from vantage.errors import InputError
from vantage.filter.schema import describe_attributes
from vantage.format import RERANK_MAX, VECTOR_BYTES, Contract, Current, Root
from vantage.search.estimate import promise_of

from .bucket.generations import check_folded
from .bucket.names import check_name
from .bucket.store import FolderStore, alone
from .context import BuildContext
from .filters.declare import declare
from .filters.estimate import FilterEstimate, estimate_filters, plain_bytes
from .ingest.attributes import check_rows, check_schema, spot_bytes
from .ingest.formats.batch import Batch
from .ingest.lint import Pass, findings
from .ingest.rows import StoredRows, scale_rows
from .ingest.source import Source
from .ingest.staging import Staging, stage
from .tasks.open import STAGE, open_tasks, open_workers
from .tasks.tasks import Tasks
from .tune.check import check_options
from .tune.choose import Choice, choose
from .tune.contract import target_point
from .tune.options import Options
from .write.contents import Contents
from .write.held import first_held
from .write.index import write_index
from .write.manifest import manifest_of
from .write.publish import live_of
from .write.vectors import stored_kind, stored_values

# Of lint; duplicates are noted below, errors are raised by staging.
WORTH_SAYING = ("zero", "constant", "hubs", "near_copies")


@dataclass(frozen=True)
class Report:
    """What a build has written. plan: what filters were to cost; attributes: what they do cost, as an index says."""

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
    plan: tuple[FilterEstimate, ...] = ()
    attributes: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "index": str(self.index), "generation": self.current.generation, "rows": self.rows,
            "dimension": self.dimension, "metric": self.metric, "blocks": self.choice.layout.blocks,
            "router": self.choice.layout.router, "copies": self.choice.layout.copies,
            "code_bytes": self.choice.codec.code_bytes, "bytes": self.nbytes, "root_bytes": self.root_bytes,
            "duplicate_vectors": self.duplicate_vectors, "skipped": self.skipped, **self.point,
            "tried": self.choice.tried, "notes": list(self.notes),
            "plan": [asdict(one) for one in self.plan], "attributes": list(self.attributes),
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


def build(source: Source, context: BuildContext) -> Report:
    """Builds the index `context.out`, a folder in a bucket folder, from a source.

    Raises InputError for what the user can mend; then, and when the process dies, the index that was there stays live.
    """
    check(source, context)
    try:
        # A stage's folder may be that of another index of the same name.
        with alone(context.out), nullcontext() if context.stage is None else alone(context.scratch):
            try:
                check_folded(FolderStore(context.out), live_of(context.out))
                _clear(context.scratch)
                kind = source.kind if source.kind != "f32" else context.options.vectors or "f16"
                _check_room(source, context.out, kind)
                with open_workers(source.rows, context) as workers:
                    staging, lost = _stage(source, kind, context)
                    with staging, open_tasks(staging, workers, context) as tasks:
                        if lost and context.options.vectors:
                            raise lost[0]
                        return _build(source, staging, bool(lost), tasks, context)
            finally:
                _clear(context.scratch)
    except OSError as error:
        where = error.filename or context.scratch
        raise InputError(
            f"cannot write {where}: {error.strerror or error}", hint="free some space or name another --out"
        ) from error


def _clear(scratch: Path) -> None:
    """Removes all but the stage of a build that did not end, for the next one to go on from."""
    for path in list(scratch.iterdir()) if scratch.is_dir() else []:
        if path.name != STAGE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with suppress(OSError):  # a stage is there, or nothing
        scratch.rmdir()


def _stage(source: Source, kind: str, context: BuildContext) -> tuple[Staging, list[InputError]]:
    """The rows in scratch files, after noting what lint saw on the way; and the first row that vectors of this kind
    lose, if any.
    """
    survey, lost = Pass(source, context.options.seed), list[InputError]()

    def look(batch: Batch) -> None:
        survey.add(batch.vectors, batch.rows)
        if kind != source.kind and not lost:
            try:
                stored_values(batch.vectors, kind, batch.rows, source.where)
            except InputError as error:  # raised where no wider kind is refused too
                lost.append(error)

    staging = stage(
        source, context.scratch, metric=context.metric, progress=context.progress.phase("read"), look=look,
        skip_bad_rows=context.skip_bad_rows,
    )  # fmt: skip
    try:
        survey.check_lengths(context.metric)
    except InputError:
        staging.close()
        raise
    for sentence in source.left_out(staging.skipped) if staging.skipped else []:
        context.note(sentence)
    for finding in findings(survey, context.metric, 0):
        noted = finding.name in WORTH_SAYING or (finding.name, context.metric) == ("norms", "dot")
        if noted or finding.what.startswith("hard"):
            context.note(f"{finding.what}: {finding.todo}")
    return staging, lost


def _check_room(source: Source, out: Path, kind: str) -> None:
    """Raises InputError where the vectors alone do not fit twice: as scratch, and as they are stored."""
    needed = source.rows * source.dimension * (VECTOR_BYTES[source.kind] + VECTOR_BYTES[kind])
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            f"{out} has {free:,} bytes of room, and the vectors alone take {needed:,} while they are indexed",
            hint="free some space or name another --out",
        )


def check(source: Source, context: BuildContext) -> None:
    """Raises InputError or LimitError for what can be known before reading a row."""
    check_name(context.out)
    check_options(source.rows, source.dimension, context.options, context.metric)
    check_schema(source.attributes)
    declare(source.attributes, context.options.filters)


def _build(source: Source, staging: Staging, lost: bool, tasks: Tasks, context: BuildContext) -> Report:
    """The index of staged rows. lost: f16 would lose one of them."""
    options = context.options
    if staging.rows < source.rows:
        check_options(staging.rows, source.dimension, options, context.metric)
    rows = replace(scale_rows(staging, context.metric), tasks=tasks)
    if staging.duplicate_vectors:
        context.note(f"{staging.duplicate_vectors:,} vectors repeat another one; they are kept, and tie")
    names = source.attributes.names
    check_rows(staging, names)
    if options.k > rows.count:
        context.note(f"there are {rows.count} rows, so recall is promised at k = {rows.count}")
    number_bytes = VECTOR_BYTES[options.vectors or ("f16" if source.kind == "f32" else source.kind)]
    codecs = 1 if options.fast else 2
    plan = estimate_filters(rows, source.attributes, options.filters, number_bytes, codecs)
    context.plan(plan)
    needed = plain_bytes(rows, source.attributes, number_bytes, codecs) + sum(
        one.blocks + one.projection for one in plan
    )
    free = shutil.disk_usage(context.out).free
    if free < needed:  # it can turn out smaller, and room may come; what is written is checked before it is
        context.note(
            f"the index may take {needed / 1e9:.1f} GB, and there are {free / 1e9:.1f} GB of room: free some space "
            "meanwhile, or begin again with fewer attributes in --filter"
        )
    choice = choose(rows, id_bytes(staging) + spot_bytes(staging, names), options, context.progress)
    kind = "f32" if lost else stored_kind(rows, choice.near, options.vectors)
    for sentence in _surprises(choice, options, kind):
        context.note(sentence)
    manifest = manifest_of(rows, source.attributes, choice, options, kind)
    skipped = staging.skipped.as_dict() if staging.skipped else {}
    manifest |= {"skipped": skipped} if skipped else {}
    writing = replace(context, progress=context.progress.phase("write"))
    held = first_held(rows, choice, kind)
    contents = Contents(rows, source.attributes, choice, kind, manifest, held=held)
    current, nbytes = write_index(contents, writing, locked=True)
    return Report(
        context.out, current, choice, rows.count, rows.dimension, context.metric, nbytes, current.root.size,
        staging.duplicate_vectors, skipped,
        (*source.notes, *(source.left_out(staging.skipped) if staging.skipped else ())),
        target_cost(choice.contract)
        | {"modelled_ms_p50": choice.modelled_ms[0], "modelled_ms_p99": choice.modelled_ms[1]},
        tuple(plan), tuple(describe_attributes(_root(context.out, current))),
    )  # fmt: skip


def _root(out: Path, current: Current) -> Root:
    """Of the generation that was written."""
    return Root.unpack((out / current.root.key).read_bytes(), current.root.key)


def _surprises(choice: Choice, options: Options, kind: str) -> list[str]:
    """Notes on what these rows cost more than others."""
    notes, promise = list[str](), promise_of(choice.contract, choice.promises, choice.contract.k, None)
    if promise.rerank > RERANK_MAX:
        notes.append(
            f"codes alone do not tell rows apart that are so near each other: an answer takes the exact scores of "
            f"{promise.rerank:,} rows, {promise.nbytes / 1e6:.2f} MB in all"
        )
    if choice.contract.target < options.recall:
        notes.append(
            f"of the {options.recall} that was asked for, a recall of {choice.contract.target:.3f} is promised: codes, "
            "and the exact scores that a query may read, keep no more on rows held out; near copies left out may help"
        )
    if kind == "f32" and options.vectors is None:
        notes.append("full vectors are kept as f32: f16 would move rows across their neighbours")
    return notes


def id_bytes(stored: StoredRows) -> float:
    """Bytes that an id takes in a block: of the longest of a thousand, evenly drawn."""
    drawn = np.linspace(0, stored.rows - 1, min(1000, stored.rows)).astype(np.int64)
    ids = stored.ids(drawn)
    return float(max(map(len, ids))) if isinstance(ids, list) else 8.0
