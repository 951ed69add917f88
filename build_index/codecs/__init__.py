"""Codecs by name: how each is trained. One file for each; `planes` encodes by all, vantage.search.scan reads them."""

from __future__ import annotations

from collections.abc import Callable

from . import ecvh, lrsq, pq, rabitq, sign
from .planes import F32, F64, Codec
from .rotations.basis import Basis

# train(second moment of the residuals (d, d), of the queries (d, d), bytes of a code, a sample of the residuals (n, d),
# the axes to code along or None for those that the codec wants)
CODECS: dict[str, Callable[[F64, F64, int, F32, Basis | None], Codec]] = {
    "lrsq": lrsq.train,
    "rabitq": rabitq.train,
    "pq": pq.train,
    "sign": sign.train,
    "ecvh": ecvh.train,
}
