"""Small data for the builder's tests, and commands run in this process."""

from __future__ import annotations

import io
import json
import sys
from array import array
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from build_index.cli.main import main
from build_index.ingest.rows import Rows
from vantage.format import LrsqSection, TwoLevelSection
from vantage.kernels import crc32c

RowsOf = Callable[..., Rows]  # the fixture rows_of
FIELD = np.dtype([("axis", "<u2"), ("shift", "u1"), ("width", "u1"), ("level_at", "<u4")])  # docs/format.md, 4.8


def clustered(rows: int, dimension: int, seed: int) -> np.ndarray:
    """f32 (rows, d): 24 Gaussian clusters in directions of falling strength, as embeddings have them."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(24, dimension)) * np.linspace(2.0, 0.2, dimension)
    x = centres[draw.integers(24, size=rows)] + draw.normal(size=(rows, dimension)) * np.linspace(1, 0.1, dimension)
    return x.astype(np.float32)


def decode(section: LrsqSection, codes: np.ndarray) -> np.ndarray:
    """f64 (n, axes) of codes u8 (n, code_bytes), by the words of the format alone: the factor apart."""
    fields, out = np.frombuffer(section.fields, FIELD), np.zeros((len(codes), len(section.deviation)))
    level = np.array(section.levels, np.float64)
    for nibble in range(2 * section.code_bytes):
        value = (codes[:, nibble // 2] >> (4 * (nibble % 2))).astype(int) & 15
        for axis, shift, width, at in fields[section.starts[nibble] : section.starts[nibble + 1]].tolist():
            out[:, axis] += level[at + (value >> shift & (1 << width) - 1)]
    return out * np.array(section.deviation, np.float64)


def in_one_object(section: TwoLevelSection) -> tuple[TwoLevelSection, bytes]:
    """(a section whose pages lie one after the other in object 0, that object); pages are without directories."""
    sizes = list(map(len, section.pages))
    offsets = [sum(sizes[:r]) for r in range(len(sizes))]
    number, crc = array("I", bytes(4 * len(sizes))), array("I", map(crc32c, section.pages))
    placed = replace(section, object=number, offset=array("Q", offsets), size=array("I", sizes), crc=crc)
    return placed, b"".join(section.pages)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))

    def refusal(self) -> str:
        """The sentence on stderr of a command that the user has to mend."""
        assert (self.code, self.out) == (2, ""), self
        assert "Traceback" not in self.err
        return self.err.rstrip("\n").rsplit("vantage: ", 1)[1]


def vantage(*args: object) -> Ran:
    """The command line, through its entry point."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["vantage", *map(str, args)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())
