"""Bad bytes: a short run of the fuzzers, the whole table of damages, and that all three can fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.faults import damage, fuzz, fuzz_filters
from build_index.serve import ROOT
from vantage.errors import VantageError
from vantage.format import layout as L

CASES = 20_000  # with the kernels about a minute; `python -m bench.faults.fuzz` runs a million
KERNEL_CASES = 15_000
SEED = 3
FILTER_SEED, FILTER_SEEDS = 46, 6  # of which one asks an index


def test_bad_bytes_end_as_errors_or_as_answers() -> None:
    told: list[tuple[str, int, str]] = []
    done = fuzz.run(CASES, SEED, lambda *what: told.append(what))
    assert not told
    assert set(done) == set(fuzz.KINDS)


def test_the_fuzzer_sees_an_exception_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise IndexError("past the end")

    monkeypatch.setattr(L, "crc32c", broken)
    told: list[str] = []
    fuzz.run(40, SEED, lambda kind, seed, what: told.append(what))
    assert any("IndexError" in what for what in told)


def test_the_fuzzer_sees_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fuzz.answers

    def wrong(*given: Any) -> Any:
        found = real(*given)
        found["queries"][0]["estimated"].reverse()
        return found

    monkeypatch.setattr(fuzz, "answers", wrong)
    monkeypatch.setattr(fuzz, "mutate", lambda data, draw: data)
    with pytest.raises(fuzz.Failure):
        fuzz.case(fuzz.bases(), "object", SEED)


def test_random_filters_take_the_right_rows() -> None:
    told: list[Any] = []
    done = fuzz_filters.run(FILTER_SEED, FILTER_SEEDS, lambda *what: told.append(what))
    assert not told
    assert done.filters == FILTER_SEEDS * fuzz_filters.FILTERS and done.refused < done.filters / 50 and done.asked


def test_the_fuzzer_of_filters_sees_a_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fuzz_filters.mask_of
    monkeypatch.setattr(fuzz_filters, "mask_of", lambda *given: real(*given) ^ 1)
    told: list[str] = []
    fuzz_filters.run(1, 1, lambda seed, value, what: told.append(what))
    assert len(told) > fuzz_filters.FILTERS / 2 and "wrong rows" in told[0]


def test_kernels_touch_nothing_outside_of_their_buffers() -> None:
    command = [sys.executable, ROOT / "bench/faults/fuzz_kernels.py", "--cases", str(KERNEL_CASES), "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KERNEL_CASES} calls" in done.stdout


def test_guard_pages_kill_what_reads_past_an_end() -> None:
    code = (
        "import ctypes, fuzz_kernels as f; v = f.Guarded().view(b'12345678', True)\n"
        "ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(v)), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(ROOT, "bench", "faults"), capture_output=True, check=False
    )
    assert done.returncode < 0


OPTIONAL = tuple(f"section {name}" for name in ("promises", "bounds", "counts", "promises under filters"))


@pytest.mark.parametrize("kind", damage.matrix())
def test_damage_of_every_kind_is_an_error_or_changes_nothing(kind: str) -> None:
    fixture, damages = damage.matrix()[kind]
    for name, change in zip(damage.DAMAGES, damages, strict=True):
        if change is not None:
            right, what = damage.outcome(fixture, change)
            assert right, f"{name}: {what}"
            optional = name == "missing" and kind in OPTIONAL
            assert optional or "answer" not in what, f"{name}: {what}"


def test_every_section_kind_of_a_root_is_in_the_table() -> None:
    kinds = {f"section {name}" for kind, name in L.SECTION_NAMES.items() if kind < L.SCAN}
    assert kinds - {"section router"} <= set(damage.matrix())
    without = {name for name in L.ROUTERS if f"section router {name}" not in damage.matrix()}
    assert without == {"centroids", "trained"}  # they have the layout of lse


CRASHERS = sorted((ROOT / "tests/fixtures/crashers").glob("*.json"))


@pytest.mark.parametrize("path", CRASHERS, ids=lambda path: path.stem)
def test_what_once_crashed_is_an_error(path: Path) -> None:
    """A section that the fuzzer found, with right checksums: `was` says what it did, `is` what it does."""
    found = json.loads(path.read_text())
    objects = fuzz.edit(fuzz.load(found["fixture"]), found["kind"], lambda _: bytes.fromhex(found["body"]))
    with pytest.raises(VantageError) as caught:
        fuzz.answers(objects, fuzz.EXPECTED[found["fixture"]]["vectors"], [])
    assert found["is"] in caught.value.message and caught.value.hint
