"""English sentences in the files of packages: pages of markup, plain text, comments of programs, manual pages."""

from __future__ import annotations

import gzip
import html
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO

WORDS_MIN, CHARACTERS_MIN, CHARACTERS_MAX = 4, 20, 500  # of a sentence
WORDS_SHARE = 0.75  # of what stands between blanks, that must be a word of letters
ENGLISH = frozenset(  # one of which a sentence has, and no other language
    ["and", "are", "because", "been", "between", "could", "each", "from", "has", "if", "its", "not", "only", "other"]
    + ["should", "than", "that", "the", "their", "then", "there", "these", "they", "this", "when", "where", "which"]
    + ["with", "would", "you", "your"]
)

_SUFFIXES = {
    "markup": re.compile("(?:html?|docbook|json|page|xhp|xhtml|xml)"),
    "code": re.compile(
        "(?:ad[bs]|c|cc|cpp|cxx|def|el|f|go|h|hh|hpp|hs|java|js|lisp|lua|m|mac|ml|pas|p[lm]|proto|py|rkt|rs|s|scm|ts)"
    ),
    "plain": re.compile("(?:adoc|cfg|dict|info(?:-\\d+)?|mm|md|org|pod|rst|tex|texi|texinfo|txt|yaml|yml)"),
}
_ARCHIVE = re.compile(r"\.(tar\.(xz|gz|bz2)|tgz)$", re.I)
_MANUAL = re.compile(r"/man\d?/.*\.\d\w*$")
_PACKED = re.compile(r"\.(gz|dz)$", re.I)

_ASIDE = re.compile(r"<(script|style|head|pre|programlisting|screen|svg)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
_INLINE = re.compile(
    r"</?(?:a|abbr|acronym|app|application|b|cite|classname|cmd|code|command|dfn|em|emph|emphasis|file|filename|font|"
    r"function|gui|guilabel|i|input|item|kbd|key|link|literal|mark|methodname|option|output|parameter|q|quote|samp|"
    r"small|span|strong|sub|sup|tt|type|u|ulink|var|varname|xref)\b[^<>]*>",
    re.I,
)
_TAG = re.compile(r"<[^<>]*>")
_COMMENT = re.compile(
    r'/\*.*?\*/|(?:^[ \t]*(?://|#|;|--|%|\(\*)[^\n]*\n)+|""".*?"""|"[A-Z][^"\\]{30,}\."', re.S | re.M
)  # and strings that end like sentences: the documentation of Lisp
_MARKS = re.compile(r"^[\s*/#;%|>!-]+", re.M)
_TEXT_MACRO = re.compile(r"^[.'](?:B|BI|BR|I|IB|IR|R|RB|RI|SB|SM|Ar|Dv|Em|Ev|Fl|Fn|Li|Nm|Pa|Sy|Va|Xr)\b *", re.M)
_MACRO = re.compile(r"^[.'].*$", re.M)
_ESCAPE = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\[&|^/,:]|\\s[+-]?\d")
_BREAK = re.compile(r"\n[\s*/#;%|>-]*\n|\n\s*(?:[*+•-]|\d+[.)])\s+")  # a blank line, an item of a list
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z])")
_SHORT = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|Fig|No|Mr|Mrs|Dr|St|al|resp|Eq|Sec|Ch|p|pp|[A-Z])\.$")
_WORD = re.compile(r"[\"'(\[]*[A-Za-z]+(?:['’-][A-Za-z]+)*[.,;:!?)\]\"']*")

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError)


def files(archive: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    """Path and text of every file that may hold sentences, those in archives of the archive too; compressed ones
    without the suffix that says so. Damaged archives, which tests of programs have, are left out."""
    for member in archive:
        data = archive.extractfile(member) if member.isreg() else None
        if data is not None:
            with suppress(*_DAMAGE):
                yield from _opened(member.name, data)


def _text(data: bytes) -> str:
    return "" if b"\0" in data[:1024] else data.decode(errors="replace")


def _opened(name: str, file: IO[bytes]) -> Iterator[tuple[str, str]]:
    if _ARCHIVE.search(name):
        with tarfile.open(fileobj=file, mode="r|*") as inner:
            yield from files(inner)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(file.read())) as packed:
            for path in packed.namelist():
                if kind(path):
                    yield path, _text(packed.read(path))
    elif kind(plain := _PACKED.sub("", name)):
        data = file.read()
        yield plain, _text(gzip.decompress(data) if plain != name else data)


def kind(path: str) -> str:
    """Says "markup", "code", "manual" or "plain" by the name of a file, or "" of one without sentences."""
    base = path.rpartition("/")[2].lower()
    stem, _, suffix = base.rpartition(".")
    if "changelog" in base:
        return ""
    if _MANUAL.search(path):
        return "manual"
    if not stem:
        return "plain"
    return next((name for name, own in _SUFFIXES.items() if own.fullmatch(suffix)), "")


def paragraphs(path: str, text: str) -> Iterator[str]:
    """What a sentence does not go beyond."""
    if (of := kind(path)) == "code":
        for comment in _COMMENT.finditer(text):
            yield from _BREAK.split(_MARKS.sub("", comment[0].strip('"/*')))
        return
    if of == "markup":
        text = html.unescape(_TAG.sub("\n\n", _INLINE.sub("", _ASIDE.sub("\n\n", text))))
    elif of == "manual":
        text = _ESCAPE.sub("", _MACRO.sub("\n", _TEXT_MACRO.sub(" ", text).replace('"', "")))
        text = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", '"').replace("\\ ", " ")
    yield from _BREAK.split(text)


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """The natural sentences of paragraphs, on one line each."""
    for text in texts:
        begun = ""
        for part in _END.split(" ".join(text.split())):
            begun = f"{begun} {part}" if begun else part
            if not _SHORT.search(begun):
                if natural(begun):
                    yield begun
                begun = ""
        if natural(begun):
            yield begun


def natural(text: str) -> bool:
    """Whether it begins and ends like a sentence, and consists of English words."""
    if not CHARACTERS_MIN <= len(text) <= CHARACTERS_MAX or not text[0].isupper():
        return False
    if not text.rstrip("\"')").endswith((".", "!", "?")):
        return False
    words = text.split()
    if len(words) < WORDS_MIN or ENGLISH.isdisjoint(text.lower().split()):
        return False
    return sum(_WORD.fullmatch(word) is not None for word in words) >= WORDS_SHARE * len(words)
