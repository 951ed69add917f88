"""`vantage publish` and `vantage serve` as a user runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from doubles import Built

pytestmark = pytest.mark.edge
VANTAGE = Path(sys.executable).parent / "vantage"


def test_serve_until_interrupted(words: Built, tmp_path: Path) -> None:
    published = subprocess.run(
        [VANTAGE, "publish", words.bucket / "words", "--state", tmp_path, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert '"written"' in published.stdout
    process = subprocess.Popen(
        [VANTAGE, "serve", words.bucket, "--port", "0", "--state", tmp_path],
        stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
        assert found
        with httpx.Client(base_url=found[0], timeout=60, trust_env=False) as http:
            answer = http.post("/v1/indexes/words/query", json={"vector": words.queries[0].tolist()}).json()
        assert len(answer["matches"]) == 10
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.terminate()  # nothing stays behind a test that fails
    time.sleep(0.2)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found[0]}/v1/health", trust_env=False)
