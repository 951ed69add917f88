"""Writes the Worker into a folder that `wrangler` and `pywrangler` take as it is: code, kernels, SDK and settings."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import vantage
from vantage.errors import InputError, VantageError
from vantage.indexes import NAME

from .node import ROOT

BUCKET = "vantage"  # its name in wrangler.toml as it comes
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # R2's rule
SETTINGS, SDK = "wrangler.toml", "python_modules"
RECORD = ".vantage-worker.json"  # in the folder: SHA-256 of each file as it was written

PYPROJECT = f"""# Read by pywrangler: the Worker needs nothing but what lies in src.
[project]
name = "vantage-worker"
version = "{vantage.VERSION}"
requires-python = ">=3.11"
dependencies = []
"""
README = """# Vantage's Worker

`vantage worker` {version} wrote this folder, for the R2 bucket `{bucket}`. Settings stand in `wrangler.toml`.
To update, install a newer Vantage and run `vantage worker` on this folder again: your `wrangler.toml` stays.

{steps}
"""
STEPS = """    npx wrangler login
    npx wrangler r2 bucket create {bucket}
    vantage publish ../bucket/{index} r2://{bucket}/{index}
    npx wrangler secret put VANTAGE_TOKEN
    npx wrangler deploy
    curl -H "Authorization: Bearer $VANTAGE_TOKEN" https://vantage.SUBDOMAIN.workers.dev/v1/indexes/{index}"""


def write_worker(folder: Path, bucket: str, index: str) -> list[str]:
    """Writes the Worker that serves the R2 bucket of this name into a folder, which is made where there is none.

    What an earlier call wrote there is replaced, and removed where it belongs no more; but settings that have been
    changed stay, and so does an SDK that pywrangler has put there. Where any other file is in the way, nothing is
    written. `index` is the name of an index for the steps in README.md. Returns the relative paths that were written.
    Raises InputError for a name that R2 or a Worker refuses, a file in the way, and a folder that cannot be written.
    """
    check_names(bucket, index)
    files = dict(_files(bucket, index))
    try:
        earlier = _earlier(folder)
        kept = _kept(folder, bucket, earlier)
        files = {name: data for name, data in files.items() if name not in kept}
        for name in sorted({*files, *earlier.keys() - kept}):
            if not _may_write(folder, name, (earlier.get(name), _digest(files.get(name, b"")))):
                raise InputError(
                    f"{folder / name} is there and is not as `vantage worker` wrote it",
                    hint="name another folder, or move that file away",
                )
        for name in earlier.keys() - kept - files.keys():
            (folder / name).unlink(missing_ok=True)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        digests = {name: earlier[name] for name in kept} | {name: _digest(data) for name, data in files.items()}
        record = {"version": vantage.VERSION, "files": dict(sorted(digests.items()))}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}", hint="name another folder") from error
    return sorted(files)


def check_names(bucket: str, index: str) -> None:
    """Raises InputError for the name of a bucket that R2 refuses, or that of an index that a Worker refuses."""
    if not _BUCKET_NAME.fullmatch(bucket):
        raise InputError(
            f"{bucket!r} cannot be the name of an R2 bucket",
            hint="it has 3 to 63 lower-case letters, digits and hyphens, and neither begins nor ends with a hyphen",
        )
    if not NAME.fullmatch(index):
        raise InputError(
            f"{index!r} cannot be the name of an index",
            hint="it has 1 to 64 letters, digits, '.', '_', '-', and begins with a letter or a digit",
        )


def steps(bucket: str, index: str) -> str:
    """The commands that bring such a folder to Cloudflare, to be run in it; one a line."""
    return STEPS.format(bucket=bucket, index=index)


def _files(bucket: str, index: str) -> Iterator[tuple[str, bytes]]:
    """(relative path, contents) of all that belongs into the folder."""
    settings = (ROOT / SETTINGS).read_text()
    for text in (f'bucket_name = "{BUCKET}"', f"bucket create {BUCKET}"):
        settings = settings.replace(text, text.replace(BUCKET, bucket))
    yield SETTINGS, settings.encode()
    yield "pyproject.toml", PYPROJECT.encode()
    yield "README.md", README.format(version=vantage.VERSION, bucket=bucket, steps=steps(bucket, index)).encode()
    for name in ("entry.py", "kern.so"):
        yield f"src/{name}", (ROOT / "src" / name).read_bytes()
    package = Path(vantage.__file__).parent
    for path in sorted(package.rglob("*.py")):
        yield f"src/vantage/{path.relative_to(package).as_posix()}", path.read_bytes()
    sdk = ROOT / SDK
    if not sdk.is_dir():
        raise VantageError("the SDK of Python Workers is missing", hint="run `make install`")
    for path in sorted(sdk.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield f"{SDK}/{path.relative_to(sdk).as_posix()}", path.read_bytes()


def _earlier(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that an earlier call wrote there."""
    try:
        record = json.loads((folder / RECORD).read_bytes())["files"]
        names = {str(name): str(digest) for name, digest in record.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = {"..": ""}
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in names):
        raise InputError(f"{folder / RECORD} is not as `vantage worker` wrote it", hint="name another folder")
    return names


def _kept(folder: Path, bucket: str, earlier: dict[str, str]) -> set[str]:
    """Which of the earlier files belong to others now. Raises InputError where such settings name another bucket."""
    kept = set()
    settings = folder / SETTINGS
    if SETTINGS in earlier and settings.is_file() and _digest(settings.read_bytes()) != earlier[SETTINGS]:
        try:
            named = {one["bucket_name"] for one in tomllib.loads(settings.read_text())["r2_buckets"]}
        except (ValueError, KeyError, TypeError):
            named = set()
        if bucket not in named:
            raise InputError(
                f"{settings} has been changed and does not name the bucket {bucket!r}",
                hint="give the bucket that it names, or move it away",
            )
        kept.add(SETTINGS)
    if (folder / SDK / "pyvenv.cfg").exists():  # pywrangler's mark
        kept |= {name for name in earlier if PurePosixPath(name).parts[0] == SDK}
    return kept


def _may_write(folder: Path, name: str, digests: tuple[str | None, ...]) -> bool:
    """Whether nothing is there, or a file with one of these SHA-256, and no link on the way."""
    path = folder / name
    if any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents):
        return False
    return not path.exists() or (path.is_file() and _digest(path.read_bytes()) in digests)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
