"""What opening an index costs by its router: bytes of router, root and its other parts, and the time to open.

    python -m bench.research.opening SOURCE [--routers centroids,lse,ecvh,bec-tree,two-level,two-level-ecvh]
        [--block-rows 32]

SOURCE is what `vantage build` reads, sample/wordnet.parquet for one; each router gets an index of it, with blocks of so
many rows. Opening is two GETs, CURRENT and the root; the time is of CPython, from a folder, the median of 30.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source, source_metric
from build_index.routers import ROUTERS
from build_index.tune import draft
from build_index.tune.options import Options
from vantage.format import HEADER, SECTION
from vantage.format.layout import CENTRES, CODEC, DIRECTORY, ROTATION, ROUTER
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt

PARTS = {"router": ROUTER, "centres": CENTRES, "directory": DIRECTORY, "rotation": ROTATION, "codec": CODEC}
TIMES = 30


def opened(bucket: Path, name: str) -> tuple[float, Index, Receipt]:
    """(milliseconds, the index, what was read)."""
    receipt, began = Receipt(), time.perf_counter()
    index = asyncio.run(Index.open(Folder(bucket), name, Cache(0), receipt))
    return 1000 * (time.perf_counter() - began), index, receipt


def main() -> None:
    """Prints a line a router."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--routers", default="centroids,lse,ecvh,bec-tree,two-level,two-level-ecvh")
    parser.add_argument("--block-rows", type=int, default=32)
    options = parser.parse_args()
    print(f"{'router':15}{'blocks':>7}" + "".join(f"{name:>11}" for name in PARTS) + f"{'root':>11}  GETs   ms to open")
    with tempfile.TemporaryDirectory() as folder, patch.object(draft, "BLOCK_ROWS", options.block_rows):
        for router in options.routers.split(","):
            source = open_source([options.source])
            settings = Options(0.9, 10, router=router, fast=not ROUTERS[router].trains, copies="none")
            build(source, BuildContext(Path(folder, router), source_metric(source, None), settings))
            ms = statistics.median(opened(Path(folder), router)[0] for _ in range(TIMES))
            _, index, receipt = opened(Path(folder), router)
            root = Path(folder, router, index.current.root.key).read_bytes()
            table = (
                SECTION.unpack_from(root, HEADER.size + SECTION.size * i) for i in range(HEADER.unpack_from(root)[2])
            )
            sizes = {kind: length for kind, _, _, length, _, _ in table}
            cells = "".join(f"{sizes[kind]:11,}" for kind in PARTS.values())
            print(
                f"{router:15}{index.root.index.blocks:7,}{cells}{len(root):11,}{receipt.gets:6}{ms:13.2f}", flush=True
            )


if __name__ == "__main__":
    main()
