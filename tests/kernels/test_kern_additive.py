"""additive_encode against the reference, word by word, and against trying all sums."""

import itertools

import numpy as np
import pytest
import reference

import kern

F32 = np.float32


def problem(parts: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors f32 (n, 6), tables f32 (parts, 16, 6), and what the kernel takes of them."""
    rng = np.random.default_rng([parts, seed])
    tables = rng.standard_normal((parts, 16, 6)).astype(F32) / F32(parts**0.5)
    x = rng.standard_normal((n, 6)).astype(F32)
    words = tables.reshape(-1, 6)
    gains = (x @ words.T - F32(0.5) * (words**2).sum(1)).astype(F32)
    overlaps = (words @ words.T).reshape(parts, 16, parts, 16).transpose(0, 2, 1, 3)
    return x, tables, gains.reshape(n, parts, 16), np.ascontiguousarray(overlaps)


def encoded(gains: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
    out = np.zeros(gains.shape[:2], np.uint8)
    assert kern.additive_encode(gains, overlaps, len(gains), gains.shape[1], out) == len(gains)
    return out


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 16])
def test_words_are_those_of_the_reference(parts: int) -> None:
    _, _, gains, overlaps = problem(parts, 9)
    assert (encoded(gains, overlaps) == reference.additive_encode(gains, overlaps)).all()


def test_ties_and_what_is_not_a_number() -> None:
    _, _, gains, overlaps = problem(3, 40)
    gains, overlaps = np.round(gains), np.round(overlaps)  # many equal sums
    gains[3:6, 1, ::2], gains[6, 0], gains[7, 2], gains[8] = np.nan, np.nan, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        want = reference.additive_encode(gains, overlaps)
    assert (encoded(gains, overlaps) == want).all()


@pytest.mark.parametrize("parts", [1, 2])
def test_two_parts_are_searched_fully(parts: int) -> None:
    x, tables, gains, overlaps = problem(parts, 50)
    sums = np.array(
        [tables[np.arange(parts), list(words)].sum(0) for words in itertools.product(range(16), repeat=parts)]
    )
    least = ((x[:, None] - sums) ** 2).sum(2).min(1)
    found = sum(table[word] for table, word in zip(tables, encoded(gains, overlaps).T, strict=True))
    assert np.allclose(((x - found) ** 2).sum(1), least, atol=1e-5)


def test_refusals() -> None:
    _, _, gains, overlaps = problem(2, 3)
    for arguments, message in (
        ((gains, overlaps, 4, 2, bytearray(8)), "gains has 384 bytes"),
        ((gains, overlaps[:1], 3, 2, bytearray(8)), "overlaps has 2048 bytes"),
        ((gains, overlaps, 3, 2, bytearray(5)), "out has 5 bytes"),
        ((gains, overlaps, 3, 17, bytearray(99)), "parts is 17"),
        ((gains, overlaps, 3, 0, bytearray(99)), "parts is 0"),
        ((gains, overlaps, -1, 2, bytearray(99)), "n is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.additive_encode(*arguments)
