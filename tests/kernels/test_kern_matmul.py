"""matmul and nearest against exact arithmetic, on every path, in any batch."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import reference

import kern
from build_index.kernels import matmul, nearest

F32 = np.float32
PATHS = range(kern.scan_path(255) + 1)
SIZES = [  # rows, columns, depth: each remainder of a tile, a vector, a panel, a strip and a block
    (1, 1, 1), (7, 16, 5), (9, 33, 8), (13, 47, 6), (6, 48, 3), (16, 50, 383), (3, 97, 385), (5, 31, 769),
    (97, 20, 4), (193, 65, 9), (2, 1400, 384), (11, 100, 4099),
]  # fmt: skip


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[int]:
    yield kern.scan_path(request.param)
    kern.scan_path(255)


def rows(draw: np.random.Generator, n: int, depth: int) -> np.ndarray:
    """Of very different size, so that sums cancel and are rounded in every way."""
    return (draw.standard_normal((n, depth)) * 2.0 ** draw.integers(-12, 13, (n, depth))).astype(F32)


def rounded(exact: Fraction) -> np.float32:
    """The nearest f32, halves to even, by whole numbers: also of what is below the normal ones."""
    if not exact:
        return F32(0)
    size = abs(exact)
    power = size.numerator.bit_length() - size.denominator.bit_length()
    power -= size < Fraction(2) ** power
    step = Fraction(2) ** max(power - 23, -149)
    return F32(float((1 if exact > 0 else -1) * round(size / step) * step))  # that float is exact


def test_the_reference_rounds_once() -> None:
    """Sums that float64 holds only rounded, next to half way between two float32, where rounding twice goes wrong."""
    one, tiny = F32(1), F32(2.0**-60)
    for a, b, c in (
        (F32(1 + 2.0**-12), F32(1 + 2.0**-12), tiny), (F32(1 + 2.0**-12), F32(1 + 2.0**-12), -tiny),
        (F32(2.0**-24), one, one), (F32(2.0**-12 + 2.0**-35), F32(2.0**-12), one), (F32(3e-23), F32(3e-23), tiny),
        (F32(2.0**-75), F32(2.0**-75), F32(2.0**-149)), (F32(-3e-30), F32(2e-15), F32(1e-44)),
    ):  # fmt: skip
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        assert reference.fma(a, b, c) == rounded(exact)


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_is_exact(seed: int) -> None:
    draw = np.random.default_rng(seed)
    a, b = rows(draw, 3, 40), rows(draw, 4, 40)
    a[2] *= F32(2.0**-70)
    b[3] *= F32(2.0**-75)  # sums below the normal numbers
    for x, row in zip(a, reference.matmul(a, b), strict=True):
        for y, given in zip(b, row, strict=True):
            total = F32(0)
            for p, q in zip(x.tolist(), y.tolist(), strict=True):
                total = rounded(Fraction(p) * Fraction(q) + Fraction(float(total)))
            assert given == total


@pytest.mark.parametrize(("n", "m", "depth"), SIZES)
def test_an_element_is_one_chain(path: int, n: int, m: int, depth: int) -> None:
    draw = np.random.default_rng([n, m, depth])
    a, b = rows(draw, n, depth), rows(draw, m, depth)
    assert (matmul(a, b) == reference.matmul(a, b)).all()


def test_infinities_zeros_and_small_numbers(path: int) -> None:
    draw = np.random.default_rng(4)
    a, b = rows(draw, 9, 20), rows(draw, 50, 20)
    a[0], a[1, 3], a[2], a[3], a[4, 0], b[7] = 0, np.inf, -0.0, a[3] * F32(2.0**-100), -3e38, b[7] * F32(2.0**-40)
    b[8, 0], b[9, 3] = 3e38, 0
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = reference.matmul(a, b)
    given = matmul(a, b)
    assert np.array_equal(given, wanted, equal_nan=True) and (np.signbit(given) == np.signbit(wanted))[1:].all()
    assert np.isnan(given[1, 9]) and np.isinf(given[1]).sum() == 49


def test_bits_depend_on_no_batch_and_no_place(path: int) -> None:
    draw = np.random.default_rng(5)
    a, b = rows(draw, 205, 400), rows(draw, 1500, 400)  # several strips, blocks and depths
    whole, bias = matmul(a, b), draw.standard_normal(1500).astype(F32)
    order, other = draw.permutation(205), draw.permutation(1500)
    assert (matmul(a[order], b[other]) == whole[np.ix_(order, other)]).all()
    for i in (0, 7, 95, 96, 204):
        assert (matmul(a[i : i + 1], b[690:]) == whole[i, 690:]).all()
    at, closeness = nearest(a, b, bias, 30)
    for i in (0, 95, 204):
        one = nearest(a[i : i + 1], b, bias, 30)
        assert (one[0] == at[i]).all() and (one[1] == closeness[i]).all()


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 25, 64, 100])
@pytest.mark.parametrize("digits", [0, 9])
def test_the_largest_come_first(path: int, count: int, digits: int) -> None:
    draw = np.random.default_rng([count, digits])
    x, centres = (np.round(draw.standard_normal((size, 7)), digits).astype(F32) for size in (101, 203))
    bias = np.round(draw.standard_normal(203), digits).astype(F32)
    bias[draw.random(203) < 0.6] = -np.inf
    at, closeness = nearest(x, centres, bias, count)
    places, sums = reference.select_largest(reference.matmul(x, centres), bias, count)
    assert (at == places).all() and (closeness == sums).all()


def test_the_largest_of_several_blocks(path: int) -> None:
    draw = np.random.default_rng(8)
    x, centres = rows(draw, 99, 700), rows(draw, 900, 700)
    bias = draw.standard_normal(900).astype(F32)
    products = matmul(x, centres)
    for count in (1, 25, 900):
        places, sums = reference.select_largest(products, bias, count)
        at, closeness = nearest(x, centres, bias, count)
        assert (at == places).all() and (closeness == sums).all()


def test_nothing_is_an_answer_too(path: int) -> None:
    none = np.zeros((0, 5), F32)
    assert matmul(none, np.ones((3, 5), F32)).shape == (0, 3) and matmul(np.ones((3, 5), F32), none).shape == (3, 0)
    assert nearest(none, np.ones((3, 5), F32), np.ones(3, F32), 2)[0].shape == (0, 2)


def test_arrays_that_do_not_fit() -> None:
    x, centres = np.ones((3, 5), F32), np.ones((4, 5), F32)
    for call in (
        lambda: matmul(x, centres[:, :4]), lambda: matmul(x.astype(float), centres), lambda: matmul(x[0], centres),
        lambda: nearest(x, centres, np.ones(3, F32), 1), lambda: nearest(x, centres, np.ones(4), 1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="want"):
            call()
    assert (matmul(np.asfortranarray(x), centres[::-1]) == 5).all()


def test_refusals() -> None:
    a, b, out, scratch = (
        np.zeros((3, 70), F32),
        np.zeros((4, 70), F32),
        bytearray(48),
        bytearray(kern.matmul_size(4, 70)),
    )
    bias, at, many = bytes(16), bytearray(24), bytearray(kern.matmul_size(2000, 1))
    for arguments, message in (
        ((a, b, 4, 4, 70, out, scratch), "matmul: a has 840 bytes, needs 1120"),
        ((a, b, 3, 5, 70, out, scratch), "matmul: b has 1120 bytes, needs 1400"),
        ((a, b, 3, 4, 70, out[:-1], scratch), "matmul: out has 47 bytes, needs 48"),
        ((a, b, 3, 4, 70, out, scratch[:-1]), "matmul: scratch has [0-9]+ bytes, needs"),
        ((a, b, 3, 4, 0, out, scratch), "matmul: depth is 0, want 1 to 65536"),
        ((a, b, 3, 4, 65537, out, scratch), "matmul: depth is 65537, want 1 to 65536"),
        ((a, b, -1, 4, 70, out, scratch), "matmul: n is -1"),
        ((a, b, 2**31 - 1, 2**31 - 1, 65536, out, scratch), "matmul: a has 840 bytes, needs 562949953159168"),
        ((a, b, 3, 4, 70, out, out), "matmul: scratch has 48 bytes"),
        ((a, b, 3, 4, 70, scratch, scratch), "matmul: (scratch|out) overlaps"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.matmul(*arguments)
    for more, message in (
        ((a, b, bias, 3, 4, 70, 5, at, out, scratch), "nearest: count is 5, want 1 to 4"),
        ((a, b, bias, 3, 4, 70, 0, at, out, scratch), "nearest: count is 0"),
        ((a, b, bias, 3, 0, 70, 1, at, out, scratch), "nearest: count is 1, want 1 to 0"),
        ((a, b, bias[:9], 3, 4, 70, 2, at, out, scratch), "nearest: bias has 9 bytes, needs 16"),
        ((a, b, bias, 3, 4, 70, 2, at[:-1], out, scratch), "nearest: at has 23 bytes, needs 24"),
        ((a, b, bias, 3, 4, 70, 2, at, out[:23], scratch), "nearest: closeness has 23 bytes, needs 24"),
        ((a, b, bias, 3, 4, 70, 2, at, out, scratch[:99]), "nearest: scratch has 99 bytes"),
        ((b"", bytes(8000), bytes(8000), 0, 2000, 1, 1025, at, out, many), "nearest: count is 1025, want 1 to 1024"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.nearest(*more)
    for size, message in (((-1, 3), "m is -1"), ((3, 0), "depth is 0")):
        with pytest.raises(ValueError, match=message):
            kern.matmul_size(*size)
