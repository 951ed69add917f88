"""Writes the Worker into a folder that `wrangler` and `pywrangler` take as it is: code, kernels, SDK and settings."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import vantage
from vantage.errors import InputError, VantageError
from vantage.indexes import NAME, NAME_RULE

from .node import ROOT

BUCKET = WORKER = "vantage"  # their names in wrangler.toml as it comes
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # R2's rule
_WORKER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # Cloudflare's: it becomes a part of a host's name
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
    export CLOUDFLARE_ACCOUNT_ID=...
    export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...    # of an R2 API token: Object Read & Write
    vantage publish ../bucket/{index} r2://{bucket}/{index}
    export VANTAGE_TOKEN=$(openssl rand -hex 32)              # or a token of your own: keep it, clients send it
    printf %s "$VANTAGE_TOKEN" | npx wrangler secret put VANTAGE_TOKEN
    npx wrangler deploy
    curl -H "Authorization: Bearer $VANTAGE_TOKEN" https://{name}.SUBDOMAIN.workers.dev/v1/indexes/{index}"""


def write_worker(folder: Path, bucket: str, index: str, name: str = WORKER) -> list[str]:
    """Writes the Worker `name`, which serves the R2 bucket `bucket`, into a folder, which is made where there is none.

    What an earlier call wrote there is replaced, and removed where it belongs no more; but settings that have been
    changed stay, and so does an SDK that pywrangler has put there. Where any other file is in the way, nothing is
    written. `index` is the name of an index for the steps in README.md. Returns the relative paths that were written.
    Raises InputError for a name that R2 or a Worker refuses, a file in the way, and a folder that cannot be written.
    """
    check_bucket(bucket)
    check_index(index)
    check_worker(name)
    files = dict(_files(bucket, index, name))
    try:
        earlier = _earlier(folder)
        kept = _kept(folder, bucket, name, earlier)
        files = {path: data for path, data in files.items() if path not in kept}
        for path in sorted({*files, *earlier.keys() - kept}):
            if not _may_write(folder, path, (earlier.get(path), _digest(files.get(path, b"")))):
                raise InputError(
                    f"{folder / path} is there and is not as `vantage worker` wrote it",
                    hint="name another folder, or move that file away",
                )
        for path in earlier.keys() - kept - files.keys():
            (folder / path).unlink(missing_ok=True)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        digests = {path: earlier[path] for path in kept} | {path: _digest(data) for path, data in files.items()}
        record = {"version": vantage.VERSION, "files": dict(sorted(digests.items()))}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}", hint="name another folder") from error
    return sorted(files)


def check_bucket(bucket: str) -> None:
    """Raises InputError for the name of a bucket that R2 refuses."""
    if not _BUCKET_NAME.fullmatch(bucket):
        raise InputError(
            f"{bucket!r} cannot be the name of an R2 bucket",
            hint="it has 3 to 63 lower-case letters, digits and hyphens, and neither begins nor ends with a hyphen",
        )


def check_index(index: str) -> None:
    """Raises InputError for the name of an index that a Worker refuses."""
    if not NAME.fullmatch(index):
        raise InputError(f"{index!r} cannot be the name of an index", hint=NAME_RULE)


def check_worker(name: str) -> None:
    """Raises InputError for the name of a Worker that Cloudflare refuses."""
    if not _WORKER_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name of a Worker",
            hint="it has 1 to 63 lower-case letters, digits and hyphens, and neither begins nor ends with a hyphen",
        )


def name_in(folder: Path) -> str:
    """The name of the Worker that an earlier call wrote into a folder; WORKER where there is none."""
    if not (folder / RECORD).is_file():
        return WORKER
    name = _settings(folder).get("name")
    return name if isinstance(name, str) and _WORKER_NAME.fullmatch(name) else WORKER


def steps(bucket: str, index: str, name: str = WORKER) -> str:
    """The commands that bring such a folder to Cloudflare, to be run in it; one a line."""
    return STEPS.format(bucket=bucket, index=index, name=name)


def _settings(folder: Path) -> dict[str, Any]:
    """What wrangler.toml says in a folder; nothing where it cannot be read."""
    try:
        return tomllib.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError, RecursionError):
        return {}


def _files(bucket: str, index: str, name: str) -> Iterator[tuple[str, bytes]]:
    """(relative path, contents) of all that belongs into the folder."""
    settings = (ROOT / SETTINGS).read_text()
    for text in (f'bucket_name = "{BUCKET}"', f"bucket create {BUCKET}"):
        settings = settings.replace(text, text.replace(BUCKET, bucket))
    settings = re.sub(f'^name = "{WORKER}"$', f'name = "{name}"', settings, flags=re.MULTILINE)
    yield SETTINGS, settings.encode()
    yield "pyproject.toml", PYPROJECT.encode()
    yield "README.md", README.format(version=vantage.VERSION, bucket=bucket, steps=steps(bucket, index, name)).encode()
    for file in ("entry.py", "kern.so"):
        yield f"src/{file}", (ROOT / "src" / file).read_bytes()
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
    place = folder / RECORD
    try:
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise ValueError
        record = json.loads(place.read_bytes())["files"]
        names = {str(name): str(digest) for name, digest in record.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = {"..": ""}
    if not all(map(_is_below, names)):
        raise InputError(f"{place} is not as `vantage worker` wrote it", hint="name another folder")
    return names


def _is_below(name: str) -> bool:
    """Whether this is the relative path of a file that `vantage worker` can have written."""
    path = PurePosixPath(name)
    return name.isascii() and name.isprintable() and not path.is_absolute() and ".." not in path.parts


def _kept(folder: Path, bucket: str, name: str, earlier: dict[str, str]) -> set[str]:
    """Which of the earlier files belong to others now. Raises InputError where such settings name another bucket, or
    another Worker.
    """
    kept = set()
    settings = folder / SETTINGS
    if SETTINGS in earlier and settings.is_file() and _digest(settings.read_bytes()) != earlier[SETTINGS]:
        try:
            named = {one["bucket_name"] for one in _settings(folder)["r2_buckets"]}
        except (KeyError, TypeError):
            named = set()
        if bucket not in named:
            raise InputError(
                f"{settings} has been changed and does not name the bucket {bucket!r}",
                hint="give the bucket that it names, or move it away",
            )
        if _settings(folder).get("name") != name:
            raise InputError(
                f"{settings} has been changed and does not name the Worker {name!r}",
                hint="give the name that it has with --name, or move it away",
            )
        kept.add(SETTINGS)
    if (folder / SDK / "pyvenv.cfg").exists():  # pywrangler's mark
        kept |= {path for path in earlier if PurePosixPath(path).parts[:1] == (SDK,)}
    return kept


def _may_write(folder: Path, name: str, digests: tuple[str | None, ...]) -> bool:
    """Whether nothing is there, or a file with one of these SHA-256, and no link on the way."""
    path = folder / name
    if any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents):
        return False
    return not path.exists() or (path.is_file() and _digest(path.read_bytes()) in digests)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
