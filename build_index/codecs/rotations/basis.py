"""What every rotation gives a codec: axes as the edge will have them, how strong each is, and the section to store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vantage.format import DenseRotation, NibbleRotation, Rotation

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STEPS = 127  # of the largest value of a stored axis
NIBBLE_STEPS = 7  # of it in 4 bits, or of a share of it, beyond which values are cut
NIBBLE_SHARES = (1.0, 0.85, 0.7, 0.6)
ORTHONORMAL = 1e-6
DEAD = 3e-4  # of the strongest deviation


@dataclass(frozen=True, eq=False)
class Basis:
    """axes f64 (d, d): orthonormal rows as stored, by falling deviation f64 (d,). stored(kept): the section of some."""

    axes: F64
    deviation: F64
    stored: Callable[[Ints], Rotation]
    _along: list[F64] = field(default_factory=list, repr=False)  # the last moment asked for, and the answer

    def along(self, moment: F64) -> F64:
        """f64 (d,): deviations of rows with this second moment, found once: codes of every length ask for them."""
        if not self._along or self._along[0] is not moment:
            self._along[:] = moment, deviations(self.axes, moment)
        return self._along[1]

    @property
    def live(self) -> int:
        """How many axes there is anything along: the first ones. Rows in a subspace have no more than it has."""
        return int(np.count_nonzero(self.deviation > DEAD * self.deviation[0]))


def deviations(axes: F64, moment: F64) -> F64:
    """f64 (A,): root mean square of rows with this second moment (d, d) along each of the axes (A, d).

    A matrix product first: summed in one go, all three operands cost A d^2 in scalar steps.
    """
    out: F64 = np.sqrt(np.maximum(np.einsum("ij,ij->i", axes @ moment, axes), 1e-12))
    return out


def dense(axes: F64, deviation: F64) -> Basis:
    """A basis that is stored as rows of integers, axes and deviation by falling deviation."""

    def stored(kept: Ints) -> Rotation:
        return integer_rows(axes[kept])[0]

    return Basis(integer_rows(axes)[1], deviation, stored)


def nibbles(basis: Basis, moment: F64) -> Basis:
    """The same axes stored in 4 bits, as far as there is anything along them; rows have this second moment (d, d).

    A code needs 1.3 to 2% more bits for the same error, for half the bytes in the root.
    """
    axes = nibble_rows(basis.axes[: basis.live])[1]
    inverse = inverse_of(axes)
    spread = deviations(axes if inverse is None else inverse @ axes, moment)
    order = np.argsort(-spread, kind="stable")

    def stored(kept: Ints) -> Rotation:
        return nibble_rows(basis.axes[order[kept]])[0]

    return Basis(axes[order], spread[order], stored)


def inverse_of(axes: F64) -> F64 | None:
    """f64 (A, A): products of a row with the axes (A, d) times this are coordinates, by which axes add up to the row.

    As near to the row as they can. None where they are the products, as of axes that are orthonormal to 1e-6.
    """
    gram = axes @ axes.T
    if np.abs(gram - np.eye(len(axes))).max() < ORTHONORMAL:
        return None
    out: F64 = np.linalg.inv(gram).astype(np.float64)
    return out


def nibble_rows(axes: F64) -> tuple[NibbleRotation, F64]:
    """As integer_rows in 4 bits: of some steps, the one that leaves each axis the most of its direction."""
    norms = np.linalg.norm(axes, axis=1)
    best, steps = np.full(len(axes), -1.0), np.zeros(axes.shape)
    for share in NIBBLE_SHARES:
        step = share * np.maximum(np.abs(axes).max(1, keepdims=True), 1e-30) / NIBBLE_STEPS
        tried = np.clip(np.rint(axes / step), -NIBBLE_STEPS, NIBBLE_STEPS)
        near = np.einsum("ij,ij->i", tried, axes) / np.maximum(np.linalg.norm(tried, axis=1), 1)
        better = near > best
        best[better], steps[better] = near[better], tried[better]
    scale = (norms / np.maximum(np.linalg.norm(steps, axis=1), 1)).astype(np.float32)
    half = -(-axes.shape[1] // 2)
    values = np.full((len(axes), 2 * half), 8, np.uint8)
    values[:, : axes.shape[1]] = steps + 8
    rows = memoryview((values[:, :half] | values[:, half:] << 4).tobytes())
    return NibbleRotation(axes.shape[1], memoryview(scale), rows), steps * scale[:, None].astype(np.float64)


def integer_rows(axes: F64) -> tuple[DenseRotation, F64]:
    """(section, the axes f64 (A, d) as it has them): rows of 8 bits, the largest value 127, that keep their norms.

    A hundredth of an axis is lost, in no direction more than in others: a tenth of what a code of 4 bits loses.
    """
    steps = np.rint(axes * (STEPS / np.maximum(np.abs(axes).max(1, keepdims=True), 1e-30)))
    norms = np.maximum(np.linalg.norm(steps, axis=1), 1)
    scale = (np.linalg.norm(axes, axis=1) / norms).astype(np.float32)
    rows = memoryview(steps.astype(np.int8).tobytes())
    return DenseRotation(axes.shape[1], memoryview(scale), rows), steps * scale[:, None].astype(np.float64)
