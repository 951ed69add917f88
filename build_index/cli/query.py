"""The commands that ask an index: query, explain and info."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.http.bodies import answer_body, describe
from vantage.index import EXACT_VECTORS_MAX, Index
from vantage.receipt import Receipt
from vantage.search.query import Answer, Query

from ..bucket.open import open_written
from ..build import storage_usd, target_cost
from ..plain import plain
from ..prices import index_bytes
from .forms import (
    Distinct,
    Files,
    Filter,
    Identifier,
    Limit,
    Recall,
    Rerank,
    TopK,
    Vector,
    check_form,
    parse_id,
    parse_json,
    read_form,
)  # fmt: skip
from .report import matched_line, proof_line, receipt_line, show_costs, show_values
from .terminal import Address, Json, count, out, print_json, size


def info(index: Address, as_json: Json = False) -> None:
    """What an index is and what it promises.

    Example: vantage info bucket/wordnet
    """
    opened = open_written(index)
    described = describe(opened)
    root = opened.root
    total = index_bytes(opened)
    described |= {"bytes": total, "root_bytes": opened.current.root.size, **target_cost(root.contract)}
    if as_json:
        print_json(described)
        return
    table = Table(title=plain(index), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    facts = ("generation", "rows", "dimension", "metric", "id", "blocks", "codec", "router")
    for name in ("generation", "fresh", "dimension", "metric", "id") if root.is_empty else facts:
        table.add_row(name, f"{described[name]:,}" if isinstance(described[name], int) else str(described[name]))
    if described["model"]:
        table.add_row("model", plain(described["model"]))
    names = ", ".join(f"{a['name']} ({a['type']})" for a in described["attributes"])
    table.add_row("attributes", plain(names) or "none")
    table.add_row(
        "size", f"{size(total)}, root {size(opened.current.root.size)}; ${storage_usd(total):.4f} a month in R2"
    )
    out.print(table)
    show_values(described["attributes"], out)
    if root.is_empty:  # all rows are in the log, and answers exact
        return
    show_costs(described["attributes"], out)
    points = Table(
        "k", "recall", "GETs", "bytes", title="measured on held-out rows, nothing cached", title_justify="left"
    )
    for p in root.contract.points:
        if p.k == root.contract.k:
            mark = " (target)" if p.recall == described["recall"] else ""
            points.add_row(str(p.k), f"{p.recall:.4f}{mark}", f"{p.gets:.1f}", size(p.nbytes))
    out.print(points)
    if root.promises:
        kept = Table(
            "k", "recall", "GETs", "bytes", "waves", "exact scores", "second wave below", "ms modelled",
            title="what keeps a recall@k", title_justify="left",
        )  # fmt: skip
        for ladder, promise in ((x, p) for x in root.promises.ladders(root.contract.k) for p in x.by_recall):
            kept.add_row(
                str(ladder.k), f"{promise.recall:.4f}", f"{promise.gets:.1f}", size(promise.nbytes),
                f"{promise.waves:.2f}", str(promise.rerank or ""),
                f"{promise.threshold:.4f}" if promise.threshold else "", f"{promise.ms:.0f}",
            )  # fmt: skip
        out.print(kept)


def query(
    index: Address,
    vector: Vector = None,
    identifier: Identifier = None,
    queries: Files = None,
    limit: Limit = None,
    top_k: TopK = Query.top_k,
    recall: Recall = None,
    rerank: Rerank = Query.rerank,
    filter: Filter = None,
    distinct: Distinct = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The best of the whole index, proven; see --error-norms.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask an index, here or in a bucket.

    Example: vantage query bucket/wordnet --id n00017222 --top-k 5
    """
    opened = open_written(index)
    check_form(vector, identifier, queries, limit)
    template = Query(
        None, top_k, recall, rerank, attributes=True, exact=exact, filter=parse_json(filter), distinct=distinct
    )
    if queries is not None:
        vectors = read_form(opened, None, None, queries, limit).vectors.tolist()
        answers, total = _answers(opened, [replace(template, vector=values) for values in vectors])
    else:
        if identifier is not None:
            template = replace(template, id=parse_id(identifier, opened.root.index.id_kind))
        else:
            template = replace(template, vector=read_form(opened, vector, None, None, None).vectors[0].tolist())
        answers = [asyncio.run(opened.query(template, Receipt()))]
        total = answers[0].receipt.as_dict()
    if as_json:
        bodies = [answer_body(answer, ["attributes", "receipt"]) for answer in answers]
        print_json(bodies[0] if queries is None else {"results": bodies, "receipt": total})
        return
    for i, answer in enumerate(answers):
        _show(opened, answer, f"query {i + 1:,} of {len(answers):,}" if queries is not None else None)
    out.print(receipt_line(total), highlight=False)


