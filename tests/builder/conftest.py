"""Rows from arrays, staged as a build stages them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from small import RowsOf

from build_index.ingest.open import open_source
from build_index.ingest.rows import Rows, scale_rows
from build_index.ingest.staging import stage


@contextmanager
def staging(folder: Path) -> Iterator[RowsOf]:
    with ExitStack() as stack:
        made = 0

        def rows(x: np.ndarray, metric: str = "l2", scale: float | None = 1.0) -> Rows:
            nonlocal made
            made += 1
            path = folder / f"rows-{made}.npy"
            np.save(path, x)
            staging = stack.enter_context(stage(open_source([path]), folder / f"staging-{made}", metric=metric))
            if scale is None:
                return scale_rows(staging, metric)
            return Rows(staging, metric, np.zeros(x.shape[1] if metric == "l2" else 0, np.float32), scale)

        yield rows


@pytest.fixture
def rows_of(tmp_path: Path) -> Iterator[RowsOf]:
    """rows_of(x (N, d), metric="l2", scale=1.0); scale None: the one that a build would take."""
    with staging(tmp_path) as rows:
        yield rows


@pytest.fixture(scope="module")
def lasting_rows_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RowsOf]:
    """rows_of, for what all tests of a module share."""
    with staging(tmp_path_factory.mktemp("staging")) as rows:
        yield rows
