"""Which files of a folder are its rows: tables with a log, partitions, configs and splits, numbered parts."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from vantage.errors import InputError

from . import delta
from .address import Location, Part, above, below, inside, shown

DEPTH_MAX = 12
NAMED_MAX = 5
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
PARTITION = re.compile("([^=]+)=(.*)", re.DOTALL)

# data/train-00000-of-00012.parquet: how Hugging Face names the parts of a split.
NUMBERED = re.compile(
    r"(?P<set>.*?)[-_. ]?(?P<part>\d+)[-_. ]?of[-_. ]?(?P<parts>\d+)([-_][0-9a-f]{6,})?(?P<rest>\.[^-]*)", re.IGNORECASE
)
# train.parquet and test.parquet; base.fvecs, learn.fvecs and query.fvecs of the TEXMEX sets, sift_ before them.
TRAIN = ("train", "training", "base")
SPLIT = re.compile(
    rf"(?:.*[-_. ])?({'|'.join(TRAIN)}|learn|query|queries|test|testing|validation|valid|val|dev|eval)"
    r"(?:\d+|[-_. ].*)?",
    re.IGNORECASE,
)
# What the library datasets keeps beside a set of its own: rows once more, as a step of some work left them.
CACHE = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")
SAVED = {"dataset_info.json", "state.json"}
# Files that hold no rows by their kind: not worth a word.
ABOUT = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|manifest)\b.*|dataset_infos?\.json|dataset_dict\.json|state\.json"
    r"|.*\.(md|rst|txt|ya?ml|py|ipynb|pdf|png|jpe?g|svg|html|crc|sha256|md5|log|lock)",
    re.IGNORECASE,
)
LEFT_OUT = "leave it out, or name the files to read"


@dataclass
class Folder:
    """What lies in a folder: files of known kinds, folders that hold any, and all names."""

    location: Location
    files: list[Location]
    folders: list["Folder"]
    names: set[str]
    left: list[Location] = field(default_factory=list)  # neither read nor said to be about the data


def parts_of(location: Location, is_known: Callable[[Location], bool], notes: list[str]) -> list[Part]:
    """The files of a folder that are its rows, in order, and sentences about the others into `notes`.

    Raises InputError where it is a table that cannot be read, or where its files may be read in several ways.
    """
    folder = _look(location, is_known)
    left: list[Location] = []
    parts = _parts(folder, notes, left)
    if left:
        notes.append(f"Left out: {_named([shown(p) for p in left])}.")
    return parts


def check_beside(location: Location) -> None:
    """Refuses a file or folder inside a table whose log says which of its files count."""
    folder = above(location)
    while folder is not None:
        try:
            files, folders = inside(folder) or ([], [])
        except InputError:  # of a store that shows objects, not folders
            return
        kind = _table(folder, {p.name for p in (*files, *folders)})
        if kind:
            raise InputError(
                f"{shown(location)} belongs to {shown(folder)}, {kind}, whose log says which of its files count",
                hint="name the table's folder" if kind == DELTA else HOW_TO_EXPORT,
            )
        name = folder.name
        folder = above(folder) if PARTITION.fullmatch(name) or name == "data" else None


def partitions_above(location: Location) -> list[str]:
    """The names key=value of the folder itself, and of those that it lies in: no attributes of what is named below."""
    names: list[str] = []
    folder: Location | None = location.absolute() if isinstance(location, Path) else location
    if folder is not None and not PARTITION.fullmatch(folder.name):
        folder = above(folder)
    while folder is not None and PARTITION.fullmatch(folder.name):
        names.insert(0, shown(Path(folder.name)))
        folder = above(folder)
    return names


def check_numbered(files: Sequence[Location], whole: bool, notes: list[str]) -> None:
    """Looks for missing and repeated parts of numbered sets (a-00000-of-00002). Missing ones are refused where the
    files are all of a folder (whole), and noted where they were named. Raises InputError.
    """
    sets: dict[tuple[str, str, str], dict[int, Location]] = {}
    for file in files:
        match = NUMBERED.fullmatch(file.name)
        if match is None:
            continue
        folder = above(file)
        key = (f"{folder}/{match['set']}", match["parts"], match["rest"])
        have = sets.setdefault(key, {})
        part = int(match["part"])
        if part in have:
            raise InputError(
                f"{shown(file)} and {shown(have[part])} are the same part of a set",
                hint="name the files of one of them",
            )
        have[part] = file
    counts = Counter((name, rest) for name, _, rest in sets)
    for (name, parts, rest), have in sets.items():
        if whole and counts[name, rest] > 1:
            raise InputError(
                f"{shown(next(iter(have.values())))} is of a set of {int(parts)} parts, and there are parts of a set "
                "of another count under the same name",
                hint="one may be left from an older version: name the files to read",
            )
    for (_, parts, _), have in sets.items():
        first = 0 if 0 in have or int(parts) not in have else 1
        missing = int(parts) - len(have)
        if missing <= 0:
            continue
        numbers: list[int] = []
        number = first
        while len(numbers) < min(missing, NAMED_MAX):
            numbers += [] if number in have else [number]
            number += 1
        count = f"{len(have)} of {int(parts)} parts like {shown(next(iter(have.values())))} are here"
        lacking = f"missing: {', '.join(map(str, numbers))}{', and more' if missing > NAMED_MAX else ''}"
        if whole:
            raise InputError(
                f"{count}; {lacking}", hint="copy the others too, or name the files to build from these alone"
            )
        notes.append(f"{count[0].upper()}{count[1:]}; {lacking}.")


def _look(location: Location, is_known: Callable[[Location], bool], depth: int = 0) -> Folder:
    files, folders = inside(location) or ([], [])
    names = {p.name for p in (*files, *folders)}
    saved = bool(names & SAVED)
    known = [p for p in files if is_known(p) and not _is_hidden(p) and not (saved and CACHE.fullmatch(p.name))]
    left = [p for p in files if p not in known and _is_worth_saying(p, is_known)]
    left += [p for p in folders if p.name.startswith("_") and _is_hidden(p) and _is_left(p, is_known)]
    children: list[Folder] = []
    if depth < DEPTH_MAX and not _table(location, names):
        for one in folders:
            if not _is_hidden(one):
                children.append(_look(one, is_known, depth + 1))
    deeper = [f for f in children if f.files or f.folders or _table(f.location, f.names)]
    for inner in children:
        left += [] if inner in deeper else inner.left
    return Folder(location, known, deeper, names, left)


def _is_hidden(location: Location) -> bool:
    return location.name.startswith((".", "_")) and not PARTITION.fullmatch(location.name)


def _is_left(folder: Location, is_known: Callable[[Location], bool]) -> bool:
    """Whether a hidden folder holds what may be rows, or is that of a writer that has not ended."""
    return folder.name == "_temporary" or any(map(is_known, (inside(folder) or ([], []))[0]))


def _is_worth_saying(location: Location, is_known: Callable[[Location], bool]) -> bool:
    return is_known(location) if _is_hidden(location) else not ABOUT.fullmatch(location.name)


DELTA = "a Delta table"
HOW_TO_EXPORT = "write its rows as Parquet first, with the library of that format"


def _table(location: Location, names: set[str]) -> str | None:
    """What kind of table with a log a folder is."""
    if "_delta_log" in names:
        return DELTA
    if ".hoodie" in names:
        return "a Hudi table"
    if "_spark_metadata" in names:
        return "the output of a Spark stream"
    if "metadata" in names:
        files, _ = inside(below(location, "metadata")) or ([], [])
        if any(p.name == "version-hint.text" or p.name.endswith(".metadata.json") for p in files):
            return "an Iceberg table"
    if "_versions" in names or location.name.endswith(".lance"):
        return "a Lance table"
    return "a zarr array" if names & {".zarray", ".zgroup", "zarr.json"} else None


def _parts(folder: Folder, notes: list[str], left: list[Location]) -> list[Part]:
    kind, where = _table(folder.location, folder.names), shown(folder.location)
    if kind == DELTA:
        return delta.parts(folder.location, notes)
    if kind:
        raise InputError(f"{where} is {kind}, which is not read", hint=HOW_TO_EXPORT)
    left += folder.left
    if folder.files and folder.folders:
        raise InputError(
            f"{where} holds files and, below them, folders with more: "
            f"{_named([f.location.name for f in folder.folders])}",
            hint="name the files or the folders to read",
        )
    if folder.files:
        return [Part(file) for file in _split_of_files(folder, notes)]
    if not folder.folders:
        raise InputError(f"no file of a known kind in folder {where}", hint="name another")
    if all(PARTITION.fullmatch(f.location.name) for f in folder.folders):
        keys: list[str] = []
        parts = _partitions(folder, {}, keys, left)
        notes.append(f"The partitions of {where}, {', '.join(keys)}, are attributes of text.")
        check_numbered([part.location for part in parts], True, notes)
        return parts
    chosen = _one_folder(folder, notes)
    return _parts(chosen, notes, left)


def _partitions(
    folder: Folder, constants: dict[str, pa.Scalar], keys: list[str], left: list[Location]
) -> list[Part]:  # fmt: skip
    """Files below folders named key=value, each with the values of its folders. keys: filled at the first file."""
    out: list[Part] = []
    for one in folder.folders:
        match = PARTITION.fullmatch(one.location.name)
        if match is None or _table(one.location, one.names) or (one.files and one.folders):
            raise InputError(
                f"{shown(folder.location)} is partitioned, but {shown(one.location)} is not", hint=LEFT_OUT
            )
        try:
            key, value = (unquote(part, errors="strict") for part in match.groups())
            f"{key}{value}".encode()
        except UnicodeError:
            raise InputError(
                f"the name of {shown(one.location)} is no text", hint="rename it, percent-encoded"
            ) from None
        if key in constants:
            raise InputError(f"{shown(one.location)} names the partition {key!r} twice", hint=LEFT_OUT)
        left += one.left
        inner = constants | {key: pa.scalar(None if value == NULL_PARTITION else value, pa.string())}
        if one.folders:
            out += _partitions(one, inner, keys, left)
        elif not keys or keys == list(inner):
            keys[:] = list(inner)
            out += [Part(file, inner) for file in one.files]
        else:
            raise InputError(
                f"{shown(one.location)} has not the partitions {', '.join(keys)} of the others", hint=LEFT_OUT
            )
    return out


def _one_folder(folder: Folder, notes: list[str]) -> Folder:
    """The one of several folders to read: data, the split train, the config default, or the only one."""
    named = {f.location.name: f for f in folder.folders}
    where = shown(folder.location)
    chosen = named.get("data") if len(named) == 1 else None
    if chosen:
        return chosen
    if len(named) == 1:
        notes.append(f"{shown(folder.folders[0].location)} is read, the only folder of {where} with rows.")
        return folder.folders[0]
    if all(SPLIT.fullmatch(name) for name in named) and (train := [n for n in named if n.lower() in TRAIN]):
        return named[_said(train[0], "split", list(named), where, notes)]
    if "default" in named:
        return named[_said("default", "config", list(named), where, notes)]
    raise InputError(f"{where} holds several folders of rows: {_named(list(named))}", hint="name those to read")


def _split_of_files(folder: Folder, notes: list[str]) -> list[Location]:
    """All files, or those of the split train where they are of several; no part of a set may be missing."""
    splits: dict[str, list[Location]] = {}
    for file in folder.files:
        numbered, stem = NUMBERED.fullmatch(file.name), file.name.rsplit(".", 1)[0]
        word = SPLIT.fullmatch(stem)
        name = numbered["set"] if numbered and numbered["set"] else word[1].lower() if word else ""
        splits.setdefault(name, []).append(file)
    files, where = folder.files, shown(folder.location)
    if len(splits) > 1 and sum(map(bool, splits)) > 1:
        if "" in splits:
            names = f"{', '.join(filter(None, splits))}, and other files"
            raise InputError(f"{where} holds the splits {names}", hint="name the files to read")
        train = [name for name in splits if (word := SPLIT.fullmatch(name)) and word[1].lower() in TRAIN]
        if len(train) != 1:
            names = "several are train" if train else "none is train"
            raise InputError(
                f"{where} holds the splits {', '.join(splits)}, and {names}", hint="name the files of one split"
            )
        files = splits[_said(train[0], "split", list(splits), where, notes)]
    elif len(splits) > 1:
        notes.append(f"All files of {where} are read, those called {next(filter(None, splits))} too.")
    check_numbered(files, True, notes)
    return files


def _said(chosen: str, what: str, of: list[str], where: str, notes: list[str]) -> str:
    notes.append(f"The {what} {chosen} of {where} is read, not {', '.join(n for n in of if n != chosen)}.")
    return chosen


def _named(names: list[str]) -> str:
    more = f", and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


def same_file_twice(parts: Sequence[Part]) -> None:
    """Raises InputError where one file is there twice, by another name or through a link."""
    seen: dict[object, Location] = {}
    for part in parts:
        key: object = str(part.location)
        if isinstance(part.location, Path):
            with suppress(OSError):  # said when it is opened
                state = part.location.stat()
                key = (state.st_dev, state.st_ino)
        if key in seen:
            raise InputError(f"{shown(seen[key])} and {shown(part.location)} are one file", hint="name each file once")
        seen[key] = part.location
