"""Rows of any number, drawn: topics of themes, 128 dimensions of u8, and queries with their neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from build_index.neighbours.exact import exact_neighbours

DIMENSION, LATENT, TOPICS, THEMES, RANK = 128, 24, 64, 48, 32
TOPIC_SPREAD, THEME_SPREAD, NOISE = 0.6, 0.7, 0.27  # beside the spread of a theme's rows, 1
CHUNK = 100_000  # rows drawn at a time, each chunk from a seed of its own
QUERIES = 500


def drawn(seed: int, count: int) -> npt.NDArray[np.uint8]:
    """u8 (count, 128): rows of themes of topics, the same for the same seed."""
    fixed, own = np.random.default_rng(1), np.random.default_rng([2, seed])
    low = fixed.standard_normal((TOPICS, LATENT), np.float32) @ fixed.standard_normal((LATENT, DIMENSION), np.float32)
    topics = low * np.float32(TOPIC_SPREAD / LATENT**0.5)
    axes = fixed.standard_normal((TOPICS, RANK, DIMENSION), np.float32) / np.float32(RANK**0.5)
    themes = np.float32(THEME_SPREAD) * fixed.standard_normal((TOPICS, THEMES, RANK), np.float32)
    length = np.arange(1, RANK + 1, dtype=np.float32) ** -0.5
    length /= np.sqrt((length**2).mean())
    topic, theme = own.choice(TOPICS, count, p=_tailed(TOPICS, 0.7)), own.choice(THEMES, count, p=_tailed(THEMES, 0.8))
    latent = own.standard_normal((count, RANK), np.float32)
    latent *= length[(np.arange(RANK) - theme[:, None]) % RANK]  # each theme is long along axes of its own
    latent += themes[topic, theme]
    x = np.float32(NOISE) * own.standard_normal((count, DIMENSION), np.float32) + topics[topic]
    for t in range(TOPICS):
        mine = np.flatnonzero(topic == t)
        x[mine] += latent[mine] @ axes[t]
    return np.clip(np.rint(128 + 32 * x), 0, 255).astype(np.uint8)


def _tailed(count: int, power: float) -> npt.NDArray[np.float64]:
    """Shares that fall with a power of their rank: a few parts hold much, as in real sets."""
    share = 1 / np.arange(1, count + 1) ** power
    return share / share.sum()


def written(folder: Path, rows: int) -> Path:
    """rows.npy of so many rows, made once."""
    path = folder / f"rows-{rows}.npy"
    if not path.exists():
        out = np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.uint8, (rows, DIMENSION))
        for low in range(0, rows, CHUNK):
            out[low : low + CHUNK] = drawn(low // CHUNK, CHUNK)[: rows - low]
        out.flush()
        path.with_suffix(".tmp").rename(path)
    return path


def asked(folder: Path, path: Path, rows: int) -> Path:
    """Queries with their exact neighbours, as Parquet."""
    out = folder / f"queries-{rows}.parquet"
    if not out.exists():
        x, queries = np.load(path, mmap_mode="r"), drawn(1 << 20, QUERIES)
        chunks = ((low, x[low : low + CHUNK].astype(np.float32)) for low in range(0, rows, CHUNK))
        near = exact_neighbours(queries.astype(np.float32), chunks, 100, "l2")
        columns = {
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(queries.ravel()), DIMENSION),
            "neighbors": pa.FixedSizeListArray.from_arrays(pa.array(near.ravel()), 100),
        }
        pq.write_table(pa.table(columns), out)
    return out
