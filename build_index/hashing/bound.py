"""The Hamming-angle bound: how far apart two vectors may be, in angle, whose codewords of signs differ in h bits.

docs/bounds.md derives it, and says what is proved and what is measured.
"""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from vantage.errors import InputError

F64 = npt.NDArray[np.float64]
CONFIDENT = 2.33  # standard errors: 99% of calibrations


def random_limit(bits: int, delta: float) -> F64:
    """f64 (bits + 1), radians: f(h) such that theta <= f(H) with probability 1 - delta at least, for any two vectors.

    Over the draw of `bits` independent isotropic directions through the origin, whose signs differ in H bits: H is
    binomial with p = theta / pi (Goemans and Williamson 1995; Charikar 2002), and f(h) / pi the upper limit of p by
    Clopper and Pearson (1934). Raises InputError for no bits or a delta outside of 0 to 1.
    """
    _check(bits, delta)
    h = np.arange(bits)
    return np.append(np.pi * beta.ppf(1 - delta, h + 1, bits - h), np.pi)


def calibrated_limit(
    differing: npt.NDArray[np.integer], angle: F64, bits: int, delta: float, units: int | None = None
) -> F64:
    """f64 (bits + 1), radians, rising: the same for directions that were trained, of pairs like these.

    differing (P): bits in which the codewords of a pair differ; angle f64 (P): of the pair. units: how many of the
    pairs are independent, all when not given; of pairs among R rows, R. As many further pairs break the limit in at
    most a share delta for 99% of calibrations: both shares are means over `units`, so delta less 2.33 standard errors
    of their difference is allowed here. Distances are grouped from 0 up so that a group has 1 / allowed - 1 pairs at
    least. Of its n pairs, f is the ceil((n + 1) (1 - allowed))-th smallest angle (split conformal, Vovk et al. 2005).
    Limits are then made to rise. Where nothing is allowed, or with fewer pairs in all, f is pi.
    """
    _check(bits, delta)
    if len(differing) != len(angle) or (len(differing) and not 0 <= differing.min() <= differing.max() <= bits):
        raise InputError(f"{len(differing)} distances for {len(angle)} angles", hint="give one in 0 to bits a pair")
    allowed = delta - CONFIDENT * sqrt(2 * delta * (1 - delta) / max(units or len(angle), 1))
    if allowed <= 0:
        return np.full(bits + 1, np.pi)
    need = int(np.ceil(1 / allowed)) - 1
    ends = [0]  # of groups: distances ends[i] to ends[i + 1] - 1
    count = np.bincount(differing, minlength=bits + 1)
    for h in range(bits + 1):
        if count[ends[-1] : h + 1].sum() >= need:
            ends.append(h + 1)
    if len(ends) > 1:
        ends[-1] = bits + 1  # what is left joins the last group
    out = np.full(bits + 1, np.pi)
    for low, high in pairwise(ends):
        own = np.sort(angle[(low <= differing) & (differing < high)])
        out[low:high] = own[min(len(own), int(np.ceil((len(own) + 1) * (1 - allowed)))) - 1]
    return np.maximum.accumulate(out)


def _check(bits: int, delta: float) -> None:
    if bits < 1 or not 0 < delta < 1:
        raise InputError(
            f"a bound of {bits} bits at delta {delta}", hint="ask for 1 bit at least, delta between 0 and 1"
        )
