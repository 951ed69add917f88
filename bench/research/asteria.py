"""The tables behind docs/ecvh.md, one command after another: codes at equal bytes, routers, rotations, the bound.

    python -m bench.research.asteria DATA [--sets wordnet,sift] [--svg FOLDER]

DATA holds wordnet/ and sift/. FOLDER gets a picture a set: recall@100 of all blocks scanned against bytes a row. Two
hours on two cores, most of it training of words and neighbours of all rows; each command runs by itself too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from build_index.evaluate.picture import Axis, curves

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str | Path) -> list[str]:
    """The lines that a script of this folder prints, which are printed as they come."""
    print("\n$ python -m bench.research." + " ".join(map(str, words)), flush=True)
    lines = []
    command = [sys.executable, "-m", f"bench.research.{words[0]}", *map(str, words[1:])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if running.returncode:
        raise SystemExit(running.returncode)
    return lines


def lines_of(table: list[str]) -> dict[str, list[tuple[float, float]]]:
    """(bytes, recall@100 of the last set of queries) of each codec in the table of bench/research/codecs.py."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in table[3:]:
        name, cells = line[:14].strip(), line[14:].split()
        found.setdefault(name, []).append((float(cells[0]), float(cells[-4])))
    return {name: points for name, points in found.items() if len(points) > 1}


def main() -> None:
    """Prints the tables of each set, then those of no set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    for name in options.sets.split(","):
        series = lines_of(run("codecs", options.data, "--sets", name))
        if options.svg:
            every = [point for points in series.values() for point in points]
            x = Axis("bytes a row", min(b for b, _ in every) / 1.1, max(b for b, _ in every) * 1.1, log=True)
            y = Axis("recall@100, all blocks scanned", min(r for _, r in every) - 0.02, 1)
            options.svg.mkdir(parents=True, exist_ok=True)
            (options.svg / f"codes-{name}.svg").write_text(curves(series, x, y, f"Codes at equal bytes, {name}"))
        run("ecvh", options.data, "--sets", name)
    run("rotations", options.data, "--rotations", "pca,bor,trained,hadamard")
    run("rotations", "--wasm", "384,768,1536")
    run("bounds", options.data)


if __name__ == "__main__":
    main()
