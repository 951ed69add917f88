"""Tables of routers in 4 or 8 bits, as the kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.format import aligned

from ..ingest.rows import F32

INT4_DIMENSION_MIN = 32  # shorter vectors are rounded too coarsely, and small anyway


def pack_i4(values: npt.NDArray[np.int8]) -> bytes:
    """i8 (n, d) in -8..7 -> the layout of matvec_i4: 32 dimensions in 16 bytes, the first 16 in the low nibbles."""
    n, d = values.shape
    padded = np.full((n, aligned(d, 32)), 8, np.uint8)
    padded[:, :d] = (values + 8).astype(np.uint8)
    groups = padded.reshape(n, -1, 2, 16)
    return (groups[:, :, 0] | groups[:, :, 1] << 4).tobytes()


def unpack(stored: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int8]:
    """i8 (n, padded d) of a table as it is stored, u8 (n, bytes): what pack_i4 packed, or 8 bits as they are."""
    if bits == 8:
        return stored.view(np.int8)
    groups = stored.reshape(len(stored), -1, 16)
    return np.concatenate([groups & 15, groups >> 4], 2).reshape(len(stored), -1).astype(np.int8) - np.int8(8)


def bits_of(dimension: int) -> int:
    """Bits of a number in the table."""
    return 4 if dimension >= INT4_DIMENSION_MIN else 8


def quantize(flat: F32, bits: int) -> tuple[bytes, F32]:
    """(table, scale f32 (n)): flat (n, d) as symmetric integers in the layout of the kernels, with a scale a row."""
    top = (1 << (bits - 1)) - 1
    scale = (np.abs(flat).max(1) / top).astype(np.float32)
    scale[scale == 0] = 1
    values = np.clip(np.rint(flat / scale[:, None]), -top, top).astype(np.int8)
    if bits == 4:
        return pack_i4(values), scale
    padded = np.zeros((len(flat), aligned(flat.shape[1], 16)), np.int8)
    padded[:, : flat.shape[1]] = values
    return padded.tobytes(), scale


def round_through(rows: Any, bits: int) -> Any:
    """JAX rows (n, d) as `quantize` keeps them; slopes pass as if they were not."""
    import jax
    import jax.numpy as jnp

    top = (1 << (bits - 1)) - 1
    scale = jnp.abs(rows).max(1, keepdims=True) / top
    kept = jnp.rint(rows / jnp.where(scale > 0, scale, 1)) * scale
    return rows + jax.lax.stop_gradient(kept - rows)
