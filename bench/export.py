"""Whether an exported router orders blocks as the index does, in onnxruntime and in onnxruntime-web under Node.

    python -m bench.export INDEX --queries FILE [--limit 1000] [--json]

Queries are compared, and nothing is fitted to them. "largest p difference" and "at one place" are in units of 2^-20 of
probability; the second is between the probabilities, by the kernels, of the two blocks that stand at one place of the
two orders: 0 where only blocks that the kernels hold for equally probable change places. A two-level router is compared
after reading all of its pages. Exits with 1 where a runtime is further away than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from build_index.bucket.open import open_index
from build_index.export.agreement import HEAD, RUNTIMES, TOLERANCE, agreement, by_kernels
from build_index.export.router import export_router, routing_pages
from build_index.ingest.queries import read_queries


def main() -> None:
    """Prints a line a runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    index, asked = open_index(options.index), read_queries(options.queries, options.limit).vectors
    kernels = by_kernels(index, routing_pages(options.index, index), asked)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "router.onnx"
        told = export_router(options.index, model) | {"queries": len(asked), "tolerance": TOLERANCE}
        found = {}
        for name, ask in RUNTIMES.items():
            began = time.monotonic()
            one = agreement(kernels, ask(model, asked))
            found[name] = asdict(one) | {"holds": one.holds, "seconds": round(time.monotonic() - began, 2)}
    if options.json:
        print(json.dumps(told | {"runtimes": found}))
    else:
        print(
            f"{told['index']}: {told['router']} router, {told['blocks']} blocks, {told['dimension']} dimensions, "
            f"{told['metric']}; model of {told['bytes'] / 1e6:.2f} MB; {len(asked)} queries; tolerance {TOLERANCE}"
        )
        print(f"{'':18}{'largest p':>12}{'at one':>8}{f'same first {HEAD}':>16}{'same order':>12}{'seconds':>9}")
        print(f"{'':18}{'difference':>12}{'place':>8}{'in order':>16}{'of all':>12}")
        for name, one in found.items():
            print(
                f"{name:18}{one['p_units']:>12}{one['order_units']:>8}{one['same_head']:>16.4f}{one['same']:>12.4f}"
                f"{one['seconds']:>9.1f}" + ("" if one["holds"] else "  outside of the tolerance")
            )
    sys.exit(not all(one["holds"] for one in found.values()))


if __name__ == "__main__":
    main()
