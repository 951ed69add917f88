"""JSON within bounds: what is legal comes out as the standard library has it, and nothing deep reaches its parser."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vantage.bounded_json import loads

TEXTS = ["", "[", "]]", '"', "\\", '\\"[{', "\\\\", "é日本🙂[", "\n\t\x00", "[" * 100, '{"a":[', "\\u", "\\ud83d"]


def made(rng: random.Random, depth: int) -> Any:
    """A random value nested at most `depth` deep, of texts that look like JSON themselves."""
    kind = rng.randrange(4) if depth else rng.randrange(2)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind == 1:
        return rng.choice([None, True, False, 0, -7, 2**63, 1.5, -1e-300])
    parts = [made(rng, depth - 1) for _ in range(rng.randrange(4))]
    return parts if kind == 2 else {rng.choice(TEXTS) + str(i): part for i, part in enumerate(parts)}


def measured(value: Any) -> tuple[int, int]:
    """(depth, lists and objects and texts) of a value."""
    if not isinstance(value, list | dict):
        return 0, isinstance(value, str)
    inner = [measured(v) for v in (value.values() if isinstance(value, dict) else value)]
    names = len(value) if isinstance(value, dict) else 0
    return 1 + max((d for d, _ in inner), default=0), 1 + names + sum(n for _, n in inner)


def test_the_bounds_are_those_of_the_value() -> None:
    """However it is written: brackets, quotes and backslashes within texts do not count."""
    rng = random.Random(22)
    for _ in range(600):
        value = made(rng, rng.randrange(7))
        depth, parts = measured(value)
        for text in (
            json.dumps(value),
            json.dumps(value, ensure_ascii=False, indent=1),
            json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        ):
            assert loads(text.encode(), depth, parts) == value == loads(text, depth, finite=False)
            if depth:
                with pytest.raises(ValueError, match="deep"):
                    loads(text.encode(), depth - 1)
            if parts:
                with pytest.raises(ValueError, match="the limit is"):
                    loads(text.encode(), depth, parts - 1)


def test_the_bounds_hold_past_one_slice() -> None:
    text = json.dumps([['"[[', [1], "x"] for _ in range(40_000)])
    assert loads(text, 3, 160_001) == json.loads(text)
    for depth, parts in ((2, None), (3, 160_000)):
        with pytest.raises(ValueError, match=r"deep|the limit is"):
            loads(text, depth, parts)


DEEP = 200_000


@pytest.mark.parametrize(
    "text",
    [
        b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b'[{"a":' * DEEP,
        b'"\\"",' + b"[" * DEEP, b'["\\\\",' + b"[" * DEEP, b'["[",' * DEEP, b"[" * 17 + b"]" * 17,
        b"[" * DEEP + b'"',
        b"\xef\xbb\xbf" + b"[" * DEEP, b"\xff\xfe" + "[".encode("utf-16-le") * DEEP, "[".encode("utf-32-be") * DEEP,
    ],
)  # fmt: skip
def test_deep_nesting_never_reaches_the_parser(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTF-16 and 32 too, which the standard library would take: there it is no text, before it is deep or not."""
    with monkeypatch.context() as patch:
        patch.setattr("vantage.bounded_json._FINITE", None)
        with pytest.raises(ValueError, match=r"deep|can't decode"):
            loads(text, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "not finite"), ("[-Infinity]", "not finite"), ('{"a": 1e999}', "not finite"),
        ("[-1e400]", "not finite"),
        ('{"a": 1, "a": 1}', "twice"), ('[{"b": {"a": 1, "\\u0061": 2}}]', "twice"),
        ('"\\ud800"', "surrogate"), ('["\\uDC00x"]', "surrogate"), ('{"\\ud83d\\\\\\ude00": 1}', "surrogate"),
        ('"\\ud83d\\ud83d\\ude00"', "surrogate"), ('"\\ud83d\\ude00\\ude00"', "surrogate"),
        ("1" * 5000, "4300 digits$"), ("[-" + "1" * 4301 + "]", "4300 digits$"),
        ("", "Expecting"), ("[1,]", "."), ("\ud800", "encode"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loads(text, 4)


def test_numbers_can_be_left_to_the_caller() -> None:
    value = loads("[NaN, Infinity, -Infinity, 1e999]", 1, finite=False)
    assert [str(v) for v in value] == ["nan", "inf", "-inf", "inf"]


@pytest.mark.parametrize(
    "text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '"\\uD83D\\uDE00\\ud83d\\ude00"', '"\\\\\\ud83d\\ude00"']
)
def test_whole_pairs_pass(text: str) -> None:
    assert loads(text, 0) == json.loads(text)
    assert loads(text, 0).encode()


def test_views_and_byte_order_marks() -> None:
    assert loads(memoryview(b'\xef\xbb\xbf{"a": [1]}'), 2) == {"a": [1]}
