"""docs/library.md: its Python runs as it stands."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from build_index.hashing import codewords

TEXT = (Path(__file__).parents[2] / "docs" / "library.md").read_text()


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(codewords, "STEPS", 40)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)
    assert "VectorIndex(recall=0.9, k=10, fast=True) 700 " in capsys.readouterr().out
    assert (len(names["index"]), len(names["again"])) == (949, 950)
