"""What answers and indexes look like from outside: JSON, and the binary form."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ..filter.schema import describe_attributes
from ..format import pack_answers
from ..index import Index
from ..receipt import Receipt
from ..search.query import Answer
from ..search.rows import StoredRow
from .reply import Reply, json_text
from .request import BINARY

SAFE_INTEGER = (1 << 53) - 1  # past it JavaScript reads an integer as another one


def describe(index: Index) -> dict[str, Any]:
    """Schema, contract and generation of an index."""
    root = index.root
    contract = root.contract
    return {
        "name": index.name,
        "generation": index.current.generation,
        "rows": root.live_rows,
        "seq": index.seq,
        "fresh": 0 if index.fresh is None else index.fresh.live_rows,
        "superseded": 0 if index.fresh is None else len(index.fresh.ids),
        "dimension": root.index.dimension,
        "metric": root.index.metric,
        "id": root.index.id_kind,
        "attributes": describe_attributes(root),
        "model": root.schema.get("model"),
        "codec": root.index.codec,
        "router": root.index.router,
        "blocks": root.index.blocks,
        "exact": root.proves,
        "contract": {
            "k": contract.k,
            "recall": contract.target,
            "gets": contract.gets,
            "points": [{"k": p.k, "recall": p.recall, "bytes": p.nbytes, "gets": p.gets} for p in contract.points],
            "promises": [
                {
                    "k": ladder.k,
                    "recall": p.recall,
                    "bytes": p.nbytes,
                    "gets": p.gets,
                    "waves": p.waves,
                    "rerank": p.rerank,
                    "second_below": p.threshold or None,
                    "modelled_ms": p.ms,
                }
                for ladder in (root.promises.ladders(contract.k) if root.promises else ())
                for p in ladder.by_recall
            ],  # fmt: skip
        },
    }


def packed_reply(answers: list[Answer], receipt: Receipt, many: bool, after: list[Awaitable[Any]]) -> Reply:
    """Answers as bytes, their words as JSON behind them."""
    matches = [m for a in answers for m in a.matches]
    results = [{k: v for k, v in answer_body(a, ["receipt"]).items() if k != "matches"} for a in answers]
    tail = json_text({"results": results} | ({"receipt": receipt.as_dict()} if many else {})).encode()
    body = pack_answers([len(a.matches) for a in answers], [m.score for m in matches], [m.id for m in matches], tail)
    return Reply(200, body, {"content-type": BINARY}, after)


def json_id(identifier: int | bytes, ids: str | None) -> int | str:
    """An id as JSON has it; ids None: an integer that JavaScript would round is a string of digits, others are not."""
    if isinstance(identifier, bytes):
        return identifier.decode(errors="replace")
    if ids == "string" or (ids is None and abs(identifier) > SAFE_INTEGER):
        return str(identifier)
    return identifier


def row_body(row: StoredRow, include: list[str], ids: str | None = None) -> dict[str, Any]:
    """The JSON of a row that is told without a score; ids as for `json_id`."""
    body: dict[str, Any] = {"id": json_id(row.id, ids)}
    body |= {"vector": row.vector} if "vector" in include else {}
    return body | ({"attributes": row.attributes} if "attributes" in include else {})


def answer_body(answer: Answer, include: list[str], ids: str | None = None) -> dict[str, Any]:
    """The JSON of an answer; ids: "string", "number" or None for what every client reads right."""
    matches = []
    for m in answer.matches:
        match: dict[str, Any] = {
            "id": json_id(m.id, ids),
            "score": m.score,
        }
        if "attributes" in include:
            match["attributes"] = m.attributes
        if "vector" in include:
            match["vector"] = m  # see reply._numbers
        matches.append(match)
    body: dict[str, Any] = {
        "matches": matches,
        "scores": "exact" if answer.exact else "estimated",
        "complete": answer.complete,
        "recall_estimate": None if answer.recall_estimate is None else round(answer.recall_estimate, 4),
    }
    if answer.matched is not None:
        body |= {"matched": answer.matched.rows, "matched_exact": answer.matched.exact}
    if "receipt" in include:
        body["receipt"] = answer.receipt.as_dict()
    return body