def _answers(opened: Index, queries: list[Query]) -> tuple[list[Answer], dict[str, Any]]:
    """Answers in groups that share their reads, and the counters of all groups together."""
    answers, total = list[Answer](), dict[str, Any]()
    for low in range(0, len(queries), EXACT_VECTORS_MAX):
        receipt = Receipt()
        answers += asyncio.run(opened.answer(queries[low : low + EXACT_VECTORS_MAX], receipt))
        group = receipt.as_dict()
        total = {name: value if isinstance(value, str) else total.get(name, 0) + value for name, value in group.items()}
    return answers, total


def _show(opened: Index, answer: Answer, title: str | None) -> None:
    names = [a["name"] for a in opened.root.schema["attributes"]]
    table = Table("", "id", "score", *map(plain, names), title=title, title_justify="left")
    for i, m in enumerate(answer.matches, 1):
        shown = [cell((m.attributes or {}).get(name)) for name in names]
        table.add_row(
            str(i),
            plain(str(m.id if isinstance(m.id, int) else m.id.decode(errors="replace"))),
            f"{m.score:.4f}",
            *shown,
        )
    out.print(table)
    if answer.matched is not None:
        out.print(matched_line(answer.matched.rows, answer.matched.exact), highlight=False)
    if answer.receipt.proof is not None:
        out.print(proof_line(answer.receipt.proof), highlight=False)


def cell(value: Any) -> str:
    """A value of an attribute, in a table."""
    text = plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:59] + "…"


def explain(
    index: Address,
    vector: Vector = None,
    identifier: Identifier = None,
    queries: Files = None,
    limit: Limit = None,
    top_k: TopK = Query.top_k,
    recall: Recall = None,
    rerank: Rerank = Query.rerank,
    filter: Filter = None,
    as_json: Json = False,
) -> None:
    """Show the ranges that a query would read, and their price, reading nothing of them.

    Example: vantage explain bucket/wordnet --id n00017222
    """
    opened = open_written(index)
    form = read_form(opened, vector, identifier, queries, limit)
    own = [None] * len(form.vectors) if form.own is None else form.own.tolist()
    where = parse_json(filter)
    requests = [
        Query(values, top_k, recall, rerank, without=row, filter=where)
        for values, row in zip(form.vectors.tolist(), own, strict=True)
    ]
    plans = asyncio.run(opened.explain(requests))
    if as_json:
        print_json(plans[0] if queries is None else {"results": plans})
        return
    for i, plan in enumerate(plans):
        _show_plan(plan, f"query {i + 1:,} of {len(plans):,}: " if queries is not None else "")


def _show_plan(plan: dict[str, Any], title: str) -> None:
    waves = "one wave" if plan["waves"] <= 1 else f"{plan['waves']} waves"
    read = "chunks" if plan.get("projection") else "blocks"
    table = Table("object", read, "from byte", "bytes", title=f"{title}{count(plan['gets'], 'GET')} in {waves}")
    table.title_justify = "left"
    for r in plan["ranges"]:
        table.add_row(r["object"], f"{r['blocks'][0]} to {r['blocks'][1]}", f"{r['offset']:,}", size(r["bytes"]))
    out.print(table if plan["ranges"] or plan["routing"] else f"{title}nothing to read")
    recall = plan["recall_estimate"]
    out.print(
        f"{size(plan['bytes'])}, {plan['modelled_ms']:.0f} ms modelled, ${plan['usd_per_million']:.2f} a million such "
        f"queries in reads, recall estimate {'not known' if recall is None else f'{recall:.4f}'}",
        highlight=False,
    )
    if "weighed" in plan:
        _show_weighed(plan)
    if plan["routing"]:
        pages = count(len(plan["routing"]), "routing page")
        out.print(f"before that a wave of {pages}, which name the ranges", highlight=False)
    if plan["second_below"]:
        out.print(f"a second wave may follow: where the estimate then is below {plan['second_below']:.4f}")
    if plan["rerank"]:
        out.print(f"then the full vectors of {count(plan['rerank'], 'row')}, for exact scores")


def _show_weighed(plan: dict[str, Any]) -> None:
    """What a filter takes, and the plans that were compared."""
    if plan["matched"] is not None:
        out.print(matched_line(plan["matched"], False), highlight=False)
    for one in plan["weighed"]:
        by = "by blocks" if one["projection"] is None else f"by the projection of {one['projection']!r}"
        if "looked_at" in one:
            by += f", whose {one['looked_at']} nearest rows are looked at with their attributes"
        chosen = "read" if one["projection"] == plan["projection"] else "weighed"
        cost = f"{count(one['gets'], 'GET')}, {size(one['bytes'])}, {one['modelled_ms']:.0f} ms modelled"
        out.print(f"{chosen} {plain(by)}: {cost}", highlight=False)
