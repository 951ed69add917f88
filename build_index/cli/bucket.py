"""`vantage publish`, `generations`, `rollback`, `gc`, `verify` and `diff`: parse, call, print."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.errors import InputError

from ..audit.diff import KINDS, diff
from ..audit.log import verify_log
from ..audit.verify import verify_deep
from ..bucket import generations as g
from ..bucket.names import check_address, check_name
from ..bucket.open import open_index
from ..bucket.store import store_at
from ..compact import Rebuilding, compact
from ..plain import plain
from .terminal import Address, Bucket, Json, State, count, err, folder, out, print_json, progress, size


def publish_command(
    index: Bucket,
    target: Annotated[
        str | None, typer.Argument(help="Where to; the local bucket of `vantage serve` by default.")
    ] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Copy an index into a bucket and make it live there, CURRENT last; run it again where it was interrupted.

    Example: vantage publish bucket/wordnet r2://bucket/wordnet
    """
    path = folder(index)
    where = None if target is None else store_at(target)
    check_name(path if target is None else target)
    opened = open_index(path)  # refuses to publish what does not open
    if where is None or target is None:
        from .. import serve as host

        g.whole(path)
        counts = host.load(path.parent, state or host.STATE, only=path.name)
        if as_json:
            print_json(counts)
            return
        out.print(
            f"{plain(index)}: {count(counts['written'], 'object')} written ({size(counts['bytes'])}), "
            f"{counts['kept']} already there",
            highlight=False,
        )
        return
    with progress(opened.root.index.rows, "rows") as bar:
        report = g.publish(path, where, bar.phase("publish"))
    if as_json:
        print_json(report)
        return
    was = f", before it {report['previous']}" if report["swapped"] and report["previous"] else ""
    out.print(
        f"{plain(target)}: generation {report['generation']} is live{was}; {count(report['objects'], 'object')}, "
        f"{size(report['bytes'])}, of which {size(report['written_bytes'])} were sent",
        highlight=False,
    )


