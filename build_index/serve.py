"""Runs the Worker on this machine: a folder into local R2, then `wrangler dev` on real workerd and real Pyodide."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from vantage.errors import InputError, LimitError, VantageError
from vantage.indexes import NAME

from .node import INSTALLED, ROOT, host_folder, node
from .worker import BUCKET, write_worker

STATE = Path(".vantage") if INSTALLED else ROOT / ".vantage"
START_SECONDS = 180  # 4 s on an idle machine, 20 s seen on a busy one
STOP_SECONDS = 10
PORT_MAX = 65535
POLL_SECONDS = 0.1
LOG_LINES = 25  # of the log, in an error
LOCAL_HOSTS = "localhost, 127.0.0.1, [::1]"  # a page whose name was pointed at this machine sends that name
QUIET = {  # wrangler's environment: nothing is sent or fetched, and nothing extra runs beside the Worker
    "CI": "1",
    "CLOUDFLARE_CF_FETCH_ENABLED": "false",
    "WRANGLER_HIDE_BANNER": "true",
    "WRANGLER_SEND_ERROR_REPORTS": "false",
    "WRANGLER_SEND_METRICS": "false",
    "X_LOCAL_EXPLORER": "false",
    "X_LOCAL_OBSERVABILITY": "false",
}


@dataclass(frozen=True)
class Server:
    """A running Worker: `url` without a trailing slash, `pid` of its workerd, `state` as given to `serve`, resolved."""

    url: str
    pid: int
    state: Path

    def cpu_seconds(self) -> float:
        """CPU seconds so far of workerd's busiest thread, the one that runs the Worker (Linux only).

        Differences of it time a request from outside: a Worker's own clock stands still while it computes.
        Raises VantageError when workerd has ended.
        """
        seconds = _thread_seconds(self.pid)
        if not seconds:
            raise VantageError(f"workerd (process {self.pid}) has ended", hint="see the log given to serve()")
        return max(seconds)


def load(bucket: Path, state: Path = STATE, *, only: str = "", prune: bool = False) -> dict[str, int]:
    """Copies every file of the folder `bucket` into the local R2 kept in the folder `state`; keys are relative paths.

    Objects that are there with the same bytes are left alone, `CURRENT` keys are written last, and with `prune` keys
    that have no file are deleted, but for logs of indexes that are in the folder, and indexes that were made here. With
    `only`, that top folder alone is looked at. Names that start with a dot are left out, and folders whose names a
    Worker refuses (`unserved`).
    Returns the counts `written`, `kept`, `deleted` and `bytes` (written).
    Raises InputError when there is no such folder or a link in it, VantageError when the copy fails.
    """
    if not (bucket / only).is_dir():
        raise InputError(f"no folder {bucket / only}", hint="name a folder that `vantage build --out` wrote into")
    for folder, folders, files in os.walk(bucket / only):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(folder, name) for name in (*folders, *files) if not name.startswith(".")):
            if path.is_symlink():
                raise InputError(
                    f"{path} is a link, and links are not followed", hint="move what it names to its place"
                )
    _make_folder(state)
    with (ROOT / "wrangler.toml").open("rb") as config:
        name = tomllib.load(config)["r2_buckets"][0]["bucket_name"]
    command = [node(), host_folder() / "load.mjs", bucket, state, name, f"--only={only}"]
    command += [
        f"--skip={folder.name}" for folder in bucket.iterdir() if folder.is_dir() and not NAME.fullmatch(folder.name)
    ]
    command += ["--prune"] if prune else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VantageError(f"loading {bucket} into local R2 failed: {_tail(done.stderr)}")
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def unserved(bucket: Path) -> list[str]:
    """Names of the indexes in a folder that a Worker would not take, and `load` leaves out."""
    return sorted(p.parent.name for p in bucket.glob("*/CURRENT") if not NAME.fullmatch(p.parent.name))


@contextmanager
def serve(
    state: Path = STATE,
    *,
    port: int = 0,
    variables: Mapping[str, str] | None = None,
    snapshot: str = "",
    log: Path | None = None,
    project: Path | None = None,
) -> Iterator[Server]:
    """Serves the Worker on 127.0.0.1 from the local R2 in the folder `state`, until the block is left.

    `port` 0 lets the system choose. `variables` are added to those of wrangler.toml and kept off the command line, so
    secrets belong here too; without VANTAGE_HOSTS among them, only requests for names of this machine are answered.
    `snapshot` is "save" to write a memory snapshot of the started Worker into `state`, or "load" to start from it, as
    production does; it holds the code as it was when saved. `log` keeps wrangler's output.
    `project` is the folder whose wrangler.toml says what runs, by default the checkout, or what the wheel carries.
    However the block is left, by an error, SIGINT, SIGTERM or SIGHUP too, every process started here has ended.
    Raises InputError for a port in use or a variable that cannot be passed, VantageError when nothing starts.
    """
    if snapshot not in ("", "save", "load"):
        raise InputError(f"snapshot is {snapshot!r}: give '', 'save' or 'load'")
    check_port(port)
    _make_folder(state)
    state = state.resolve()
    environment = {
        **(os.environ | QUIET),
        "MINIFLARE_WORKERD_PATH": str(host_folder() / "workerd.sh"),
        "VANTAGE_SNAPSHOT": snapshot,
        "VANTAGE_SNAPSHOT_DIR": str(state),
        "WRANGLER_LOG_PATH": str(state / "wrangler-logs"),
    }
    with exit_on_signals(), tempfile.TemporaryDirectory(prefix="vantage-") as folder:
        log = log or Path(folder, "log")
        secrets = Path(folder, "variables")  # the folder is readable by its owner only
        given = {"VANTAGE_HOSTS": LOCAL_HOSTS, **(variables or {})}
        secrets.write_text("".join(_dotenv_line(name, value) for name, value in given.items()))
        if project is None and INSTALLED:
            project = Path(folder, "worker")
            write_worker(project, BUCKET, "NAME")
        project = project or ROOT
        command: list[str | Path] = [
            node(), host_folder() / "dev.mjs", project / "wrangler.toml", state, secrets, str(port),
        ]  # fmt: skip
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: it can be ended whole, and Ctrl-C reaches only us
            )
        try:
            url = _wait_until_healthy(process, log)
            yield Server(url, _busiest_workerd(process.pid), state)
        finally:
            _end(process)


def check_port(port: int) -> None:
    """Raises InputError for a port that is none or in use; 0 lets the system choose."""
    if not 0 <= port <= PORT_MAX:
        raise LimitError("--port", port, f"0 to {PORT_MAX}", hint="0 lets the system choose")
    if port and not _is_free(port):
        raise InputError(f"port {port} is in use", hint="end what uses it or choose another with --port")


def _make_folder(state: Path) -> None:
    """Makes the folder of local R2. Raises InputError where it cannot be one."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        if not os.access(state, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, "Permission denied")
    except OSError as error:
        raise InputError(
            f"cannot keep local R2 in {state}: {error.strerror}", hint="name a folder with --state"
        ) from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _dotenv_line(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or re.search(r"['\\\r\n]", value):
        raise InputError(f"variable {name!r} cannot be passed: its value must have no quote, backslash or line break")
    escaped = value.replace("$", r"\$")  # wrangler expands $NAME, within quotes too
    return f"{name}='{escaped}'\n"


def _wait_until_healthy(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The URL that wrangler announces, once GET /v1/health gets any answer below 500 there."""
    deadline = time.monotonic() + START_SECONDS
    why = "it announced no address"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            why = f"wrangler ended with status {process.returncode}"
            break
        ready = re.search(r"Ready on http://([\d.]+:\d+)", log.read_text(errors="replace"))
        if ready:
            connection = HTTPConnection(ready[1], timeout=START_SECONDS)  # not urllib: no proxy may come between
            try:
                connection.request("GET", "/v1/health")
                status = connection.getresponse().status
                if status < 500:
                    return f"http://{ready[1]}"
                why = f"/v1/health answered {status}"
            except (OSError, HTTPException) as error:
                why = f"/v1/health gave no answer ({error!r})"
            finally:
                connection.close()
        time.sleep(POLL_SECONDS)
    raise VantageError(f"the Worker did not start, {why}; the end of wrangler's log:\n{_tail(log.read_text())}")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])


def _thread_seconds(pid: int) -> list[float]:
    """CPU seconds of every thread of a process, [] when it is gone."""
    seconds = []
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that has just ended
            seconds.append(int(path.read_text().split()[0]) / 1e9)
    return seconds


def _busiest_workerd(group: int) -> int:
    """The process that runs the Worker: wrangler starts a second workerd, which only passes requests on."""
    found = [group]
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(path.name)) == group and (path / "comm").read_text().strip() == "workerd":
                found.append(int(path.name))
    return max(found[1:] or found, key=lambda pid: max(_thread_seconds(pid), default=0.0))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the whole group: politely, then not. A second signal cannot leave anything behind."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise SystemExit, as SIGINT raises KeyboardInterrupt, so that `finally` blocks run."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    # Only the main thread may set handlers, and a handler that somebody has chosen stays.
    numbers = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
