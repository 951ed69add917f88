"""additive_encode and scalar_encode against the reference, on every path, and against trying all sums."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import reference

import kern

F32 = np.float32
PATHS = range(kern.scan_path(255) + 1)


@pytest.fixture(params=PATHS, autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[int]:
    yield kern.scan_path(request.param)
    kern.scan_path(255)


def problem(parts: int, n: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Vectors f32 (width, n), words f32 (parts, 16, width)."""
    rng = np.random.default_rng([parts, n, width])
    words = rng.standard_normal((parts, 16, width)).astype(F32) / F32(parts**0.5)
    return rng.standard_normal((width, n)).astype(F32), words


def encoded(vectors: np.ndarray, words: np.ndarray) -> np.ndarray:
    width, n = vectors.shape
    out = np.zeros((len(words), n), np.uint8)
    assert kern.additive_encode(vectors, words, n, width, len(words), out) == n
    return out


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (16, 6), (23, 13)])
def test_words_are_those_of_the_reference(parts: int, n: int, width: int) -> None:
    vectors, words = problem(parts, n, width)
    assert (encoded(vectors, words) == reference.additive_encode(vectors, words)).all()


def test_ties_and_zeros() -> None:
    vectors, words = problem(3, 40)
    vectors, words = np.round(vectors), np.round(words)  # many equal sums
    vectors[:, :3] = 0
    assert (encoded(vectors, words) == reference.additive_encode(vectors, words)).all()
    assert (encoded(vectors * 0, words * 0) == reference.additive_encode(vectors * 0, words * 0)).all()


@pytest.mark.parametrize("parts", [1, 2])
def test_two_parts_are_searched_fully(parts: int) -> None:
    vectors, words = problem(parts, 50)
    sums = np.array([words[np.arange(parts), list(rows)].sum(0) for rows in itertools.product(range(16), repeat=parts)])
    x = vectors.T
    least = ((x[:, None] - sums) ** 2).sum(2).min(1)
    found = sum(table[word] for table, word in zip(words, encoded(vectors, words), strict=True))
    assert np.allclose(((x - found) ** 2).sum(1), least, atol=1e-3)  # 15 bits of a score are compared


@pytest.mark.parametrize("count", [0, 1, 15, 16, 31, 100, 255])
def test_levels(count: int) -> None:
    rng = np.random.default_rng(count)
    cuts = np.sort(rng.standard_normal(count)).astype(F32)
    values = np.concatenate([rng.standard_normal(200).astype(F32) * 2, cuts, F32([-np.inf, np.inf])])
    out = np.zeros(len(values), np.uint8)
    assert kern.scalar_encode(values, cuts, len(values), count, out) == len(values)
    assert (out == reference.scalar_encode(values, cuts)).all()


def test_refusals() -> None:
    vectors, words = problem(2, 3)
    far = vectors.copy()
    far[1, 2] = np.nan
    for arguments, message in (
        ((vectors, words, 4, 6, 2, bytearray(8)), "vectors has 72 bytes, needs 96"),
        ((vectors, words[:1], 3, 6, 2, bytearray(8)), "words has 384 bytes, needs 768"),
        ((vectors, words, 3, 6, 2, bytearray(5)), "out has 5 bytes"),
        ((vectors, words, 3, 6, 5, bytearray(99)), "parts is 5"),
        ((vectors, words, 3, 6, 0, bytearray(99)), "parts is 0"),
        ((vectors, words, 3, 0, 2, bytearray(99)), "width is 0"),
        ((vectors, words, -1, 6, 2, bytearray(99)), "n is -1"),
        ((far, words, 3, 6, 2, bytearray(6)), "not between -2.40 and 2.40"),
        ((vectors, words * F32(1e13), 3, 6, 2, bytearray(6)), "not between -2.40 and 2.40"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.additive_encode(*arguments)
    for more, message in (
        ((vectors, words, 19, 3, bytearray(19)), "values has 72 bytes, needs 76"),
        ((vectors, words, 18, 256, bytearray(18)), "count is 256, want 0 to 255"),
        ((vectors, bytes(8), 18, 3, bytearray(18)), "cuts has 8 bytes, needs 12"),
        ((vectors, words, 18, 3, bytearray(9)), "out has 9 bytes, needs 18"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.scalar_encode(*more)
