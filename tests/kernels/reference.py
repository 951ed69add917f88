"""What each kernel computes, slow and plain, in numpy: the kernels must give these bits (see src/kern.pyi)."""

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
FIELD = np.dtype([("axis", "<u2"), ("shift", "u1"), ("width", "u1"), ("level_at", "<u4")])
SEGMENT = 64  # nibbles


def crc32c(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def hamming(query: NDArray, codes: NDArray) -> NDArray:
    return np.unpackbits(codes ^ query, axis=1).sum(1, dtype=np.uint32)


def distances(query: NDArray, rows: NDArray, l2: bool) -> NDArray:
    lanes = np.zeros((len(rows), 16), F32)
    for at in range(0, len(query), 16):
        q, x = query[at : at + 16], rows[:, at : at + 16].astype(F32)
        lanes[:, : len(q)] += (q - x) * (q - x) if l2 else q * x
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def unpack_i4(rows: NDArray) -> NDArray:
    """rows u8[n][groups * 16] -> values [n][groups * 32] in -8..7"""
    n, size = rows.shape
    groups = rows.reshape(n, size // 16, 16)
    return np.concatenate([groups & 15, groups >> 4], axis=2).reshape(n, 2 * size).astype(np.int64) - 8


def matvec(query: NDArray, rows: NDArray) -> NDArray:
    return (rows.astype(np.int64) @ query.astype(np.int64)).astype(np.uint32).view(np.int32)


def exp(x: NDArray) -> NDArray:
    """f32, x <= 0; the steps of route.c"""
    tiny = x < F32(-87)
    x = np.where(tiny, F32(-87), x)
    shift = F32(1.5 * 2**23)
    k = (x * F32(1.44269504088896341) + shift) - shift
    r = (x - k * F32(0.693359375)) - k * F32(-2.12194440e-4)
    p = np.full_like(r, F32(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + F32(c)
    p = ((p * (r * r)) + r) + F32(1)
    return np.where(tiny, F32(0), (p.view(np.int32) + (k.astype(np.int32) << 23)).view(F32))


def log(x: NDArray) -> NDArray:
    """f32, x zero or at least 1; the steps of route.c"""
    bits = x.view(np.int32) - 0x3F3504F3
    k = (bits >> 23).astype(F32)
    m = ((bits & 0x7FFFFF) + 0x3F3504F3).view(F32) - F32(1)
    z = m * m
    p = np.full_like(m, F32(7.0376836292e-2))
    for c in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
              2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):  # fmt: skip
        p = p * m + F32(c)
    y = (p * m) * z + k * F32(-2.12194440e-4)
    y = (m + (y - F32(0.5) * z)) + k * F32(0.693359375)
    return np.where(x == 0, F32(-np.inf), y)


def block_logits(dots: NDArray, scales: NDArray, weights: NDArray, alpha: float) -> NDArray:
    """dots, scales, weights [blocks][subs] -> f32[blocks]"""
    logit = np.where(np.isneginf(weights), F32(-np.inf), weights + (F32(alpha) * scales) * dots.astype(F32))
    peak = logit.max(1)
    terms = exp(logit - np.where(np.isneginf(peak), F32(0), peak)[:, None])
    total = terms[:, 0]
    for sub in range(1, terms.shape[1]):
        total = total + terms[:, sub]
    return peak + log(total)


def block_probabilities(dots: NDArray, scales: NDArray, weights: NDArray, alpha: float, temperature: float) -> NDArray:
    """dots, scales, weights [blocks][subs] -> u32[blocks]"""
    t = F32(temperature) * block_logits(dots, scales, weights, alpha)
    e = exp(t - t.max())
    mass = 0.0
    for one in e:
        mass += float(one)
    return (e.astype(np.float64) / mass * 2.0**20 + 0.5).astype(np.uint32)


def plan_value(p: list[int], nbytes: list[int], flags: list[int], price: int) -> list[int]:
    return [(0 if f & 2 else a << 24) - price * b for a, b, f in zip(p, nbytes, flags, strict=True)]


def plan_ranges(values: list[int], flags: list[int], ranges_max: int) -> list[tuple[int, int]]:
    """All plans, by recursion from the end; of equal ones the one that kern.pyi names. For a dozen blocks."""

    def plans(end: int, left: int) -> list[list[tuple[int, int]]]:
        found: list[list[tuple[int, int]]] = [[]]
        for b in range(1, end + 1) if left else ():
            for a in range(b - 1, -1, -1):
                found += [[*before, (a, b)] for before in plans(a, left - 1)]
                if flags[a] & 1:
                    break  # nothing continues into a new object
        return found

    def order(plan: list[tuple[int, int]]) -> tuple:
        return -sum(sum(values[a:b]) for a, b in plan), len(plan), [(b, -a) for a, b in reversed(plan)]

    return min(plans(len(values), ranges_max), key=order)


def lrsq_tables(
    ys: NDArray, fields: NDArray, starts: NDArray, levels: NDArray, fine: int
) -> tuple[np.float32, np.float32, NDArray, NDArray]:
    """-> unit, bias, shifts [segments], T [nibbles][16]: u16 in the first `fine` segments, u8 in the others"""
    nibbles = len(starts) - 1
    value = np.arange(16)
    val = np.zeros((nibbles, 16), F32)
    for n in range(nibbles):
        for f in fields[starts[n] : starts[n + 1]]:
            bits = value >> int(f["shift"]) & ((1 << int(f["width"])) - 1)
            val[n] = val[n] + ys[f["axis"]] * levels[int(f["level_at"]) + bits]
    low = val.min(1)
    spread = val.max(1) - low
    unit = spread.max() * F32(1 / 65280) or F32(1)
    shifts = []
    for at in range(0, nibbles, SEGMENT):
        fits = [s for s in range(8) if spread[at : at + SEGMENT].max() <= F32(255) * (unit * F32(1 << s))]
        shifts.append(0 if at < fine * SEGMENT else fits[0] if fits else 8)
    step = unit * (F32(1) * (1 << np.repeat(shifts, SEGMENT)[:nibbles])).astype(F32)
    top = np.where(np.arange(nibbles) < fine * SEGMENT, 65535, 255)[:, None]
    entries = np.minimum(top, np.floor((val - low[:, None]) / step[:, None] + F32(0.5))).astype(np.uint16)
    bias = 0.0
    for one in low:
        bias += float(one)
    return unit, F32(bias), np.array(shifts), entries


def lrsq_scores(
    tables: tuple[np.float32, np.float32, NDArray, NDArray], ranges: NDArray, codes: NDArray, f: NDArray, h: NDArray,
    base: float, scale: float,
) -> NDArray:  # fmt: skip
    """codes u8[n][code_bytes], f and h u8[n], ranges f32[4] -> i32[n]"""
    unit, bias, shifts, entries = tables
    total = np.zeros(len(codes), np.int64)
    for n in range(len(entries)):
        total += entries[n][codes[:, n // 2] >> 4 * (n % 2) & 15].astype(np.int64) << int(shifts[n // SEGMENT])
    f_lo, f_step, h_lo, h_step = ranges.astype(F32)
    dot = total.astype(F32) * unit + bias
    score = F32(base) + ((h_lo + h_step * h.astype(F32)) + (f_lo + f_step * f.astype(F32)) * dot)
    value = score * F32(scale)
    value = np.where(value > F32(-(2.0**30)), value, F32(-(2.0**30)))
    return np.rint(np.where(value < F32(2.0**30), value, F32(2.0**30))).astype(np.int32)


def interleave(codes: NDArray) -> bytes:
    """codes u8[n][code_bytes], n a multiple of 16 -> the bytes of the groups"""
    return codes.reshape(-1, 16, codes.shape[1]).transpose(0, 2, 1).tobytes()


def score_bounds(scores: NDArray, norms: NDArray, weight: float, slack: float) -> tuple[NDArray, NDArray]:
    """scores i32[n], norms u8[n] -> (lower, upper) i32[n]"""
    error = F32(weight) * norms.astype(F32) + F32(slack)
    known = (error < 2.0**30) & (np.abs(scores.astype(np.int64)) < 2**30)
    off = np.where(known, np.floor(np.where(known, error, 0)).astype(np.int64) + 1, 2**32)
    ends = (np.clip(scores + sign * off, -(2**31), 2**31 - 1).astype(np.int32) for sign in (-1, 1))
    return next(ends), next(ends)


def pool(offers: list[tuple[int, int, int, int]], capacity: int) -> list[tuple[int, int, int, int]]:
    """offers and result: (score, row, place, index)"""
    best: dict[int, tuple[int, int, int, int]] = {}
    for score, row, place, index in offers:
        known = best.get(row)
        if known is None or (-score, place, index) < (-known[0], known[2], known[3]):
            best[row] = (score, row, place, index)
    return sorted(best.values(), key=lambda e: (-e[0], e[1]))[:capacity]


def additive_encode(vectors: NDArray, words: NDArray) -> NDArray:
    """vectors f32[width][n], words f32[parts][16][width] -> u8[parts][n]"""

    def dot(a: NDArray, b: NDArray) -> NDArray:
        total = np.zeros(np.broadcast_shapes(a.shape, b.shape)[1:], F32)
        for x, y in zip(a, b, strict=True):
            total = total + x * y
        return total

    parts, out = len(words), np.zeros((len(words), vectors.shape[1]), np.uint8)
    columns = words.transpose(2, 0, 1)  # [width][parts][16]
    half = F32(0.5) * dot(columns, columns)
    overlaps = dot(columns[:, :, :, None, None], columns[:, None, None])  # part, row, part, row
    for row, x in enumerate(vectors.T):
        gains = F32(0) - half
        for value, column in zip(x, columns, strict=True):
            gains = gains + value * column
        beam: list[tuple[np.float32, list[int]]] = [(F32(0), [])]
        for part in range(parts):
            tried = []
            for b, (score, chosen) in enumerate(beam):
                sums = score + gains[part]
                for i, word in enumerate(chosen):
                    sums = sums - overlaps[i, word, part]
                keys = ((sums.view(np.int32) & ~255) | (16 * b + np.arange(16, dtype=np.int32))).view(F32)
                tried += [(key, [*chosen, v]) for v, key in enumerate(keys)]
            beam = sorted(tried, key=lambda t: -t[0])[:16]
        out[:, row] = beam[0][1]
    return out


def scalar_encode(values: NDArray, cuts: NDArray) -> NDArray:
    return np.searchsorted(cuts, values, side="left").astype(np.uint8)


def butterfly_pairs(partners: NDArray, dim: int) -> list[list[tuple[int, int, int]]]:
    """Of each layer u16[ceil(dim/2)]: (i, j, place of the entry); the one that stays of an odd dim is left out."""
    layers = []
    for row in partners.tolist():
        free, pairs = list(range(dim)), []
        for k, j in enumerate(row):
            i = free.pop(0)
            if j != i:
                free.remove(j)
                pairs.append((i, j, k))
        layers.append(pairs)
    return layers


def butterfly_turn(vector: NDArray, partners: NDArray, tangents: NDArray) -> NDArray:
    """f32[dim]: every coordinate, by the steps of kern.pyi"""
    dim = len(vector)
    x, scale = vector.astype(F32).copy(), np.ones(dim)
    for layer, pairs in enumerate(butterfly_pairs(partners, dim)):
        for i, j, k in pairs:
            t, ratio = float(tangents[layer, k]) / 16384, scale[j] / scale[i]
            x[i], x[j] = x[i] + F32(t * ratio) * x[j], x[j] - F32(t / ratio) * x[i]
            scale[[i, j]] *= 1 / np.sqrt(1 + t * t)
    return x * scale.astype(F32)


def select_largest(values: NDArray, bias: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """(places u32, sums f32), both (n, count)"""
    sums = values + bias
    at = np.argsort(-sums, axis=1, kind="stable")[:, :count]
    return at.astype(np.uint32), np.take_along_axis(sums, at, 1)


def fma(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    """f32 a b + c rounded once: the sum in f64 rounded to odd, of which f32 is what one rounding would give.

    (Boldo and Melquiond, Emulation of a FMA and correctly rounded sums, 2008; tests hold it to exact fractions.)
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    beyond = np.nextafter(total, np.copysign(np.inf, error))
    odd = np.asarray(total).view(np.int64) & 1 != 0
    return np.where((error != 0) & np.isfinite(error) & ~odd, beyond, total).astype(F32)


def matmul(a: NDArray, b: NDArray) -> NDArray:
    """f32 (n, m) of rows a (n, d) and b (m, d)"""
    out = np.zeros((len(a), len(b)), F32)
    for x, y in zip(a.T, b.T, strict=True):
        out = fma(x[:, None], y[None], out)
    return out


def sum_counts(table: NDArray, weights: NDArray, out: NDArray) -> NDArray:
    """f32 (blocks): out plus the weighted counts of buckets, table u8 (buckets, blocks)."""
    counts = [F32(0), F32(1)]
    while len(counts) < 256:
        with np.errstate(over="ignore"):
            counts.append(counts[-1] * F32(1.25))
    out = out.copy()
    for codes, weight in zip(table, weights, strict=True):
        if weight:
            out = out + weight * np.array(counts, F32)[codes]
    return out


def upper_tail(z: NDArray) -> NDArray:
    """f32: Abramowitz and Stegun 26.2.17."""
    away = np.where(z < 0, -z, z)
    t = F32(1) / (F32(1) + F32(0.2316419) * away)
    p = np.full_like(z, F32(1.330274429))
    for c in (-1.821255978, 1.781477937, -0.356563782, 0.319381530):
        p = p * t + F32(c)
    tail = (exp(F32(-0.5) * (away * away)) * F32(0.3989422804)) * (p * t)
    return np.where(z < 0, F32(1) - tail, tail)


def tail_probabilities(counts: NDArray, base: NDArray, sigma: NDArray, wanted: float) -> NDArray:
    """u32 (blocks)."""
    some = counts > 0
    low, high = F32(np.inf), F32(-np.inf)
    if some.any():
        low, high = (base - F32(6) * sigma)[some].min(), (base + F32(6) * sigma)[some].max()

    def above(score: np.float32) -> NDArray:
        return counts * upper_tail((score - base) / sigma)

    def total(score: np.float32) -> float:
        out = 0.0
        for rows in above(score).tolist():
            out += rows
        return out

    for _ in range(32):
        if low < high:
            middle = low + (high - low) * F32(0.5)
            low, high = (middle, high) if total(middle) > float(F32(wanted)) else (low, middle)
    whole = total(low) if some.any() else 0.0
    p = np.floor(above(low).astype(np.float64) / whole * 2.0**20 + 0.5) if whole > 0 else np.zeros(len(counts))
    return np.maximum(p, some).astype(np.uint32)


def dead_rows(rows: NDArray, dead: bytes) -> NDArray:
    """bool (n): which of these rows have a bit in the bitmap."""
    bits = np.unpackbits(np.frombuffer(dead, np.uint8), bitorder="little")
    return np.array([row < len(bits) and bool(bits[row]) for row in rows], bool)
