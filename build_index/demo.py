"""`make demo`: the sample from vectors to answers over HTTP, on real workerd; ends by itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from vantage.errors import VantageError

from . import serve as host
from .build import build
from .cli.report import matched_line, receipt_line, show_plan, show_report
from .cli.terminal import Screen, complain, progress
from .context import BuildContext
from .ingest.open import open_source
from .node import ROOT
from .tune.options import Options

SAMPLE = ROOT / "sample"
BUCKET = ROOT / ".vantage" / "bucket"
QUESTIONS = (50, 25, 325)  # of the held-out queries: a moth, a conflict, a tree
FILTERED, FILTER = 25, {"pos": "verb"}  # the conflict, as what people do
MEMORY_BYTES = 1 << 30

out = Screen(soft_wrap=True, highlight=False, markup=False, emoji=False)


def main() -> None:
    """Builds .vantage/bucket/wordnet, serves it, asks three held-out questions, and one of them under a filter."""
    index = BUCKET / "wordnet"
    out.rule("1. build an index from 12,288 WordNet vectors")
    source = open_source([SAMPLE / "wordnet.parquet"])
    with progress(source.rows, "rows") as bar:
        options = Options(memory_bytes=MEMORY_BYTES)
        context = BuildContext(
            index, "cosine", options, bar, lambda text: out.print(text), plan=lambda plan: show_plan(plan, out)
        )
        report = build(source, context)
    show_report(report, None)
    out.rule("2. load it into local R2 and start the Worker")
    counts = host.load(BUCKET, only="wordnet", prune=True)
    out.print(f"{counts['written']} objects written, {counts['kept']} already there; starting workerd ...")
    with host.serve(variables={"PUBLIC_READ": "1"}) as server:
        out.print(f"serving {server.url}")
        out.rule("3. ask it three questions that are not in the index")
        out.print("Each takes one wave of reads, of blocks with the codes and the attributes of their rows.")
        _ask(server.url, SAMPLE / "queries.parquet", QUESTIONS)
        out.rule("4. ask one of them again, of verbs alone")
        out.print(f"The filter is {json.dumps(FILTER)}: rows that it does not take are not scored.")
        _ask(server.url, SAMPLE / "queries.parquet", [FILTERED], {"filter": FILTER})
    out.rule("done")
    out.print(
        f"Keep it running:  .venv/bin/vantage serve {BUCKET.relative_to(ROOT)}\n"
        f"Look inside:      .venv/bin/vantage info {index.relative_to(ROOT)}"
    )


def _ask(url: str, queries: Path, questions: Sequence[int], more: dict[str, Any] | None = None) -> None:
    """more: fields of each query besides."""
    table = pq.read_table(queries, columns=["text", "vector"]).take(list(questions)).to_pylist()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for row in table:
            body = {"vector": [float(v) for v in row["vector"]], "top_k": 4, "include": ["attributes", "receipt"]}
            answer = client.post("/v1/indexes/wordnet/query", json=body | (more or {})).raise_for_status().json()
            out.print(f"\n{row['text']}", style="bold")
            for match in answer["matches"]:
                words = ", ".join(match["attributes"]["words"])
                out.print(f"  {match['score']:.3f}  {words}: {match['attributes']['gloss']}")
            if "matched" in answer:
                out.print(f"  {matched_line(answer['matched'], answer['matched_exact'])}", style="dim")
            out.print(f"  receipt: {receipt_line(answer['receipt'])}", style="dim")


if __name__ == "__main__":
    try:
        main()
    except VantageError as error:
        complain(str(error))
        sys.exit(1)
