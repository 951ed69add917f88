"""What every rotation gives a codec: axes as the edge will have them, how strong each is, and the section to store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vantage.format import DenseRotation, Rotation

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STEPS = 127  # of the largest value of a stored axis
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


def integer_rows(axes: F64) -> tuple[DenseRotation, F64]:
    """(section, the axes f64 (A, d) as it has them): rows of 8 bits, the largest value 127, that keep their norms.

    A hundredth of an axis is lost, in no direction more than in others: a tenth of what a code of 4 bits loses.
    """
    steps = np.rint(axes * (STEPS / np.maximum(np.abs(axes).max(1, keepdims=True), 1e-30)))
    norms = np.maximum(np.linalg.norm(steps, axis=1), 1)
    scale = (np.linalg.norm(axes, axis=1) / norms).astype(np.float32)
    rows = memoryview(steps.astype(np.int8).tobytes())
    return DenseRotation(axes.shape[1], memoryview(scale), rows), steps * scale[:, None].astype(np.float64)