def generations_command(index: Address, as_json: Json = False) -> None:
    """List the generations in a bucket, newest first.

    Example: vantage generations r2://bucket/wordnet
    """
    listed = g.generations(store_at(index))
    if as_json:
        print_json(listed)
        return
    table = Table("generation", "", "rows", "size", "written (UTC)", title=plain(index), title_justify="left")
    for one in listed:
        mark = ("live" if one["live"] else "") if one["whole"] else "partial" + (", live" if one["live"] else "")
        written = datetime.fromtimestamp(one["written"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows = f"{one['rows']:,}" if isinstance(one["rows"], int) else ""
        table.add_row(one["generation"], mark, rows, size(one["bytes"]), written)
    out.print(table)


def compact_command(
    index: Address,
    recall: Annotated[float | None, typer.Option(help="Recall to promise, where rows are built.")] = None,
    fast: Annotated[bool | None, typer.Option(help="Train no router, where rows are built.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build all rows anew, as `vantage build` does.")] = False,
    as_json: Json = False,
) -> None:
    """Fold what was written to an index into a new generation, and make that live; writes go on meanwhile.

    Example: vantage compact r2://bucket/wordnet
    """
    with progress(0, "bytes") as bar:
        asked, phase = Rebuilding(recall, fast, rebuild), bar.phase("compact")
        folded = compact(store_at(index), phase, asked, lambda text: err.print(f"note: {plain(text)}"))
    if as_json:
        print_json(asdict(folded))
        return
    changes = f"{folded.upserted:,} upserted, {folded.patched:,} patched, {folded.deleted:,} deleted"
    out.print(
        f"{plain(index)}: generation {folded.generation}, {count(folded.rows, 'row')}, up to seq {folded.seq}: "
        f"{changes}; {folded.how}: {folded.why}; {size(folded.written_bytes)} written",
        highlight=False,
    )
    if folded.rebuild_pays:
        out.print("queries read much more than if all rows were built anew: --rebuild pays", highlight=False)


def rollback_command(
    index: Address,
    generation: Annotated[str | None, typer.Argument(help="The one before, when not given.")] = None,
    as_json: Json = False,
) -> None:
    """Make an earlier generation live again, once all of it was read and is whole.

    Example: vantage rollback r2://bucket/wordnet
    """
    check_address(index)
    report = g.rollback(store_at(index), generation)
    if as_json:
        print_json(report)
        return
    was = f"; {report['previous']} stays in the bucket" if report["swapped"] else " already"
    out.print(f"{plain(index)}: generation {report['generation']} is live{was}", highlight=False)


def gc_command(
    index: Address,
    older_than: Annotated[str, typer.Option(help="Age of what may go: 7d, 12h, 30m.")] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete old generations, but for the live one and the one before it, and what broken publishes left.

    Example: vantage gc r2://bucket/wordnet --older-than 7d
    """
    check_address(index)
    report = g.gc(store_at(index), _seconds(older_than), dry_run=dry_run)
    if as_json:
        print_json(report)
        return
    verb = "would delete" if dry_run else "deleted"
    names = ", ".join(report["deleted"]) or "nothing"
    out.print(f"{plain(index)}: {verb} {names} ({size(report['bytes'])})", highlight=False)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,12})([dhms])", text.strip())
    if match is None:
        raise InputError(f"{text!r} is not an age", hint="write 7d, 12h, 30m or 0s")
    return int(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}[match[2]]


def verify_command(
    index: Address,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Decode every block and every row of the log, and hold ids, vectors and codes against each other.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every object of the live generation and compare it with the manifest, and read the log; exit status 1 for
    damage.

    Example: vantage verify r2://bucket/wordnet --deep
    """
    where = store_at(index)
    with progress(1, "indexes") as bar:
        report = g.verify(where, bar.phase("verify"))
        report["damages"] = len(report["damage"])
        if deep and not report["damage"]:  # decoding tells nothing of objects that are not those that were written
            report |= verify_deep(where, bar.phase("decode"))
    log = verify_log(where, deep)
    damage, damages = report["damage"] + log.pop("damage"), report["damages"] + log.pop("damages")
    report |= log | {"damage": damage, "damages": damages}
    if as_json:
        print_json(report)
    else:
        for sentence in report["damage"]:
            err.print(f"damaged: {plain(sentence)}", highlight=False)
        state = f"{report['damages']} damaged" if report["damage"] else "whole"
        if "codes" in report:
            state += (
                f"; {count(report['rows'], 'row')} in {count(report['blocks'], 'block')} decoded, "
                f"{count(report['codes'], 'code')} compared"
            )
        if report["segments"]:
            state += (
                f"; {count(report['operations'], 'write')} in {count(report['segments'], 'segment')} of the log read"
            )
        out.print(
            f"{plain(index)}: generation {report['generation']}, {count(report['objects'], 'object')}, "
            f"{size(report['bytes'])}: {state}",
            highlight=False,
        )
    if report["damage"]:
        raise typer.Exit(1)


def diff_command(
    index: Address,
    other: Annotated[str, typer.Argument(help="Another index; or a generation of the first, with a second one.")],
    second: Annotated[str | None, typer.Argument(help="A generation: INDEX OLD NEW.")] = None,
    as_json: Json = False,
) -> None:
    """Show what changed between two indexes, or between two generations of one.

    Example: vantage diff r2://bucket/wordnet bucket/wordnet
    """
    where = store_at(index)
    old, new = ((where, None), (store_at(other), None)) if second is None else ((where, other), (where, second))
    with progress(1, "indexes") as bar:
        changes = diff(old, new, bar.phase("compare"))
    if as_json:
        print_json(changes)
        return
    counts = changes["rows"]
    out.print(
        f"{count(counts['added'], 'row')} added, {counts['removed']:,} removed, "
        f"{counts['changed']:,} with another vector, {counts['same']:,} the same",
        highlight=False,
    )
    for kind in KINDS:
        if changes["ids"][kind]:
            more = " ..." if counts[kind] > len(changes["ids"][kind]) else ""
            out.print(f"{kind}: {', '.join(plain(str(i)) for i in changes['ids'][kind])}{more}", highlight=False)
    table = Table("attribute", "", "old", "new")
    for one in changes["attributes"]:
        table.add_row(plain(one["attribute"]), one["what"], *(_told(one[side]) for side in ("old", "new")))
    if table.row_count:
        out.print(table)
    table = Table("", "old", "new")
    for name, was in changes["old"].items():
        now = changes["new"][name]
        if was != now:
            table.add_row(name, *(size(v) if name == "bytes" else plain(str(v)) for v in (was, now)))
    out.print(table if table.row_count else "nothing else differs")


def _told(value: Any) -> str:
    """A fact of an attribute."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else plain(str(value))
