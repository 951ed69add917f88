"""Workers for the tests of this folder: the real one, in workerd, over a local R2 of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.serve import ROOT, Server, load, serve


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`worker(bucket, NAME="value", ...)` serves a copy of the folder `bucket` with these variables.

    A Worker runs until the session ends, and asking again for the same gives the same one: a start takes seconds and
    half a gigabyte. A test that changes what is served, or needs a snapshot, calls `serve` itself.
    """
    started: dict[object, Server] = {}
    with ExitStack() as running:

        def start(bucket: Path, **variables: str) -> Server:
            key = (bucket, *sorted(variables.items()))
            if key not in started:
                state = tmp_path_factory.mktemp("state")
                load(bucket, state)
                started[key] = running.enter_context(serve(state, variables=variables))
            return started[key]

        yield start


@pytest.fixture(scope="session")
def sample_bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket folder with `wordnet`, built from the whole committed sample with the default options."""
    bucket = tmp_path_factory.mktemp("sample")
    source = open_source([ROOT / "sample" / "wordnet.parquet"])
    build(source, BuildContext(bucket / "wordnet", "cosine"))
    return bucket
