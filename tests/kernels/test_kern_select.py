"""select_largest against its reference, with many equal numbers."""

import numpy as np
import pytest
import reference

import kern

F32 = np.float32


@pytest.mark.parametrize(("width", "count"), [(1, 1), (15, 1), (33, 1), (40, 40), (64, 64), (97, 25), (500, 9)])
@pytest.mark.parametrize("digits", [1, 9])
def test_the_largest_come_first(width: int, count: int, digits: int) -> None:
    draw = np.random.default_rng([width, count])
    values, bias = (np.round(draw.standard_normal(size), digits).astype(F32) for size in ((30, width), width))
    values[3], values[4, : width // 2] = -np.inf, -np.inf
    at, largest = np.zeros((30, count), np.uint32), np.zeros((30, count), F32)
    assert kern.select_largest(values, bias, 30, width, count, at, largest) == 30
    places, sums = reference.select_largest(values, bias, count)
    assert (at == places).all() and (largest == sums).all()


def test_refusals() -> None:
    values, bias = np.zeros((3, 70), F32), np.zeros(70, F32)
    for arguments, message in (
        ((values, bias, 4, 70, 2, bytearray(32), bytearray(32)), "values has 840 bytes, needs 1120"),
        ((values, bias[:9], 3, 70, 2, bytearray(24), bytearray(24)), "bias has 36 bytes, needs 280"),
        ((values, bias, 3, 70, 2, bytearray(23), bytearray(24)), "at has 23 bytes, needs 24"),
        ((values, bias, 3, 70, 2, bytearray(24), bytearray(23)), "largest has 23 bytes, needs 24"),
        ((values, bias, 3, 70, 71, bytearray(999), bytearray(999)), "count is 71, want 1 to 70"),
        ((values, np.zeros(2000, F32), 0, 2000, 1025, b"", b""), "count is 1025, want 1 to 1024"),
        ((values, bias, 3, 70, 0, bytearray(999), bytearray(999)), "count is 0"),
        ((values, bias, 3, 0, 1, bytearray(999), bytearray(999)), "width is 0"),
        ((values, bias, -1, 70, 1, bytearray(999), bytearray(999)), "n is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            kern.select_largest(*arguments)
