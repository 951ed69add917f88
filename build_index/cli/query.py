"""The commands that ask an index: query, explain and info."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vantage.errors import InputError
from vantage.http.bodies import answer_body, describe
from vantage.receipt import Receipt
from vantage.search.query import Query

from ..bucket.open import open_index
from ..build import storage_usd, target_cost
from ..ingest.queries import read_queries
from ..plain import plain
from .report import proof_line, receipt_line
from .terminal import Address, Json, out, print_json, size


def info(index: Address, as_json: Json = False) -> None:
    """What an index is and what it promises.

    Example: vantage info bucket/wordnet
    """
    opened = open_index(index)
    described = describe(opened)
    root = opened.root
    total = sum(root.objects.shards) + sum(root.objects.parts) + root.objects.ids + opened.current.root.size
    described |= {"bytes": total, "root_bytes": opened.current.root.size, **target_cost(root.contract)}
    if as_json:
        print_json(described)
        return
    table = Table(title=plain(index), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name in ("generation", "rows", "dimension", "metric", "id", "blocks", "codec", "router"):
        table.add_row(name, f"{described[name]:,}" if isinstance(described[name], int) else str(described[name]))
    if described["model"]:
        table.add_row("model", plain(described["model"]))
    names = ", ".join(f"{a['name']} ({a['type']})" for a in described["attributes"])
    table.add_row("attributes", plain(names) or "none")
    table.add_row(
        "size", f"{size(total)}, root {size(opened.current.root.size)}; ${storage_usd(total):.4f} a month in R2"
    )
    out.print(table)
    points = Table(
        "k", "recall", "GETs", "bytes", title="measured on held-out rows, nothing cached", title_justify="left"
    )
    for p in root.contract.points:
        if p.k == root.contract.k:
            mark = " (target)" if p.recall == described["recall"] else ""
            points.add_row(str(p.k), f"{p.recall:.4f}{mark}", f"{p.gets:.1f}", size(p.nbytes))
    out.print(points)
    if root.stop:
        kept = Table(
            "recall", "GETs", "bytes", "waves", "exact scores", "second wave below", "ms modelled",
            title=f"what keeps a recall@{root.contract.k}", title_justify="left",
        )  # fmt: skip
        for promise in root.stop.promises:
            kept.add_row(
                f"{promise.recall:.4f}", f"{promise.gets:.1f}", size(promise.nbytes), f"{promise.waves:.2f}",
                str(promise.rerank or ""), f"{promise.threshold:.4f}" if promise.threshold else "", f"{promise.ms:.0f}",
            )  # fmt: skip
        out.print(kept)


def query(
    index: Address,
    vector: Annotated[Path | None, typer.Option(help="A .npy or Parquet file; its first vector is the query.")] = None,
    identifier: Annotated[str | None, typer.Option("--id", help="Id of a stored row as the query.")] = None,
    top_k: Annotated[int, typer.Option(help="Answers, 1 to 1000.")] = 10,
    recall: Annotated[float | None, typer.Option(help="Recall for this query; the index's target by default.")] = None,
    rerank: Annotated[int, typer.Option(help="Read the full vectors of the best n for exact scores.")] = 0,
    exact: Annotated[
        bool, typer.Option("--exact", help="The best of the whole index, proven; see --error-norms.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask an index, here or in a bucket.

    Example: vantage query bucket/wordnet --id n00001740 --top-k 5
    """
    opened = open_index(index)
    receipt = Receipt()

    async def ask() -> Any:
        if (vector is None) == (identifier is None):
            raise InputError("name one query", hint="--vector FILE or --id ID")
        if identifier is not None:
            key, values = _id(identifier, opened.root.index.id_kind), None
        else:
            key, values = None, read_queries(vector, 1).vectors[0].tolist()  # type: ignore[arg-type]
        return await opened.query(Query(values, top_k, recall, rerank, attributes=True, exact=exact, id=key), receipt)

    answer = asyncio.run(ask())
    if as_json:
        print_json(answer_body(answer, ["attributes", "receipt"]))
        return
    names = [a["name"] for a in opened.root.schema["attributes"]]
    table = Table("", "id", "score", *map(plain, names))
    for i, m in enumerate(answer.matches, 1):
        shown = [_cell((m.attributes or {}).get(name)) for name in names]
        table.add_row(
            str(i),
            plain(str(m.id if isinstance(m.id, int) else m.id.decode(errors="replace"))),
            f"{m.score:.4f}",
            *shown,
        )
    out.print(table)
    out.print(receipt_line(answer.receipt.as_dict()), highlight=False)
    if answer.receipt.proof is not None:
        out.print(proof_line(answer.receipt.proof), highlight=False)


def _id(text: str, kind: str) -> int | bytes:
    if kind == "bytes":
        return text.encode()
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{text!r} is not a whole number, and the ids of this index are", hint="check --id") from None


def _cell(value: Any) -> str:
    text = plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:59] + "…"


def explain(
    index: Address,
    vector: Annotated[Path, typer.Option(help="A .npy or Parquet file; its first vector is the query.")],
    top_k: Annotated[int, typer.Option(help="Answers, 1 to 1000.")] = 10,
    recall: Annotated[float | None, typer.Option(help="Recall for this query.")] = None,
    as_json: Json = False,
) -> None:
    """Show the ranges that a query would read, and their price, reading nothing of them.

    Example: vantage explain bucket/wordnet --vector query.npy
    """
    values = read_queries(vector, 1).vectors[0].tolist()
    plan = asyncio.run(open_index(index).explain([Query(values, top_k, recall)]))[0]
    if as_json:
        print_json(plan)
        return
    table = Table(
        "shard", "blocks", "from byte", "bytes", title=f"{plan['gets']} GETs in one wave", title_justify="left"
    )
    for r in plan["ranges"]:
        table.add_row(str(r["shard"]), f"{r['blocks'][0]} to {r['blocks'][1]}", f"{r['offset']:,}", size(r["bytes"]))
    out.print(table)
    out.print(
        f"{size(plan['bytes'])}, {plan['modelled_ms']:.0f} ms modelled, ${plan['usd_per_million']:.2f} a million such "
        f"queries in reads, recall estimate {plan['recall_estimate']}",
        highlight=False,
    )
    if plan["second_below"]:
        out.print(f"a second wave may follow: where the estimate then is below {plan['second_below']:.4f}")
    if plan["rerank"]:
        out.print(f"then the full vectors of {plan['rerank']} rows, for exact scores")
