"""Random but legal arguments for the kernels, by seed."""

from dataclasses import dataclass

import numpy as np
import reference
from numpy.typing import NDArray

import kern

F32 = np.float32


@dataclass
class Query:
    ys: NDArray
    fields: NDArray
    starts: NDArray
    levels: NDArray
    scale: float
    fine: int
    tables: bytearray


def query(rng: np.random.Generator, code_bytes: int, fine: int = 0, scale: float = 1e4, spread: float = 1.0) -> Query:
    """Nibbles of one to five fields, some of the same bits, whose levels shrink along the code."""
    ys = (rng.standard_normal(40) * spread).astype(F32)
    fields, starts, levels = [], [0], []
    for nibble in range(2 * code_bytes):
        shift = 0
        while shift < 4:
            width = int(rng.integers(1, 5 - shift))
            fields.append((rng.integers(len(ys)), shift, width, len(levels)))
            levels += list(rng.standard_normal(1 << width) * 2.0 ** (-nibble / 40))
            shift += width
        if nibble % 3 == 0:  # what several axes share: all bits of the nibble again
            fields.append((rng.integers(len(ys)), 0, 4, len(levels)))
            levels += list(rng.standard_normal(16) * 2.0 ** (-nibble / 40))
        starts.append(len(fields))
    made = Query(ys, np.array(fields, reference.FIELD), np.array(starts, np.uint32), np.array(levels, F32), scale,
                 fine, bytearray(kern.lrsq_tables_size(code_bytes, fine)))  # fmt: skip
    kern.lrsq_tables(made.ys, made.fields, made.starts, made.levels, scale, fine, made.tables)
    return made


@dataclass
class Block:
    ranges: NDArray
    codes: NDArray
    f: NDArray
    h: NDArray
    rows: NDArray
    n: int
    data: bytes
    places: tuple[int, int, int, int, int]  # ranges, codes, f, h, rows


def block(rng: np.random.Generator, code_bytes: int, n: int, rows: NDArray, fill: int | None = None) -> Block:
    """`fill` is the value of all codes and factors, random without."""
    padded = -(-n // 16) * 16
    bytes_of = lambda *shape: rng.integers(0, 256, shape, np.uint8) if fill is None else np.full(shape, fill, np.uint8)  # noqa: E731
    ranges = (rng.standard_normal(4) * (1, 0.01, 1, 0.01)).astype(F32)
    codes, f, h = bytes_of(padded, code_bytes), bytes_of(padded), bytes_of(padded)
    rows = np.concatenate([rows, np.zeros(padded - n)]).astype("<u4")
    data, places = b"\x01", []  # one byte before everything: nothing is aligned
    for part in (ranges.tobytes(), reference.interleave(codes), f.tobytes(), h.tobytes(), rows.tobytes()):
        places.append(len(data))
        data += part
    return Block(ranges, codes, f, h, rows, n, data, (places[0], *places[1:]))


def entries(pool: bytearray, capacity: int) -> list[tuple[int, int, int, int]]:
    """What pool_finish gives, as tuples."""
    out = bytearray(16 * capacity)
    count = kern.pool_finish(pool, out)
    found = np.frombuffer(out, np.dtype("<i4,<u4,<u4,<u4"), count)
    return [tuple(int(x) for x in e) for e in found]


def butterfly(rng: np.random.Generator, dim: int, layers: int) -> tuple[NDArray, NDArray]:
    """(partners u16, tangents i16), both (layers, ceil(dim/2)): pairs at random, the largest angles among them."""
    partners, tangents = np.zeros((2, layers, -(-dim // 2)), np.int64)
    for layer in range(layers):
        order = rng.permutation(dim)
        pairs = [sorted(order[i : i + 2].tolist()) for i in range(0, dim, 2)]
        partners[layer] = [pair[-1] for pair in sorted(pairs)]
        tangents[layer] = [
            0 if len(pair) == 1 else rng.choice([-16384, 16384, rng.integers(-16384, 16385)]) for pair in sorted(pairs)
        ]
    return partners.astype(np.uint16), tangents.astype(np.int16)
