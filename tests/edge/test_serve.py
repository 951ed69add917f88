"""`vantage publish` and `vantage serve` as a user runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from doubles import Built

pytestmark = pytest.mark.edge
VANTAGE = Path(sys.executable).parent / "vantage"


def listening(pid: int) -> set[int]:
    """TCP ports that a process and those it started listen at."""
    parents, inodes = {}, set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    for process in parents:
        above = process
        while above not in (pid, 0, 1):
            above = parents.get(above, 0)
        for file in Path(f"/proc/{process}/fd").glob("*") if above == pid else ():
            with suppress(OSError):
                inodes.add(os.readlink(file))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


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
            for host in ("evil.example", "evil.example:8787", "localhost.evil.example"):  # DNS that was rebound
                assert http.get("/v1/indexes", headers={"host": host}).status_code == 421
            for host in ("localhost:1", "127.0.0.1", "[::1]:8787"):
                assert http.get("/v1/indexes", headers={"host": host}).status_code == 200
            ports = listening(process.pid)
            assert int(found[0].rpartition(":")[2]) in ports
            for port in ports:  # no inspector, which lists its targets at /json
                reply = httpx.get(f"http://127.0.0.1:{port}/json", headers={"host": "evil.example"}, trust_env=False)
                assert reply.status_code in (403, 421)  # the first: of what wrangler itself listens with
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
