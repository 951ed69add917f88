"""`make demo`: the sample from vectors to answers over HTTP, on real workerd; ends by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pyarrow.parquet as pq

from vantage.errors import VantageError

from . import serve as host
from .build import build
from .cli.report import receipt_line, show_report
from .cli.terminal import Screen, complain, progress
from .context import BuildContext
from .ingest.open import open_source
from .node import ROOT
from .tune.options import Options

SAMPLE = ROOT / "sample"
BUCKET = ROOT / ".vantage" / "bucket"
QUESTIONS = (50, 25, 325)  # of the held-out queries: a moth, a conflict, a tree
MEMORY_BYTES = 1 << 30

out = Screen(soft_wrap=True, highlight=False, markup=False, emoji=False)


def main() -> None:
    """Builds .vantage/bucket/wordnet, serves it, asks three held-out questions, prints answers and receipts."""
    index = BUCKET / "wordnet"
    out.rule("1. build an index from 12,288 WordNet vectors")
    source = open_source([SAMPLE / "wordnet.parquet"])
    with progress(source.rows, "rows") as bar:
        options = Options(memory_bytes=MEMORY_BYTES)
        report = build(source, BuildContext(index, "cosine", options, bar, lambda text: out.print(text)))
    show_report(report, None)
    out.rule("2. load it into local R2 and start the Worker")
    counts = host.load(BUCKET, only="wordnet", prune=True)
    out.print(f"{counts['written']} objects written, {counts['kept']} already there; starting workerd ...")
    with host.serve(variables={"PUBLIC_READ": "1"}) as server:
        out.print(f"serving {server.url}")
        out.rule("3. ask it three questions that are not in the index")
        out.print("Each takes one wave of reads, of blocks with the codes and the attributes of their rows.")
        _ask(server.url, SAMPLE / "queries.parquet")
    out.rule("done")
    out.print(
        f"Keep it running:  .venv/bin/vantage serve {BUCKET.relative_to(ROOT)}\n"
        f"Look inside:      .venv/bin/vantage info {index.relative_to(ROOT)}"
    )


def _ask(url: str, queries: Path) -> None:
    table = pq.read_table(queries, columns=["text", "vector"]).take(list(QUESTIONS)).to_pylist()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for row in table:
            body = {"vector": [float(v) for v in row["vector"]], "top_k": 4, "include": ["attributes", "receipt"]}
            answer = client.post("/v1/indexes/wordnet/query", json=body).raise_for_status().json()
            out.print(f"\n{row['text']}", style="bold")
            for match in answer["matches"]:
                words = ", ".join(match["attributes"]["words"])
                out.print(f"  {match['score']:.3f}  {words}: {match['attributes']['gloss']}")
            out.print(f"  receipt: {receipt_line(answer['receipt'])}", style="dim")


if __name__ == "__main__":
    try:
        main()
    except VantageError as error:
        complain(str(error))
        sys.exit(1)
