"""Makes texts of data safe to show: none commands a terminal, ends a line, or turns what follows about."""

from __future__ import annotations

import re

# C0, DEL, C1, what turns the direction of writing, ends of lines and paragraphs, half pairs, and no characters.
_ACTS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\ufffe\uffff"
_LINES, _ALL = re.compile(f"[{_ACTS}]"), re.compile(f"[\t\n{_ACTS}]")


def plain(text: str) -> str:
    """A text in one line, each character that acts as its escape: \\x1b, \\n, \\u202e."""
    return _ALL.sub(_escape, text)


def plain_lines(text: str) -> str:
    """The same, but for ends of lines and tabs, which stay."""
    return _LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
