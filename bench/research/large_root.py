"""The root of 10^8 rows: its bytes by section, and the CPU that opening it takes in CPython and in workerd.

    python -m bench.research.large_root [--rows 100000000] [--dimensions 128,384]

The root is made, not built: a network of as many bytes as a build allows, over as many blocks as it makes, in two
renditions; pages of 8,192 rows, all numbers in range, so that every check of an opening runs. The Worker is asked for
the description of the index, which reads CURRENT and the root; an index of 12 rows stands beside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from array import array
from hashlib import sha256
from pathlib import Path

import numpy as np

from bench.edge import connect
from build_index.build import build
from build_index.codecs.lrsq import train
from build_index.codecs.rotations import fit
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.routers import lse, mlp
from build_index.serve import load, serve
from build_index.tune.draft import block_counts
from build_index.tune.options import Options
from vantage.format import (
    ID_PAGE_ROWS,
    Contract,
    Current,
    Directory,
    IdPages,
    IndexSection,
    ObjectName,
    Objects,
    Places,
    Point,
    Rendition,
    Root,
    RowPages,
)
from vantage.format.layout import ROOT_MAGIC, SECTION_NAMES, unpack_object

PAGE_ROWS = 8192
BLOCK_BYTES = 1 << 20
OBJECT_BYTES = 1 << 36
TIMES = 20
WORKERS = 3  # fresh ones, of which the quickest counts


def large_root(rows: int, dimension: int) -> Root:
    """A root of so many rows, whose numbers are anything in range."""
    rng, blocks = np.random.default_rng(1), block_counts(rows)[-1]
    pages, ids = -(-rows // PAGE_ROWS), -(-rows // ID_PAGE_ROWS)
    share = min(mlp.SHARE, mlp.BYTES_MAX / lse.table_bytes(dimension, blocks, lse.SUBS))
    units, subs = mlp.shape_for(dimension, blocks, share)
    drawn = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in (("first", (units, dimension)), ("bias", (units,)), ("table", (blocks * subs, units)))
    }
    router = mlp.section(drawn | {"log_beta": np.float32(2)}, np.zeros(blocks * subs, np.float32), subs, units)
    moment = np.diag((1.0 + np.arange(dimension)) ** -1.4)
    codec = train(moment, moment, dimension // 2, None, fit(None, moment, 0))
    ends, zeros = array("I", [*range(0, rows, PAGE_ROWS), rows]), array("I", [0]) * pages
    starts = array("Q", range(0, pages * (1 << 22), 1 << 22))
    homes = array("I", [rows * (b + 1) // blocks - rows * b // blocks for b in range(blocks)])
    copied = array("I", [n + rows // 2 * (b + 1) // blocks - rows // 2 * b // blocks for b, n in enumerate(homes)])
    block, whole = array("I", range(blocks)), array("I", [BLOCK_BYTES] * blocks)
    offset, zero = array("Q", range(0, blocks * BLOCK_BYTES, BLOCK_BYTES)), array("I", [0]) * blocks
    places = [Places(array("I", [r]) * blocks, offset, whole, whole, zero) for r in range(2)]
    directory = Directory(block, copied, homes, tuple(places))
    renditions = Rendition(0, False), Rendition(0, True)
    objects = Objects(tuple(f"part-{i:05d}.bin" for i in range(400)), (OBJECT_BYTES,) * 399 + (28 * rows,))
    return Root(
        IndexSection(
            "cosine", dimension, rows, blocks, "i64", "f16", "lrsq", "mlp", 1.0, rows + rows // 2,
            attribute_bytes=100,
        ),
        {"attributes": [{"name": "text", "type": "string"}]}, objects, renditions, directory,
        codec.rotation, router, (codec.section,), Contract(100, 12, 0.95, (Point(100, 1, 0.95, 1e7, 12.0),)),
        RowPages(ends, zeros, starts, zeros, starts, zeros, zeros, starts),
        (IdPages(399, rows, array("Q", range(ids)), array("I", [0]) * ids),),
    )  # fmt: skip


def publish(bucket: Path, name: str, root: bytes) -> None:
    """CURRENT and the root of an index that has nothing else."""
    generation = sha256(root).hexdigest()[:16]
    folder = bucket / name / generation
    folder.mkdir(parents=True)
    (folder / "root.bin").write_bytes(root)
    own = ObjectName(f"{generation}/root.bin", len(root), sha256(root).hexdigest())
    manifest = ObjectName(f"{generation}/manifest.json", 1, "")
    (bucket / name / "CURRENT").write_bytes(Current(generation, own, manifest).pack())


def main() -> None:
    """Prints a line a dimension and section, then the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--dimensions", default="128,384")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bucket = Path(scratch)
        np.save(bucket / "tiny.npy", np.eye(12, 16, dtype=np.float32))
        build(open_source([str(bucket / "tiny.npy")]), BuildContext(bucket / "tiny", "cosine", Options(fast=True)))
        (bucket / "tiny.npy").unlink()
        for dimension in map(int, options.dimensions.split(",")):
            root = large_root(options.rows, dimension).pack()
            sections = {SECTION_NAMES[k]: len(v) for k, v in unpack_object(root, ROOT_MAGIC, "root").items()}
            took = []
            for _ in range(TIMES):
                began = time.thread_time()
                Root.unpack(root, "root")
                took.append(1000 * (time.thread_time() - began))
            publish(bucket, f"rows-{dimension}", root)
            print(f"{options.rows:,} x {dimension}: root {len(root):,} bytes, {json.dumps(sections)}")
            print(f"  unpacked in CPython in {statistics.median(took):.1f} ms of CPU", flush=True)
        with tempfile.TemporaryDirectory() as state:
            load(bucket, Path(state))
            for name in sorted(path.name for path in bucket.iterdir()):
                took = []
                for _ in range(WORKERS):
                    variables = {"PUBLIC_READ": "1", "VANTAGE_WARM_BYTES": "0"}
                    with serve(Path(state), variables=variables) as server, connect(server) as http:
                        before = server.cpu_seconds()
                        http.get(f"/v1/indexes/{name}").raise_for_status()
                        took.append(1000 * (server.cpu_seconds() - before))
                print(f"{name}: opened and described in workerd in {min(took):.0f} ms of CPU", flush=True)


if __name__ == "__main__":
    main()
