"""pca: the principal axes of the residuals, which compact their spectrum as far as any rotation can."""

from __future__ import annotations

import numpy as np

from .basis import F64, Basis, dense


def principal_axes(moment: F64) -> tuple[F64, F64]:
    """(axes (d, d) as rows by falling variance, deviation (d,)) of a second moment matrix; signs made unique."""
    variance, vectors = np.linalg.eigh(moment)
    order = np.argsort(-variance, kind="stable")
    axes = vectors[:, order].T
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return axes * sign[:, None], np.sqrt(np.maximum(variance[order], 1e-12))


def fit(moment: F64, _seed: int) -> Basis:
    """Stored as f16 rows: 2 d bytes and d multiplications an axis."""
    return dense(*principal_axes(moment))
